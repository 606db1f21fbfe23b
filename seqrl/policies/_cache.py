"""What is remembered of B environments between two acts of a policy with a trunk."""

from typing import NamedTuple

from torch import Tensor

from seqrl.nn.kv import KVCache


class StepCache(NamedTuple):
    """A pytree whose leaves are batch first.

    Args:
        kv: keys and values of all tokens seen so far.
        steps: ``[B]`` int64, environment steps in it. The last of them still lacks its action.
        front: ``[B]`` int64, tokens in front of the first step.
    """

    kv: KVCache
    steps: Tensor
    front: Tensor

    # No annotation: a fact about every such cache, not a part of it. It has room for so many steps, and no more.
    fills = True

    @property
    def length(self) -> Tensor:
        """``[B]`` tokens held."""
        return self.kv.length

    def reset(self, rows: Tensor) -> None:
        """Forgets ``rows`` (indices or a bool mask), in place."""
        self.kv.reset(rows)
        self.steps[rows] = 0
        self.front[rows] = 0

    def index(self, rows: Tensor) -> "StepCache":
        """A new cache of the chosen rows, which may repeat."""
        return StepCache(self.kv.index(rows), self.steps[rows], self.front[rows])
