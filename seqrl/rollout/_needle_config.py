"""What is hidden, where, and how often: the settings of a search for needles, and the tries that they make."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from seqrl.core.errors import UserError

AT_ONCE = 1 << 15
"""Tokens that are read side by side, about."""


@dataclass(frozen=True)
class NeedleConfig:
    """What is hidden, where, and how often.

    Args:
        lengths: tokens in front of an answer, all that a model reads. depths: where the needle is hidden, 0 the beginning and 1
            the end. needles: how many are hidden at once; of several each has a depth by chance, and ``depths`` is empty.
        asked: how many of them are asked for. rounds: times that every length and depth is tried.
        rope_base: of the rotary angles, for lengths that the model has no positions for. seed: decides everything.
    """

    lengths: tuple[int, ...] = (1024, 4096)
    depths: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    needles: int = 1
    asked: int = 1
    rounds: int = 10
    rope_base: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises UserError where this is no test."""
        if not self.lengths or any(n < 1 for n in self.lengths) or len({*self.lengths}) < len(self.lengths):
            raise UserError(f"lengths: whole numbers above 0, no two the same (got {_list(self.lengths)})")
        if not all(0 <= d <= 1 for d in self.depths) or len({*self.depths}) < len(self.depths):
            raise UserError(
                f"depths: numbers from 0 (the beginning) to 1 (the end), no two the same (got {_list(self.depths)})"
            )
        if not 1 <= self.asked <= self.needles:
            raise UserError(f"asked: of {self.needles} needles 1 to {self.needles} can be asked for (got {self.asked})")
        if self.rounds < 1:
            raise UserError(f"rounds: at least 1 (got {self.rounds})")
        if (self.needles == 1) != bool(self.depths):
            raise UserError("depths: of one needle; each of several is hidden at a depth by chance, so leave them out")

    @property
    def rows(self) -> tuple[float | None, ...]:
        """The depths, or the one that stands for all of them."""
        return self.depths or (None,)

    def jobs(self, length: int) -> "Iterator[list[Job]]":
        """All tries of a length, as many at a time as are read side by side."""
        every = [Job(length, row, self._depths(length, row, n), n) for row in range(len(self.rows)) for n in range(self.rounds)]
        most = max(1, AT_ONCE // length)
        return (every[at : at + most] for at in range(0, len(every), most))

    def _depths(self, length: int, row: int, number: int) -> tuple[float, ...]:
        said = self.rows[row]
        if said is not None:
            return (said,)
        return tuple(self.rng(length, row, number, 0).random(self.needles).tolist())

    def rng(self, *of: int) -> np.random.Generator:
        """Chance that belongs to what is named, whatever else is tried."""
        return np.random.default_rng([self.seed, *of])


@dataclass(frozen=True)
class Job:
    """A try: its length in tokens, the row of its cell, the depth of each needle, and its number."""

    length: int
    row: int
    depths: tuple[float, ...]
    number: int


def _list(values: tuple[Any, ...]) -> str:
    return ", ".join(map(str, values)) or "none"
