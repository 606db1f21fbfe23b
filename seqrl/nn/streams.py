"""Streams of several domains as vectors, and what predicts which of their tokens.

A step's tokens stand side by side, so a domain's steps are embedded as one block ``[S, W, D]`` and copied to their places in
the rows. Which token answers for which follows from the layout: a fed token is predicted from the token in front of it, the
tokens of a slot that is read out from the last token of the step.

Letters: B rows, L tokens in a row, S steps, N spans, W tokens in a step, P in the prefix, K of a slot, D width, V vocabulary.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from seqrl.core.contracts import Ports
from seqrl.core.layout import Layout, Slot
from seqrl.core.packed import PackedBatch, Part
from seqrl.nn.linear import Linear
from seqrl.nn.pixels import make_pixels
from seqrl.nn.ranges import Range, Ranges, lay_ranges


class Domain:
    """One domain's ports and layout, the layout with the tokens that each slot takes in a packed row."""

    def __init__(self, name: str, ports: Ports) -> None:
        self.name, self.ports = name, ports
        self.layout = Layout.parse(ports.layout, ports.tokens)
        self.slots: dict[str, Slot] = {s.name: s for s in self.layout.slots}
        self.prefix = [s.name for s in self.layout.prefix]
        self.step = [s.name for s in self.layout.step]
        self.readout = [s.name for s in self.layout.readout]
        self.W, self.P = self.layout.step_width, self.layout.prefix_width

    def tokens(self, slot: str) -> int:
        """K."""
        return self.slots[slot].width


class Asked(NamedTuple):
    """Which tokens predict a slot.

    Args:
        where: ``[S, K]`` int64, places in the flattened rows; ``[S, 1]`` where one token answers for all of the slot.
        weight: ``[S, K]`` float32, what each counts; 0 where nothing stands in front to predict from. Of a slot of numbers the
            sum over K is what its one token counts.
        rows: ``[S]`` int64, which of the part's steps these are; None: all of them.
    """

    where: Tensor
    weight: Tensor
    rows: Tensor | None = None

    def of(self, values: Tensor) -> Tensor:
        """What is to be predicted, of all ``values`` of the slot."""
        return values if self.rows is None else values[self.rows]

    def here(self, spot: Tensor, once: bool) -> "Asked":
        """What is predicted from a piece of the rows; ``where`` then are places in the piece.

        Args:
            spot: ``[B * L]`` int64, where each place stands in it, -1 elsewhere.
            once: one token, the first, answers for all of the slot.
        """
        at = spot[self.where[:, :1] if once else self.where]
        rows = (at >= 0).any(1).nonzero()[:, 0]
        at, weight = at[rows], self.weight[rows]
        # Of a step that lies in two pieces each counts its own tokens.
        return Asked(at.clamp(min=0), weight if once else weight * (at >= 0), rows)


def asked(domain: Domain, part: Part, pos: Tensor, slot: str) -> Asked:
    """The tokens that predict ``slot`` in a part; ``pos`` are the batch's positions, ``[B, L]``."""
    pos = pos.flatten()
    if slot in domain.readout:
        where, K = part.at[:, None] + (domain.W - 1), part.values[slot].shape[1]
        return Asked(where, (part.weight / K if part.joint else part.weight)[:, None].expand(-1, K))
    k = torch.arange(domain.tokens(slot), device=pos.device)
    if slot in domain.prefix:
        first = part.front + sum((part.lengths[n] for n in domain.prefix[: domain.prefix.index(slot)]), 0 * part.front)
        there, weight = k < part.lengths[slot][:, None], part.front_weight
    else:
        first, there, weight = part.at + domain.layout.offset(slot), None, part.weight
    place = first[:, None] + k
    # A token that stands first in its document has nothing to be predicted from; one that is not there is at no place.
    counted = pos[place.clamp(max=len(pos) - 1)] > 0
    counted = counted if there is None else counted & there
    if part.joint:
        weight = weight / (len(k) if there is None else part.lengths[slot])
    return Asked((place - 1).clamp(0, len(pos) - 1), weight[:, None] * counted)


class StreamEmbedding(nn.Module):
    """Every token of every domain as a vector: its content, and its place within the step."""

    def __init__(
        self,
        domains: Mapping[str, Domain],
        width: int,
        shared: bool = True,
        places: Literal["own", "shared"] = "own",
        table: nn.Module | None = None,
        dealt: tuple[int, Ranges] | None = None,
    ) -> None:
        """
        Args:
            domains: what streams are made of.
            width: D.
            shared: whether slots that speak the same codes share ids (see nn/ranges.py).
            places: ``shared`` numbers the tokens of a step from 0 and gives all actions one vector (Reed et al. 2022, section
                2.2), in all domains alike; ``own`` gives each domain vectors of its own, so that a step tells its domain.
            table: ids to vectors, in place of new ones. dealt: with it, the first free id and the range of every slot of codes.
        """
        super().__init__()
        self.domains = domains
        ports = {n: d.ports for n, d in domains.items()}
        self.total, self.ranges = dealt or lay_ranges(ports, shared)
        self.table = nn.Embedding(self.total, width) if table is None else table
        self.inputs, self._input = nn.ModuleDict(), {}
        self._words: dict[tuple[str, str], Range] = {}
        # Lists, and tensors only once they are needed: a model is also built where there is no memory for numbers.
        self._places: dict[str, list[int]] = {}
        self._indexed: dict[tuple[str, torch.device], Tensor] = {}
        count = 0
        for name, domain in domains.items():
            for slot in (*domain.prefix, *domain.step):
                if not domain.ports.vocabs[slot]:
                    self._input[name, slot] = self._add_input(domain, slot, width)
            if places == "own":
                index = list(range(count, count + domain.P + domain.W))
                count += domain.P + domain.W
            else:
                index = self._shared_places(domain)
            self._places[name] = index
        if places == "shared":
            # One vector more than there are places, for the actions.
            count = 1 + max(max(d.P, d.W) for d in domains.values())
            self._places = {n: [count - 1 if i < 0 else i for i in index] for n, index in self._places.items()}
        self.places = nn.Embedding(count, width)

    @staticmethod
    def _shared_places(domain: Domain) -> list[int]:
        """-1 for the tokens of an action."""
        acted = {"action"} & set(domain.step)
        at = domain.layout.offset("action") if acted else domain.W
        end = at + domain.tokens("action") if acted else at
        return [*range(domain.P), *(-1 if at <= i < end else i for i in range(domain.W))]

    def _add_input(self, domain: Domain, slot: str, width: int) -> str:
        """A module for a slot of numbers; pictures of the same kind share theirs between domains."""
        image = domain.ports.images.get(slot)
        if image:
            shape = "x".join(map(str, image["shape"]))
            key = f"{image['encoder']}_{shape}_{image.get('size') or 'whole'}_{image.get('values') or 'all'}"
            if image.get("words"):
                # Words of this domain's own text.
                key, self._words[domain.name, slot] = f"{key}-{domain.name}", self.ranges[domain.name, str(image["text"])]
            if key not in self.inputs:
                self.inputs[key] = make_pixels(dict(image), width)
        else:
            # No slot's name has a dash in it, so no two of these are the same.
            key = f"{domain.name}-{slot}"
            self.inputs[key] = Linear(domain.ports.widths[slot], width)
        return key

    def tokens(self, domain: str, slots: Sequence[str], values: Mapping[str, Tensor]) -> Tensor:
        """Some slots of some steps (or spans), side by side.

        Args:
            domain: whose.
            slots: names of fed slots of a step, or of slots of the prefix, in the order they stand in.
            values: slot -> ``[S, width]``.

        Returns:
            ``[S, K of all, D]``.
        """
        found, codes, spans = {}, [], {}
        for name in slots:
            if (domain, name) in self._input:
                made = self.inputs[self._input[domain, name]]
                value = values[name]
                value = value if value.dtype == torch.uint8 else value.to(self.places.weight.dtype)
                y = made(value, self.table(self._named(domain, name))) if (domain, name) in self._words else made(value)
                found[name] = y if y.ndim == 3 else y[:, None]
            else:
                spans[name] = len(codes)
                codes.append(self.ranges[domain, name].ids(values[name]))
        if codes:
            # One look into the table for all slots of codes.
            parts = self.table(torch.cat(codes, 1) if len(codes) > 1 else codes[0]).split([c.shape[1] for c in codes], 1)
            found |= {name: parts[i] for name, i in spans.items()}
        x = torch.cat([found[n] for n in slots], 1) if len(slots) > 1 else found[slots[0]]
        index = torch.cat([self._span(domain, n) for n in slots]) if len(slots) > 1 else self._span(domain, slots[0])
        return x + self.places(index)

    def _span(self, domain: str, slot: str) -> Tensor:
        """``[K]``: which place vectors a slot's tokens have."""
        d, device = self.domains[domain], self.places.weight.device
        index = self._indexed.get((domain, device))
        if index is None:
            # Made once, perhaps while somebody plays; what is made in inference mode could not be trained with later.
            with torch.inference_mode(False):
                index = self._indexed[domain, device] = torch.tensor(self._places[domain], device=device)
        first = d.layout.offset(slot) + (0 if slot in d.prefix else d.P)
        return index[first : first + d.tokens(slot)]

    def _named(self, domain: str, slot: str) -> Tensor:
        """``[C * V]``: ids of the words that name the categories of a slot of cells; any where there is none."""
        device = self.places.weight.device
        found = self._indexed.get((f"{domain} {slot}", device))
        if found is None:
            words, start = self.inputs[self._input[domain, slot]].words, self._words[domain, slot].start
            with torch.inference_mode(False):
                found = torch.tensor([start + max(w, 0) for w in words], device=device)
            self._indexed[f"{domain} {slot}", device] = found
        return found

    def code(self, domain: str, slot: str, token: int, codes: Tensor) -> Tensor:
        """Codes ``[B]`` of a slot's token number ``token``, as vectors ``[B, 1, D]``."""
        span = self.ranges[domain, slot]
        ids = codes + (span.start + token * span.stride)
        return (self.table(ids) + self.places(self._span(domain, slot)[token]))[:, None]

    def forward(self, batch: PackedBatch) -> Tensor:
        """``[B, L, D]``, or ``[1, C, D]`` of a piece of the rows; zeros where no token stands."""
        (B, L), cut = batch.pack.shape, batch.cut
        shape = (B, L) if cut is None else (1, len(cut.at))
        # In a piece that has no token, too, the vectors must be ones that gradients may come back to.
        rows, blocks = [], [] if cut is None else [self.places.weight[:0]]
        for name, part in batch.parts.items():
            d = self.domains[name]
            fed = [(d.step, part.at[:, None] + torch.arange(d.W, device=part.at.device))]
            first = part.front
            for slot in d.prefix:
                k = torch.arange(d.tokens(slot), device=first.device)
                # What is not there goes to a row of its own, behind all others, and is cut off.
                fed.append(([slot], torch.where(k < part.lengths[slot][:, None], first[:, None] + k, B * L)))
                first = first + part.lengths[slot]
            for slots, at in fed:
                values = {n: part.values[n] for n in slots}
                if cut is not None:
                    mine, at = _here(at, cut)
                    if not len(mine):
                        continue
                    values = {n: v[mine] for n, v in values.items()}
                blocks.append(self.tokens(name, slots, values).flatten(0, 1))
                rows.append(at.flatten())
        joined = torch.cat(blocks) if len(blocks) > 1 else blocks[0]
        out = joined.new_zeros(shape[0] * shape[1] + 1, joined.shape[1])
        return (out.index_copy(0, torch.cat(rows), joined) if rows else out + joined.sum())[:-1].view(*shape, -1)


def _here(at: Tensor, cut: Any) -> tuple[Tensor, Tensor]:
    """Which steps ``[R]`` of places ``at [S, K]`` have a token in a piece, and where it has them ``[R, K]``: C where not."""
    spot = torch.cat((cut.spot, cut.spot.new_full((1,), -1)))[at]
    mine = (spot >= 0).any(1).nonzero()[:, 0]
    spot = spot[mine]
    return mine, spot.where(spot >= 0, len(cut.at))


__all__ = ["Asked", "Domain", "Ranges", "StreamEmbedding", "asked"]
