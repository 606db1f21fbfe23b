"""Encoders of pictures: tokens in reading order, each patch alone, any size of picture, and refusals that say what to do."""

import pytest
import torch
from torch import nn

from seqrl.core.contracts import Ports
from seqrl.core.errors import RecipeError
from seqrl.nn.embed import SlotEmbedding
from seqrl.nn.init import init_weights
from seqrl.nn.pixels import Frame, Grid, Patches, make_pixels

IMAGES = {
    "patches": ({"shape": [64, 64, 3], "size": 16, "encoder": "resnet"}, 16),
    "odd patches": ({"shape": [9, 6, 2], "size": 3, "encoder": "resnet"}, 6),
    "patches of 5": ({"shape": [10, 5, 1], "size": 5, "encoder": "resnet"}, 2),
    "atari": ({"shape": [84, 84, 4], "size": None, "encoder": "conv"}, 1),
    "babyai whole": ({"shape": [7, 7, 3], "size": None, "encoder": "conv", "values": 11}, 1),
    "oblong": ({"shape": [64, 96, 3], "encoder": "conv"}, 1),
    "dot": ({"shape": [1, 1, 1], "encoder": "conv"}, 1),
    "babyai": ({"shape": [7, 7, 3], "size": None, "encoder": "cells"}, 49),
}


def pixels(*lead, shape, top=256):
    return torch.randint(top, (*lead, shape[0] * shape[1] * shape[2]), dtype=torch.uint8)


@pytest.mark.parametrize("name", IMAGES)
def test_pictures_become_so_many_vectors(name):
    image, tokens = IMAGES[name]
    model = make_pixels(image, 32)
    x = pixels(2, 3, shape=image["shape"], top=11)
    y = model(x)
    assert y.shape == (2, 3, tokens, 32)
    assert model.tokens == tokens
    torch.testing.assert_close(y[1, 2], model(x[1, 2][None])[0])
    y.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert model(x[:0]).shape == (0, 3, tokens, 32)


@pytest.mark.parametrize("name", IMAGES)
def test_precision_is_that_of_the_parameters(name):
    image, _ = IMAGES[name]
    model, x = make_pixels(image, 32), pixels(2, shape=image["shape"], top=11)
    with torch.autocast("cpu", torch.bfloat16):
        y = model(x)
    torch.testing.assert_close(y.float(), model(x), rtol=0.1, atol=0.1)
    assert model.to(torch.bfloat16)(x).dtype == torch.bfloat16
    assert all(p.dtype == torch.bfloat16 for p in model.parameters())


@pytest.mark.parametrize("model", [Patches((8, 12, 3), 4, 16), Grid((2, 3, 3), 16)], ids=["patches", "cells"])
def test_a_token_sees_its_own_pixels_alone_and_stands_in_reading_order(model):
    H, W, C = model.shape
    P = H // 2
    x = pixels(1, shape=model.shape, top=8)
    y = model(x)
    for token in range(6):
        row, column = divmod(token, 3)
        moved = x.view(1, H, W, C).clone()
        moved[:, row * P : row * P + P, column * P : column * P + P] += 3
        changed = (model(moved.view(1, -1)) != y).any(-1)[0]
        assert changed.nonzero().flatten().tolist() == [token]


def test_equal_patches_differ_by_their_places_alone():
    model = Patches((8, 8, 1), 4, 16)
    y = model(torch.full((1, 64), 9, dtype=torch.uint8))[0].view(2, 2, 16)
    assert not torch.allclose(y[0, 0], y[1, 1])
    torch.testing.assert_close(y[0, 0] - y[0, 1], y[1, 0] - y[1, 1])
    nn.init.zeros_(model.places.rows.weight)
    y = model(torch.full((1, 64), 9, dtype=torch.uint8))[0].view(2, 2, 16)
    torch.testing.assert_close(y[0], y[1])


@pytest.mark.parametrize(("width", "channels"), [(32, 12), (128, 12), (192, 24), (512, 48), (768, 96), (2048, 96)])
def test_channels_grow_with_the_width_up_to_the_papers(width, channels):
    model = Patches((8, 8, 1), 8, width)
    assert model.stem.out_channels == channels
    assert model.norm1.num_groups * 3 == channels


@pytest.mark.parametrize(
    ("side", "strides", "inputs"),
    [
        (84, [4, 2, 1], 64 * 49),
        (64, [4, 2, 1], 64 * 16),
        (32, [2, 2, 1], 64 * 16),
        (16, [2, 1, 1], 64 * 9),
        (15, [1, 1, 1], 64 * 225),
        (7, [1, 1, 1], 64 * 49),
    ],
)
def test_a_frame_strides_as_far_as_its_size_allows(side, strides, inputs):
    model = Frame((side, side, 3), 16)
    assert [c.stride[0] for c in model.convs] == strides
    assert model.out.in_features == inputs


def test_categories_beyond_the_table_share_its_last_vector():
    model = Grid((1, 1, 2), 8, values=4)
    y = model(torch.tensor([[3, 0], [200, 0], [2, 0]], dtype=torch.uint8))
    assert torch.equal(y[0], y[1])
    assert not torch.equal(y[0], y[2])


@pytest.mark.parametrize("name", IMAGES)
def test_initial_weights_leave_nothing_as_it_was(name):
    model = make_pixels(IMAGES[name][0], 32)
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(float("nan"))
    for module in model.modules():
        init_weights(module, 0.02)
    y = model(pixels(4, shape=IMAGES[name][0]["shape"], top=11))
    assert y.isfinite().all()
    assert (y.std(0) > 0).any()


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ({"shape": [64, 64, 3], "size": 16, "encoder": "resnett"}, "did you mean 'resnet'"),
        ({"shape": [64, 48, 3], "size": 12, "encoder": "resnet"}, "try size 4 or 8 or 16"),
        ({"shape": [64, 64, 3], "size": None, "encoder": "resnet"}, "try size 16 or 32 or 64"),
        ({"shape": [7, 5, 3], "size": 1, "encoder": "resnet"}, "encoder: conv .* or encoder: cells"),
        ({"shape": [7, 7, 3], "size": 7, "encoder": "cells"}, "leave size out"),
        ({"shape": [7, 7], "size": 7, "encoder": "resnet"}, "rows, columns and channels"),
    ],
)
def test_impossible_sizes_are_refused(image, message):
    with pytest.raises(RecipeError, match=message):
        make_pixels(image, 16)


def test_slots_of_pictures_are_embedded_where_they_are_one_token():
    def ports(encoder):
        image = {"shape": [7, 7, 3], "size": None, "encoder": encoder}
        return Ports("o a", {"o": 147, "a": 1}, {"o": 0, "a": 4}, {"o": False, "a": False}, images={"o": image})

    values = {"o": pixels(2, 5, shape=(7, 7, 3)), "a": torch.randint(4, (2, 5, 1))}
    o, a = SlotEmbedding(ports("conv"), ("o", "a"), 16)(values, ("o", "a"))
    assert o.shape == a.shape == (2, 5, 16)
    with pytest.raises(RecipeError, match="one token a slot; use encoder: conv"):
        SlotEmbedding(ports("cells"), ("o", "a"), 16)
