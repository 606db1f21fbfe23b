"""Where real episodes stand in a world: the carry of each, kept up to date by what is observed, step by step.

Rows begin and end at different times. A carry that grows (keys and values) holds fewer steps than the world was trained to
see, so that what is imagined behind them lies within what training covered; when a row's is full, it is begun anew from the
latter half of what it held. A carry that does not grow remembers for ever.

B rows, R chosen ones, K steps a carry holds.
"""

from collections.abc import Mapping
from inspect import signature
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seqrl.core import tree
from seqrl.core.errors import UserError
from seqrl.rollout.worlds import Bridge, untouched


class Present:
    """The carries of B rows.

    Attributes:
        carry: after the last ``observe``. room: K; None where carries do not grow.
    """

    def __init__(self, bridge: Bridge, rows: int, horizon: int, seed: int = 0) -> None:
        """
        Args:
            rows: B. horizon: steps that will be imagined from here. seed: of the world's draws.

        Raises:
            UserError: the horizon leaves no room for anything real.
        """
        self.bridge, self.world, self.device, self.seed = bridge, bridge.world, bridge.device, seed
        self.room = bridge.tokenizer.context - horizon if self._grows() else None
        if self.room is not None and self.room < 1:
            context = bridge.tokenizer.context
            raise UserError(
                f"horizon {horizon}: this world was trained to see {context} steps, of which some must be real; plan for "
                f"at most {context - 1}"
            )
        self.calm = {"sample": False} if "sample" in signature(self.world.observe).parameters else {}
        self.t, self.held, self.looks = np.zeros(rows, np.int64), np.zeros(rows, np.int64), 0
        self.carry: Any = None
        self.past: dict[str, Tensor] = {}

    def _grows(self) -> bool:
        """Whether a carry with room for more steps is a larger one."""
        kinds = {"uint8": torch.uint8, "int64": torch.int64}
        codecs = {n: self.bridge.tokenizer.slots[n].codec for n in self.bridge.front}
        front = {n: torch.zeros(1, c.width, dtype=kinds.get(c.dtype, torch.float32)) for n, c in codecs.items()}
        front = {n: v.to(self.device) for n, v in front.items()} or None
        shapes: list[list[Any]] = [[], []]
        with untouched(self.device), torch.inference_mode():
            for found, steps in zip(shapes, (2, 3), strict=True):
                tree.map_leaves(lambda x, found=found: found.append(x.shape), self.world.init(1, steps, front))
        return shapes[0] != shapes[1]

    def keep(self, rows: np.ndarray) -> None:
        """Drops all rows but ``(R,)`` ``rows``, in this order."""
        at = self._at(rows)
        self.t, self.held = self.t[rows], self.held[rows]
        self.carry, self.past = tree.index(self.carry, at), tree.index(self.past, at)

    def begin(self, rows: np.ndarray) -> None:
        """The episodes of ``rows`` begin with what is observed next."""
        self.t[rows] = 0

    def observe(self, obs: Mapping[str, np.ndarray], before: Tensor) -> None:
        """Takes in what all rows see, name -> ``(B, *shape)``, and what was done before it, ``[B, A]`` encoded."""
        self.looks += 1
        seen = {n: v[:, None] for n, v in self.bridge.see(obs, self.bridge.seen).items()}
        with untouched(self.device, self.seed + self.looks):
            z = self.world.encode(seen, sample=False)
            new = np.flatnonzero(self.t == 0)
            if len(new):
                self._begin(new, self.bridge.see({n: v[new] for n, v in obs.items()}, self.bridge.front))
            if self.room is not None:
                self._remember(z, before)
                full = np.flatnonzero(self.held >= self.room)
                if len(full):
                    self._reread(full)
            self.carry, _ = self._take_in(self.carry, z, before[:, None])
        self.t, self.held = self.t + 1, self.held + 1

    def _begin(self, rows: np.ndarray, front: Mapping[str, Tensor]) -> None:
        self._put(rows, self.world.init(len(rows), self.room or 1, dict(front) or None))
        self.held[rows] = 0
        for n, v in front.items() if self.room is not None else ():
            kept = self.past.get(f"front/{n}")
            kept = v.new_zeros(len(self.t), *v.shape[1:]) if kept is None else kept
            self.past[f"front/{n}"] = kept.index_copy(0, self._at(rows), v)

    def _put(self, rows: np.ndarray, fresh: Any) -> None:
        """Carries of R rows in the place of those that were."""
        if self.carry is None or len(rows) == len(self.t):
            self.carry = fresh
        else:
            self.carry = tree.map_leaves(lambda x, y: x.index_copy(0, self._at(rows), y), self.carry, fresh)

    def _remember(self, z: Tensor, before: Tensor) -> None:
        """Keeps the last K steps in rings, to read them again when a carry is full."""
        if "z" not in self.past:
            shape = (len(z), self.room)
            self.past |= {"z": z.new_zeros(*shape, *z.shape[2:]), "a": before.new_zeros(*shape, *before.shape[1:])}
        rows, at = torch.arange(len(z), device=self.device), self._at(self.t % self.room)
        self.past["z"][rows, at], self.past["a"][rows, at] = z[:, 0], before

    def _reread(self, rows: np.ndarray) -> None:
        """Begins rows anew with the latter half of what they hold."""
        again, mine = self.room // 2, self._at(rows)
        front = {n.removeprefix("front/"): v[mine] for n, v in self.past.items() if n.startswith("front/")}
        fresh = self.world.init(len(rows), self.room, front or None)
        if again:
            at = self._at((self.t[rows][:, None] - np.arange(again, 0, -1)) % self.room)
            fresh, _ = self._take_in(fresh, self.past["z"][mine[:, None], at], self.past["a"][mine[:, None], at])
        self._put(rows, fresh)
        self.held[rows] = again

    def _take_in(self, carry: Any, z: Tensor, before: Tensor) -> tuple[Any, Tensor]:
        # What is likeliest: drawn for all rows at once, what a row sees would depend on those beside it.
        return self.world.observe(carry, z, before, **self.calm)

    def _at(self, rows: np.ndarray) -> Tensor:
        return torch.from_numpy(np.asarray(rows, np.int64)).to(self.device)
