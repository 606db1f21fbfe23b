"""Data x sequence: which rank draws which rows, and who shares one row with whom.

Ranks of one *sequence group* stand side by side (sequence is the inner dimension, so that a group lies within a node), draw the
same rows, and each computes a piece of them; groups draw different rows. Weights may be sharded over all ranks at once: nothing
here knows of weights.
"""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from seqrl.context.errors import ContextError


@dataclass(frozen=True)
class Mesh:
    """One rank's place.

    Args:
        world: ranks. rank: this one. sequence: ranks of a sequence group.
        minutes: until what waits for a rank of its group gives up.

    Raises:
        ContextError: ``world`` is no multiple of ``sequence``.
    """

    world: int
    rank: int
    sequence: int = 1
    minutes: float = 10.0
    sequence_group: Any = field(default=None, init=False, compare=False)
    """The group of this rank's sequence, for the ring alone: what DDP and others say to each other must not come in between.
    None where every rank has whole rows."""

    def __post_init__(self) -> None:
        if self.sequence < 1 or self.world % self.sequence:
            raise ContextError(
                f"{self.world} processes cannot be dealt into groups of {self.sequence} that share a sequence; "
                f"take a multiple of {self.sequence} processes, or a sequence that divides {self.world}"
            )
        if self.sequence > 1 and dist.is_initialized():
            # Every rank must make every group, in the same order.
            firsts = range(0, self.world, self.sequence)
            patience = timedelta(minutes=self.minutes)
            groups = {f: dist.new_group(list(range(f, f + self.sequence)), timeout=patience) for f in firsts}
            object.__setattr__(self, "sequence_group", groups[self.rank - self.sequence_rank])

    @property
    def data_ranks(self) -> int:
        """How many sequence groups there are."""
        return self.world // self.sequence

    @property
    def data_rank(self) -> int:
        """Which of them this rank is in."""
        return self.rank // self.sequence

    @property
    def sequence_ranks(self) -> int:
        """Ranks of a sequence group."""
        return self.sequence

    @property
    def sequence_rank(self) -> int:
        """Which of its group this rank is."""
        return self.rank % self.sequence
