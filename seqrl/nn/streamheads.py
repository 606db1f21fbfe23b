"""What a stream model says about slots of several domains: codes over the slot's own range, numbers by a head a slot.

Letters: S steps, K tokens of a slot, D width, A numbers.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqrl.core.contracts import Losses
from seqrl.core.packed import PackedBatch, Part
from seqrl.nn.heads import make_head
from seqrl.nn.ranges import RangeHead
from seqrl.nn.streams import Asked, Domain, Ranges, asked

Asks = Mapping[tuple[str, str], Asked]


class StreamHeads(nn.Module):
    """Losses and answers for the slots named."""

    def __init__(
        self,
        domains: Mapping[str, Domain],
        losses: Sequence[str],
        ranges: Ranges,
        codes: RangeHead,
        width: int,
        **options: Any,
    ) -> None:
        """
        Args:
            domains, ranges: of the embedding.
            losses: slots that are trained, in whichever domains have them.
            codes: the head of all slots of codes.
            width: D.
            options: ``kind``, ``squash`` and ``entropy`` of the heads of continuous actions (nn/heads.py).
        """
        super().__init__()
        self.domains, self.losses, self.ranges, self.codes = domains, tuple(losses), ranges, codes
        self.numbers, self._number = nn.ModuleDict(), {}
        for name, domain in domains.items():
            for slot in self.losses:
                if slot in domain.slots and not domain.ports.vocabs[slot]:
                    own = options if slot == "action" else {}
                    self._number[name, slot] = key = f"{name}-{slot}"
                    self.numbers[key] = make_head(domain.ports, slot, width, **own)

    def number(self, domain: str, slot: str) -> nn.Module | None:
        """The head of a continuous slot; None for codes."""
        key = self._number.get((domain, slot))
        return self.numbers[key] if key else None

    def asks(self, batch: PackedBatch) -> Asks:
        """(domain, slot) -> which tokens predict it, for all that is trained in ``batch``, or in its piece of a cut."""
        asks = {
            (name, slot): asked(self.domains[name], part, batch.pos, slot)
            for slot in self.losses
            for name, part in batch.parts.items()
            if slot in self.domains[name].slots
        }
        if batch.cut is None:
            return asks
        return {key: at.here(batch.cut.spot, self.number(*key) is not None) for key, at in asks.items()}

    def loss(self, y: Tensor, batch: PackedBatch, asks: Asks, spot: Tensor | None = None) -> Losses:
        """One term a slot, over all domains that have it, flat.

        Args:
            y: ``[N, D]``, the trunk's answer.
            batch, asks: what was asked.
            spot: ``[B * L]`` row of ``y`` for each place that was read; None where all were.
        """
        terms = {}
        for slot in self.losses:
            found = [self._term(*key, y, batch, at, spot) for key, at in asks.items() if key[1] == slot]
            if not found:
                # No domain of this batch has the slot: nothing to count, and still a term, so that all ranks have the same.
                found = [(0 * y[:1, 0].float(), y.new_zeros(1, dtype=torch.float32))]
            values, weights = zip(*found, strict=True)
            terms[slot] = (torch.cat(values), torch.cat(weights))
        return Losses(terms)

    def _term(
        self, name: str, slot: str, y: Tensor, batch: PackedBatch, at: Asked, spot: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        head, target = self.number(name, slot), at.of(batch.parts[name].values[slot])
        x = y[at.where if spot is None else spot[at.where]]
        if head is not None:
            value = head.loss(x[:, 0], target)
            # A token of many numbers counts no more than one of a few.
            return value.flatten(), (self._once(at, batch.parts[name]) / head.terms).expand_as(value).flatten()
        range = self.ranges[name, slot]
        logits = self.codes(x.expand(-1, range.tokens, -1), range)
        value = F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none")
        return value, at.weight.flatten()

    @staticmethod
    def _once(at: Asked, part: Part) -> Tensor:
        """``[S, 1]``: what the one token of a slot of numbers counts."""
        return at.weight.sum(1, keepdim=True) if part.joint else at.weight[:, :1]

    def counts(self, batch: PackedBatch) -> dict[str, Tensor]:
        """What each term's weights will sum up to in ``batch``, without computing it."""
        total = {slot: batch.pos.new_zeros((), dtype=torch.float32) for slot in self.losses}
        for (name, slot), at in self.asks(batch).items():
            numbers = self.number(name, slot) is not None
            total[slot] += self._once(at, batch.parts[name]).sum() if numbers else at.weight.sum()
        return total


def read_only(asks: Asks, rows: int, tokens: int, most: float = 0.7) -> tuple[Tensor | None, Tensor | None]:
    """The places that are asked for, so that a trunk's last block computes no others.

    Args:
        asks: what is trained. rows, tokens: B, L.
        most: above this share of all places, reading them all costs less than choosing.

    Returns:
        ``[B, R]`` positions to read (those of rows with fewer repeat others), and ``[B * L]`` the row of the flattened answer
        that holds each place; None and None where all are to be read.
    """
    first = next(iter(asks.values())).where
    wanted = torch.zeros(rows * tokens, dtype=torch.bool, device=first.device)
    for at in asks.values():
        wanted[at.where.flatten()] = True
    wanted = wanted.view(rows, tokens)
    R = int(wanted.sum(1).max())
    if most * tokens < R:
        return None, None
    read = (~wanted).to(torch.uint8).argsort(dim=1, stable=True)[:, :R]
    spot = wanted.long().cumsum(1) - 1 + R * torch.arange(rows, device=first.device)[:, None]
    return read, spot.flatten()


def stream_losses(model: Any, batch: PackedBatch) -> Losses:
    """The losses of a model made of ``embed``, ``trunk`` and ``heads``: its last block computes only what is asked for.

    Of rows that are cut over processes, those of this process's piece: sums and counts of all pieces add up to the rows'.
    """
    asks, cut = model.heads.asks(batch), batch.cut
    if cut is not None:
        y = model.trunk(model.embed(batch), pos=cut.take(batch.pos), cut=cut)
        return model.heads.loss(y[0], batch, asks)
    read, spot = read_only(asks, *batch.pack.shape)
    y = model.trunk(model.embed(batch), read=read, pack=batch.pack, pos=batch.pos)
    return model.heads.loss(y.flatten(0, 1), batch, asks, spot)
