"""Pixel metrics against plain loops of the formulas."""

import numpy as np
import pytest

from seqrl.core.errors import DataError
from seqrl.rollout.pixels import BEST, psnr, ssim


def pictures(shape=(3, 20, 17, 3), seed=0):
    rng = np.random.default_rng(seed)
    a = rng.integers(0, 256, shape, np.uint8)
    return a, np.clip(a + rng.normal(0, 20, shape), 0, 255).astype(np.uint8)


def slow_ssim(a, b, radius=5):
    """One picture, one channel, window by window."""
    offsets = np.arange(-radius, radius + 1)
    window = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    c1, c2, found = (0.01 * 255) ** 2, (0.03 * 255) ** 2, []
    for i in range(radius, len(a) - radius):
        for j in range(radius, a.shape[1] - radius):
            x = a[i - radius : i + radius + 1, j - radius : j + radius + 1].astype(float)
            y = b[i - radius : i + radius + 1, j - radius : j + radius + 1].astype(float)
            mx, my = (window * x).sum(), (window * y).sum()
            vx, vy = (window * (x - mx) ** 2).sum(), (window * (y - my) ** 2).sum()
            both = (window * (x - mx) * (y - my)).sum()
            found.append((2 * mx * my + c1) * (2 * both + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2)))
    return np.mean(found)


def test_psnr_is_its_formula():
    a, b = pictures()
    want = [10 * np.log10(255**2 / np.mean((x.astype(float) - y) ** 2)) for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(psnr(a, b), want, rtol=1e-12)
    assert psnr(np.zeros((1, 4, 4, 1)), np.ones((1, 4, 4, 1)), peak=1.0).tolist() == [0.0]


def test_equal_pictures_are_the_best_there_is():
    a, _ = pictures()
    assert psnr(a, a).tolist() == [BEST] * 3
    np.testing.assert_allclose(ssim(a, a), 1.0, atol=1e-12)
    one = a.copy()
    one[0, 0, 0, 0] ^= 1
    assert psnr(a, one)[0] < BEST


@pytest.mark.parametrize(("shape", "radius"), [((2, 15, 13, 1), 5), ((2, 20, 17, 3), 5), ((2, 8, 9, 1), 3)])
def test_ssim_is_its_formula(shape, radius):
    a, b = pictures(shape)
    want = [np.mean([slow_ssim(x[..., c], y[..., c], radius) for c in range(shape[3])]) for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(ssim(a, b), want, rtol=1e-9)


def test_ssim_is_symmetric_and_falls_with_noise():
    a, b = pictures()
    np.testing.assert_allclose(ssim(a, b), ssim(b, a), rtol=1e-12)
    noise = np.random.default_rng(1).integers(0, 256, a.shape, np.uint8)
    assert (ssim(a, b) > 0.8).all()
    assert (np.abs(ssim(a, noise)) < 0.2).all()


def test_many_pictures_are_each_as_if_alone():
    a, b = pictures((300, 12, 12, 1))
    np.testing.assert_allclose(ssim(a, b)[[0, 255, 256, 299]], [ssim(a[[i]], b[[i]])[0] for i in (0, 255, 256, 299)])
    assert ssim(a[:0], b[:0]).shape == psnr(a[:0], b[:0]).shape == (0,)


def test_what_are_no_pictures_is_named():
    a, b = pictures()
    for fn in (psnr, ssim):
        with pytest.raises(DataError, match="of one shape"):
            fn(a, b[:, :-1])
        with pytest.raises(DataError, match="of one shape"):
            fn(a[0], b[0])
