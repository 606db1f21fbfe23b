"""Causal attention over packed documents as a short list of rectangles and causal squares, with no mask anywhere.

Documents are intervals of places, and so are the runs of places a rank owns (layouts.py); a rank keeps its tokens in ascending
order. Two things follow. Among a rank's own tokens those of a document stand side by side and in order: its own part of the
work is one causal square a document. And of another rank's keys a query sees those of its document that come before it; of all
documents only the one that holds a run's *first* token has places before the run, and none of them lie inside it: what a run
sees of another rank is one dense rectangle, over keys that stand side by side there too. So every allowed pair is computed
once, nothing else is, and no row of a softmax is ever empty.

At step i a rank meets the keys of the rank i before it, and gives its own to the rank i after it: only the intervals that are
seen travel, straight from owner to reader.

Letters: n ranks, N tokens of each, Q runs.
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from seqrl.context.layouts import Run, deal, work_before


class Tile(NamedTuple):
    """Queries ``q0`` to ``q1`` of this rank against keys ``k0`` to ``k1`` of what it has at that step.

    Dense, or (``causal``) a square in which a query sees the keys up to its own place.
    """

    q0: int
    q1: int
    k0: int
    k1: int
    causal: bool = False


@dataclass(frozen=True)
class Plan:
    """What one rank computes and exchanges; all intervals are local, in the order of a rank's tokens.

    Args:
        documents: how many there are.
        runs: of every rank, the places it owns.
        edges: where the documents that have tokens here begin among them, and N: the squares of step 0 lie between.
        steps: of each of n steps, its tiles. Keys of step i > 0 are those of ``need[i]``, one interval behind the other.
        need: of each step, the intervals of keys of rank ``(rank - i) % n`` that are seen here.
        give: of each step, the intervals of this rank's keys that rank ``(rank + i) % n`` sees.
        cost: of every rank, allowed pairs of its queries.
    """

    ranks: int
    rank: int
    layout: str
    documents: int
    runs: tuple[tuple[Run, ...], ...]
    edges: tuple[int, ...]
    steps: tuple[tuple[Tile, ...], ...]
    need: tuple[tuple[Run, ...], ...]
    give: tuple[tuple[Run, ...], ...]
    cost: tuple[int, ...]

    @property
    def share(self) -> int:
        """N, tokens of each rank."""
        return self.edges[-1]

    @property
    def received(self) -> int:
        """Keys of others that are seen here; a ring that passes everything on receives ``(n - 1) * N``."""
        return sum(b - a for intervals in self.need for a, b in intervals)

    @property
    def sent(self) -> int:
        """Keys of this rank that go to others, counted once for each."""
        return sum(b - a for intervals in self.give for a, b in intervals)

    def positions(self, rank: int) -> np.ndarray:
        """``[N]`` int64: the places of a rank's tokens, in its order."""
        return np.concatenate([np.arange(a, b) for a, b in self.runs[rank]])


@lru_cache(maxsize=64)
def make_plan(documents: tuple[int, ...], ranks: int, rank: int, layout: str = "balanced") -> Plan:
    """The plan of one rank; the same arguments are planned once.

    Args:
        documents: where each document begins, ascending from 0, and the end.
        layout: "balanced", "zigzag" or "contiguous" (layouts.py).

    Raises:
        ContextError: a length that does not fit the ranks (``ring_share``), or boundaries that are none.
    """
    runs = deal(documents, ranks, layout)
    edges = np.asarray(documents, np.int64)
    seen = [_Seen(edges, of) for of in runs]
    own = seen[rank].edges(edges)
    steps, need, give = [tuple(Tile(a, b, a, b, True) for a, b in pairwise(own))], [()], [()]
    for i in range(1, ranks):
        here = seen[rank].of(seen[(rank - i) % ranks])
        need.append(_union(here[:, 2:]))
        steps.append(_tiles(here, need[i]))
        give.append(_union(seen[(rank + i) % ranks].of(seen[rank])[:, 2:]))
    cost = [int(np.diff(work_before(edges, np.array(of))).sum()) for of in runs]
    return Plan(ranks, rank, layout, len(documents) - 1, runs, tuple(own), tuple(steps), tuple(need), tuple(give), tuple(cost))


class _Seen:
    """A rank's runs as arrays ``[Q]``: where they start and stop, where locally, and where their first document lies."""

    def __init__(self, documents: np.ndarray, runs: tuple[Run, ...]) -> None:
        self.start, self.stop = np.array(runs, np.int64).T
        self.offset = np.cumsum(self.stop - self.start) - (self.stop - self.start)
        first = np.searchsorted(documents, self.start, "right") - 1
        self.begins, self.ends = documents[first], documents[first + 1]

    def local(self, places: np.ndarray) -> np.ndarray:
        """How many of the rank's tokens stand before each place."""
        run = np.searchsorted(self.start, places, "right") - 1
        inside = np.minimum(places, self.stop[run]) - self.start[run]
        return np.where(run < 0, 0, self.offset[run] + inside)

    def edges(self, documents: np.ndarray) -> list[int]:
        """Where documents begin among the rank's tokens, and the end."""
        return np.unique(self.local(documents)).tolist()

    def of(self, other: "_Seen") -> np.ndarray:
        """``[at most Q, 4]``: rectangles (queries from, to, keys from, to) of this rank's queries with another's keys."""
        q1 = self.offset + np.minimum(self.stop, self.ends) - self.start
        found = np.stack((self.offset, q1, other.local(self.begins), other.local(self.start)), 1)
        return found[found[:, 3] > found[:, 2]]


def _union(intervals: np.ndarray) -> tuple[Run, ...]:
    """Intervals ``[Q, 2]`` as the fewest that cover the same."""
    joined: list[Run] = []
    for a, b in sorted(map(tuple, intervals.tolist())):
        if joined and a <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(b, joined[-1][1]))
        else:
            joined.append((a, b))
    return tuple(joined)


def _tiles(rectangles: np.ndarray, need: tuple[Run, ...]) -> tuple[Tile, ...]:
    """Rectangles with their keys counted in what travels; neighbours that see the same keys are one tile."""
    starts = np.array([a for a, _ in need], np.int64)
    sizes = np.array([b - a for a, b in need], np.int64)
    tiles: list[Tile] = []
    for q0, q1, k0, k1 in rectangles.tolist():
        at = int(np.searchsorted(starts, k0, "right")) - 1
        shift = int(sizes[:at].sum() - starts[at])
        tile = Tile(q0, q1, k0 + shift, k1 + shift)
        if tiles and (tiles[-1].q1, tiles[-1].k0, tiles[-1].k1) == (q0, tile.k0, tile.k1):
            tile = tiles.pop()._replace(q1=q1)
        tiles.append(tile)
    return tuple(tiles)
