"""How alike two pictures are: peak signal-to-noise ratio, and structural similarity.

Both take batches of bytes or of floats on the scale of bytes, channels last, and answer one float64 for each picture.
"""

import numpy as np

from seqrl.core.errors import DataError

BEST = 100.0
"""Decibels that stand for equal pictures, whose ratio would be infinite; an error of one grey level is 48."""
_SIGMA, _RADIUS = 1.5, 5
_ROWS = 256
"""Pictures compared at a time: the maps of many at once would not fit into the processor's cache, nor all into memory."""


def _pair(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape or a.ndim != 4:
        raise DataError(f"pictures to compare are two arrays (N, H, W, C) of one shape (got {a.shape} and {b.shape})")
    return a, b


def psnr(a: np.ndarray, b: np.ndarray, peak: float = 255.0) -> np.ndarray:
    """``10 log10(peak^2 / mean squared error)`` of each picture, in decibels, at most ``BEST``.

    Args:
        a, b: ``(N, H, W, C)``.
        peak: the largest value a pixel can have.

    Returns:
        ``(N,)`` float64.

    Raises:
        DataError: the shapes differ, or are none of pictures.
    """
    a, b = _pair(a, b)
    error = np.array([np.mean((x.astype(np.float64) - y) ** 2) for x, y in zip(a, b, strict=True)])
    return 10 * np.log10(peak**2 / np.maximum(error, peak**2 * 10 ** (-BEST / 10)))


def _blur(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted means over windows that lie wholly inside: ``(N, H, W, C)`` to ``(N, H - n + 1, W - n + 1, C)``."""
    n = len(weights)
    down = sum(w * x[:, i : x.shape[1] - n + 1 + i] for i, w in enumerate(weights))
    return sum(w * down[:, :, i : x.shape[2] - n + 1 + i] for i, w in enumerate(weights))


def ssim(a: np.ndarray, b: np.ndarray, peak: float = 255.0) -> np.ndarray:
    """Mean structural similarity of each picture (Wang et al. 2004, equations 13 to 17): 1 for equal ones, 0 for unrelated.

    Windows are Gaussian, 11 pixels wide with a deviation of 1.5, K1 = 0.01 and K2 = 0.03, as the paper has them; only those
    wholly inside a picture count. Pictures smaller than a window get the largest odd one that fits. Channels are averaged.

    Args, returns and raises as ``psnr``.
    """
    a, b = _pair(a, b)
    radius = min(_RADIUS, (min(a.shape[1:3]) - 1) // 2)
    weights = np.exp(-(np.arange(-radius, radius + 1) ** 2) / (2 * _SIGMA**2))
    weights, (c1, c2) = weights / weights.sum(), ((0.01 * peak) ** 2, (0.03 * peak) ** 2)
    found = [_ssim(a[i : i + _ROWS], b[i : i + _ROWS], weights, c1, c2) for i in range(0, len(a), _ROWS)]
    return np.concatenate(found) if found else np.zeros(0)


def _ssim(a: np.ndarray, b: np.ndarray, weights: np.ndarray, c1: float, c2: float) -> np.ndarray:
    a, b = a.astype(np.float64), b.astype(np.float64)
    ma, mb = _blur(a, weights), _blur(b, weights)
    va, vb, both = _blur(a * a, weights) - ma**2, _blur(b * b, weights) - mb**2, _blur(a * b, weights) - ma * mb
    alike = (2 * ma * mb + c1) * (2 * both + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2))
    return alike.mean((1, 2, 3))
