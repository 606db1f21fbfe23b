"""Ranges of ids: which codes of which slots are which rows of one table, and logits over a slot's own range only.

Every discrete slot owns a half-open range of ids. In a *shared* vocabulary, slots whose codecs speak the same codes use the
same range, as in Gato, where all numbers share 1024 bins and all choices one list (Reed et al. 2022, section 2.1). Otherwise
each of a slot's K tokens has V ids to itself, as in the Trajectory Transformer. A head multiplies with the rows of the range
asked for and no others: an action of 18 choices costs 18 products, however many words the vocabulary has, and a code outside
its slot cannot be drawn.

Letters: K tokens of a slot per step, V codes of a slot, D width.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqrl.core.contracts import Ports
from seqrl.core.layout import Layout


@dataclass(frozen=True)
class Range:
    """Ids of one slot: code ``c`` of its token ``k`` is ``start + k * stride + c``, with ``0 <= c < size``.

    Args:
        start: first id. stride: 0 where the K tokens share their ids, else V. size: V. tokens: K.
    """

    start: int
    stride: int
    size: int
    tokens: int

    def ids(self, codes: Tensor) -> Tensor:
        """Codes ``[..., K]`` to ids."""
        if not self.stride:
            return codes + self.start
        return codes + torch.arange(self.start, self.start + self.tokens * self.stride, self.stride, device=codes.device)


Ranges = Mapping[tuple[str, str], Range]


def lay_ranges(ports: Mapping[str, Ports], shared: bool, first: int = 0) -> tuple[int, dict[tuple[str, str], Range]]:
    """Deals out ids from ``first`` on.

    Args:
        ports: domain -> its slots.
        shared: whether slots with the same word in ``shares`` use the same ids. Slots that are read out never do: their K
            tokens are predicted side by side from one place, and would all be the same.

    Returns:
        the first id that is free, and (domain, slot) -> its range.
    """
    at, found, together = first, {}, {}
    sizes: dict[str, int] = {}
    for port in ports.values():
        for slot, word in port.shares.items():
            if word:
                sizes[word] = max(sizes.get(word, 0), port.vocabs[slot])
    # In the order of names and of layouts, never of dictionaries: those are sorted by some writers of JSON.
    for domain, port in sorted(ports.items()):
        layout = Layout.parse(port.layout)
        readout = {s.name for s in layout.readout}
        for slot in layout.names:
            V = port.vocabs[slot]
            if not V:
                continue
            K, word = port.widths[slot], port.shares.get(slot, "")
            # A word is the same word wherever it stands.
            if (shared or word.startswith("text")) and word and slot not in readout:
                if word not in together:
                    together[word] = at
                    at += sizes[word]
                found[domain, slot] = Range(together[word], 0, V, K)
            else:
                found[domain, slot] = Range(at, V, V, K)
                at += K * V
    return at, found


class RangeHead(nn.Module):
    """Logits over ranges of ``total`` ids, one matrix for all."""

    def __init__(self, total: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(total, width))
        self.bias = nn.Parameter(torch.zeros(total))

    def forward(self, x: Tensor, range: Range, token: int | None = None) -> Tensor:
        """Float32 logits.

        Args:
            x: ``[..., K, D]``, what each of the slot's tokens is predicted from; ``[..., D]`` where ``token`` is given.
            token: one of the K.

        Returns:
            ``[..., K, V]``, or ``[..., V]``.
        """
        first = range.start + (token or 0) * range.stride
        if token is not None or not range.stride or range.tokens == 1:
            rows = slice(first, first + range.size)
            return F.linear(x, self.weight[rows], self.bias[rows]).float()
        rows = slice(first, first + range.tokens * range.size)
        weight = self.weight[rows].view(range.tokens, range.size, -1)
        # One batched product over the K tokens: [K, N, D] x [K, D, V].
        flat = x.reshape(-1, range.tokens, x.shape[-1]).transpose(0, 1)
        out = torch.baddbmm(
            self.bias[rows].view(range.tokens, 1, -1).to(flat.dtype), flat, weight.to(flat.dtype).transpose(1, 2)
        )
        return out.transpose(0, 1).reshape(*x.shape[:-1], range.size).float()
