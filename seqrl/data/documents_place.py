"""Where the examples of a batch stand in its rows: as many of those drawn as fit, however long each is. Plain numbers.

Which examples are placed depends on the order of the draw alone, so that short ones are not preferred for fitting better.
"""

import bisect
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Placed:
    """Placed examples, ``(N,)`` each: which of those drawn, its row, where it begins there, and which of the row's it is."""

    drawn: np.ndarray
    row: np.ndarray
    at: np.ndarray
    document: np.ndarray


def fill(length: np.ndarray, rows: int, L: int) -> Placed:
    """Places the first of some examples in ``rows`` rows of ``L``, as many as can be.

    The longest come first, each into the row with the least room that holds it (best fit decreasing). Where one is left over,
    the last drawn are given up until none is.

    Args:
        length: ``(N,)`` tokens of each example, none above L.
    """
    count = int(np.searchsorted(np.cumsum(length), rows * L, side="right"))
    while True:
        row, at, left = _best_fit(length[:count].tolist(), rows, L)
        if not left:
            break
        count -= left
    order = np.lexsort((at, row))
    drawn, row, at = order, row[order], at[order]
    first = np.searchsorted(row, row, side="left")
    return Placed(drawn, row, at, np.arange(count) - first)


def one_each(length: np.ndarray, rows: int) -> Placed:
    """The first examples, each alone in its row."""
    count = min(len(length), rows)
    zeros = np.zeros(count, np.int64)
    return Placed(np.arange(count), np.arange(count), zeros, zeros)


def _best_fit(length: list[int], rows: int, L: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Row and place of each, and how many found none. A loop over examples, in whole numbers only."""
    row, at, left = np.zeros(len(length), np.int64), np.zeros(len(length), np.int64), 0
    # (room, row), the least room first; of rows with the same room the first.
    free = [(L, r) for r in range(rows)]
    for i in sorted(range(len(length)), key=lambda i: (-length[i], i)):
        spot = bisect.bisect_left(free, (length[i], -1))
        if spot == len(free):
            left += 1
            continue
        room, r = free.pop(spot)
        row[i], at[i] = r, L - room
        bisect.insort(free, (room - length[i], r))
    return row, at, left
