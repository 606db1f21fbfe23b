"""Hidden Order Discovery: touch the coloured balls of a board in an order that is nowhere to be seen.

The order is drawn once an episode and found by trying: the right ball vanishes, a wrong one puts everything back. Whoever
remembers what has been tried collects round after round; whoever does not keeps guessing. So the return of a policy, and what
a world model foretells of a touch, measure memory and little else. The two-dimensional task of "TransDreamer" (Chen et al.
2022), rebuilt from what is told of it, since the authors' code lacks it. Registered on import as ``seqrl/HiddenOrder-v0``.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np

from seqrl.core.errors import EnvError
from seqrl.sources._hidden_order_view import CHANNELS, PIXELS, Cell, codes, numbers, picture

ID = "seqrl/HiddenOrder-v0"
LEFT, RIGHT, FORWARD = 0, 1, 2
AHEAD = ((-1, 0), (0, 1), (1, 0), (0, -1))
"""Row and column a step forward adds, by direction: up, right, down, left."""
# Of a board of three by three: start, and the balls' places by their number.
_SMALL: dict[int, tuple[Cell, tuple[Cell, ...]]] = {
    3: ((2, 1), ((2, 0), (1, 1), (2, 2))),
    4: ((1, 1), ((0, 1), (1, 2), (2, 1), (1, 0))),
}


class HiddenOrder(gymnasium.Env):
    """A board of ``size`` by ``size`` free cells, an agent that turns and steps, and ``balls`` of distinct colours.

    Actions: 0 turns left, 1 turns right, 2 steps forward; stepping onto a ball touches it. The next ball of the order vanishes
    and pays ``reward``, but each rank pays only once a round, so that going over known ground again pays nothing. Any other
    ball pays nothing: all balls are back and the order begins anew. After the last ball of the order a round is complete: all
    balls are back, every rank pays again, and the order is the same.

    Where the agent goes after a complete round is not told of the original; here it goes where it goes after a wrong touch.

    ``info`` has ``success`` (a round was completed in this episode), ``rounds``, ``rank`` (how many balls of this round have
    vanished) and ``touch`` (the colour just touched, or -1). Players, which see the whole board, read ``place``, ``facing``,
    ``cells``, ``present``, ``rank`` and ``touched``; only the oracle reads ``order``.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}

    def __init__(
        self,
        size: int = 6,
        balls: int = 4,
        view: int | str = "full",
        steps: int = 100,
        reward: float = 3.0,
        after: str = "start",
        observation: str = "vector",
        render_mode: str | None = None,
    ) -> None:
        """Draws nothing yet: ``reset`` does.

        Args:
            size: free cells a side, 3 to 30. On 3 by 3 the places of 3 and of 4 balls are fixed; else the board is cut into
                3 by 3 areas, the agent starts somewhere in the middle one and each ball lies somewhere in one of the others.
            balls: how many, 2 to 8.
            view: 3, 5 or 7 cells ahead and across, or ``full`` for the whole board and its walls.
            steps: length of an episode.
            reward: what a right touch pays.
            after: where the agent goes when the balls come back: to its pose at the ``start``, or it must ``stay`` where it
                stood before it touched.
            observation: ``vector`` (see ``numbers``; only of the full board), ``grid`` (``CHANNELS``, ``(H, W, 3)`` uint8), or
                ``rgb`` (``(64, 64, 3)`` uint8).

        Raises:
            EnvError: a setting outside of these.
        """
        for name, value, least, most in (("size", size, 3, 30), ("balls", balls, 2, 8), ("steps", steps, 1, 1_000_000)):
            if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
                raise EnvError(f"{ID}: {name} must be a whole number from {least} to {most:,} (got {value!r})")
        if not isinstance(reward, int | float) or isinstance(reward, bool) or not np.isfinite(reward):
            raise EnvError(f"{ID}: reward must be a number (got {reward!r})")
        for name, value, known in (
            ("view", view, ("full", 3, 5, 7)),
            ("after", after, ("start", "stay")),
            ("observation", observation, ("vector", "grid", "rgb")),
            ("render_mode", render_mode, (None, "rgb_array")),
        ):
            if isinstance(value, bool) or value not in known:
                raise EnvError(f"{ID}: {name} must be one of {', '.join(map(str, known))} (got {value!r})")
        if observation == "vector" and view != "full":
            raise EnvError(f"{ID}: a vector tells of the full board; for view {view} choose observation grid or rgb")
        self.size, self.balls, self.view, self.steps, self.reward = size, balls, view, steps, float(reward)
        self.after, self.observation, self.render_mode = after, observation, render_mode
        across = size + 2 if view == "full" else int(view)
        self._tile = PIXELS // across
        box = gymnasium.spaces.Box
        self.observation_space = {
            "vector": box(0.0, 1.0, (2 * size + 4 + balls * (1 + 2 * size),), np.float32),
            "grid": box(0, 255, (across, across, 3), np.uint8),
            "rgb": box(0, 255, (PIXELS, PIXELS, 3), np.uint8),
        }[observation]
        self.action_space = gymnasium.spaces.Discrete(3)
        self._areas: list[list[Cell]] = [[] for _ in range(9)]
        for row, column in np.ndindex(size, size):
            self._areas[3 * (3 * row // size) + 3 * column // size].append((row, column))
        self._middle = self._areas.pop(4)

    def reset(self, *, seed: int | None = None, options: Mapping[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Draws board and order from the seed; ``options={"order": [2, 0, 1, 3]}`` keeps the board and sets the order.

        Raises:
            EnvError: an order that does not name each colour once.
        """
        super().reset(seed=seed)
        rng, small = self.np_random, _SMALL.get(self.balls) if self.size == 3 else None
        if small:
            start, self.cells, facing = *small, 0
        else:
            start = self._middle[rng.integers(len(self._middle))]
            facing = int(rng.integers(4))
            chosen = [self._areas[k] for k in rng.permutation(8)[: self.balls]]
            self.cells = tuple(area[rng.integers(len(area))] for area in chosen)
        self.order = tuple(int(c) for c in rng.permutation(self.balls))
        if options and "order" in options:
            self.order = self._checked(options["order"])
        self._start = self.place, self.facing = start, facing
        self.present = [True] * self.balls
        self._at = {cell: c for c, cell in enumerate(self.cells)}
        self.rank = self._paid = self.rounds = self._t = 0
        self.touched: tuple[int, bool] | None = None
        """Colour of the ball touched in the last step and whether it was the right one."""
        return self._see(), self._info()

    def _checked(self, order: Sequence[int]) -> tuple[int, ...]:
        if sorted(order) != list(range(self.balls)):
            raise EnvError(f"{ID}: an order names each of the colours 0 to {self.balls - 1} once (got {order!r})")
        return tuple(int(c) for c in order)

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """A turn or a step; an episode never ends for good, it is cut off after ``steps``."""
        reward, self.touched = 0.0, None
        self._t += 1
        if action == FORWARD:
            row, column = (p + d for p, d in zip(self.place, AHEAD[self.facing], strict=True))
            if 0 <= row < self.size and 0 <= column < self.size:
                colour = self._at.get((row, column))
                if colour is None or not self.present[colour]:
                    self.place = row, column
                else:
                    reward = self._touch(colour, (row, column))
        else:
            self.facing = (self.facing + (1 if action == RIGHT else -1)) % 4
        return self._see(), reward, False, self._t >= self.steps, self._info()

    def _touch(self, colour: int, cell: Cell) -> float:
        """What touching a ball pays, after all that it changes."""
        right = self.order[self.rank] == colour
        self.touched = colour, right
        # Ranks are reached one by one, so those paid in this round are always the first ones.
        pays = right and self.rank == self._paid
        self._paid += pays
        self.rank = self.rank + 1 if right else 0
        if right and self.rank < self.balls:
            self.place, self.present[colour] = cell, False
            return self.reward * pays
        if right:
            self.rounds, self.rank, self._paid = self.rounds + 1, 0, 0
        self.present = [True] * self.balls
        if self.after == "start":
            self.place, self.facing = self._start
        return self.reward * pays

    def _info(self) -> dict[str, Any]:
        touch = -1 if self.touched is None else self.touched[0]
        return {"success": self.rounds > 0, "rounds": self.rounds, "rank": self.rank, "touch": touch}

    def _see(self) -> np.ndarray:
        now = self.size, self.place, self.facing, self.cells, self.present
        if self.observation == "vector":
            return numbers(*now)
        board = codes(*now, self.view)
        return CHANNELS[board] if self.observation == "grid" else picture(board, self._tile, PIXELS)

    def render(self) -> np.ndarray | None:
        """The whole board at 32 pixels a cell, ``(H, W, 3)`` uint8; None without ``render_mode``."""
        if self.render_mode is None:
            return None
        return picture(codes(self.size, self.place, self.facing, self.cells, self.present, "full"), 32)


if ID not in gymnasium.registry:
    gymnasium.register(ID, f"{__name__}:HiddenOrder")
