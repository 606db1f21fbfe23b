"""Statistics of a benchmark: means that a few lucky runs cannot bend, intervals that respect which run an episode is of, and
performance profiles.

From Agarwal et al. 2021, Deep reinforcement learning at the edge of the statistical precipice (arXiv 2108.13264): the
interquartile mean over runs, its interval by a bootstrap that is stratified over tasks, and the share of runs above tau. A run
is what varies from seed to seed, so it is what is drawn anew; episodes are drawn within the runs that were.
"""

import math
from collections.abc import Sequence

import numpy as np

RESAMPLES = 2_000
LEVEL = 0.95
_AT_ONCE = 4_000_000
"""Numbers drawn at a time, so that a table of many seeds and episodes needs no more memory than a small one."""


def iqm(values: np.ndarray) -> np.ndarray:
    """Interquartile mean over the last axis ``(..., N)``, as ``rollout.stats.iqm`` has it; ``N // 4`` are cut at each end."""
    ordered = np.sort(np.asarray(values, np.float64), axis=-1)
    cut = ordered.shape[-1] // 4
    return ordered[..., cut : ordered.shape[-1] - cut].mean(-1)


def _ends(found: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def of_episodes(runs: Sequence[np.ndarray], seed: int = 0) -> tuple[float, tuple[float, float]]:
    """IQM of all episodes of several runs on one dataset, and its interval: runs are drawn anew, and episodes within each.

    Args:
        runs: one ``(N,)`` array of scores a seed. With a single one the interval is that of its episodes alone.
        seed: of the draws, so that a table can be repeated.
    """
    point = float(iqm(np.concatenate(runs)))
    rng, length = np.random.default_rng(seed), min(len(r) for r in runs)
    if len({len(r) for r in runs}) == 1:
        every = np.stack(runs)
        chosen = rng.integers(0, len(runs), (RESAMPLES, len(runs), 1))
        middles = []
        for block in np.array_split(chosen, min(RESAMPLES, math.ceil(RESAMPLES * every.size / _AT_ONCE))):
            drawn = every[block, rng.integers(0, length, (len(block), *every.shape))]
            middles.append(iqm(drawn.reshape(len(block), -1)))
        return point, _ends(np.concatenate(middles))
    found = []
    for _ in range(RESAMPLES):
        picked = [runs[i] for i in rng.integers(0, len(runs), len(runs))]
        found.append(iqm(np.concatenate([rng.choice(r, len(r)) for r in picked])))
    return point, _ends(np.array(found))


def _redrawn(tasks: Sequence[np.ndarray], seed: int) -> list[np.ndarray]:
    """For each task its runs ``(N,)`` drawn anew within it: ``(RESAMPLES, N)``."""
    rng = np.random.default_rng(seed)
    return [t[rng.integers(0, len(t), (RESAMPLES, len(t)))] for t in tasks]


def of_runs(tasks: Sequence[np.ndarray], seed: int = 0) -> tuple[float, tuple[float, float]]:
    """IQM over the runs of all tasks, and its interval by stratified bootstrap.

    Args:
        tasks: one ``(N,)`` array of run scores a dataset.
    """
    point = float(iqm(np.concatenate(tasks)))
    return point, _ends(iqm(np.concatenate(_redrawn(tasks, seed), axis=1)))


def profile(tasks: Sequence[np.ndarray], taus: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The performance profile: the share of runs that score more than tau, the mean over tasks, and its interval.

    Args:
        tasks: one ``(N,)`` array of run scores a dataset. taus: ``(P,)``.

    Returns:
        ``(P,)`` share, low, high.
    """

    def above(drawn: Sequence[np.ndarray]) -> np.ndarray:
        return np.mean([_above(d, taus) for d in drawn], axis=0)

    low, high = np.quantile(above(_redrawn(tasks, seed)), [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return above([t[None] for t in tasks])[0], low, high


def _above(runs: np.ndarray, taus: np.ndarray) -> np.ndarray:
    """``(S, N)`` scores, ``(P,)`` taus -> ``(S, P)``: the share of each row above each tau."""
    ordered = np.sort(runs, axis=1)
    return np.stack([1 - np.searchsorted(row, taus, side="right") / len(row) for row in ordered])


def spread(values: Sequence[float]) -> float | None:
    """Standard deviation of runs with N - 1 in the denominator; None for fewer than two."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None
