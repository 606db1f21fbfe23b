"""What is computed from a store's rows: returns-to-go, delayed rewards, end flags, and where an episode ends.

Of a small store these are plain arrays. Of a large one they would fill the memory that the store itself does not take: what
follows from the row alone is computed where it is looked at, and what needs the whole episode is written once, a few episodes
at a time, into memory-mapped files inside the store's folder. The numbers are the same, bit for bit.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from seqrl.core.errors import DataError
from seqrl.data.returns import delayed_rewards, returns_to_go
from seqrl.data.store import Store
from seqrl.sources._files import one_at_a_time, why

SMALL = 1 << 22
"""Rows of a store whose computed columns are kept in memory."""
_BLOCK = 1 << 20
_FOLDER, _FORMAT = "computed", 1


@dataclass(frozen=True)
class Terms:
    """How rewards are read: see ``data.discount``, ``data.termination_penalty`` and ``data.delayed``."""

    discount: float = 1.0
    penalty: float = 0.0
    delayed: bool = False


class Lazy:
    """A column that is computed at the rows that are looked at."""

    def __init__(self, rows: int, at: Callable[[Any], np.ndarray]) -> None:
        """Args: at: ``at(rows)`` are the values at row numbers of any shape, or at a slice."""
        self.shape, self._at = (rows,), at

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> np.ndarray:
        return self._at(rows)

    def take(self, rows: np.ndarray, axis: int = 0, mode: str = "clip") -> np.ndarray:
        return self._at(rows)


def rewards(store: Store, terms: Terms) -> Any:
    """``(rows,)`` float32, as they are trained on."""
    if terms.delayed:
        return _computed(store, terms, "reward")
    if not terms.penalty:
        return store.column("reward")
    if store.rows <= SMALL:
        return _plain(store, terms, slice(None))
    return Lazy(store.rows, lambda rows: _plain(store, terms, rows))


def returns(store: Store, terms: Terms) -> np.ndarray:
    """``(rows,)`` float32 returns-to-go."""
    return _computed(store, terms, "return")


def done(store: Store) -> Any:
    """``(rows,)`` int64: whether the step ended its episode for good."""
    flags = store.column("terminated")
    return flags.astype(np.int64) if store.rows <= SMALL else Lazy(store.rows, lambda rows: flags[rows].astype(np.int64))


def last_rows(store: Store) -> Any:
    """``(rows,)`` int64: the last row with an action in each row's episode (its only row, where it has no steps)."""
    e = store.episodes
    last = np.maximum(e.row + e.length - 1, e.row)
    if store.rows <= SMALL:
        return np.repeat(last, e.length + 1)
    episode = store.column("episode")
    return Lazy(store.rows, lambda rows: last.take(episode[rows], mode="clip"))


def _plain(store: Store, terms: Terms, rows: Any) -> np.ndarray:
    """Rewards less the penalty for ending, at some rows."""
    reward = store.column("reward")[rows]
    return reward - np.float32(terms.penalty) * store.column("terminated")[rows] if terms.penalty else reward


def _computed(store: Store, terms: Terms, what: str) -> np.ndarray:
    if store.rows <= SMALL:
        return np.concatenate([part[what] for part in _blocks(store, terms, {what})])
    key = hashlib.sha256(json.dumps([_FORMAT, what, terms.discount, terms.penalty, terms.delayed]).encode()).hexdigest()
    path = store.path / _FOLDER / f"{what}-{key[:16]}.f32"
    if not _is_whole(path, store):
        with one_at_a_time(path):
            # Another process may have been computing while this one waited.
            if not _is_whole(path, store):
                _write(path, store, terms, what)
    return np.memmap(path, "<f4", "r", shape=(store.rows,)).view(np.ndarray)


def _is_whole(path: Path, store: Store) -> bool:
    return path.is_file() and path.stat().st_size == 4 * store.rows


def _write(path: Path, store: Store, terms: Terms, what: str) -> None:
    aside = path.with_suffix(".part")
    try:
        path.parent.mkdir(exist_ok=True)
        with aside.open("wb") as file:
            for part in _blocks(store, terms, {what}):
                file.write(np.ascontiguousarray(part[what], "<f4"))
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except OSError as e:
        aside.unlink(missing_ok=True)
        raise DataError(f"{path}: could not be written: {why(e)}; set SEQRL_CACHE to a folder that can be, with room") from e


@dataclass(frozen=True)
class _Part:
    """Some whole episodes, rows counted from the first of them."""

    row: np.ndarray
    length: np.ndarray


def _blocks(store: Store, terms: Terms, wanted: set[str]) -> Iterator[dict[str, np.ndarray]]:
    """The computed columns, as many whole episodes at a time as hold about a million rows."""
    e = store.episodes
    first, before, spent, most = 0, 0.0, 0.0, int(e.length.max(initial=0))
    while first < len(e):
        start = int(e.row[first])
        after = max(first + 1, int(np.searchsorted(e.row, start + _BLOCK)))
        stop = int(e.row[after - 1] + e.length[after - 1]) + 1
        part = _Part(e.row[first:after] - start, e.length[first:after])
        made = {"reward": _plain(store, terms, slice(start, stop))}
        if terms.delayed:
            plain = made["reward"]
            made["reward"] = delayed_rewards(plain, part, before)
            before = _sum(plain, before)
        if "return" in wanted:
            made["return"] = returns_to_go(made["reward"], part, terms.discount, spent, most)
            spent = _sum(made["reward"], spent)
        yield made
        first = after


def _sum(values: np.ndarray, before: float) -> float:
    """One after the other, as a sum over all rows would go on from here."""
    return float(np.cumsum(np.concatenate([[before], values]))[-1])
