"""Ring attention inside decoders of transformers, by the name ``ring``, and the proof that a body honours it.

transformers lets attention be replaced by a function of a registered name, and asks another of that name for the mask. Ours are
its own fused attention and mask wherever rows are whole. In a forward pass over a *cut* (context/cut.py) tokens are a piece of
longer rows, no mask is made, and keys come from other processes. Many models drop arguments on the way to their attention and
would then see local tokens only, without a word; so the cut travels past them, in an object that every module of the decoder
holds, and it is still there when a block is computed again in the backward pass. What a ring cannot honour is refused by name.

Letters: N tokens of this process, M of a short row, H heads, G heads of keys and values, d numbers in a head, D width.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from seqrl.core.errors import RecipeError
from seqrl.nn.attention import NO_DROPPED_WEIGHTS, Cut, Read, places_in, ring_attention
from seqrl.nn.recompute import again

NAME = "ring"
SHORT = 64
"""Tokens of each process in the row that ``prove_ring`` looks at."""
_ODD = {
    "sliding_window": "looks back over a window",
    "softcap": "caps its scores",
    "s_aux": "adds sinks to its softmax",
    "position_bias": "adds a bias to its scores",
}


def ring_refusal(name: str, why: str) -> RecipeError:
    """The error for a body whose rows cannot be cut."""
    return RecipeError(
        f"engine.sequence: the body '{name}' {why}, so its rows cannot be cut over processes (ring attention); set "
        "engine.sequence=1, or take a body of another family, such as llama or qwen3"
    )


class Ring:
    """What the attention of one body is told of the pass that is under way: its cut, or None."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.cut: Cut | None = None

    def __deepcopy__(self, memo: dict) -> "Ring":
        # A process group cannot be copied, and a copy of a body is in no pass.
        return Ring(self.name)

    def __reduce__(self) -> tuple:
        return Ring, (self.name,)

    @contextmanager
    def inside(self, cut: Cut | None) -> Iterator[None]:
        """One forward pass. What it was told stays until the next: a backward pass may compute blocks again."""
        self.cut = cut
        token = _INSIDE.set(None if cut is None else self)
        try:
            yield
        finally:
            _INSIDE.reset(token)

    def again(self, block: Callable[..., Any], x: Tensor, *args: Any, offload: bool = False, **kwargs: Any) -> Any:
        """As ``recompute.again``, under the cut of now, whatever pass comes before the backward pass."""
        cut = self.cut

        def under(*args: Any, **kwargs: Any) -> Any:
            before, self.cut = self.cut, cut
            try:
                return block(*args, **kwargs)
            finally:
                self.cut = before

        return again(under, x, *args, offload=offload, **kwargs)


_INSIDE: ContextVar[Ring | None] = ContextVar("ring", default=None)


def _cut_of(module: nn.Module) -> Cut | None:
    """The cut that ``module`` is asked under; None where its rows are whole."""
    inside, own = _INSIDE.get(), getattr(module, "_seqrl_ring", None)
    if inside is not None:
        if own is not inside:
            raise ring_refusal(inside.name, f"has an attention that was not told of the cut ({type(module).__name__})")
        return own.cut
    # Nobody is in a forward pass, so this is either a backward pass computing again, or somebody calling the decoder itself.
    return own.cut if own is not None and torch._C._current_graph_task_id() != -1 else None


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """What transformers calls for attention: ``[1, H, N, d]`` and ``[1, G, N, d]`` to ``[1, N, H, d]``."""
    cut = _cut_of(module)
    if cut is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
    name = module._seqrl_ring.name
    if dropout:
        raise RecipeError(NO_DROPPED_WEIGHTS)
    odd = next((why for word, why in _ODD.items() if kwargs.get(word) is not None), None)
    if attention_mask is not None:
        odd = "makes a mask of its own"
    elif kwargs.get("is_causal") is False or not getattr(module, "is_causal", True):
        odd = "lets tokens see what comes after them"
    elif value.shape[-1] != query.shape[-1]:
        odd = f"has values of {value.shape[-1]} numbers for keys of {query.shape[-1]}"
    elif key.shape[2] != query.shape[2]:
        odd = f"has {key.shape[2]} keys for {query.shape[2]} tokens"
    if odd:
        raise ring_refusal(name, odd)
    return ring_attention(query, key, value, cut, scaling).transpose(1, 2).contiguous(), None


def _mask(*args: Any, **kwargs: Any) -> Tensor | None:
    return None if _INSIDE.get() is not None else sdpa_mask(*args, **kwargs)


# Both, for a name without a mask function gets no mask at all, padded rows included.
AttentionInterface.register(NAME, _attend)
AttentionMaskInterface.register(NAME, _mask)


def put_ring(decoder: nn.Module, ring: Ring) -> None:
    """Makes ``ring`` the attention of a decoder of transformers; any of its modules may be the one that asks."""
    decoder.set_attn_implementation(NAME)
    if decoder.config._attn_implementation != NAME:
        raise ring_refusal(ring.name, "does not let its attention be replaced")
    for module in decoder.modules():
        module._seqrl_ring = ring


def check_cut(x: Tensor, read: Read, pos: Tensor | None, cut: Cut) -> Tensor:
    """Positions ``[1, N]`` of a pass over a cut, those of padding at 0.

    Raises:
        ValueError: arguments that do not go with a cut.
    """
    if read is not None:
        raise ValueError("a pass over a cut answers all of its tokens; choose among them afterwards (read)")
    if pos is None or pos.shape != x.shape[:2] or x.shape[:2] != (1, len(cut.at)):
        shapes = f"x {tuple(x.shape)}, pos {None if pos is None else tuple(pos.shape)}"
        raise ValueError(
            f"a pass over a cut of {len(cut.at)} tokens takes x [1, N, D] and their positions pos [1, N], not {shapes}"
        )
    return pos.clamp(min=0)


@torch.no_grad()
def prove_ring(
    body: Any, name: str, width: int, layers: int, longest: int | None, ranks: int, cut_of: Callable[[Tensor], Cut]
) -> None:
    """Holds a body's pass over a cut against its own attention over the whole of a short row of documents.

    Called by all processes alike. Compared are outputs, and how often the ring was asked: once a layer.

    Args:
        body: with ``forward`` as ``Transformer``'s. width: D. longest: tokens a document may have, None for any number.
        ranks: processes that share a row. cut_of: ``pack [1, M]`` to this process's cut.

    Raises:
        RecipeError: they differ.
    """
    like = next(body.parameters())
    pack, x = (t.to(like.device) for t in _short_row(SHORT * ranks, width, longest))
    x = x.to(like.dtype)
    cut, modes = cut_of(pack), [(m, m.training) for m in body.modules()]
    body.eval()
    try:
        whole = body(x, pack=pack)
        effect = float((whole - body(x, pack=torch.arange(pack.shape[1], device=x.device)[None])).abs().max())
        before = cut.calls
        found = body(cut.take(x), pos=cut.take(places_in(pack).where(pack >= 0, 0)), cut=cut)
    finally:
        for module, training in modes:
            module.training = training
    if cut.calls - before != layers:
        raise ring_refusal(name, f"asked the ring {cut.calls - before} times in {layers} layers")
    # Where tokens hardly move each other, it is that effect that differences are measured by.
    noise, share = (2e-5, 0.01) if like.dtype in (torch.float32, torch.float64) else (0.02, 0.2)
    most = max(noise * float(whole.abs().max()), share * effect)
    worst = (found - cut.take(whole)).abs().max().nan_to_num(torch.inf)
    if cut.exchange is not None:
        # All stop or none: a process whose documents lie with it alone has seen nothing wrong.
        dist.all_reduce(worst, dist.ReduceOp.MAX, group=cut.exchange.group)
    off = float(worst)
    if not off <= most:
        raise ring_refusal(
            name, f"says something else over a cut than over whole rows (off by {off:.1g}, rounding is {most:.1g})"
        )


def _short_row(tokens: int, width: int, longest: int | None) -> tuple[Tensor, Tensor]:
    """Documents ``[1, M]`` from a token to half of the row, with padding behind them, and random vectors ``[1, M, D]``."""
    pack, at, number = torch.full((1, tokens), -1), 0, 0
    while at < tokens - 5:
        end = min(at + min((tokens // 2, 1, 7, tokens // 4)[number % 4], longest or tokens), tokens - 5)
        pack[0, at:end] = number
        at, number = end, number + 1
    return pack, torch.randn(1, tokens, width, generator=torch.Generator().manual_seed(0))
