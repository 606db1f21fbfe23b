import numpy as np
import pytest
from scipy import stats as scipy_stats

from seqrl.rollout import stats


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 7, 8, 100, 101])
def test_iqm_is_scipys_trimmed_mean(n):
    x = np.random.default_rng(n).normal(size=n) ** 3
    assert stats.iqm(x) == pytest.approx(scipy_stats.trim_mean(x, 0.25))


def test_bootstrap_interval_is_scipys():
    x = np.random.default_rng(0).exponential(100, size=60)
    ours = stats.bootstrap_ci(x)
    theirs = scipy_stats.bootstrap((x,), np.mean, method="percentile", n_resamples=10_000, rng=np.random.default_rng(1))
    width = ours[1] - ours[0]
    assert abs(ours[0] - theirs.confidence_interval.low) < 0.04 * width
    assert abs(ours[1] - theirs.confidence_interval.high) < 0.04 * width
    assert ours == stats.bootstrap_ci(x)
    assert ours != stats.bootstrap_ci(x, seed=1)


def test_bootstrap_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(300):
        low, high = stats.bootstrap_ci(rng.normal(5, 2, size=40), resamples=400)
        inside += low <= 5 <= high
    assert 0.90 <= inside / 300 <= 0.98


def test_equal_values_have_no_interval():
    assert stats.bootstrap_ci(np.full(7, 0.1)) == (0.1, 0.1)
    assert stats.bootstrap_ci(np.array([3.5])) == (3.5, 3.5)


@pytest.mark.parametrize("seed", range(5))
def test_rank_correlation_is_scipys(seed):
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 6, 30), rng.normal(size=30)
    assert stats.rank_correlation(a, b) == pytest.approx(scipy_stats.spearmanr(a, b).statistic)
    assert stats.ranks(a) == pytest.approx(scipy_stats.rankdata(a))


def test_rank_correlation_of_nothing():
    assert stats.rank_correlation([1, 2, 3], [10, 20, 30]) == pytest.approx(1)
    assert np.isnan(stats.rank_correlation([1, 1, 1], [1, 2, 3]))
    assert np.isnan(stats.rank_correlation([1], [2]))
