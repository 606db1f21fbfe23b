"""The original D4RL files: one HDF5 with every step of every episode in a row (Fu et al. 2020, arXiv:2004.07219).

Such a file says ``terminals`` and usually ``timeouts``; an episode ends at either. What it does not say is told here as it is:

- The steps after the last end are an episode too, the unfinished one. It is kept whole, marked truncated, and its
  ``info["unfinished"]`` is true.
- The observation after the last step of an episode is ``next_observations`` where the file has them. Where it does not, that
  observation was never recorded: the last one stands in its place and ``info["final_observation"]`` says "unknown". No step
  and no reward is dropped, so returns stay exact; a Decision Transformer never reads that observation, a world model must not.
- A file without ``timeouts`` (or with none set) is also cut where ``next_observations`` do not continue, and at the step limit
  of its environment where that is known. Nothing else could tell its episodes apart.
"""

import os
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import field_validator

from seqrl.core.config import Frozen
from seqrl.core.episode import Episode, EpisodeSpec, Modality
from seqrl.core.errors import DataError
from seqrl.sources._d4rl_names import Family, family_of
from seqrl.sources._files import digest, why
from seqrl.sources._hdf5 import array_in, open_file

_NEEDED = ("observations", "actions", "rewards", "terminals")
_PERHAPS = ("timeouts", "next_observations")


class Config(Frozen):
    """An original D4RL file."""

    kind: Literal["d4rl"] = "d4rl"
    path: str
    """The HDF5 file."""
    env: str | None = None
    """Id of the gymnasium environment to evaluate in; guessed from the file name where not given (hopper -> Hopper-v5)."""

    @field_validator("path")
    @classmethod
    def _from_anywhere(cls, path: str) -> str:
        # The recipe a run keeps must find the same file from any folder.
        return str(Path(os.path.expanduser(path)).absolute())


def tiny(folder: Path) -> Config:
    """A file of three episodes, the last unfinished, in ``folder``; for the contract tests."""
    import h5py

    rng, ends = np.random.default_rng(0), np.arange(12)
    with h5py.File(folder / "hopper_tiny-v2.hdf5", "w") as file:
        file["observations"], file["actions"] = rng.standard_normal((12, 11), np.float32), rng.uniform(-1, 1, (12, 3))
        file["rewards"], file["terminals"], file["timeouts"] = rng.standard_normal(12, np.float32), ends == 3, ends == 8
    return Config(path=str(folder / "hopper_tiny-v2.hdf5"))


class Source:
    """The episodes of one D4RL file."""

    def __init__(self, config: Config) -> None:
        """Raises DataError where the file is missing, broken, empty or no D4RL file."""
        self.path = Path(config.path)
        self._env = config.env
        try:
            there = self.path.is_file()
        except OSError as e:
            raise DataError(f"{str(self.path)[:80]}: there can be no such file ({why(e)})") from e
        if not there:
            raise DataError(f"{self.path}: there is no such file")

    def fingerprint(self) -> str:
        content = digest(self.path.parent, [self.path])
        return content if self._env is None else f"{content}:{self._env}"

    @cached_property
    def _columns(self) -> dict[str, np.ndarray]:
        """Everything that is needed, in memory: these files are compressed across episodes, so pieces cost as much as all."""
        import h5py

        try:
            with open_file(self.path) as file:
                missing = [n for n in _NEEDED if not isinstance(file.get(n), h5py.Dataset)]
                if missing:
                    has = ", ".join(file) or "nothing"
                    raise DataError(f"{self.path}: no D4RL file, it lacks {', '.join(missing)} (it has {has})")
                found = {n: self._column(file, n) for n in (*_NEEDED, *_PERHAPS) if n in file}
        except (OSError, RuntimeError, KeyError, TypeError, ValueError) as e:
            raise DataError(f"{self.path}: truncated, or no HDF5 file ({why(e)}); fetch it again") from e
        lengths = {n: len(v) for n, v in found.items()}
        if len(set(lengths.values())) > 1:
            said = ", ".join(f"{n} {k}" for n, k in lengths.items())
            raise DataError(f"{self.path}: its columns differ in length ({said})")
        if not lengths["rewards"]:
            raise DataError(f"{self.path} is empty: it has no steps")
        for name in ("rewards", "terminals", "timeouts"):
            if name in found and found[name].size != lengths["rewards"]:
                raise DataError(f"{self.path}: '{name}' has shape {found[name].shape}, a single number a step was expected")
        wide = [found[n].shape for n in ("observations", "next_observations") if n in found]
        if len(set(wide)) > 1:
            raise DataError(f"{self.path}: 'next_observations' has shape {wide[1]}, 'observations' {wide[0]}")
        for name in ("terminals", "timeouts"):
            found[name] = found[name].ravel().astype(bool) if name in found else np.zeros(lengths["rewards"], bool)
        found["rewards"] = found["rewards"].ravel().astype(np.float32)
        return found

    def _column(self, file: Any, name: str) -> np.ndarray:
        """A column of numbers, one or a row of them a step."""
        import h5py

        if not isinstance(file.get(name), h5py.Dataset):
            raise DataError(f"{self.path}: '{name}' is a group, an array was expected")
        array = h5py.Dataset(array_in(file, name))
        if not array.ndim or array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
            held = f"{array.dtype} of shape {array.shape}"
            raise DataError(f"{self.path}: '{name}' holds {held}, numbers with a row a step were expected")
        return array[()]

    @cached_property
    def _family(self) -> tuple[str, Family] | None:
        """What the file name says, if its spaces agree."""
        known = family_of(self.path.stem)
        dims = tuple(int(np.prod(self._columns[n].shape[1:])) for n in ("observations", "actions"))
        return known if known and known[1].dims == dims else None

    @cached_property
    def _ends(self) -> np.ndarray:
        """The last step of each episode."""
        c = self._columns
        last = c["terminals"] | c["timeouts"]
        if not c["timeouts"].any():
            if "next_observations" in c:
                last[:-1] |= (c["next_observations"][:-1] != c["observations"][1:]).reshape(len(last) - 1, -1).any(1)
            if self._family:
                last = _cut(last, self._family[1].limit)
        ends = np.flatnonzero(last)
        return ends if last[-1] else np.append(ends, len(last) - 1)

    @cached_property
    def _starts(self) -> np.ndarray:
        return np.concatenate([[0], self._ends[:-1] + 1])

    @cached_property
    def spec(self) -> EpisodeSpec:
        """Actions are declared within [-1, 1] where the environment has them so, or where all of them are."""
        c, family = self._columns, self._family
        actions = c["actions"]
        about: dict[str, Any] = {"source": "d4rl", "author": "D4RL", "description": f"The D4RL file {self.path.name}."}
        env = self._env
        if family:
            about["family"] = family[0]
            env = env or family[1].env
        if actions.dtype.kind in "iu" and actions.ndim == 1:
            act = Modality("discrete", (), "int64", n=(int(actions.max()) + 1,))
        else:
            closed = family is not None or bool((np.abs(actions) <= 1.0).all())
            act = _vector(actions, 1.0 if closed else np.inf)
        obs = _vector(c["observations"], np.inf)
        made_in = {"id": env, "kwargs": {}} if env else None
        return EpisodeSpec(self.path.stem, {"observation": obs}, {"action": act}, made_in, about=about)

    @property
    def lengths(self) -> np.ndarray:
        return (self._ends - self._starts + 1).astype(np.int64)

    def __len__(self) -> int:
        return len(self._ends)

    def episode(self, i: int) -> Episode:
        c, start, stop = self._columns, int(self._starts[i]), int(self._ends[i]) + 1
        info: dict[str, Any] = {}
        if "next_observations" in c:
            final = c["next_observations"][stop - 1 : stop]
        else:
            final, info["final_observation"] = c["observations"][stop - 1 : stop], "unknown"
        truncated = c["timeouts"][start:stop].copy()
        if not (c["terminals"][stop - 1] or truncated[-1]):
            truncated[-1] = True
            if stop == len(c["rewards"]):
                info["unfinished"] = True
        obs = np.concatenate([c["observations"][start:stop], final])
        act = c["actions"][start:stop].astype(self.spec.act["action"].dtype, copy=False)
        rewards, terminated = c["rewards"][start:stop], c["terminals"][start:stop]
        return Episode({"observation": obs}, {"action": act}, rewards, terminated, truncated, i, info)


def _vector(values: np.ndarray, bound: float) -> Modality:
    size = int(np.prod(values.shape[1:]))
    return Modality("vector", values.shape[1:], values.dtype.name, (-bound,) * size, (bound,) * size)


def _cut(last: np.ndarray, limit: int) -> np.ndarray:
    """Ends every episode longer than ``limit`` each ``limit`` steps; ``(N,)`` bool."""
    start = np.maximum.accumulate(np.where(np.concatenate([[True], last[:-1]]), np.arange(len(last)), 0))
    age = np.arange(len(last)) - start + 1
    return last | (age % limit == 0)
