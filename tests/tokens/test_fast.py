"""FAST: the transform is scipy's, smooth chunks are short, the error has a bound, and no codes are wrong codes."""

import numpy as np
import pytest
import scipy.fft
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from seqrl.core.episode import Modality
from seqrl.core.errors import DataError, RecipeError
from seqrl.tokens.fast import Codec, Config, cosines

H, A = 8, 2
STEP = Modality("vector", (A,), "float32", (-1.0,) * A, (1.0,) * A)


def waves(n=400, seed=0, rough=0.0):
    """``(n, H*A)`` smooth chunks in [-1, 1], and noise on top."""
    rng = np.random.default_rng(seed)
    t = np.arange(H)[None, :, None] / H
    x = np.sin(2 * np.pi * (rng.uniform(0, 1, (n, 1, A)) + t * rng.uniform(0, 1, (n, 1, A))))
    return np.clip(x + rough * rng.normal(size=x.shape), -1, 1).reshape(n, -1)


def fitted(values=None, **settings):
    codec = Codec(Config(**settings), STEP)
    codec.fit(waves() if values is None else values)
    return codec


CODEC = fitted()


@pytest.mark.parametrize("steps", [1, 2, 8, 50])
def test_the_transform_is_the_orthonormal_dct(steps):
    x = np.random.default_rng(0).normal(size=(steps, 3))
    assert np.allclose(cosines(steps) @ x, scipy.fft.dct(x, type=2, norm="ortho", axis=0))
    assert np.allclose(cosines(steps).T @ cosines(steps), np.eye(steps))


def test_frequencies_are_the_papers_low_ones_first_and_dimensions_in_turn():
    # pi-FAST's processor: around(dct(chunk, axis=0, norm="ortho") * scale).flatten(), shifted by the minimum.
    x = waves(20)
    scaled = (x.reshape(-1, H, A) - CODEC.center) / CODEC.spread
    want = np.around(scipy.fft.dct(scaled, axis=1, norm="ortho") * 10).reshape(20, -1) + CODEC.reach
    got = np.array([[ord(c) for c in word] for word in CODEC._letters(x).tolist()]) - 0x4E00
    assert (got == want).all()


def test_percentiles_become_one():
    low, high = np.quantile(waves().reshape(-1, A), (0.01, 0.99), axis=0)
    assert np.allclose((low - CODEC.center) / CODEC.spread, -1)
    assert np.allclose((high - CODEC.center) / CODEC.spread, 1)


def test_smooth_chunks_take_fewer_codes_than_rough_ones_and_than_numbers():
    smooth, rough = waves(), waves(rough=0.5)
    few, many = fitted(smooth), fitted(rough)
    assert few.lengths(few.encode(smooth)).mean() < 0.5 * H * A
    assert few.lengths(few.encode(smooth)).mean() < many.lengths(many.encode(rough)).mean()


@pytest.mark.parametrize("scale", [1.0, 10.0, 100.0])
def test_a_finer_scale_misses_by_less(scale):
    codec = fitted(scale=scale, vocab=4096)
    x = waves(seed=1)
    assert np.isclose(codec.tolerance, np.sqrt(H) * 0.5 / scale * codec.spread.max(), rtol=1e-3)
    missed = np.abs(codec.decode(codec.encode(waves())) - waves()).max()
    assert missed <= codec.tolerance
    assert missed > codec.tolerance / 20
    assert np.isfinite(codec.decode(codec.encode(x))).all()


@given(x=hnp.arrays(np.float64, (3, H * A), elements=st.floats(-1.0, 1.0)))
def test_nothing_within_the_range_is_clipped(x):
    # Room for the longest there can be, one code a frequency: what is left is rounding.
    codec = Codec(Config(length=H * A), STEP)
    codec.load_state(CODEC.state() | {"length": H * A})
    seen = waves().reshape(-1, A)
    x = np.clip(x.reshape(-1, A), seen.min(0), seen.max(0)).reshape(x.shape)
    assert np.abs(codec.decode(codec.encode(x)) - x).max() <= codec.tolerance


@given(codes=hnp.arrays(np.int64, st.tuples(st.integers(0, 4), st.integers(1, 40)), elements=st.integers(0, 1023)))
def test_any_codes_are_finite_numbers(codes):
    values = CODEC.decode(codes)
    assert values.shape == (len(codes), H * A)
    assert np.isfinite(values).all()


def test_a_chunk_that_says_nothing_is_the_middle():
    silent = np.full((1, CODEC.width), CODEC.pad)
    assert np.allclose(CODEC.decode(silent).reshape(H, A), CODEC.center)
    assert CODEC.lengths(silent).tolist() == [1]


def test_what_is_too_long_loses_its_highest_frequencies():
    rough = waves(rough=0.5)
    whole, short = fitted(rough), fitted(rough, length=4)
    codes = short.encode(rough)
    assert codes.shape == (400, 4)
    assert (codes == whole.encode(rough)[:, :4]).all()
    told = np.einsum("kt,nta->nka", cosines(H), short.decode(codes).reshape(-1, H, A) - short.center)
    assert np.abs(told[:, -1]).max() < 1e-9


def test_the_same_data_give_the_same_codes():
    assert fitted().state() == CODEC.state()
    assert fitted().share == CODEC.share != fitted(waves(seed=5)).share
    assert CODEC.share.startswith("fast-")


def test_a_dimension_that_never_moves_and_one_that_hardly_ever_does():
    x = waves().reshape(-1, H, A)
    x[..., 0], x[..., 1] = 0.25, 0.0
    x[7, :, 1] = 1.0
    codec = fitted(x.reshape(len(x), -1))
    assert codec.spread[0] == 1.0
    assert codec.spread[1] == pytest.approx(0.125)
    missed = np.abs(codec.decode(codec.encode(x.reshape(len(x), -1))).reshape(x.shape) - x)
    assert missed.max() <= codec.tolerance


def test_values_of_any_size_have_codes():
    far = np.array([[1e9, -1e9] * H, [1e300, 0.0] * H])
    codes = CODEC.encode(far)
    assert codes.min() >= 0
    assert codes.max() < CODEC.vocab
    assert np.isfinite(CODEC.decode(codes)).all()


@pytest.mark.parametrize(
    ("values", "said"), [(np.zeros((0, H * A)), "no chunks of 8 steps"), (np.full((3, H * A), np.nan), "not finite")]
)
def test_data_that_cannot_be_learned_from(values, said):
    with pytest.raises(DataError, match=said):
        fitted(values)


def test_actions_that_are_not_finite_are_refused():
    with pytest.raises(DataError, match="not finite"):
        CODEC.encode(np.full((1, H * A), np.nan))


def test_a_vocabulary_too_small_says_how_large():
    with pytest.raises(RecipeError, match="raise it to"):
        fitted(vocab=40)


@pytest.mark.parametrize(
    "wrong",
    [
        {"bpe": "{}"},
        {"bpe": None},
        {"reach": 3},
        {"reach": 0},
        {"length": -1},
        {"length": 1.5},
        {"center": [0.0]},
        {"spread": [float("nan"), 1.0]},
    ],
)
def test_a_broken_state_is_a_value_error(wrong):
    with pytest.raises(ValueError, match="."):
        Codec(Config(), STEP).load_state(CODEC.state() | wrong)


def test_a_state_of_other_settings_is_refused():
    with pytest.raises(ValueError, match="with these settings"):
        Codec(Config(vocab=64), STEP).load_state(CODEC.state())
