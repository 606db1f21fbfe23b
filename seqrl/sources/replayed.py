"""A Minari dataset of MiniGrid or BabyAI with the whole grid beside what its player saw.

The data hold what lies in front of the player, seven cells by seven, and never the player itself. Their episodes tell the seed
that each began with, so the environment is begun and stepped again, and looked at from above: ``grid`` is one more picture of
cells in which the player is one (minigrid's ``FullyObsWrapper``). What is replayed must be what was recorded, step by step; an
environment that has changed since is told, and nothing is made up.
"""

import io
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from seqrl.core.config import Frozen
from seqrl.core.episode import Episode, EpisodeSpec, Modality
from seqrl.core.errors import DataError, EnvError
from seqrl.sources import minari
from seqrl.sources._envs import make_env

GRID = "grid"
_CLOSE = 1e-5


class Config(Frozen):
    """A dataset whose episodes are played again."""

    kind: Literal["replayed"] = "replayed"
    id: str
    """Its id, such as ``babyai/gotolocal-bot-v0``; its episodes must have their seeds."""
    download: bool = True
    """Whether to download it when it is not on this machine."""


def tiny(folder: Path) -> Config:
    """A few random episodes of a small room; for the contract tests."""
    from seqrl.sources import collected

    collected.collect("BabyAI-GoToRedBallGrey-v0", 2, "tiny/balls-v0", "random")
    return Config(id="tiny/balls-v0")


class Source:
    """The episodes of one Minari dataset, with one more picture each."""

    def __init__(self, config: Config) -> None:
        """Raises DataError where the dataset is unknown or names no grid world. Nothing is played yet."""
        self._data = minari.Source(minari.Config(id=config.id, download=config.download))
        self.id = self._data.id

    @cached_property
    def _env(self) -> Any:
        about = self._data.spec.env
        if about is None:
            raise DataError(f"{self.id}: it does not say which environment it is from, so it cannot be played again")
        try:
            env = make_env(str(about["id"]), dict(about.get("kwargs") or {}))
        except EnvError as e:
            raise DataError(f"{self.id}: its environment cannot be made: {e}") from e
        if not hasattr(env.unwrapped, "agent_pos") or not hasattr(env.unwrapped, "grid"):
            raise DataError(f"{self.id}: {about['id']} is no grid world of minigrid; read it with kind: minari")
        return env

    @cached_property
    def spec(self) -> EpisodeSpec:
        _begin(self._env, 0)
        spec = self._data.spec
        if GRID in spec.obs:
            raise DataError(f"{self.id}: has a '{GRID}' already; read it with kind: minari")
        return replace(spec, obs={**spec.obs, GRID: Modality("image", _seen(self._env).shape, "uint8")})

    def fingerprint(self) -> str:
        """Hex digest of what is replayed, in which minigrid."""
        from importlib.metadata import PackageNotFoundError, version

        try:
            return f"{self._data.fingerprint()}:{GRID}:{version('minigrid')}"
        except PackageNotFoundError as e:
            raise DataError(f'{self.id}: to play it again needs minigrid: pip install "seqrl[minigrid]"') from e

    @property
    def lengths(self) -> np.ndarray:
        """``(N,)`` int64: steps of each episode."""
        return self._data.lengths

    def __len__(self) -> int:
        return len(self._data)

    def episode(self, i: int) -> Episode:
        """Episode ``i`` with its grids; raises DataError with episode and step where replaying it gives something else."""
        recorded = self._data.episode(i)
        seed = recorded.info.get("seed")
        if seed is None:
            raise DataError(f"{self.id}: episode {i} has no seed, so it cannot be played again; read it with kind: minari")
        obs = _begin(self._env, int(seed))
        self._same(i, 0, obs, recorded)
        grids = [_seen(self._env)]
        action = next(iter(recorded.act.values()))
        for t in range(len(recorded)):
            obs, reward, terminated, *_ = self._env.step(int(action[t]))
            self._same(i, t + 1, obs, recorded)
            if abs(float(reward) - float(recorded.rew[t])) > _CLOSE or bool(terminated) != bool(recorded.terminated[t]):
                said = f"reward {float(reward):g} and {'an' if terminated else 'no'} end"
                was = f"{float(recorded.rew[t]):g} and {'an' if recorded.terminated[t] else 'no'} end"
                raise DataError(f"{self._differs(i, t)} gives {said}, and {was} was recorded")
            grids.append(_seen(self._env))
        shape = self.spec.obs[GRID].shape
        if odd := next((g.shape for g in grids if g.shape != shape), None):
            raise DataError(f"{self.id}: episode {i}: its grid is {odd[:2]}, and that of others {shape[:2]}")
        return replace(recorded, obs={**recorded.obs, GRID: np.stack(grids)})

    def _same(self, i: int, t: int, obs: Mapping[str, Any], recorded: Episode) -> None:
        for name, values in recorded.obs.items():
            if name in obs and not np.array_equal(np.asarray(obs[name]), np.asarray(values[t])):
                raise DataError(f"{self._differs(i, t)} shows another '{name}' than was recorded")

    def _differs(self, i: int, t: int) -> str:
        about = self._data.spec.env
        return f"{self.id}: episode {i}, step {t}: {about['id']} of this minigrid is not that of the data: played again it"


def _begin(env: Any, seed: int) -> Mapping[str, Any]:
    """The first observation; BabyAI prints every room that it makes and throws away."""
    with redirect_stdout(io.StringIO()):
        return env.reset(seed=seed)[0]


def _seen(env: Any) -> np.ndarray:
    """``(width, height, 3)`` uint8: kind, colour and state of each cell, the player among them, as minigrid numbers them."""
    from minigrid.core.constants import COLOR_TO_IDX, OBJECT_TO_IDX

    world = env.unwrapped
    grid = world.grid.encode()
    grid[tuple(world.agent_pos)] = (OBJECT_TO_IDX["agent"], COLOR_TO_IDX["red"], world.agent_dir)
    return grid.astype(np.uint8)
