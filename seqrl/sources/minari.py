"""Minari datasets: on this machine already, or downloaded by their id.

Nothing in a dataset is imported or executed: its spaces are read from the JSON it carries, and its environment comes out as
plain JSON for whoever makes environments. Lossless throughout; where a dataset was itself written as JPEG, its pictures are
what the JPEG holds, and ``spec.about["jpeg"]`` says so.
"""

import math
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from seqrl.core.config import Frozen
from seqrl.core.episode import Episode, EpisodeSpec, Modality
from seqrl.core.errors import DataError, did_you_mean
from seqrl.core.plain import read_json
from seqrl.sources import _remote, _write
from seqrl.sources._catalog import FACTS, env_of, local_ids, local_name, metadata
from seqrl.sources._files import datasets_home, digest, one_at_a_time, why
from seqrl.sources._minari_files import Raw, Reader, reader
from seqrl.sources._spaces import Leaf, leaves


class Config(Frozen):
    """A Minari dataset."""

    kind: Literal["minari"] = "minari"
    id: str
    """Its id, such as ``mujoco/hopper/medium-v0``; ``hf://owner/...`` names a place to download it from."""
    download: bool = True
    """Whether to download it when it is not on this machine."""


def tiny(folder: Path) -> Config:
    """The smallest useful dataset, saved where Minari keeps them; for the contract tests."""
    low, high = (-1.0,) * 2, (1.0,) * 2
    obs = {"observation": Modality("vector", (3,), "float32", (-np.inf,) * 3, (np.inf,) * 3)}
    spec = EpisodeSpec("tiny/pushes-v0", obs, {"action": Modality("vector", (2,), "float32", low, high)})
    rng = np.random.default_rng(0)

    def episode(i: int, T: int) -> Episode:
        seen, done = rng.standard_normal((T + 1, 3), np.float32), rng.uniform(-1, 1, (T, 2)).astype(np.float32)
        last = np.arange(T) == T - 1
        return Episode({"observation": seen}, {"action": done}, seen[1:, 0], last, np.zeros(T, bool), i, {"seed": i})

    _write.save_minari((episode(i, T) for i, T in enumerate((4, 1, 7))), spec, spec.id)
    return Config(id=spec.id)


def _here(id: str) -> bool:
    try:
        return (datasets_home() / id / "data").is_dir()
    except OSError as e:
        raise DataError(f"'{id[:80]}': there can be no dataset of this name ({why(e)})") from e


def find(id: str, download: bool) -> str:
    """Makes sure a dataset is on this machine, and gives its local id; raises DataError with what to do where it cannot."""
    name = local_name(id)
    if _here(name):
        return name
    known = local_ids()
    missing, meant = f"no dataset '{name}' in {datasets_home()}", did_you_mean(name, known)
    advice = "`seqrl data ls` lists those on this machine; if they lie elsewhere, set MINARI_DATASETS_PATH"
    if not download:
        raise DataError(f"{missing}{meant or '.'} {advice}")
    target = datasets_home() / name
    with one_at_a_time(target):
        if not _here(name):
            try:
                _remote.download(id, target, name)
            except DataError as e:
                raise DataError(f"{missing}, and {e}{meant or '.'} {advice}; `seqrl data ls --remote` asks the server") from e
    return name


class Source:
    """The episodes of one Minari dataset."""

    def __init__(self, config: Config) -> None:
        """Raises DataError where the dataset is unknown, empty or broken."""
        self.id = find(config.id, config.download)
        self.folder = datasets_home() / self.id / "data"
        self._about = metadata(self.id)
        self._count = self._about.get("total_episodes", 0)
        if not isinstance(self._count, int) or self._count < 1:
            raise DataError(f"{self.id} is empty: it has no episodes")
        self._form = self._about.get("data_format", "hdf5")
        self._jpeg = bool(self._about.get("jpeg_encoding", True))

    @cached_property
    def _leaves(self) -> tuple[list[Leaf], list[Leaf]]:
        try:
            obs, act = (read_json(self._about[f"{k}_space"]) for k in ("observation", "action"))
            return leaves(obs, "observation"), leaves(act, "action")
        except KeyError as e:
            raise DataError(f"{self.id}: its metadata has no {e}; load it with Minari and save it again") from e
        except (TypeError, ValueError) as e:
            raise DataError(f"{self.id}: its metadata holds a broken space ({why(e)})") from e
        except DataError as e:
            raise DataError(f"{self.id}: {e}") from e

    @cached_property
    def _reader(self) -> Reader:
        return reader(self._form, self.folder, *self._leaves, self._jpeg)

    @cached_property
    def spec(self) -> EpisodeSpec:
        """Dtypes are those of the data on disk, which need not be those of the declared space."""
        first = self._reader.read(0)
        obs, act = (
            {leaf.name: _as_stored(leaf, values[leaf.name]) for leaf in part}
            for part, values in zip(self._leaves, (first.obs, first.act), strict=True)
        )
        env, eval_env = env_of(self._about), env_of(self._about, "eval_env_spec")
        about = {k: self._about[k] for k in (*FACTS, "minari_version", "seqrl") if k in self._about} | {"format": self._form}
        if self._jpeg and any(leaf.jpeg for part in self._leaves for leaf in part):
            about["jpeg"] = True
        other = eval_env if eval_env != env else None
        return EpisodeSpec(self.id, obs, act, env or eval_env, other, self.references, about)

    @property
    def references(self) -> tuple[float, float] | None:
        """Returns of a random and of an expert policy, where the metadata name them."""
        ends = (self._about.get("ref_min_score"), self._about.get("ref_max_score"))
        return ends if all(isinstance(x, int | float) and math.isfinite(x) for x in ends) else None

    def fingerprint(self) -> str:
        # Without the reader: a store that is converted already is found without opening any data.
        return digest(self.folder, [p for p in self.folder.rglob("*") if p.is_file()])

    def __len__(self) -> int:
        return self._count

    @cached_property
    def lengths(self) -> np.ndarray:
        """``(N,)`` int64: steps of each episode."""
        return np.array([self._reader.length(i) for i in range(len(self))], np.int64)

    def episode(self, i: int) -> Episode:
        """Episode ``i``; ``info`` holds its ``seed`` where one was recorded, and what ``data import`` marked in it."""
        raw = self._reader.read(i)
        obs = {n: self._fit(i, n, raw.obs[n], self.spec.obs[n]) for n in self.spec.obs}
        act = {n: self._fit(i, n, raw.act[n], self.spec.act[n]) for n in self.spec.act}
        try:
            rewards = raw.rewards.ravel().astype(np.float32)
            flags = (raw.terminations.ravel().astype(bool), raw.truncations.ravel().astype(bool))
        except (TypeError, ValueError) as e:
            raise DataError(
                f"{self.id}: episode {i}: rewards, terminations and truncations must be a number a step ({e})"
            ) from e
        try:
            return Episode(obs, act, rewards, *flags, i, _info(raw))
        except DataError as e:
            raise DataError(f"{self.id}: {e}") from e

    def _fit(self, i: int, name: str, values: np.ndarray, m: Modality) -> np.ndarray:
        if m.kind == "text":
            return values
        if values.dtype != m.dtype and not np.can_cast(values.dtype, m.dtype):
            raise DataError(f"{self.id}: episode {i}: '{name}' is {values.dtype}, but {m.dtype} in episode 0")
        try:
            return values.astype(m.dtype, copy=False).reshape(len(values), *m.shape)
        except ValueError as e:
            raise DataError(f"{self.id}: episode {i}: '{name}' has shape {values.shape[1:]}, its space says {m.shape}") from e


def _as_stored(leaf: Leaf, values: np.ndarray) -> Modality:
    m = leaf.modality
    return m if m.kind == "text" else replace(m, dtype=values.dtype.newbyteorder("=").name)


def _info(raw: Raw) -> dict[str, Any]:
    return raw.marks if raw.seed is None else {"seed": raw.seed} | raw.marks
