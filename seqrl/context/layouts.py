"""Which places of a sequence belong to which rank: the layouts.

A query sees the keys before it in its own document, so places are not equally dear: late ones of long documents cost most.
``contiguous`` gives every rank one piece, and the last rank most of the work. ``zigzag`` gives rank r the pieces r and
2n - 1 - r, which is even for one document as long as the sequence and uneven for all else (1.3 to 1.9 x the mean). ``balanced``
counts what every piece costs and deals the dearest first, each to the rank that has least so far; for one document that is
zigzag again. Every rank has equally many tokens in every layout, so that what is done per token is even too.

Letters: n ranks, P pieces a rank.
"""

import math
from functools import lru_cache
from itertools import pairwise

import numpy as np

from seqrl.context.errors import ContextError

LAYOUTS = ("balanced", "zigzag", "contiguous")
EVEN = 1.05
"""The most loaded rank's share of the mean that ``balanced`` is content with; finer pieces mean more, smaller kernels."""
FINEST = 4
"""The finest ``balanced`` cuts is into ``2 * FINEST`` pieces a rank."""

Run = tuple[int, int]
"""Places ``start`` to ``stop``, not included."""


def ring_share(length: int, ranks: int, layout: str = "balanced", rows: int = 1) -> int:
    """Tokens of each rank when ``rows`` rows of ``length`` tokens are cut.

    Raises:
        ContextError: an unknown layout, or a length that does not come out even, with the nearest that do.
    """
    if layout not in LAYOUTS:
        raise ContextError(f"no layout '{layout}'; there are {', '.join(LAYOUTS)}")
    if ranks < 1:
        raise ContextError(f"a sequence cannot be cut over {ranks} ranks")
    unit = ranks if layout == "contiguous" or ranks == 1 else 2 * ranks
    total = rows * length
    if total % unit or not total:
        step = unit // math.gcd(unit, rows)
        fit = [str(x) for x in (length // step * step, (length // step + 1) * step) if x]
        of = f"{rows} rows of {length} tokens" if rows > 1 else f"a length of {length} tokens"
        raise ContextError(
            f"{of} cannot be cut over {ranks} ranks in equal shares (layout {layout}); a length must be a multiple of {step}: "
            f"the nearest {'are' if len(fit) > 1 else 'is'} {' and '.join(fit)}"
        )
    return total // ranks


def work_before(documents: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Allowed pairs of a query and a key among all queries before each of ``places``.

    Args:
        documents: ``[N + 1]`` int64, where documents begin, and the end.
        places: int64, 0 to the end.
    """
    lengths = np.diff(documents)
    whole = np.concatenate(([0], np.cumsum(lengths * (lengths + 1) // 2)))
    at = np.clip(np.searchsorted(documents, places, "right") - 1, 0, len(lengths) - 1)
    inside = places - documents[at]
    return whole[at] + inside * (inside + 1) // 2


@lru_cache(maxsize=32)
def deal(documents: tuple[int, ...], ranks: int, layout: str) -> tuple[tuple[Run, ...], ...]:
    """The runs of places of every rank, ascending, neighbouring pieces joined.

    Args:
        documents: where documents begin, ascending from 0, and the end.

    Raises:
        ContextError: boundaries that are none, or as ``ring_share``.
    """
    edges = np.asarray(documents, np.int64)
    if len(edges) < 2 or edges[0] or (np.diff(edges) <= 0).any():
        raise ContextError("documents are given by where they begin, ascending from 0, and by where the last one ends")
    total = int(edges[-1])
    ring_share(total, ranks, layout)
    if layout == "contiguous" or ranks == 1:
        owners = np.arange(ranks)
    elif layout == "zigzag":
        owners = np.concatenate((np.arange(ranks), np.arange(ranks)[::-1]))
    else:
        owners = _balanced(edges, ranks)
    size = total // len(owners)
    return tuple(_join(np.flatnonzero(owners == r) * size, size) for r in range(ranks))


def _balanced(edges: np.ndarray, ranks: int) -> np.ndarray:
    """The rank of each piece ``[2 n m]``: the coarsest cut that is even enough, or else the most even one."""
    total, best, least = int(edges[-1]), None, math.inf
    for m in range(1, FINEST + 1):
        if total % (2 * ranks * m):
            continue
        costs = np.diff(work_before(edges, np.arange(0, total + 1, total // (2 * ranks * m))))
        owners = _even_out(costs, _dearest_first(costs, ranks), ranks)
        uneven = float(np.bincount(owners, costs, ranks).max() * ranks / costs.sum())
        if uneven < least:
            best, least = owners, uneven
        if uneven <= EVEN:
            break
    return best


def _dearest_first(costs: np.ndarray, ranks: int) -> np.ndarray:
    """Longest-processing-time scheduling with as many pieces for everybody (Graham 1969)."""
    owners, load, room = np.empty(len(costs), np.int64), np.zeros(ranks), np.full(ranks, len(costs) // ranks)
    for piece in np.argsort(-costs, kind="stable"):
        rank = int(np.argmin(np.where(room > 0, load, np.inf)))
        owners[piece], load[rank], room[rank] = rank, load[rank] + costs[piece], room[rank] - 1
    return owners


def _even_out(costs: np.ndarray, owners: np.ndarray, ranks: int) -> np.ndarray:
    """Swaps pieces of the most loaded rank with others' as long as that makes the larger of the two loads smaller."""
    load = np.bincount(owners, costs, ranks)
    for _ in range(len(costs)):
        most = int(load.argmax())
        mine, others = np.flatnonzero(owners == most), np.flatnonzero(owners != most)
        moved = costs[mine][:, None] - costs[others]
        worse = np.maximum(load[most] - moved, load[owners[others]] + moved)
        i, j = np.unravel_index(worse.argmin(), worse.shape)
        if worse[i, j] >= load[most] or load[most] * ranks <= EVEN * costs.sum():
            break
        load[most] -= moved[i, j]
        load[owners[others[j]]] += moved[i, j]
        owners[mine[i]], owners[others[j]] = owners[others[j]], most
    return owners


def _join(starts: np.ndarray, size: int) -> tuple[Run, ...]:
    """Pieces of ``size`` places as runs."""
    breaks = np.flatnonzero(np.diff(starts) != size) + 1
    cuts = [0, *breaks.tolist(), len(starts)]
    return tuple((int(starts[a]), int(starts[b - 1]) + size) for a, b in pairwise(cuts))
