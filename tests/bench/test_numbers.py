"""Statistics against plain definitions."""

import numpy as np
import pytest

from seqrl.bench import numbers
from seqrl.rollout import stats


@pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 50])
def test_the_middle_half_is_that_of_evaluations(n):
    rows = np.random.default_rng(n).standard_normal((5, n))
    np.testing.assert_allclose(numbers.iqm(rows), [stats.iqm(r) for r in rows], rtol=1e-12)


def test_an_interval_knows_of_the_spread_between_runs():
    rng = np.random.default_rng(0)
    alike = [50 + rng.standard_normal(40) for _ in range(5)]
    apart = [m + rng.standard_normal(40) for m in (10, 30, 50, 70, 90)]
    (_, near), (middle, far) = numbers.of_episodes(alike), numbers.of_episodes(apart)
    assert near[1] - near[0] < 2
    assert far[1] - far[0] > 30, "episodes of one run are not independent, and must not make the interval small"
    assert far[0] < middle < far[1]
    assert numbers.of_episodes(apart) == (middle, far), "a table can be repeated"


def test_runs_of_unequal_length_and_a_single_one():
    runs = [np.full(4, 1.0), np.full(9, 3.0)]
    middle, (low, high) = numbers.of_episodes(runs)
    assert low <= middle <= high
    assert numbers.of_episodes([np.full(5, 7.0)]) == (7.0, (7.0, 7.0))


def test_runs_are_drawn_within_their_dataset():
    # Two datasets of very different scores: drawn across datasets, the interval would reach from one to the other.
    easy, hard = np.array([99.0, 100.0, 101.0]), np.array([0.0, 1.0, 2.0])
    middle, (low, high) = numbers.of_runs([easy, hard])
    assert middle == stats.iqm(np.concatenate([easy, hard]))
    assert low > 40
    assert high < 60


def test_a_profile_is_the_share_above_tau():
    taus = np.array([-1.0, 0.0, 1.0, 50.0, 101.0])
    share, low, high = numbers.profile([np.array([0.0, 2.0]), np.array([100.0, 100.0])], taus)
    np.testing.assert_allclose(share, [1, 0.75, 0.75, 0.5, 0])
    assert (low <= share).all()
    assert (share <= high).all()
    assert low[1] == 0.5
    assert high[1] == 1.0


def test_the_spread_of_one_run_is_none():
    assert numbers.spread([3.0]) is None
    assert numbers.spread([1.0, 3.0]) == pytest.approx(2**0.5)


def test_an_interval_is_the_same_in_how_many_parts_it_is_counted(monkeypatch):
    runs = list(np.random.default_rng(0).standard_normal((3, 20)))
    whole = numbers.of_episodes(runs)
    for most in (7, 1_000, 59_999):
        monkeypatch.setattr(numbers, "_AT_ONCE", most)
        assert numbers.of_episodes(runs) == whole
