"""An episode as the world gave it, and the promise a source makes about its episodes before any data flows.

Time runs as in the design: at step ``t`` one sees ``o_t``, does ``a_t``, and the world answers ``r_t``, the two end flags
and ``o_{t+1}``. So an episode of ``T`` steps holds ``T + 1`` observations and ``T`` of everything else, and nobody else
in the house shifts arrays to make that so.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

import numpy as np

from seqrl.core.errors import DataError

Kind = Literal["vector", "discrete", "image", "text"]


@dataclass(frozen=True)
class Modality:
    """One named piece of an observation or action.

    Args:
        kind: what sort of value it is; decides which codecs accept it.
        shape: shape of one value; ``()`` for a scalar. Text has shape ``()``.
        dtype: numpy dtype name, or ``"str"`` for text.
        low, high: bounds of a vector, one number per flattened dimension (``±inf`` where open), or None.
        n: number of choices of each flattened element of a discrete value, or None.
        start: first value of each discrete element (gymnasium's ``Discrete.start``), or None for zeros.
    """

    kind: Kind
    shape: tuple[int, ...]
    dtype: str
    low: tuple[float, ...] | None = None
    high: tuple[float, ...] | None = None
    n: tuple[int, ...] | None = None
    start: tuple[int, ...] | None = None

    @property
    def size(self) -> int:
        """Numbers in one value, flattened."""
        return int(np.prod(self.shape, dtype=np.int64))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; open bounds are written as the words "inf" and "-inf", since JSON has no number for them."""
        bounds = {k: [x if np.isfinite(x) else str(float(x)) for x in v] for k in ("low", "high") if (v := getattr(self, k))}
        return asdict(self) | bounds

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> "Modality":
        as_tuple = {k: tuple(v) if isinstance(v, list) else v for k, v in raw.items()}
        bounds = {k: tuple(float(x) for x in as_tuple[k]) for k in ("low", "high") if as_tuple.get(k)}
        return cls(**(as_tuple | bounds))


@dataclass(frozen=True)
class EpisodeSpec:
    """What a source will give, known before data flows.

    Args:
        id: the name people use for the data, such as ``mujoco/hopper/medium-v0``.
        obs, act: modalities by name. A plain space is called ``observation`` or ``action``; keys of nested
            dictionaries are joined with ``/``.
        env: a gymnasium ``EnvSpec`` as plain JSON (``id, kwargs, max_episode_steps, additional_wrappers``), or None.
        eval_env: the same for evaluation, where it differs (goal environments).
        references: ``(random score, expert score)`` that the data itself names, or None.
        about: free facts (author, algorithm, description) for cards and ``data show``.
    """

    id: str
    obs: Mapping[str, Modality]
    act: Mapping[str, Modality]
    env: Mapping[str, Any] | None = None
    eval_env: Mapping[str, Any] | None = None
    references: tuple[float, float] | None = None
    about: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; ``from_json`` is its inverse."""
        named = {k: {n: m.to_json() for n, m in getattr(self, k).items()} for k in ("obs", "act")}
        return {f.name: getattr(self, f.name) for f in fields(self)} | named

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> "EpisodeSpec":
        named = {k: {n: Modality.from_json(m) for n, m in raw[k].items()} for k in ("obs", "act")}
        refs = raw.get("references")
        return cls(**{**raw, **named, "references": tuple(refs) if refs else None})


@dataclass(frozen=True)
class Episode:
    """One trajectory of ``T`` steps; ``len()`` is ``T`` and a slice is an Episode again.

    Args:
        obs: name -> array ``(T + 1, *shape)``.
        act: name -> array ``(T, *shape)``.
        rew: ``(T,)`` float32.
        terminated, truncated: ``(T,)`` bool.
        id: index within its source, or any name.
        info: free facts about the episode, such as its seed.
    """

    obs: Mapping[str, np.ndarray]
    act: Mapping[str, np.ndarray]
    rew: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    id: int | str = 0
    info: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        T = len(self.rew)
        lengths = {f"obs.{k}": len(v) - 1 for k, v in self.obs.items()} | {f"act.{k}": len(v) for k, v in self.act.items()}
        lengths |= {"terminated": len(self.terminated), "truncated": len(self.truncated)}
        wrong = {k: n for k, n in lengths.items() if n != T}
        if wrong:
            raise DataError(f"episode {self.id}: {T} rewards, but {wrong} steps; T steps need T + 1 observations")

    def __len__(self) -> int:
        return len(self.rew)

    def __getitem__(self, steps: slice) -> "Episode":
        start, stop, stride = steps.indices(len(self))
        if stride != 1:
            raise ValueError("an episode is sliced with stride 1")
        stop = max(start, stop)
        return replace(
            self,
            obs={k: v[start : stop + 1] for k, v in self.obs.items()},
            act={k: v[start:stop] for k, v in self.act.items()},
            rew=self.rew[start:stop],
            terminated=self.terminated[start:stop],
            truncated=self.truncated[start:stop],
        )

    @property
    def total(self) -> float:
        """The undiscounted return: the sum of the rewards, in float64."""
        return float(np.sum(self.rew, dtype=np.float64))
