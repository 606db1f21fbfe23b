"""What a policy that lives in a world remembers of B environments: the world's carry, and how far each has come."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from seqrl.core import tree
from seqrl.core.errors import UserError

Front = Mapping[str, Tensor] | None


def put(carry: Any, rows: Tensor, part: Any) -> Any:
    """``carry`` with the chosen ``rows [R]`` taken from ``part``, which has R rows."""
    return tree.map_leaves(lambda t, p: t.index_copy(0, rows, p), carry, part)


def fills_up(world: Any, steps: int, front: Front) -> bool:
    """Whether a world's carry has room for so many steps and no more: then one for more is larger, or there is none.

    Args:
        front: of one row, as for ``WorldModel.init``.
    """
    sizes: list[list[torch.Size]] = [[], []]
    for found, room in zip(sizes, (steps, 4 * steps), strict=True):
        try:
            carry = world.init(1, room, front)
        except UserError:
            return True
        tree.map_leaves(lambda t, found=found: found.append(t.shape), carry)
    return sizes[0] != sizes[1]


class Carried:
    """A cache as ``rollout.agent`` wants it. Rows that are forgotten begin anew when they next see something, for only then
    it is known what stands in front of their steps.

    Args:
        world: a ``core.contracts.WorldModel``. carry: of B rows; None before the first step.
        steps: ``[B]`` int64, environment steps seen. room: steps there is room for, if it ``fills``.
    """

    def __init__(self, world: Any, carry: Any, steps: Tensor, room: int, fills: bool) -> None:
        self.world, self.carry, self.steps, self.room, self.fills = world, carry, steps, room, fills

    @property
    def length(self) -> Tensor:
        """``[B]`` tokens held; a step counts as one."""
        return self.steps

    def reset(self, rows: Tensor) -> None:
        """Forgets ``rows`` (indices or a bool mask), in place."""
        self.steps[rows] = 0

    def index(self, rows: Tensor) -> "Carried":
        """A new cache of the chosen rows, which may repeat."""
        return Carried(self.world, tree.index(self.carry, rows), self.steps[rows], self.room, self.fills)

    def begun(self, front: Front) -> Any:
        """The carry, in which every row that has seen nothing yet begins; it is used up by whoever takes it.

        Args:
            front: of all B rows, as for ``WorldModel.init``.
        """
        fresh = self.steps == 0
        if self.carry is None or bool(fresh.any()):
            new = self.world.init(len(self.steps), self.room, front)
            self.carry = new if self.carry is None else tree.where(fresh, new, self.carry)
        return self.carry
