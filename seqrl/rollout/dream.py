"""A dream as an environment: any world model as a ``gymnasium.vector.VectorEnv``, so that whoever plays, plans or trains in
real environments does the same in a dream.

An episode begins in a real one: some steps of it are observed (the last of them is what ``reset`` answers), then every step is
imagined. It ends by what the world says of endings, drawn or by the better chance, and is truncated at the horizon.
Observations and rewards are in the units of the data.

B environments, C observed steps, A numbers (or codes) of an action.
"""

from collections.abc import Mapping
from typing import Any, Literal

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from torch import Tensor

from seqrl.core import tree
from seqrl.core.episode import Modality
from seqrl.core.errors import UserError
from seqrl.rollout.excerpts import Excerpts
from seqrl.rollout.worlds import Bridge, untouched

Obs = Any
"""``(B, *shape)``, or nested dictionaries of it, as the observation space has it."""


def space_of(m: Modality) -> gymnasium.Space:
    """The gymnasium space of a modality."""
    if m.kind == "text":
        return spaces.Text(2**20)
    if m.n and not m.shape:
        return spaces.Discrete(m.n[0], start=(m.start or (0,))[0])
    if m.n:
        nvec, start = (np.reshape(v, m.shape) for v in (m.n, m.start or (0,) * len(m.n)))
        return spaces.MultiDiscrete(nvec, dtype=np.dtype(m.dtype), start=start)
    low, high = (0, 255) if m.kind == "image" else (-np.inf, np.inf)
    ends = (np.reshape(np.asarray(v or (e,) * m.size, m.dtype), m.shape) for v, e in ((m.low, low), (m.high, high)))
    return spaces.Box(*ends, shape=m.shape, dtype=np.dtype(m.dtype))


def nested(named: Mapping[str, Any], plain: str, kind: Any = dict) -> Any:
    """Values by name (``a/b`` for nested ones) as a space has them; one that is called ``plain`` stands alone."""
    if list(named) == [plain]:
        return named[plain]
    out: dict[str, Any] = {}
    for name, value in named.items():
        *way, last = name.split("/")
        spot = out
        for key in way:
            spot = spot.setdefault(key, {})
        spot[last] = value
    return _kinds(out, kind)


def _kinds(value: Any, kind: Any) -> Any:
    return kind({k: _kinds(v, kind) for k, v in value.items()}) if isinstance(value, dict) else value


def flat(value: Any, plain: str, at: str = "") -> dict[str, Any]:
    """The inverse of ``nested``."""
    if not isinstance(value, Mapping):
        return {at or plain: value}
    return {n: v for key, part in value.items() for n, v in flat(part, plain, f"{at}/{key}" if at else str(key)).items()}


class DreamEnv(VectorEnv):
    """B dreams at once. Draws follow from the seed of ``reset`` and disturb nobody else's."""

    def __init__(
        self,
        world: Any,
        tokenizer: Any,
        starts: Excerpts | None = None,
        num_envs: int = 1,
        horizon: int = 50,
        context: int = 1,
        sample: bool = True,
        temperature: float = 1.0,
        ends: Literal["sample", "threshold"] = "sample",
        autoreset: str | AutoresetMode = "NextStep",
    ) -> None:
        """
        Args:
            world, tokenizer: of ``rollout.worlds.world_of``; the world in eval mode.
            starts: where episodes begin; None where observations are given to ``reset``.
            num_envs: B. horizon: steps after which an episode is truncated. context: C, steps observed first.
            sample, temperature: as in ``WorldModel.step``.
            ends: an episode ends by a draw from what the world says, or where it says an end is likelier than not.
            autoreset: a ``gymnasium.vector.AutoresetMode``, or its value ("NextStep", "SameStep", "Disabled").

        Raises:
            UserError: an unknown word for ``ends`` or ``autoreset``.
        """
        if ends not in ("sample", "threshold"):
            raise UserError(f"ends={ends!r}: 'sample' or 'threshold'")
        try:
            self.autoreset_mode = AutoresetMode(autoreset)
        except ValueError as e:
            raise UserError(f"autoreset={autoreset!r}: one of {', '.join(m.value for m in AutoresetMode)}") from e
        self.metadata = {"autoreset_mode": self.autoreset_mode}
        self.bridge = bridge = Bridge(world, tokenizer)
        self.world, self.starts, self.horizon, self.context = world, starts, horizon, context
        self.sample, self.temperature, self.ends, self.num_envs = sample, temperature, ends, num_envs
        spec = tokenizer.spec
        obs = {n: space_of(spec.obs[n]) for n in bridge.fields}
        act = {n: space_of(spec.act[n]) for n in tokenizer.slots["action"].fields}
        self.single_observation_space = nested(obs, "observation", spaces.Dict)
        self.single_action_space = nested(act, "action", spaces.Dict)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.carry: Any = None
        self.feat: Tensor | None = None
        self.cont = np.ones(num_envs)
        """``(B,)`` what the world said last of going on."""
        self._time, self._over = np.zeros(num_envs, np.int64), np.zeros(num_envs, bool)
        self._now: dict[str, np.ndarray] = {}

    # ---- gymnasium's own --------------------------------------------------------------------------------------------

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Obs, dict[str, Any]]:
        """Begins episodes.

        Args:
            seed: decides where they begin, and every draw until the next seed.
            options: ``reset_mask`` ``(B,)`` bool, the rows that begin (all of them otherwise); ``observations``, as the
                observation space has them, to begin at in place of the data (one observed step).
        """
        super().reset(seed=seed)
        options = dict(options or {})
        mask = np.asarray(options.pop("reset_mask", np.ones(self.num_envs, bool)), bool)
        if mask.shape != (self.num_envs,) or not mask.any():
            raise ValueError(f"options['reset_mask']: {self.num_envs} truth values, at least one of them true")
        self._begin(np.flatnonzero(mask), options.pop("observations", None))
        return self._observation(), {}

    @torch.no_grad()
    def step(self, actions: Any) -> tuple[Obs, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Imagines one step of every episode."""
        if self.carry is None:
            raise gymnasium.error.ResetNeeded("reset the dream before its first step")
        ended = np.flatnonzero(self._over)
        if len(ended) and self.autoreset_mode == AutoresetMode.DISABLED:
            raise ValueError(f"the dreams {ended.tolist()} are over: reset them with options={{'reset_mask': ...}}")
        action = self.bridge.act({n: np.asarray(v) for n, v in flat(actions, "action").items()})
        with untouched(self.bridge.device, self._seed()):
            self.carry, pred = self.world.step(self.carry, action, sample=self.sample, temperature=self.temperature)
        self.feat = pred.feat
        self._now.update(self.bridge.raw(self.bridge.show(pred.latent)))
        reward, self.cont = (x.double().cpu().numpy().copy() for x in (pred.reward, pred.cont))
        drawn = self.np_random.random(self.num_envs) if self.ends == "sample" else 0.5
        terminated = drawn >= self.cont
        self._time += 1
        truncated = ~terminated & (self._time >= self.horizon)
        self._over = terminated | truncated
        info: dict[str, Any] = {}
        if self.autoreset_mode == AutoresetMode.SAME_STEP and self._over.any():
            for row in np.flatnonzero(self._over):
                last = nested({n: v[row].copy() for n, v in self._now.items()}, "observation")
                info = self._add_info(info, {"final_obs": last, "final_info": {"cont": self.cont[row]}}, row)
            self._begin(np.flatnonzero(self._over))
        elif self.autoreset_mode == AutoresetMode.NEXT_STEP and len(ended):
            # Their step was the reset: what was imagined of them is thrown away.
            reward[ended], terminated[ended], truncated[ended] = 0.0, False, False
            self._begin(ended)
        return self._observation(), reward, terminated, truncated, info

    # ---- inside -----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _begin(self, rows: np.ndarray, given: Any = None) -> None:
        if given is not None:
            raw = {n: np.asarray(v)[rows] for n, v in flat(given, "observation").items()}
            seen = {n: v[:, None] for n, v in self.bridge.see(raw, self.bridge.seen).items()}
            front, codec = self.bridge.see(raw, self.bridge.front), self.bridge.tokenizer.slots["action"].codec
            before = self.bridge.tensor(np.zeros((len(rows), 1, codec.width), codec.dtype))
            shown = raw
        elif self.starts is not None:
            seed = int(self.np_random.integers(1 << 31))
            places = self.starts.places(len(rows), self.context, 1, seed, exactly=True)
            real, last = self.starts.read(places), places.rows[:, self.context - 1]
            seen, before, _ = real.context(self.context)
            front, shown = real.front, {n: self.starts.raw(n, last) for n in self.bridge.fields}
        else:
            raise UserError("this dream has no data to begin at; give reset the option 'observations'")
        with untouched(self.bridge.device, self._seed()):
            # One more than the horizon: a row that is over is imagined on in the step that resets it.
            carry, feat = self.bridge.begin(seen, before, front, self.horizon + 1, self.sample)
        if len(rows) == self.num_envs:
            self.carry, self.feat, self._now = carry, feat[:, -1], {n: shown[n].copy() for n in self.bridge.fields}
        else:
            at = self.bridge.tensor(rows)
            self.carry = tree.map_leaves(lambda old, new: old.index_copy(0, at, new), self.carry, carry)
            self.feat = self.feat.index_copy(0, at, feat[:, -1])
            for n in self.bridge.fields:
                self._now[n][rows] = shown[n]
        self._time[rows], self._over[rows], self.cont[rows] = 0, False, 1.0

    def _seed(self) -> int:
        return int(self.np_random.integers(1 << 62))

    def _observation(self) -> Obs:
        texts = {n for n in self.bridge.fields if self.bridge.tokenizer.spec.obs[n].kind == "text"}
        return nested({n: tuple(v) if n in texts else v.copy() for n, v in self._now.items()}, "observation")

    @property
    def now(self) -> dict[str, np.ndarray]:
        """What is seen now, ``name -> (B, *shape)``, by the names of the data: what an agent is given."""
        return dict(self._now)
