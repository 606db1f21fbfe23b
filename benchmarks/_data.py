"""The data of the benchmarks: hopper-shaped episodes of random numbers, in our store and as plain arrays for the peers.

Speed depends on shapes and lengths, not on what the numbers mean. Episodes last 100 to 1000 steps, like those of a Hopper
that sometimes falls. Everything lands in one temporary folder that is kept between runs, so it is made once.
"""

import hashlib
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from seqrl.core.episode import Episode, EpisodeSpec, Modality
from seqrl.data.dataset import DataConfig, Dataset
from seqrl.data.loader import Loader, fit
from seqrl.data.slots import TokensConfig
from seqrl.data.store import Store, prepare
from seqrl.data.tokenizer import Tokenizer

OBS, ACT, CONTEXT = 11, 3, 20
HOME = Path(tempfile.gettempdir()) / "seqrl-benchmarks"
_OPEN = (float("-inf"),) * OBS, (float("inf"),) * OBS
SPEC = EpisodeSpec(
    "synthetic/hopper-v0",
    {"observation": Modality("vector", (OBS,), "float32", *_OPEN)},
    {"action": Modality("vector", (ACT,), "float32", (-1.0,) * ACT, (1.0,) * ACT)},
    env={"id": "Hopper-v5"},
)


def at_home() -> Path:
    """Turns caches and datasets of this process to the benchmarks' own folder, and returns it."""
    os.environ["SEQRL_CACHE"] = str(HOME / "cache")
    os.environ["MINARI_DATASETS_PATH"] = str(HOME / "minari")
    return HOME


class Synthetic:
    """A ``core.contracts.Source`` of about ``steps`` steps, a function of its seed."""

    spec = SPEC

    def __init__(self, steps: int, seed: int = 0) -> None:
        rng = np.random.default_rng([seed, steps])
        lengths = rng.integers(100, 1001, steps // 500 + 10)
        self.lengths = lengths[: np.searchsorted(np.cumsum(lengths), steps) + 1].astype(np.int64)
        self.lengths[-1] -= self.lengths.sum() - steps
        self._key = (seed, steps)

    def fingerprint(self) -> str:
        return hashlib.sha256(f"synthetic {self._key} 1".encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.lengths)

    def episode(self, i: int) -> Episode:
        rng, T = np.random.default_rng([*self._key, i]), int(self.lengths[i])
        end = np.arange(T) == T - 1
        return Episode(
            {"observation": rng.standard_normal((T + 1, OBS), np.float32)},
            {"action": rng.uniform(-1, 1, (T, ACT)).astype(np.float32)},
            rng.uniform(0, 4, T).astype(np.float32),
            end & (T < 1000),
            end & (T == 1000),
            i,
            {"seed": i},
        )


def dataset(store: Store, held_out: float = 0.0) -> Dataset:
    """All episodes of a store to train on, or but for some."""
    return Dataset([store], DataConfig(sources=[{"kind": "minari", "id": "synthetic/hopper-v0"}], held_out=held_out))


def loader(steps: int, budget: float | None = None) -> Loader:
    """Our loader over the synthetic data; ``budget=0`` keeps them memory-mapped."""
    at_home()
    return loader_of(prepare(Synthetic(steps)), budget)


def loader_of(store: Store, budget: float | None = None) -> Loader:
    """Our loader over a store."""
    data = dataset(store)
    tokenizer = Tokenizer(TokensConfig(context=CONTEXT, slots={"return": {"kind": "scale", "by": 1000.0}}), data.spec)
    fit(tokenizer, data)
    return Loader(data, tokenizer, "cpu", budget)


def plain(steps: int) -> list[dict[str, Any]]:
    """The same episodes as the peers keep them: a list of dictionaries of arrays, T rows in each."""
    source = Synthetic(steps)
    out = []
    for episode in (source.episode(i) for i in range(len(source))):
        parts = {"observations": episode.obs["observation"][:-1], "actions": episode.act["action"], "rewards": episode.rew}
        out.append(parts | {"terminated": bool(episode.terminated[-1])})
    return out
