"""Sensors and screens: every slot is read, every slot is shown in its own kind of value, and any picture comes back whole."""

import pytest
import torch

from seqrl.core.contracts import Ports
from seqrl.core.errors import RecipeError
from seqrl.nn.mlp import Dense
from seqrl.nn.sensors import ActionIn, PictureIn, PictureOut, Screens, Sensors, observed

SHAPE = (12, 10, 3)
WIDTHS = {"image": 360, "state": 3, "room": 2, "action": 1, "reward": 1, "done": 1}
VOCABS = {"image": 0, "state": 0, "room": 5, "action": 4, "reward": 0, "done": 2}
SEEN = ["image", "state", "room"]


def ports(layout="image state room action > reward done"):
    images = {"image": {"shape": list(SHAPE)}}
    return Ports(layout, WIDTHS, VOCABS, dict.fromkeys(WIDTHS, False), images=images, levels={"reward": [0.0, 1.0]})


def values(*shape):
    g = torch.Generator().manual_seed(0)
    return {
        "image": torch.randint(256, (*shape, 360), generator=g).to(torch.uint8),
        "state": torch.randn(*shape, 3, generator=g),
        "room": torch.randint(5, (*shape, 2), generator=g),
    }


@pytest.mark.parametrize("shape", [(64, 64, 3), (84, 84, 1), (6, 6, 3), (13, 9, 2), (210, 160, 3), (33, 7, 1)])
def test_pictures_of_any_size_go_in_and_come_back(shape):
    torch.manual_seed(0)
    size = shape[0] * shape[1] * shape[2]
    x = torch.randint(256, (2, 1, size)).to(torch.uint8)
    y = PictureIn(shape, 24, 2, "silu")(x)
    assert y.shape == (2, 1, 24)
    assert PictureOut(shape, 24, 2, "silu")(y).shape == (2, 1, size)


def test_every_slot_is_read():
    torch.manual_seed(0)
    sensors, seen = Sensors(ports(), SEEN, 16, hidden=8, channels=2), values(3, 4)
    base = sensors(seen)
    assert base.shape == (3, 4, 16)
    for name in SEEN:
        other = dict(seen, **{name: seen[name].clone()})
        other[name][1, 2] = (seen[name][1, 2] + 1) % (VOCABS[name] or 250)
        moved = (sensors(other) - base).abs().amax(-1) > 1e-6
        assert moved[1, 2]
        assert moved.sum() == 1, f"{name} is seen in other steps"


@pytest.mark.parametrize("squash", [False, True])
def test_what_is_shown_has_the_form_of_what_was_seen(squash):
    torch.manual_seed(0)
    screens, seen = Screens(ports(), SEEN, 10, hidden=8, channels=2, squash=squash), values(2, 3)
    feat = torch.randn(2, 3, 10)
    shown = screens.show(feat)
    for name in SEEN:
        assert shown[name].shape == seen[name].shape
        assert shown[name].dtype == seen[name].dtype
        loss = screens.loss(name, feat, seen[name])
        assert loss.shape == (2, 3)
        assert loss.requires_grad
    assert int(shown["room"].max()) < 5


def test_losses_are_sums_over_the_slot():
    torch.manual_seed(0)
    screens, seen, feat = Screens(ports(), SEEN, 10, hidden=8, channels=2), values(2, 3), torch.randn(2, 3, 10)
    want = (screens.say("state", feat) - seen["state"]) ** 2
    torch.testing.assert_close(screens.loss("state", feat, seen["state"]), want.sum(-1))
    want = (screens.say("image", feat) - seen["image"] / 255) ** 2
    torch.testing.assert_close(screens.loss("image", feat, seen["image"]), want.sum(-1))
    log_p = screens.say("room", feat).log_softmax(-1)
    want = -log_p.gather(-1, seen["room"][..., None])[..., 0].sum(-1)
    torch.testing.assert_close(screens.loss("room", feat, seen["room"]), want)


def test_squashed_numbers_are_learned_small_and_shown_large():
    torch.manual_seed(0)
    screens = Screens(ports("state action > reward"), ["state"], 4, hidden=32, squash=True)
    feat, far = torch.ones(8, 4), torch.tensor([1e5, -1e5, 0.0]).expand(8, 3)
    optim = torch.optim.Adam(screens.parameters(), 0.05)
    for _ in range(300):
        optim.zero_grad()
        screens.loss("state", feat, far).mean().backward()
        optim.step()
    torch.testing.assert_close(screens.show(feat)["state"], far, rtol=0.05, atol=0.1)


def test_codes_of_actions_are_one_hot_and_one_hot_ones_pass():
    action = ActionIn(ports())
    codes = torch.tensor([[3], [0]])
    hot = action(codes)
    assert hot.tolist() == [[0, 0, 0, 1], [1, 0, 0, 0]]
    assert action(hot) is hot
    assert action.width == 4


def test_what_is_seen_stands_in_front_of_the_action():
    step = ["image", "state", "room", "action"]
    assert observed(ports(), step) == SEEN
    with pytest.raises(RecipeError, match="what is seen"):
        observed(ports("action > reward"), ["action"])
    for late in ("reward", "done", "return"):
        with pytest.raises(RecipeError, match="follows an action"):
            observed(ports(), [late, "state", "action"])
    with pytest.raises(RecipeError, match="train.losses"):
        Screens(ports(), [], 4)


def test_a_stack_of_layers_may_be_told_what_was_multiplied_elsewhere():
    torch.manual_seed(0)
    both, one = Dense(5, 8, 2, "silu", "layer"), Dense(3, 8, 2, "silu", "layer")
    with torch.no_grad():
        one.layers[0].weight.copy_(both.layers[0].weight[:, :3])
        one.layers[0].bias.copy_(both.layers[0].bias)
        one.layers[1].load_state_dict(both.layers[1].state_dict())
    x = torch.randn(4, 5)
    torch.testing.assert_close(one(x[:, :3], x[:, 3:] @ both.layers[0].weight[:, 3:].T), both(x))
    assert Dense(5, 8, 0).width == 5


@pytest.mark.parametrize("norm", ["none", "layer", "rms"])
def test_how_large_a_few_numbers_are_is_not_lost_behind_a_norm(norm):
    torch.manual_seed(0)
    layers, x = Dense(2, 16, 2, "silu", norm), torch.randn(3, 2)
    for layer in layers.layers:
        torch.nn.init.normal_(layer.bias, std=0.5)
    assert (layers(x) - layers(3 * x)).abs().amax() > 0.05
