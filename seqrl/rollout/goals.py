"""Goals: what a planner is to be at, and how far off an imagined step is.

A goal is said in words, ``FIELD=x,y,...`` in the units of the data (or just the numbers, where one field has as many), with
``_`` for numbers that do not matter. Or the environment says it: where observations have ``desired_goal`` and
``achieved_goal``, as in gymnasium-robotics, the first is where the second should be. Differences are measured in the data's
deviations where they are known, so that numbers of different units count alike.

B rows, N imagined rows, H steps, G numbers of a goal.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from seqrl.core.errors import UserError, did_you_mean
from seqrl.rollout.worlds import Bridge

_DESIRED, _ACHIEVED = "desired_goal", "achieved_goal"


class Goals:
    """Which field of an observation is compared with what."""

    def __init__(self, bridge: Bridge, words: str | None = None) -> None:
        """Raises UserError where the words say nothing that this world shows."""
        self.bridge = bridge
        spec = bridge.tokenizer.spec
        sizes = {n: spec.obs[n].size for n in bridge.fields if spec.obs[n].kind == "vector"}
        self.fixed: np.ndarray | None = None
        if words is None:
            read = {f for slot in bridge.tokenizer.slots.values() for f in slot.fields}
            if _ACHIEVED not in sizes or _DESIRED not in read:
                raise UserError(
                    f"--objective goal: what is read of {spec.id} names no goal of its own ({_DESIRED}); say where to be "
                    f"with --goal {next(iter(sizes), 'FIELD')}=x,y,..."
                )
            self.field = _ACHIEVED
        else:
            self.field, self.fixed = self._parse(words, sizes)
        self.slot, self.at = self._place()
        codec = bridge.tokenizer.slots[self.slot].codec
        self.spread = np.ones(sizes[self.field])
        if codec.continuous:
            ends = codec.decode(np.array([[0.0] * codec.width, [1.0] * codec.width], np.float32))
            self.spread = np.abs(ends[1] - ends[0])[self.at : self.at + sizes[self.field]]

    @staticmethod
    def _parse(words: str, sizes: Mapping[str, int]) -> tuple[str, np.ndarray]:
        name, equals, numbers = words.rpartition("=")
        try:
            found = np.array([np.nan if w.strip() == "_" else float(w) for w in numbers.split(",")])
        except ValueError as e:
            raise UserError(f"--goal {words}: numbers with commas between, _ where it does not matter, as in 1,_,0") from e
        there = ", ".join(f"{n} of {size}" for n, size in sizes.items()) or "nothing of numbers"
        if equals and name not in sizes:
            raise UserError(f"--goal {words}: this world shows no '{name}'{did_you_mean(name, sizes)} (it shows {there})")
        fits = [n for n, size in sizes.items() if size == len(found) and name in ("", n)]
        if not fits:
            raise UserError(f"--goal {words}: these are {len(found)} numbers, and the world shows {there}")
        if not np.isfinite(found).any():
            raise UserError(f"--goal {words}: at least one number must matter")
        return fits[0], found

    def _place(self) -> tuple[str, int]:
        """The slot the field stands in, and where its numbers begin there."""
        for slot in self.bridge.shown:
            fields = self.bridge.tokenizer.slots[slot].fields
            if self.field in fields:
                before = fields[: fields.index(self.field)]
                return slot, sum(self.bridge.tokenizer.spec.obs[f].size for f in before)
        raise UserError(f"--goal: this world shows nothing of '{self.field}'")

    def look(self, latents: Tensor) -> Tensor:
        """``[N, H, *Z]`` to what is compared, ``[N, H, G]``, in the data's deviations."""
        code = self.bridge.world.decode(latents.flatten(0, 1))[self.slot].cpu().numpy()
        raw = self.bridge.tokenizer.slots[self.slot].codec.decode(code)[:, self.at : self.at + len(self.spread)]
        return torch.from_numpy((raw / self.spread).astype(np.float32)).unflatten(0, latents.shape[:2]).to(latents.device)

    def wanted(self, obs: Mapping[str, np.ndarray]) -> Tensor:
        """What each row wants, ``[B, G]``, from what it sees, name -> ``(B, *shape)``; NaN: does not matter."""
        rows = len(next(iter(obs.values())))
        raw = obs[_DESIRED].reshape(rows, -1) if self.fixed is None else np.tile(self.fixed, (rows, 1))
        return torch.from_numpy((raw / self.spread).astype(np.float32)).to(self.bridge.device)
