"""From the values of slots to vectors, one token a slot and step.

Continuous values go through a matrix, codes through a table, pictures through an encoder that makes one token of them.

Letters: B rows, T environment steps, K codes of a slot per step, V vocabulary, D width.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from seqrl.core.contracts import Ports
from seqrl.core.errors import RecipeError
from seqrl.nn.linear import Linear
from seqrl.nn.pixels import make_pixels


class Codes(nn.Embedding):
    """``[..., K]`` codes to ``[..., D]``: every one of the K places has V vectors of its own, and the K found are summed."""

    def __init__(self, places: int, vocab: int, width: int) -> None:
        super().__init__(places * vocab, width)
        # As of a matrix on K ones and K (V - 1) zeros: so many numbers add up in each output.
        self.vocab, self.in_features = vocab, places

    def forward(self, codes: Tensor) -> Tensor:
        first = torch.arange(0, self.num_embeddings, self.vocab, device=codes.device)
        return super().forward(codes + first).sum(-2)


def _embedding(ports: Ports, slot: str, width: int) -> nn.Module:
    """What turns ``[..., dim]`` of a slot into ``[..., D]``, or ``[..., 1, D]`` for pictures."""
    if slot in ports.images:
        pixels = make_pixels(ports.images[slot], width)
        if pixels.tokens != 1:
            raise RecipeError(
                f"slot '{slot}': its encoder makes {pixels.tokens} tokens of a picture; "
                "this policy takes one token a slot; use encoder: conv"
            )
        return pixels
    K, V = ports.widths[slot], ports.vocabs[slot]
    return Codes(K, V, width) if V else Linear(K, width)


class SlotEmbedding(nn.Module):
    """A vector of ``width`` numbers for each slot's value.

    Raises:
        RecipeError: a slot of pictures whose encoder makes several tokens of one.
    """

    def __init__(self, ports: Ports, slots: Sequence[str], width: int) -> None:
        super().__init__()
        self.slots = nn.ModuleDict({name: _embedding(ports, name, width) for name in slots})
        self.pictures = frozenset(ports.images)

    def forward(self, values: Mapping[str, Tensor], order: Sequence[str]) -> list[Tensor]:
        """slot -> ``[B, T, dim]`` to one ``[B, T, D]`` for each slot of ``order``."""
        found = []
        for name in order:
            slot, value = self.slots[name], values[name]
            if name in self.pictures:
                found.append(slot(value).squeeze(-2))
            else:
                found.append(slot(value.to(slot.weight.dtype) if value.is_floating_point() else value))
        return found
