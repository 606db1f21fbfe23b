"""Random numbers that are a pure function of where they are used: (seed, episode, step, dimension).

There is no generator to share or to save, so an episode draws the same numbers whether it is played alone or among a
hundred others, first or last. A counter is mixed by the finaliser of SplitMix64 (Steele, Lea and Flood 2014), which is a
bijection of 64 bits with good avalanche; vectorised, it costs a few numpy operations.
"""

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_A, _B = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_30, _27, _31, _41 = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(41)


def mix(x: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser on ``uint64`` values of any shape."""
    x = (x ^ (x >> _30)) * _A
    x = (x ^ (x >> _27)) * _B
    return x ^ (x >> _31)


def follow(state: np.ndarray, counter: np.ndarray) -> np.ndarray:
    """The state after ``state`` at ``counter``: one more coordinate mixed in. Shapes broadcast."""
    # Arrays, never numpy scalars: their overflow is wanted and silent.
    return mix(np.atleast_1d(state) + (np.atleast_1d(counter).astype(np.uint64) + np.uint64(1)) * _GOLDEN)


def streams(seed: int, keys: np.ndarray) -> np.ndarray:
    """One state ``(B,) uint64`` for each episode key ``(B,)``."""
    root = mix(np.array([seed & 0xFFFFFFFFFFFFFFFF], np.uint64) ^ _GOLDEN)
    return follow(root, np.asarray(keys))


def uniform(states: np.ndarray, step: np.ndarray, width: int) -> np.ndarray:
    """Numbers in the open interval (0, 1).

    Args:
        states: ``(B,)`` from ``streams``.
        step: ``(B,)`` environment step.
        width: numbers per row.

    Returns:
        ``(B, width)`` float32, odd multiples of 2^-24: exactly representable, never 0 or 1.
    """
    bits = follow(follow(states, step)[:, None], np.arange(width)[None]) >> _41
    return ((2 * bits + np.uint64(1)).astype(np.float32)) * np.float32(2.0**-24)


def env_seeds(seed: int, episodes: int) -> np.ndarray:
    """Seeds for ``reset``, ``(episodes,) int64`` in [0, 2^31).

    Hashed, so that evaluations with seeds 0 and 1 share no episode, and none starts where training data (usually collected
    with seeds 0, 1, 2, …) started.
    """
    return (streams(seed ^ 0x5EED, np.arange(episodes)) >> np.uint64(33)).astype(np.int64)
