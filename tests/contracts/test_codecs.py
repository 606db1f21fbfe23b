"""Every codec on disk keeps the contract; a new file is tested the day it is added."""

import json
import tempfile
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
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
IMAGE = Modality("image", (32, 48, 3), "uint8")
TEXT = Modality("text", (), "str")


def reads(kind):
    return getattr(kinds.load(kind, "tokens").Codec, "reads", ("vector", "discrete"))


def modality(kind):
    return CHOICE if kind == "discrete" else {"vector": VECTOR, "image": IMAGE, "text": TEXT}[reads(kind)[0]]


HOME = tempfile.TemporaryDirectory()


@lru_cache
def tiny(kind):
    """Settings of a codec that stands on a trained model; its module makes one."""
    return kinds.load(kind, "tokens").tiny(Path(tempfile.mkdtemp(dir=HOME.name)), modality(kind))


def build(kind, **settings):
    module = kinds.load(kind, "tokens")
    config = tiny(kind) if hasattr(module, "tiny") and not settings else module.Config(**settings)
    return module.Codec(config, modality(kind))


def fitted(kind, values=None, **settings):
    codec = build(kind, **settings)
    codec.fit(data(kind) if values is None else values)
    return codec


def data(kind, n=500, seed=0):
    """``(n, dim)`` values such as the codec's modality has; ``dim`` of a codec of chunks is that of all its steps."""
    rng = np.random.default_rng(seed)
    if kind == "discrete":
        return np.stack([rng.integers(0, 4, n), rng.integers(1, 8, n), rng.integers(0, 2, n)], 1)
    if "image" in reads(kind):
        return rng.integers(0, 256, (n, IMAGE.size), np.uint8)
    if "text" in reads(kind):
        words = np.array(["go to", "pick up", "the", "red", "green", "ball,", "then", "ünïcödé", "x"])
        return np.array([" ".join(rng.choice(words, rng.integers(0, 9))) for _ in range(n)])[:, None]
    steps = build(kind).chunk
    values = rng.normal(size=(n, steps, 3)) * [1.0, 20.0, 0.1] + [0.0, 5.0, -3.0]
    return values.reshape(n, -1).astype(np.float32)


def error(codec, values):
    """How far a round trip misses, in units of the value; a text is right or wrong."""
    back = codec.decode(codec.encode(values))
    if values.dtype.kind == "U":
        return float((back != values).any())
    return float(np.abs(back.astype(np.float64) - values).max())


@pytest.mark.parametrize("kind", KINDS)
def test_contract(kind):
    codec, values = fitted(kind), data(kind)
    assert isinstance(codec, Codec)
    codes = codec.encode(values)
    assert codes.shape == (500, codec.width)
    assert codes.dtype == codec.dtype
    if codec.continuous:
        assert codec.dtype in ("float32", "uint8")
        assert codec.vocab == 0
    else:
        assert codec.dtype == "int64"
        assert codes.min() >= 0
        assert codes.max() < codec.vocab
    assert error(codec, values) <= codec.tolerance
    shaped = codec.encode(values.reshape(5, 100, -1))
    assert shaped.shape == (5, 100, codec.width)
    assert (shaped.reshape(500, -1) == codes).all()
    assert (codec.decode(shaped).reshape(values.shape) == codec.decode(codes)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_codec_says_what_a_packed_stream_must_know(kind):
    codec = fitted(kind)
    assert codec.chunk == getattr(codec.config, "chunk", 1)
    if codec.continuous:
        assert codec.share == ""
        assert codec.tokens == (6 if kind == "patches" else 1)
    else:
        assert codec.tokens == codec.width
        assert codec.share == fitted(kind).share != ""
    if hasattr(codec, "image"):
        assert json.loads(json.dumps(codec.image)) == codec.image


@pytest.mark.parametrize("kind", [k for k in KINDS if hasattr(kinds.load(k, "tokens").Codec, "lengths")])
def test_padding_comes_last_and_is_never_counted(kind):
    codec = fitted(kind)
    values = data(kind)
    codes = codec.encode(values)
    counts = codec.lengths(codes)
    assert codec.pad == codec.vocab - 1
    real = np.arange(codec.width) < counts[:, None]
    assert (codes[~real] == codec.pad).all()
    nothing = (values == "").all(1)
    assert (codes[real & ~nothing[:, None]] != codec.pad).all()
    assert (counts[nothing] == 1).all()
    # Whatever stands behind the first padding is not read.
    rubbish = np.where(real, codes, np.random.default_rng(0).integers(0, codec.vocab, codes.shape))
    rubbish[np.arange(500), np.minimum(counts, codec.width - 1)] = codes[np.arange(500), np.minimum(counts, codec.width - 1)]
    rubbish[nothing] = codec.pad
    assert (codec.decode(rubbish) == codec.decode(codes)).all()
    assert (codec.lengths(rubbish) == counts).all()


@pytest.mark.parametrize("kind", KINDS)
def test_state_is_plain_json_and_exact(kind):
    codec, values = fitted(kind), data(kind, seed=1)
    again = build(kind)
    state = codec.state()
    again.load_state(json.loads(json.dumps(state, allow_nan=False)))
    if hasattr(codec, "tensors"):
        again.load_tensors(codec.tensors())
    assert again.state() == state
    assert (again.width, again.vocab, again.share, again.tokens) == (codec.width, codec.vocab, codec.share, codec.tokens)
    assert (again.encode(values) == codec.encode(values)).all()
    assert (again.decode(codec.encode(values)) == codec.decode(codec.encode(values))).all()


@pytest.mark.parametrize("kind", KINDS)
def test_fitting_twice_is_fitting_once(kind):
    codec, twice = fitted(kind), fitted(kind, data(kind, seed=2))
    twice.fit(data(kind))
    assert twice.state() == codec.state()


@pytest.mark.parametrize("kind", [k for k in KINDS if not build(k).continuous])
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_any_codes_decode(kind, seed):
    codec = FITTED.setdefault(kind, fitted(kind))
    codes = np.random.default_rng(seed).integers(0, codec.vocab, (7, codec.width))
    values = codec.decode(codes)
    assert len(values) == 7
    if values.dtype.kind != "U":
        assert np.isfinite(values).all()


FITTED = {}


@pytest.mark.parametrize(
    ("kind", "chosen"),
    [("bins", {"bins": 16}), ("bins", {"bins": 16, "spacing": "quantile"}), ("mulaw", {}), ("fast", {"chunk": 1})],
)
@given(values=hnp.arrays(np.float64, (7, 3), elements=st.floats(-1e6, 1e6)))
def test_codes_never_leave_their_range(kind, chosen, values):
    if (key := (kind, *chosen.items())) not in FITTED:
        FITTED[key] = fitted(kind, data("bins"), **chosen)
    codec = FITTED[key]
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


@given(values=hnp.arrays(np.float64, (5, 3), elements=st.floats(-1.0, 1.0)))
def test_bins_miss_by_half_a_bin_at_most_up_to_both_ends(values):
    module = kinds.load("bins", "tokens")
    codec = module.Codec(module.Config(bins=16), Modality("vector", (3,), "float32", (-1.0,) * 3, (1.0,) * 3))
    assert codec.tolerance < 1 / 16 + 1e-6
    assert error(codec, values) <= codec.tolerance


@pytest.mark.parametrize(
    ("kind", "chosen", "said"),
    [
        ("scale", {"by": 0}, "above 0"),
        ("scale", {"by": -5.0}, "above 0"),
        ("scale", {"by": float("nan")}, "above 0"),
        ("bins", {"range": (1.0, -1.0)}, "the lower first"),
        ("bins", {"range": (1.0, 1.0)}, "the lower first"),
        ("bins", {"range": (0.0, float("inf"))}, "finite"),
        ("vector", {"clip": 0.0}, "greater than 0"),
        ("vector", {"clip": -1.0}, "greater than 0"),
        ("patches", {"size": 0}, "greater than or equal to 1"),
        ("patches", {"encoder": "conv", "size": 16}, "leave 'size' out"),
        ("patches", {"encoder": "cells", "size": 7}, "leave 'size' out"),
        ("patches", {"values": 16}, "for conv and cells"),
        ("text", {"length": 0}, "greater than or equal to 1"),
        ("fast", {"chunk": 0}, "greater than or equal to 1"),
        ("fast", {"scale": 0.0}, "greater than 0"),
        ("fast", {"scale": float("inf")}, "finite"),
        ("fast", {"vocab": 2}, "greater than or equal to 4"),
    ],
)
def test_settings_that_would_make_rubbish_are_refused(kind, chosen, said):
    with pytest.raises(RecipeError, match=f"{next(iter(chosen))}: .*{said}"):
        validate(kinds.load(kind, "tokens").Config, chosen, {}, "here")
