"""Numbers about returns: means that a few lucky episodes cannot bend, intervals, and whether asking for more gives more."""

import numpy as np


def iqm(values: np.ndarray) -> float:
    """Interquartile mean: the mean of what is left when a quarter is cut off at each end.

    Args:
        values: ``(N,)``, N at least 1. As in Agarwal et al. 2021 (arXiv 2108.13264), ``N // 4`` values are cut at each end.
    """
    ordered = np.sort(np.asarray(values, np.float64))
    cut = len(ordered) // 4
    return float(ordered[cut : len(ordered) - cut].mean())


def bootstrap_ci(values: np.ndarray, level: float = 0.95, resamples: int = 10_000, seed: int = 0) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean.

    Args:
        values: ``(N,)`` independent episodes; with one there is no interval, and both ends are that value.
        level: share of the resampled means that lies inside.
        resamples: how often N values are drawn with replacement.
        seed: of the draws, so that a report can be repeated.
    """
    values = np.asarray(values, np.float64)
    N = len(values)
    rng = np.random.default_rng(seed)
    # Centred, so that equal values give an interval of exactly no width; in blocks, so that memory stays small.
    away = values - values[0]
    blocks = np.array_split(np.empty(resamples, bool), max(1, resamples * N // 1_000_000))
    means = values[0] + np.concatenate([away[rng.integers(0, N, (len(b), N))].mean(1) for b in blocks])
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1, equal values sharing the mean of theirs; ``(N,)`` float64."""
    _, group, count = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    return ((last - count + 1 + last) / 2)[group.ravel()]


def rank_correlation(asked: np.ndarray, got: np.ndarray) -> float:
    """Spearman's rank correlation of two ``(N,)`` arrays; NaN where one of them is constant or N < 2."""
    a, b = (ranks(np.asarray(v)) - (len(v) + 1) / 2 for v in (asked, got))
    spread = np.sqrt((a**2).sum() * (b**2).sum())
    return float((a * b).sum() / spread) if spread > 0 else float("nan")
