"""Returns-to-go of every row of a store: prefix sums over whole episodes, computed once and in float64.

``R_t = r_t + g r_{t+1} + g^2 r_{t+2} + ...`` to the end of the episode (Chen et al. 2021, section 3, with g = 1). The last row
of an episode has no reward any more, so its return-to-go is 0.
"""

from typing import Protocol

import numpy as np


class HasRows(Protocol):
    """Anything that says where episodes lie: first row and steps of each, ``(N,)``."""

    row: np.ndarray
    length: np.ndarray


def returns_to_go(
    rewards: np.ndarray, episodes: HasRows, discount: float = 1.0, before: float = 0.0, most: int | None = None
) -> np.ndarray:
    """Returns-to-go by row.

    Args:
        rewards: ``(rows,)``, zero in the last row of each episode.
        episodes: consecutive episodes that fill all rows, ``length + 1`` each.
        discount: g, in (0, 1].
        before, most: the sum of all rewards in front and the most steps of any episode, where these episodes are some of many:
            what comes out is then the same, to the last bit, as if all were given at once.

    Returns:
        ``(rows,)`` float32.
    """
    left = _rows_left(len(rewards), episodes)
    reward = rewards.astype(np.float64)
    if discount == 1.0:
        until = np.cumsum(np.concatenate([[before], reward]))[1:]
        end = np.arange(len(reward)) + left
        return (until[end] - until + reward).astype(np.float32)
    # Doubling: once every row holds the sum of its next k rewards, adding g^k times that of the row k further gives 2k.
    span, most = 1, int(left.max(initial=0)) if most is None else most
    while span <= most and discount**span > 0:
        ahead = np.where(left[:-span] >= span, reward[span:], 0.0)
        reward[:-span] += discount**span * ahead
        span *= 2
    return reward.astype(np.float32)


def delayed_rewards(rewards: np.ndarray, episodes: HasRows, before: float = 0.0) -> np.ndarray:
    """The whole return of each episode at its last step, zero before (Chen et al. 2021, section 5.7); ``(rows,)`` float32.

    ``before`` as in ``returns_to_go``.
    """
    out = np.zeros(len(rewards), np.float32)
    real = episodes.length > 0
    row, length = episodes.row[real], episodes.length[real]
    until = np.cumsum(np.concatenate([[before], rewards]), dtype=np.float64)
    out[row + length - 1] = until[row + length] - until[row]
    return out


def _rows_left(rows: int, episodes: HasRows) -> np.ndarray:
    """``(rows,)`` int64: rows of the same episode that follow each row."""
    end = np.repeat(episodes.row + episodes.length, episodes.length + 1)
    return end - np.arange(rows)
