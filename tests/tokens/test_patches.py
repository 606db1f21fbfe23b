"""Pictures: whatever way their axes stand, the model gets them channels last, and they come back as they were."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqrl.core.config import validate
from seqrl.core.episode import Modality
from seqrl.core.errors import DataError, RecipeError
from seqrl.tokens.patches import Codec, Config


def codec(shape, dtype="uint8", kind="image", **settings):
    return Codec(Config(**settings), Modality(kind, shape, dtype))


def pictures(shape, n=5):
    return np.random.default_rng(0).integers(0, 256, (n, *shape), np.uint8)


@pytest.mark.parametrize(
    ("shape", "hwc"),
    [
        ((8, 6), [8, 6, 1]),
        ((8, 6, 1), [8, 6, 1]),
        ((8, 6, 3), [8, 6, 3]),
        ((8, 6, 4), [8, 6, 4]),
        ((3, 8, 6), [8, 6, 3]),
        ((4, 8, 6), [8, 6, 4]),
        ((3, 4, 3), [3, 4, 3]),
    ],
)
def test_channels_come_last(shape, hwc):
    made, frames = codec(shape, size=None), pictures(shape)
    flat = frames.reshape(5, -1)
    codes = made.encode(flat)
    assert made.image == {"shape": hwc, "size": None, "encoder": "resnet"}
    assert made.width == np.prod(shape)
    first = list(shape) != hwc and len(shape) == 3
    want = np.moveaxis(frames, 1, 3) if first else frames.reshape(5, *hwc)
    assert (codes.reshape(5, *hwc) == want).all()
    assert (made.decode(codes) == flat).all()


@pytest.mark.parametrize("shape", [(147,), (64, 64, 12), (2, 64, 64), (4, 84, 84, 3), ()])
def test_what_is_no_picture_is_refused(shape):
    with pytest.raises(RecipeError, match=r"none of \(H, W\)"):
        codec(shape)


@pytest.mark.parametrize(("kind", "dtype"), [("image", "float32"), ("vector", "uint8")])
def test_pictures_are_bytes(kind, dtype):
    with pytest.raises(RecipeError, match=f"a {kind} value of {dtype}"):
        codec((16, 16, 3), dtype, kind)
    with pytest.raises(DataError, match="these are float32"):
        codec((16, 16, 3)).encode(np.zeros((2, 768), np.float32))
    with pytest.raises(DataError, match="768 bytes, and these have 767"):
        codec((16, 16, 3)).encode(np.zeros((2, 767), np.uint8))


@given(high=st.integers(1, 40), wide=st.integers(1, 40), size=st.integers(1, 40))
def test_a_size_that_does_not_divide_is_refused_with_those_that_do(high, wide, size):
    if high % size == 0 == wide % size:
        assert codec((high, wide), size=size).tokens * size * size == high * wide
        return
    with pytest.raises(RecipeError, match="does not divide") as e:
        codec((high, wide), size=size)
    named = str(e.value).partition("these do: ")[2].partition(" (")[0].split(", ")
    assert named
    for other in named:
        codec((high, wide), size=int(other))


def test_babyai_sees_seven_by_seven():
    assert codec((7, 7, 3), size=7).tokens == 1
    assert codec((7, 7, 3), size=1).tokens == 49
    assert codec((7, 7, 3), size=None).tokens == 1
    assert codec((7, 7, 3), size=None).image["size"] == 7
    with pytest.raises(RecipeError, match=r"size 16 .* 7x7 pixels; these do: 1, 7 \(or null"):
        codec((7, 7, 3))


def test_conv_reads_the_whole_frame():
    made = codec((4, 84, 84), encoder="conv")
    assert made.tokens == 1
    assert made.image == {"shape": [84, 84, 4], "size": None, "encoder": "conv"}
    # What was made once can be made again from its own settings, as a bundle does.
    assert validate(Config, made.config.model_dump(), {}, "here") == made.config


def test_cells_are_a_token_each():
    made = codec((7, 7, 3), encoder="cells", values=11)
    assert made.tokens == 49
    assert made.image == {"shape": [7, 7, 3], "size": None, "encoder": "cells", "values": 11}
    assert validate(Config, made.config.model_dump(), {}, "here") == made.config


def test_what_a_model_painted_becomes_bytes():
    painted = np.array([[-3.0, 0.4, 254.6, 300.0]])
    assert codec((2, 2), size=1).decode(painted).tolist() == [[0, 0, 255, 255]]
