"""The image tokenizer: every trunk and quantizer, frames of any channels, what counts, and what is refused."""

import pytest
import torch

from seqrl.core import kinds
from seqrl.core.contracts import Ports
from seqrl.core.errors import RecipeError
from seqrl.core.stream import StreamBatch
from seqrl.encoders._trunks import factors, strides
from seqrl.encoders.vqvae import LOSSES, Config, Model

BUILDS = [(t, q) for t in ("conv", "st_vit") for q in ("vq", "fsq")]


def ports(shape=(12, 12, 1), layout="image"):
    image = {"shape": list(shape), "size": None, "encoder": "resnet"}
    return Ports(layout, {"image": shape[0] * shape[1] * shape[2]}, {"image": 0}, {"image": False}, images={"image": image})


def batch(shape=(12, 12, 1), B=3, T=4, seed=0, length=None):
    frames = torch.randint(0, 256, (B, T, shape[0] * shape[1] * shape[2]), generator=torch.Generator().manual_seed(seed))
    length = torch.full((B,), T) if length is None else torch.tensor(length)
    return StreamBatch({"image": frames.to(torch.uint8)}, torch.arange(T).expand(B, T), length)


def build(trunk="conv", quantizer="vq", shape=(12, 12, 1), T=4, **settings):
    torch.manual_seed(0)
    small = {"codes": 16, "code_width": 4, "levels": [3, 4], "grid": 3, "width": 32, "layers": 1, "heads": 2}
    return Model(Config.for_ports(ports(shape), T, trunk=trunk, quantizer=quantizer, **{**small, **settings}))


def loss_of(model, data):
    return sum(total / count for total, count in model(data).sums().values())


@pytest.mark.parametrize(("trunk", "quantizer"), BUILDS)
def test_forward_answers_its_losses_and_counts_them(trunk, quantizer):
    model, data = build(trunk, quantizer, motion=5.0).train(), batch(length=[4, 2, 1])
    losses = model(data)
    assert tuple(losses.terms) == model.losses == LOSSES[: 2 if quantizer == "vq" else 1]
    sums = losses.sums()
    for name, count in model.counts(data).items():
        torch.testing.assert_close(count.float(), sums[name][1].float())
    loss_of(model, data).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(("trunk", "quantizer"), BUILDS)
def test_a_few_steps_lower_the_loss(trunk, quantizer):
    model = build(trunk, quantizer).train()
    plain = torch.tensor([40, 200], dtype=torch.uint8)[torch.arange(144) // 12 % 2]
    data = batch()
    frames = torch.where(torch.rand(3, 4, 1, generator=torch.Generator().manual_seed(1)) < 0.5, plain, 255 - plain)
    data = StreamBatch({"image": frames}, data.time, data.length)
    optim, seen = torch.optim.AdamW(model.parameters(), 3e-3), []
    for _ in range(60):
        loss = loss_of(model, data)
        optim.zero_grad()
        loss.backward()
        optim.step()
        seen.append(float(loss.detach()))
    assert seen[-1] < 0.3 * seen[0]
    model.eval()
    off = model.decode(model.encode(frames)).float() - frames
    assert off.abs().mean() < 40


@pytest.mark.parametrize("shape", [(12, 12, 1), (8, 12, 3), (12, 6, 4)])
@pytest.mark.parametrize(("trunk", "quantizer"), BUILDS)
def test_frames_of_any_channels_go_there_and_back(trunk, quantizer, shape):
    model = build(trunk, quantizer, shape, grid=[2, 3], layers=0 if trunk == "conv" else 1).eval()
    frames = batch(shape).values["image"]
    codes = model.encode(frames)
    assert (codes.shape, codes.dtype, model.tokens) == ((3, 4, 6), torch.int64, 6)
    assert codes.max() < model.vocab == (16 if quantizer == "vq" else 12)
    back = model.decode(codes)
    assert (back.shape, back.dtype) == (frames.shape, torch.uint8)
    assert torch.equal(model.encode(frames[1, 2]), codes[1, 2])
    assert torch.equal(model.decode(codes[1, 2]), back[1, 2])


@pytest.mark.parametrize("quantizer", ["vq", "fsq"])
def test_the_space_time_trunk_never_looks_ahead(quantizer):
    model = build("st_vit", quantizer).eval()
    if quantizer == "vq":
        model.quantizer.table.normal_(0, 0.5, generator=torch.Generator().manual_seed(0))
    frames = batch(T=4).values["image"]
    other = frames.clone()
    other[:, 2:] = 255 - other[:, 2:]
    x, y = (f.float() / 255 for f in (frames, other))
    a, b = model._read(x), model._read(y)
    torch.testing.assert_close(a[:, :2], b[:, :2], rtol=0, atol=1e-6)
    assert (a[:, 2:] - b[:, 2:]).abs().max() > 1e-2
    latent = torch.randn(3, 4, 9, model.quantizer.width)
    changed = latent.clone()
    changed[:, 2:] += 1
    a, b = model._paint(latent), model._paint(changed)
    torch.testing.assert_close(a[:, :2], b[:, :2], rtol=0, atol=1e-6)
    assert (a[:, 3] - b[:, 3]).abs().max() > 1e-3


def test_the_space_time_trunk_remembers_what_it_saw():
    model = build("st_vit").eval()
    x = batch(T=4).values["image"].float() / 255
    other = x.clone()
    other[:, 0] = 1 - other[:, 0]
    assert (model._read(x)[:, 3] - model._read(other)[:, 3]).abs().max() > 1e-4
    # As a codec sees frames: each alone, whatever stands beside it.
    frames = batch(T=4).values["image"]
    assert torch.equal(model.encode(frames), model.encode(frames.flip(1)).flip(1))
    assert model.encode(frames, video=True).shape == model.encode(frames).shape


def test_what_moves_counts_more_and_padding_for_nothing():
    model = build(motion=9.0)
    still = torch.full((1, 4, 144), 100, dtype=torch.uint8)
    still[0, 1, 5] = 200  # A ball, in one frame at one place and in the next at another.
    still[0, 2, 6] = 200
    still[0, 2, 80] = 104  # Noise.
    still[0, 3] = 255  # Another episode's frame, as padding is.
    data = StreamBatch({"image": still}, torch.arange(4)[None], torch.tensor([3]))
    weights = model._weights(data)[0]
    assert weights[3].eq(0).all()
    moved = [set((weights[t] == 10).nonzero()[:, 0].tolist()) for t in range(3)]
    assert moved == [{5}, {5, 6}, {5, 6}]
    assert weights[:3].sum() == 3 * 144 + 9 * 5
    assert build()._weights(data).sum() == 3 * 144


def test_errors_are_what_they_are_called():
    data = batch()
    x = data.values["image"].float() / 255
    found = {}
    for error in ("l1", "l2", "l1+l2"):
        model = build(error=error).eval()
        off = model._paint(model.quantizer(model._read(x)).vectors) - x
        found[error] = off, model(data).terms["reconstruction"][0]
    off = found["l1"][0]
    for error, want in {"l1": off.abs(), "l2": off**2, "l1+l2": off.abs() + off**2}.items():
        torch.testing.assert_close(found[error][1], want)


@pytest.mark.parametrize(("trunk", "quantizer"), BUILDS)
def test_saved_and_loaded_it_gives_the_same_codes(trunk, quantizer, tmp_path):
    model = build(trunk, quantizer, cosine=True).train()
    for seed in range(3):
        model(batch(seed=seed))
    model.eval().save_pretrained(tmp_path)
    again = Model.from_pretrained(tmp_path)
    assert list(again.state_dict()) == list(model.state_dict())
    assert all(torch.equal(t, model.state_dict()[n]) for n, t in again.state_dict().items())
    frames = batch(seed=9).values["image"]
    codes = model.encode(frames)
    assert quantizer == "fsq" or len(codes.unique()) > 1
    assert torch.equal(again.encode(frames), codes)
    assert torch.equal(again.decode(codes), model.decode(codes))
    with torch.device("meta"):
        empty = Model(model.config)
    assert {n for n, _ in empty.named_buffers()} <= set(empty.state_dict()), "a buffer that no file would fill"


def test_looking_does_not_stop_codes_from_moving():
    model = build().train()
    model(batch())
    model.encode(batch().values["image"])
    before = model.quantizer.table.clone()
    model(batch(seed=1))
    assert not torch.equal(model.quantizer.table, before)


def test_strides_follow_from_the_sides():
    assert factors(84) == [2, 2, 3, 7]
    assert strides((84, 84), (7, 7)) == [(2, 2), (2, 2), (3, 3)]
    assert strides((64, 64), (4, 4)) == [(2, 2)] * 4
    assert strides((210, 160), (7, 5)) == [(2, 2), (3, 2), (5, 2), (1, 2), (1, 2)]
    model = build(shape=(84, 84, 1), grid=4, layers=0)
    assert model.encode(torch.zeros(2, 7056, dtype=torch.uint8)).shape == (2, 16)


@pytest.mark.parametrize(
    ("shape", "settings", "said"),
    [
        ((84, 84, 1), {"grid": 5}, "5x5 places do not fit a frame of 84x84 pixels; these do: 1, 2, 3, 4, 6, 7, 12, 14"),
        ((84, 84, 1), {"grid": 84}, "do not fit"),
        ((64, 48, 3), {"grid": 5}, "down and .* across"),
        ((64, 64, 3), {"grid": 5, "trunk": "st_vit"}, "5x5 patches do not tile"),
        ((22, 22, 1), {"grid": 2}, "these do: 11"),
        ((12, 12, 1), {"grid": 0}, "model.grid"),
        ((12, 12, 1), {"grid": [3, 3, 3]}, "model.grid"),
        ((12, 12, 1), {"grid": True}, "model.grid"),
        ((12, 12, 1), {"codes": 1}, "model.codes"),
        ((12, 12, 1), {"levels": [8, 2]}, "model.levels"),
        ((12, 12, 1), {"levels": []}, "model.levels"),
        ((12, 12, 1), {"decay": 1.0}, "model.decay"),
        ((12, 12, 1), {"motion": -1.0}, "model.motion"),
        ((12, 12, 1), {"trunk": "vit"}, "did you mean 'st_vit'"),
        ((12, 12, 1), {"heads": 3, "trunk": "st_vit"}, "no multiple of heads"),
        ((12, 12, 1), {"quantizer": "fsq", "losses": list(LOSSES)}, "quantizer 'fsq' answers reconstruction"),
        ((12, 12, 1), {"losses": ["reconstruction"]}, "answers reconstruction and commitment"),
        ((12, 12, 1), {"field": "own", "trunk": "st_vit"}, "own is for the conv trunk"),
        ((12, 12, 1), {"nonsense": 1}, "unknown setting"),
    ],
)
def test_what_does_not_fit_is_named(shape, settings, said):
    with pytest.raises(RecipeError, match=said):
        build(shape=shape, **settings)


def test_motion_needs_a_frame_to_compare_with():
    with pytest.raises(RecipeError, match="tokens.context to 2"):
        build(T=1, motion=1.0)


def test_data_without_pictures_are_refused():
    with pytest.raises(RecipeError, match="slot 'image' of pictures.*layout is 'state'"):
        Config.for_ports(Ports("state", {"state": 3}, {"state": 0}, {"state": False}), 4)
    with pytest.raises(RecipeError, match="without ports"):
        Config().plan()


def test_the_kind_says_its_losses_without_being_imported():
    assert kinds.own_losses("encoders.vqvae") == LOSSES
    assert kinds.settings("encoders.vqvae")["grid"][1] == 4


@pytest.mark.parametrize(("field", "touched"), [("own", {4}), ("wide", {0, 1, 2, 3, 4, 5, 6, 7, 8})])
def test_a_place_sees_its_own_pixels_or_those_around_too(field, touched):
    model = build(field=field).eval()
    one, other = (torch.zeros(1, 1, 12, 12, 1) for _ in range(2))
    # The middle of the middle place, for nine places of four pixels a side.
    other[:, :, 5:7, 5:7] = 1.0
    with torch.no_grad():
        moved = (model.trunk.encode(one) != model.trunk.encode(other)).any(-1).flatten()
    assert set(moved.nonzero().flatten().tolist()) == touched
