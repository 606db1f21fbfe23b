"""What one wants to know of a dataset before training on it, as plain facts: for ``seqrl data show``, cards and reports."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from seqrl.core.episode import Modality
from seqrl.data.store import Store
from seqrl.sources._d4rl_names import nearest

QUANTILES = {"min": 0.0, "q10": 0.1, "median": 0.5, "q90": 0.9, "max": 1.0}
_BLOCK = 1 << 22


@dataclass(frozen=True)
class Column:
    """One observation or action.

    Args:
        name: such as ``obs.observation``.
        kind, shape, dtype: of its modality.
        declared: the bounds its space gives, in words. found: the range of the values in the data, in words.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    dtype: str
    declared: str
    found: str


@dataclass(frozen=True)
class Facts:
    """A dataset in numbers.

    Args:
        id, env: its id and the environment to evaluate in (None where unknown).
        episodes, steps: how many.
        columns: every observation and action.
        returns, lengths: ``min, q10, median, q90, max, mean, std`` over episodes.
        histogram: ``(counts, edges)`` of the returns, ten bins (one if all are the same).
        terminated: share of the episodes that ended for good; the others were cut off.
        seeded: whether every episode's seed is known.
        references: the random and expert return the data name, or None.
        normalised: 0 to 100 between these, of the mean return; None where the data's episodes are not those meant.
        memory: bytes of all columns in memory. disk: bytes of the converted store.
        notes: what one should beware of, one sentence each.
    """

    id: str
    env: str | None
    episodes: int
    steps: int
    columns: tuple[Column, ...]
    returns: dict[str, float]
    lengths: dict[str, float]
    histogram: tuple[list[int], list[float]]
    terminated: float
    seeded: bool
    references: tuple[float, float] | None
    normalised: float | None
    memory: int
    disk: int
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The facts as plain JSON."""
        return asdict(self)


def describe(store: Store) -> Facts:
    """Reads the facts off a store; looks at every number once, a block at a time."""
    spec, episodes = store.spec, store.episodes
    named = {f"obs.{n}": m for n, m in spec.obs.items()} | {f"act.{n}": m for n, m in spec.act.items()}
    # Returns that are all the same would get nine empty bins around them.
    counts, edges = np.histogram(episodes.total, bins=10 if np.ptp(episodes.total) else 1)
    env = spec.eval_env or spec.env
    return Facts(
        id=spec.id,
        env=None if env is None else str(env["id"]),
        episodes=len(store),
        steps=store.steps,
        columns=tuple(Column(n, m.kind, m.shape, m.dtype, _declared(m), _found(store, n, m)) for n, m in named.items()),
        returns=_summary(episodes.total),
        lengths=_summary(episodes.length),
        histogram=(counts.tolist(), edges.tolist()),
        terminated=float(episodes.terminated.mean()),
        seeded=bool((episodes.seed >= 0).all()),
        references=spec.references,
        normalised=_normalised(store),
        memory=sum(store.column(n).nbytes for n in store.names),
        disk=sum(p.stat().st_size for p in store.path.iterdir()),
        notes=_notes(store),
    )


def _summary(values: np.ndarray) -> dict[str, float]:
    """Quantiles, mean and standard deviation over episodes."""
    at = np.quantile(values, list(QUANTILES.values()))
    return dict(zip(QUANTILES, at.tolist(), strict=True)) | {"mean": float(values.mean()), "std": float(values.std())}


def _normalised(store: Store) -> float | None:
    low, high = store.spec.references or (0.0, 0.0)
    # Goal environments are evaluated in other episodes than they are collected in.
    if high <= low or store.spec.eval_env is not None:
        return None
    return 100 * (float(store.episodes.total.mean()) - low) / (high - low)


def _range(low: float, high: float) -> str:
    return f"[{low:.4g}, {high:.4g}]"


def _declared(m: Modality) -> str:
    if m.kind == "discrete":
        starts = m.start or (0,) * len(m.n)
        ends = {f"{s} to {s + n - 1}" for s, n in zip(starts, m.n, strict=True)}
        return ends.pop() if len(ends) == 1 else f"{len(m.n)} choices of {min(m.n)} to {max(m.n)}"
    if m.low is None or m.high is None or not m.low:
        return ""
    ends = set(zip(m.low, m.high, strict=True))
    if all(np.isinf(e).all() for e in ends):
        return "open"
    return _range(*ends.pop()) if len(ends) == 1 else f"{_range(min(m.low), max(m.high))}, not all alike"


def _found(store: Store, name: str, m: Modality) -> str:
    column = store.column(name)
    if m.kind == "text":
        # In quotes of Python's own, which show what could steer a terminal.
        return f"{int(column.max()) + 1} different texts, such as {str(store.text(name, [0])[0])[:60]!r}"
    if not column.size:
        return ""
    low, high = np.inf, -np.inf
    # Actions of the last row of an episode are no actions.
    ends = store.episodes.row + store.episodes.length
    step = max(1, _BLOCK // max(1, m.size))
    for start in range(0, store.rows, step):
        block = column[start : start + step]
        if name.startswith("act."):
            here = ends[(ends >= start) & (ends < start + step)] - start
            block = np.delete(block, here, axis=0)
        if block.size:
            low, high = min(low, block.min()), max(high, block.max())
    return _range(low, high)


def _notes(store: Store) -> tuple[str, ...]:
    spec, notes = store.spec, []
    name = nearest(spec.id)
    if name:
        notes.append(
            f"The nearest D4RL dataset is {name}: not the same data, so scores may not be set beside those of D4RL papers. "
            "Public Minari ids of this name may hold other episodes than these, too; compare the number of steps."
        )
    if spec.about.get("jpeg"):
        notes.append("The pictures were written as JPEG, so they are not those the policy saw.")
    if spec.references is None:
        notes.append("The data name no reference scores.")
    elif spec.eval_env is not None:
        notes.append("The references are of the evaluation environment, whose episodes are not like those of the data.")
    if spec.env is None:
        notes.append("The data name no environment; evaluation needs --env.")
    if "final_observation" in store.episode(0).info:
        notes.append("The observation after the last step of an episode was not recorded; the one before stands in its place.")
    if len(store) > 1 and np.ptp(store.episodes.total) == 0:
        notes.append("All episodes have the same return, so conditioning on it cannot work.")
    return tuple(notes)
