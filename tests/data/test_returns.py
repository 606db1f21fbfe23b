"""Returns-to-go against the definition, written as a loop."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqrl.data.returns import delayed_rewards, returns_to_go


def laid_out(lengths, rng):
    """Rewards by row (0 in each last row) and where the episodes lie."""
    length = np.array(lengths, np.int64)
    row = np.cumsum(length + 1) - (length + 1)
    rewards = rng.standard_normal((length + 1).sum()).astype(np.float32)
    rewards[row + length] = 0
    return rewards, SimpleNamespace(row=row, length=length)


def by_hand(rewards, episodes, discount):
    out = np.zeros(len(rewards))
    for row, length in zip(episodes.row, episodes.length, strict=True):
        for t in range(row + length - 1, row - 1, -1):
            out[t] = rewards[t] + discount * out[t + 1]
    return out


@given(
    lengths=st.lists(st.integers(0, 40), min_size=1, max_size=8),
    discount=st.sampled_from([1.0, 0.99, 0.5, 1e-3]),
    seed=st.integers(0, 1 << 30),
)
def test_it_is_the_definition(lengths, discount, seed):
    rewards, episodes = laid_out(lengths, np.random.default_rng(seed))
    found = returns_to_go(rewards, episodes, discount)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, by_hand(rewards, episodes, discount), atol=1e-5)


def test_spending_the_budget_step_by_step_gives_the_same():
    rewards, episodes = laid_out([500, 20, 1000], np.random.default_rng(0))
    found = returns_to_go(rewards, episodes)
    for row, length in zip(episodes.row, episodes.length, strict=True):
        spent = found[row] - np.concatenate([[0], np.cumsum(rewards[row : row + length], dtype=np.float64)])
        np.testing.assert_allclose(found[row : row + length + 1], spent, atol=1e-4)


def test_large_returns_before_do_not_blur_small_ones_after():
    rewards, episodes = laid_out([1000, 5], np.random.default_rng(0))
    rewards[:1000] *= 1e4
    np.testing.assert_allclose(returns_to_go(rewards, episodes)[1001:], by_hand(rewards, episodes, 1.0)[1001:], atol=1e-6)


@pytest.mark.parametrize("lengths", [[3, 0, 5], [1]])
def test_delayed(lengths):
    rewards, episodes = laid_out(lengths, np.random.default_rng(0))
    found = delayed_rewards(rewards, episodes)
    for row, length in zip(episodes.row, episodes.length, strict=True):
        assert not found[row : row + max(length - 1, 0)].any()
        if length:
            np.testing.assert_allclose(found[row + length - 1], rewards[row : row + length].sum(), rtol=1e-5)
        assert found[row + length] == 0
    np.testing.assert_allclose(
        returns_to_go(found, episodes)[episodes.row], returns_to_go(rewards, episodes)[episodes.row], atol=1e-5
    )
