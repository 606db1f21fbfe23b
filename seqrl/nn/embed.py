"""From the values of slots to vectors: continuous values through a matrix, codes through a table, one token a slot and step.

Letters: B rows, T environment steps, K codes of a slot per step, V vocabulary, D width.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from seqrl.core.contracts import Ports
from seqrl.nn.linear import Linear


class Codes(nn.Embedding):
    """``[..., K]`` codes to ``[..., D]``: every one of the K places has V vectors of its own, and the K found are summed."""

    def __init__(self, places: int, vocab: int, width: int) -> None:
        super().__init__(places * vocab, width)
        # As of a matrix on K ones and K (V - 1) zeros: so many numbers add up in each output.
        self.vocab, self.in_features = vocab, places

    def forward(self, codes: Tensor) -> Tensor:
        first = torch.arange(0, self.num_embeddings, self.vocab, device=codes.device)
        return super().forward(codes + first).sum(-2)


class SlotEmbedding(nn.Module):
    """A vector of ``width`` numbers for each slot's value."""

    def __init__(self, ports: Ports, slots: Sequence[str], width: int) -> None:
        super().__init__()
        self.slots = nn.ModuleDict(
            {
                name: Codes(ports.widths[name], ports.vocabs[name], width)
                if ports.vocabs[name]
                else Linear(ports.widths[name], width)
                for name in slots
            }
        )

    def forward(self, values: Mapping[str, Tensor], order: Sequence[str]) -> list[Tensor]:
        """slot -> ``[B, T, dim]`` to one ``[B, T, D]`` for each slot of ``order``."""
        found = []
        for name in order:
            slot, value = self.slots[name], values[name]
            found.append(slot(value.to(slot.weight.dtype) if value.is_floating_point() else value))
        return found
