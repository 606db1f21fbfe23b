"""Token documents to be trained on: sources prepared, some held out, and batches drawn from them.

A draw is a pure function of (seed, step): rows are dealt to groups by their share of the tokens, each group's rows are filled
with examples of that group, and the draw belongs to the global batch, of which each rank takes its rows. What a token counts is
settled here, so that no process and no model needs to know where an example began.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from seqrl.core.documents import MODALITIES, DocumentBatch
from seqrl.core.errors import DataError
from seqrl.data.documents_data import DocumentData
from seqrl.data.documents_place import Placed, fill, one_each
from seqrl.data.documents_tokenizer import DocumentTokenizer
from seqrl.data.spans import shares
from seqrl.sources._files import Progress

__all__ = ["DocumentData", "DocumentLoader"]

_BLOCK = 256
"""Examples drawn at a time."""


@dataclass(frozen=True)
class Pool:
    """Examples to draw from; every array has one entry an example.

    Args:
        source: which source. number: its number there. length: tokens, at most L. split: see ``DocumentStore``.
        members: of each group the numbers of its examples. mass: and their cumulated probability of being drawn.
        share: of each group, of all tokens.
    """

    source: np.ndarray
    number: np.ndarray
    length: np.ndarray
    split: np.ndarray
    members: tuple[np.ndarray, ...]
    mass: tuple[np.ndarray, ...]
    share: np.ndarray


class DocumentLoader:
    """Serves DocumentBatches of the training examples, and of fixed held-out ones.

    Attributes:
        held_out: the pool of the held-out examples, or None.
        cut: how many of all examples are longer than a row, and so cut.
        groups: their names, in the order of the sources.
    """

    def __init__(
        self,
        data: DocumentData,
        tokenizer: DocumentTokenizer,
        device: Any = "cpu",
        progress: Progress | None = None,
        length: int | None = None,
    ) -> None:
        """Prepares what is not prepared yet.

        Args:
            data, tokenizer: the tokenizer is fitted. device: where batches are made.
            progress: called with episodes or lines, while preparing.
            length: L, where it is not the tokenizer's: contexts grow, and ids stay.

        Raises:
            UserError: weights that are none, data that are broken, or nothing left to train on.
        """
        self.tokenizer, self.documents, self.ports = tokenizer, tokenizer.documents, tokenizer.ports()
        self.length, self.device = length or tokenizer.length, torch.device(device)
        self.stores = data.prepare(tokenizer, progress)
        sources = data.config.sources
        self.groups = list(dict.fromkeys(str(raw.get("group") or "") for raw in sources))
        train, held = self._split(data.config.held_out)
        self.train = self._pool(train, sources)
        for i, own in enumerate(train):
            if not len(own):
                raise DataError(f"data.sources.{i}: 'held_out' leaves none of its examples to train on; lower it")
        self.held_out = self._pool(held, sources) if any(len(h) for h in held) else None
        self.cut = int(sum((s.length > self.length).sum() for s in self.stores))

    def _split(self, share: float) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """The numbers of the training and of the held-out examples of each source, whole episodes aside."""
        units = [s.units for s in self.stores]
        total = sum(units)
        aside = min(int(np.ceil(share * total)) if share else 0, total - 1)
        # Chosen by a fixed permutation, so that resuming, validating and reporting all mean the same ones.
        out = np.zeros(total, bool)
        out[np.random.Generator(np.random.PCG64(0)).permutation(total)[:aside]] = True
        first = np.cumsum([0, *units[:-1]])
        kept = [out[f + s.unit] for f, s in zip(first, self.stores, strict=True)]
        return [np.flatnonzero(~k) for k in kept], [np.flatnonzero(k) for k in kept]

    def _pool(self, numbers: list[np.ndarray], sources: Sequence[dict[str, Any]]) -> Pool:
        source = np.repeat(np.arange(len(numbers)), [len(n) for n in numbers])
        length = np.concatenate([np.minimum(s.length[n], self.length) for s, n in zip(self.stores, numbers, strict=True)])
        split = np.concatenate([s.split[n] for s, n in zip(self.stores, numbers, strict=True)])
        # One that is cut has no two halves any more.
        whole = np.concatenate([s.length[n] <= self.length for s, n in zip(self.stores, numbers, strict=True)])
        likely = shares(list(sources), source, length, length, length)
        group = np.array([self.groups.index(str(raw.get("group") or "")) for raw in sources])[source]
        members = tuple(np.flatnonzero(group == g) for g in range(len(self.groups)))
        share = np.array([(likely[m] * length[m]).sum() for m in members])
        mass = tuple(np.cumsum(likely[m]) for m in members)
        return Pool(source, np.concatenate(numbers), length, np.where(whole, split, 0), members, mass, share / share.sum())

    # ---- drawing ----------------------------------------------------------------------------------------------------

    def draw(self, seed: int, step: int, rows: int, rank: int = 0, world: int = 1) -> DocumentBatch:
        """The training batch of a step, a pure function of its arguments: rows ``rank * rows`` on of the global batch."""
        total = rows * world
        noise = np.random.Generator(np.random.Philox(key=seed, counter=[0, step, 0, 0]))
        # Rows of each group: its share of them, rounded up or down by chance so that it is right on average.
        ends = np.floor(np.cumsum(self.train.share) * total + noise.random()).astype(np.int64).clip(0, total)
        ends[-1] = total
        order = noise.permutation(total)
        chosen, row, at, document, swapped = [], [], [], [], []
        for g, (first, end) in enumerate(zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True)):
            if end > first:
                drawn, turned = self._examples(self.train, g, end - first, noise)
                placed = self._place(self.train.length[drawn], end - first)
                chosen.append(drawn[placed.drawn])
                row.append(order[first + placed.row])
                at.append(placed.at)
                document.append(placed.document)
                swapped.append(turned[placed.drawn])
        parts = (np.concatenate(p) for p in (chosen, row, at, document, swapped))
        return self._batch(self.train, *parts, rank * rows, rows)

    def _examples(self, pool: Pool, group: int, rows: int, noise: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Enough examples of a group to fill ``rows`` rows, and which of them are turned about."""
        mass, members, drawn, turned, tokens = pool.mass[group], pool.members[group], [], [], 0
        while tokens <= rows * self.length:
            u = noise.random((_BLOCK, 2))
            at = np.minimum(np.searchsorted(mass, u[:, 0] * mass[-1], side="right"), len(mass) - 1)
            drawn.append(members[at])
            turned.append((u[:, 1] < self.documents.swap) & (pool.split[members[at]] > 0))
            tokens += int(pool.length[members[at]].sum())
        return np.concatenate(drawn), np.concatenate(turned)

    def _place(self, length: np.ndarray, rows: int) -> Placed:
        return one_each(length, rows) if self.documents.mode == "pad" else fill(length, rows, self.length)

    def validation(self, windows: int, batch: int) -> Iterator[DocumentBatch]:
        """At most ``windows`` of the held-out examples, evenly spread over them and the same every time, in batches of
        ``batch`` rows, the last of which may stay empty."""
        pool = self.held_out
        if pool is None:
            return
        count = min(windows, len(pool.length))
        wanted = np.linspace(0, len(pool.length) - 1, count).astype(np.int64)
        # Every second example's turn would meet the order of the data; steps of the golden ratio do not.
        turned = (wanted * (5**0.5 - 1) / 2 % 1.0 < self.documents.swap) & (pool.split[wanted] > 0)
        for members in pool.members:
            here = np.flatnonzero(np.isin(wanted, members))
            while len(here):
                placed = self._place(pool.length[wanted[here]], batch)
                taken = here[placed.drawn]
                facts = (placed.row, placed.at, placed.document, turned[taken])
                yield self._batch(pool, wanted[taken], *facts, 0, batch)
                here = np.setdiff1d(here, taken)

    # ---- batches ----------------------------------------------------------------------------------------------------

    def _batch(
        self,
        pool: Pool,
        chosen: np.ndarray,
        row: np.ndarray,
        at: np.ndarray,
        document: np.ndarray,
        swapped: np.ndarray,
        first: int,
        rows: int,
    ) -> DocumentBatch:
        """Rows ``first`` on of a batch of placed examples."""
        mine = (row >= first) & (row < first + rows)
        chosen, row, at, document, swapped = (x[mine] for x in (chosen, row, at, document, swapped))
        length = pool.length[chosen]
        every = np.repeat(np.arange(len(chosen)), length)
        inner = np.arange(len(every)) - np.repeat(np.cumsum(length) - length, length)
        ids, trained = self._tokens(pool, chosen, swapped, every, inner)
        last = inner == length[every] - 1
        target = np.where(~last & np.roll(trained, -1), np.roll(ids, -1), -1)
        vision, counted = target >= self.ports.text, (target >= 0).astype(np.float32)
        if self.documents.weigh == "examples":
            # LWM: the mean over examples of the mean over a modality's tokens of each; one that has none counts as well.
            which = every * 2 + vision
            weight = counted / np.maximum(np.bincount(which, counted, 2 * len(chosen)), 1)[which]
            begins = (inner == 0).astype(np.float32)
            counts = dict.fromkeys(MODALITIES, begins)
        else:
            weight = counted
            counts = dict(zip(MODALITIES, (counted * ~vision, counted * vision), strict=True))
        place = ((row - first) * self.length + at)[every] + inner

        def lay(values: np.ndarray, empty: int, dtype: Any) -> torch.Tensor:
            out = np.full(rows * self.length, empty, dtype)
            out[place] = values
            return torch.from_numpy(out.reshape(rows, self.length)).to(self.device)

        tracks = {"ids": (ids, 0), "pack": (document[every], -1), "pos": (inner, 0), "target": (target, -1)}
        whole = {n: lay(v, empty, np.int64) for n, (v, empty) in tracks.items()}
        return DocumentBatch(
            **whole,
            weight=lay(weight, 0, np.float32),
            counts={n: lay(c, 0, np.float32) for n, c in counts.items()},
        )

    def _tokens(
        self, pool: Pool, chosen: np.ndarray, swapped: np.ndarray, every: np.ndarray, inner: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """``(n,)`` ids and whether each is trained: place ``inner`` of example ``every`` of those chosen."""
        length, split = pool.length[chosen], pool.split[chosen]
        # First mark, second half, first half, last mark.
        back = (length - 1 - split)[every]
        moved = np.where(inner - 1 < back, inner - 1 + split[every], inner - back)
        turned = swapped[every] & (inner > 0) & (inner < length[every] - 1)
        inner = np.where(turned, moved, inner)
        ids, trained = np.empty(len(every), np.int64), np.empty(len(every), bool)
        for i, prepared in enumerate(self.stores):
            here = np.flatnonzero(pool.source[chosen] == i)
            shards = np.zeros(len(chosen), np.int64) - 1
            shards[here] = prepared.shard[pool.number[chosen[here]]]
            start = np.zeros(len(chosen), np.int64)
            start[here] = prepared.start[pool.number[chosen[here]]]
            for shard in np.unique(shards[here]).tolist():
                spots = np.flatnonzero((shards == shard)[every])
                flat = start[every[spots]] + inner[spots]
                tracks = prepared.tracks(shard)
                ids[spots], trained[spots] = tracks[0][flat], tracks[1][flat]
        return ids, trained
