"""Every codec on disk keeps the contract; a new file is tested the day it is added."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from seqrl.core import kinds
from seqrl.core.config import validate
from seqrl.core.contracts import Codec
from seqrl.core.episode import Modality
from seqrl.core.errors import RecipeError

KINDS = kinds.names("tokens")
VECTOR = Modality("vector", (3,), "float32", (-np.inf,) * 3, (np.inf,) * 3)
CHOICE = Modality("discrete", (3,), "int64", n=(4, 7, 2), start=(0, 1, 0))


def fitted(kind, values=None, **settings):
    module = kinds.load(kind, "tokens")
    modality = CHOICE if kind == "discrete" else VECTOR
    codec = module.Codec(module.Config(**settings), modality)
    codec.fit(data(kind) if values is None else values)
    return codec


def data(kind, n=500, seed=0):
    rng = np.random.default_rng(seed)
    if kind == "discrete":
        return np.stack([rng.integers(0, 4, n), rng.integers(1, 8, n), rng.integers(0, 2, n)], 1)
    return (rng.normal(size=(n, 3)) * [1.0, 20.0, 0.1] + [0.0, 5.0, -3.0]).astype(np.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_contract(kind):
    codec, values = fitted(kind), data(kind)
    assert isinstance(codec, Codec)
    codes = codec.encode(values)
    assert codes.shape == (500, codec.width)
    if codec.continuous:
        assert codes.dtype == np.float32
        assert codec.vocab == 0
    else:
        assert codes.dtype == np.int64
        assert codes.min() >= 0
        assert codes.max() < codec.vocab
    error = np.abs(codec.decode(codes) - values)
    assert error.max() <= codec.tolerance
    shaped = codec.encode(values.reshape(5, 100, 3))
    assert (shaped.reshape(500, -1) == codes).all()


@pytest.mark.parametrize("kind", KINDS)
def test_state_is_plain_json_and_exact(kind):
    codec, values = fitted(kind), data(kind, seed=1)
    module = kinds.load(kind, "tokens")
    again = module.Codec(codec.config, CHOICE if kind == "discrete" else VECTOR)
    again.load_state(json.loads(json.dumps(codec.state(), allow_nan=False)))
    assert (again.encode(values) == codec.encode(values)).all()
    assert (again.decode(codec.encode(values)) == codec.decode(codec.encode(values))).all()


@pytest.mark.parametrize(
    ("kind", "settings"), [("bins", {"bins": 16}), ("bins", {"bins": 16, "spacing": "quantile"}), ("mulaw", {})]
)
@given(values=hnp.arrays(np.float64, (7, 3), elements=st.floats(-1e6, 1e6)))
def test_codes_never_leave_their_range(kind, settings, values):
    codec = fitted(kind, **settings)
    codes = codec.encode(values)
    assert codes.min() >= 0
    assert codes.max() < codec.vocab
    assert np.isfinite(codec.decode(codes)).all()


def test_the_top_of_the_range_stays_in_the_last_bin():
    # Two well-known ports send an action of exactly 1.0 to the first code of the next modality.
    module = kinds.load("bins", "tokens")
    codec = module.Codec(module.Config(bins=1024), Modality("vector", (1,), "float32", (-1.0,), (1.0,)))
    codec.fit(np.zeros((1, 1)))
    assert codec.encode(np.array([[1.0], [-1.0], [5.0]])).ravel().tolist() == [1023, 0, 1023]


def test_mulaw_is_the_papers_formula():
    codec = fitted("mulaw")
    x = np.array([[-256.0, -1.0, 0.0], [0.01, 1.0, 256.0]])
    y = np.sign(x) * np.log(np.abs(x) * 100 + 1.0) / np.log(256 * 100 + 1.0)
    want = np.minimum(np.floor((y + 1) / 2 * 1024), 1023).astype(int)
    assert (codec.encode(x) == want).all()


def test_quantile_bins_hold_equally_many():
    values = np.random.default_rng(0).gamma(1.0, size=(8000, 3))
    codec = fitted("bins", values, bins=16, spacing="quantile")
    counts = np.bincount(codec.encode(values)[:, 0], minlength=16)
    assert counts.min() > 0.95 * 500
    assert counts.max() < 1.05 * 500


def test_a_still_dimension_is_not_stretched():
    values = np.concatenate([np.full((100, 1), 7.0), np.random.default_rng(0).normal(size=(100, 2))], 1)
    codes = fitted("vector", values).encode(values + np.array([1e-3, 0, 0]))
    assert np.abs(codes[:, 0]).max() < 1e-2


def test_bounds_map_to_the_unit_box_and_need_to_be_finite():
    module = kinds.load("vector", "tokens")
    box = Modality("vector", (2,), "float32", (-2.0, 0.0), (2.0, 10.0))
    codec = module.Codec(module.Config(scale="bounds"), box)
    assert codec.encode(np.array([[2.0, 0.0]])).tolist() == [[1.0, -1.0]]
    with pytest.raises(RecipeError, match="finite bounds"):
        module.Codec(module.Config(scale="bounds"), VECTOR)


@pytest.mark.parametrize(
    ("kind", "settings", "said"),
    [
        ("scale", {"by": 0}, "above 0"),
        ("scale", {"by": -5.0}, "above 0"),
        ("scale", {"by": float("nan")}, "above 0"),
        ("bins", {"range": (1.0, -1.0)}, "the lower first"),
        ("bins", {"range": (1.0, 1.0)}, "the lower first"),
        ("bins", {"range": (0.0, float("inf"))}, "finite"),
        ("vector", {"clip": 0.0}, "greater than 0"),
        ("vector", {"clip": -1.0}, "greater than 0"),
    ],
)
def test_settings_that_would_make_rubbish_are_refused(kind, settings, said):
    with pytest.raises(RecipeError, match=f"{next(iter(settings))}: .*{said}"):
        validate(kinds.load(kind, "tokens").Config, settings, {}, "here")
