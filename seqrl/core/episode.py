"""An episode as the world gave it, and the promise a source makes about its episodes before any data flows.

Time runs as in the design: at step ``t`` one sees ``o_t``, does ``a_t``, and the world answers ``r_t``, the two end flags
and ``o_{t+1}``. So an episode of ``T`` steps holds ``T + 1`` observations and ``T`` of everything else, and nobody else
in the house shifts arrays to make that so.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, get_args

import numpy as np

from seqrl.core.errors import DataError

Kind = Literal["vector", "discrete", "image", "text"]
_DTYPES = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64")
_MOST = 1 << 24
"""Numbers in one value."""


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
        """Inverse of ``to_json``; raises DataError where it is none."""
        try:
            as_tuple = {k: tuple(v) if isinstance(v, list) else v for k, v in raw.items()}
            bounds = {k: tuple(float(x) for x in as_tuple[k]) for k in ("low", "high") if as_tuple.get(k)}
            made = cls(**(as_tuple | bounds))
        except (TypeError, ValueError, AttributeError, OverflowError) as e:
            raise DataError(f"this describes no value of an episode ({e})") from e
        made.check()
        return made

    def check(self) -> None:
        """Raises DataError where this is no modality that values could have: it may be a stranger's."""
        if self.kind not in get_args(Kind):
            raise DataError(f"a value is one of {', '.join(get_args(Kind))} (got {str(self.kind)[:50]!r})")
        whole = isinstance(self.shape, tuple) and all(type(k) is int and 0 <= k <= _MOST for k in self.shape)
        if not whole or len(self.shape) > 32 or math.prod(self.shape) > _MOST:
            raise DataError(f"a shape is up to 32 whole numbers, of up to {_MOST:,} values (got {str(self.shape)[:50]})")
        if self.dtype not in (("str",) if self.kind == "text" else _DTYPES):
            raise DataError(f"a {self.kind} has no dtype {str(self.dtype)[:50]!r}")
        if self.kind == "text" and self.shape:
            raise DataError(f"a text has no shape (got {self.shape})")
        sizes = {"low": self.low, "high": self.high, "n": self.n, "start": self.start}
        for name, given in sizes.items():
            # Empty is as good as none: JSON of an older seqrl may say so.
            if given is not None and not (isinstance(given, tuple) and len(given) in (0, self.size)):
                raise DataError(f"'{name}' is a list of one number for each of {self.size:,} values")
        for name in ("n", "start"):
            numbers = sizes[name] or ()
            if not all(type(k) is int and (1 if name == "n" else -(2**62)) <= k <= 2**62 for k in numbers):
                raise DataError(f"'{name}' is a list of whole numbers (got {str(numbers)[:50]})")
        if bool(self.low) != bool(self.high) or any(x != x for x in (*(self.low or ()), *(self.high or ()))):
            raise DataError("bounds are numbers, low and high together")
        if self.kind == "discrete" and (self.n is None or len(self.n) != self.size):
            raise DataError("a discrete value needs 'n', its number of choices")


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
        """Inverse of ``to_json``; raises DataError where it is none."""
        try:
            named = {k: {str(n): Modality.from_json(m) for n, m in raw[k].items()} for k in ("obs", "act")}
            refs = raw.get("references")
            made = cls(**{**raw, **named, "references": tuple(float(x) for x in refs) if refs else None})
        except (TypeError, ValueError, AttributeError, KeyError, OverflowError) as e:
            raise DataError(f"this describes no episodes ({type(e).__name__}: {e})") from e
        mappings = [e for e in (made.env, made.eval_env, made.about) if e is not None]
        if not isinstance(made.id, str) or not all(isinstance(m, dict) for m in mappings):
            raise DataError("this describes no episodes: 'id' is a text, 'env' and 'about' are mappings")
        if made.references is not None and len(made.references) != 2:
            raise DataError("this describes no episodes: 'references' are two numbers")
        return made


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
