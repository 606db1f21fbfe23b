"""Words and pictures in one model: two tables on the way in, two matrices on the way out, and the loss of each.

LWM (Liu et al. 2024, arXiv 2402.08268; its code's ``FlaxVideoLLaMAModule``) keeps the words of its language model as they are,
beside them a table for the codes of frames, and answers each modality with a matrix of its own. Which one a token belongs to
is the range its id lies in, and what comes next is scored against the ids of the target's own modality alone: this equals one
softmax over all ids in which those of the other modality are hidden.

Letters: L tokens, D width, N targets.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqrl.core.documents import DocumentPorts
from seqrl.nn.longloss import chunked_cross_entropy
from seqrl.nn.pretrained import Pretrained


class Tables(nn.Module):
    """The codes of frames, in and out, beside a body's words.

    Args:
        body: not held as a part of this, for its weights are the trunk's.
        places: whether a code's vector tells its place within the frame, too.
    """

    def __init__(self, body: Pretrained, ports: DocumentPorts, places: bool = False) -> None:
        super().__init__()
        self._body, self.ports = (body,), ports
        self.vision = nn.Embedding(ports.vision, body.width)
        # The last place is that of a frame's end.
        self.places = nn.Embedding(ports.frame + 1, body.width // 2) if places else None
        # Never tied, not to the table nor to the words.
        self.head = nn.Parameter(torch.empty(ports.vision, body.width))

    @property
    def body(self) -> Pretrained:
        return self._body[0]

    def place(self, ids: Tensor, before: Tensor | None = None) -> Tensor | None:
        """Place within its frame of each token of whole rows ``ids [B, L]``, which only codes have; None where vectors do not
        tell it. ``before [B]``: codes of the same frame that stood in front of these."""
        if self.places is None:
            return None
        ports = self.ports
        code = (ids >= ports.text) & (ids < ports.frame_end)
        at = torch.arange(1, ids.shape[1] + 1, device=ids.device)
        # Of each token, how many stand since the last that was no code.
        run = at - torch.where(code, 0, at).cummax(1).values
        if before is not None:
            run = run + before[:, None] * code.long().cumprod(1)
        return torch.where(code, (run - 1).clamp(max=ports.frame - 1), ports.frame)

    def forward(self, ids: Tensor, place: Tensor | None = None) -> Tensor:
        """``[...]`` ids, and what ``place`` says of them, to ``[..., D]``."""
        text, embedding = self.ports.text, self.body.embedding
        x = embedding(ids.clamp(max=text - 1))
        if not self.ports.vision:
            return x
        # Some models scale their words on the way in, and codes must be as loud.
        codes = self.vision((ids - text).clamp(min=0))
        if place is not None:
            # Half of it the place, half the next one: what a code foretells stands there in the frame before, and a head that
            # compares the one with the other finds it.
            both = self.places(torch.stack((place, (place + 1).clamp(max=self.ports.frame)), -1)).flatten(-2)
            codes = codes + F.pad(both, (0, codes.shape[-1] - both.shape[-1]))
        codes = codes * getattr(embedding, "scalar_embed_scale", 1.0)
        return torch.where((ids < text)[..., None], x, codes.to(x.dtype))

    def _out(self, modality: str) -> tuple[Tensor, Tensor | None, int]:
        """Matrix, bias and first id of a modality."""
        if modality == "vision":
            return self.head, None, self.ports.text
        body, text = self.body, self.ports.text
        bias = None if body.head is None or body.head.bias is None else body.head.bias[:text]
        # Rows behind the last word, where a body has such, are said by nobody.
        return body.head_weight[:text], bias, 0

    def scores(self, y: Tensor, modality: str) -> Tensor:
        """Float32 logits ``[..., V]`` of a modality's ids, of what the trunk answered, ``[..., D]``."""
        weight, bias, _ = self._out(modality)
        return F.linear(y.to(weight.dtype), weight, bias).float()

    def asked(self, target: Tensor, weight: Tensor, modality: str) -> tuple[Tensor, Tensor]:
        """Places ``[N]`` of flat ``target`` that foretell this modality and count, and what each does; where there is none, one
        that counts nothing."""
        here = (target >= self.ports.text) if modality == "vision" else (target >= 0) & (target < self.ports.text)
        weight = weight * here
        at = weight.nonzero()[:, 0]
        # A matrix that is never used has no gradient, and several processes would wait for one.
        at = at if len(at) else at.new_zeros(1)
        return at, weight[at]

    def loss(self, y: Tensor, target: Tensor, modality: str, chunk: int) -> Tensor:
        """Cross-entropy ``[N]`` float32 of ``y [N, D]`` with the ids ``target [N]``, never all scores at once."""
        weight, bias, first = self._out(modality)
        return chunked_cross_entropy(y, weight, bias, (target - first).clamp(0, len(weight) - 1), chunk)
