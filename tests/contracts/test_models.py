"""Every model kind on disk that reads windows keeps the contract; a new file is tested the day it is added.

Policies are held to playing as well, encoders just to training. Kinds whose windows look ahead (world models, and what lives in
one) and those that read packed rows or token documents are tested elsewhere.
"""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import PreTrainedConfig, PreTrainedModel

from seqrl.core import kinds
from seqrl.core.contracts import Model, Policy, Ports
from seqrl.core.errors import RecipeError
from seqrl.core.layout import Layout
from seqrl.core.stream import StreamBatch

POLICIES = [f"policies.{n}" for n in kinds.names("policies")]
POLICIES = [k for k in POLICIES if not (kinds.reads_packed(k) or kinds.looks_ahead(k) or kinds.reads_documents(k))]
ENCODERS = [f"encoders.{n}" for n in kinds.names("encoders")]
KINDS = [*POLICIES, *ENCODERS]
IMAGE = {"shape": [8, 8, 3], "size": None, "encoder": "flat"}
# layout, slot -> width, slot -> vocabulary.
SHAPES = {
    "vectors": ("return state action", {"return": 1, "state": 5, "action": 3}, {}),
    "choices": ("return state action", {"return": 1, "state": 2, "action": 2}, {"state": 6, "action": 4}),
    "pictures": ("image", {"image": 8 * 8 * 3}, {}),
}
TAKES = {"policies": ("vectors", "choices"), "encoders": ("pictures",)}
CASES = [(kind, shape) for kind in KINDS for shape in TAKES[kind.partition(".")[0]]]
every = pytest.mark.parametrize(("kind", "shape"), CASES)
acting = pytest.mark.parametrize(("kind", "shape"), [c for c in CASES if c[0] in POLICIES])
once = pytest.mark.parametrize(("kind", "shape"), list(dict(reversed(CASES)).items()))


def ports(shape):
    layout, widths, vocabs = SHAPES[shape]
    names = Layout.parse(layout).names
    return Ports(
        layout,
        widths,
        {n: vocabs.get(n, 0) for n in names},
        {n: n == "action" for n in names},
        images={n: IMAGE for n in names if n == "image"},
    )


def draw(of, slot, *shape, generator):
    if slot in of.images:
        return torch.randint(256, shape, generator=generator).to(torch.uint8)
    if of.vocabs[slot]:
        return torch.randint(of.vocabs[slot], shape, generator=generator)
    return torch.rand(*shape, generator=generator) * 2 - 1


def rows(of, T, B=4, seed=0):
    g = torch.Generator().manual_seed(seed)
    values = {n: draw(of, n, B, T, w, generator=g) for n, w in of.widths.items()}
    return StreamBatch(values, torch.arange(T).expand(B, T), torch.arange(B) % T + 1)


def tiny(kind, shape):
    """A tiny model in evaluation mode and a batch that fits it, its context long."""
    module, of = kinds.load(kind), ports(shape)
    torch.manual_seed(0)
    config = module.Config.tiny(of)
    return module.Model(config).eval(), rows(of, config.context_length)


def test_there_are_kinds():
    assert {"policies.decision", "policies.clone"} <= set(POLICIES)
    assert "encoders.vqvae" in ENCODERS


@every
def test_forward_answers_the_promised_losses(kind, shape):
    model, batch = tiny(kind, shape)
    assert isinstance(model, PreTrainedModel)
    assert isinstance(model, Model)
    losses = model.train()(batch)
    assert tuple(losses.terms) == tuple(model.losses)
    sums = losses.sums()
    assert all(total.isfinite() and count > 0 for total, count in sums.values())
    assert {n: int(c) for n, c in model.counts(batch).items()} == {n: int(c) for n, (_, c) in sums.items()}
    sum(total / count for total, count in sums.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@once
def test_a_few_steps_of_training_lower_the_loss(kind, shape):
    model, batch = tiny(kind, shape)
    optim = torch.optim.AdamW(model.train().parameters(), 3e-3)
    seen = []
    for _ in range(40):
        loss = sum(total / count for total, count in model(batch).sums().values())
        optim.zero_grad()
        loss.backward()
        optim.step()
        seen.append(loss.item())
    assert seen[-1] < 0.9 * seen[0]


@every
def test_saved_and_loaded_bit_for_bit(kind, shape, tmp_path):
    model, batch = tiny(kind, shape)
    model.save_pretrained(tmp_path)
    module = kinds.load(kind)
    again = module.Model.from_pretrained(tmp_path)
    assert not again.training
    before, after = model.state_dict(), again.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[n], after[n]) for n in before)
    a, b = (m(batch).terms for m in (model, again))
    assert all(torch.equal(a[n][0], b[n][0]) for n in a)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"].startswith("seqrl_")


@once
def test_built_on_the_meta_device_it_needs_its_weights_alone(kind, shape, tmp_path):
    """What a model computes with is in its file: nothing that only ``__init__`` would fill."""
    model, batch = tiny(kind, shape)
    model.save_pretrained(tmp_path)
    module = kinds.load(kind)
    with torch.device("meta"):
        empty = module.Model(module.Config.from_pretrained(tmp_path))
    kept = load_file(tmp_path / "model.safetensors")
    assert {n for n, _ in empty.named_buffers()} <= set(kept), "a buffer is not in the file; nobody would fill it again"
    empty.load_state_dict(kept, assign=True)
    a, b = (m.eval()(batch).terms for m in (model, empty))
    assert all(torch.equal(a[n][0], b[n][0]) for n in a)


@once
def test_settings_can_be_read_without_importing(kind, shape):
    module, found = kinds.load(kind), kinds.settings(kind)
    assert {"ports", "context_length"} <= set(found)
    assert issubclass(module.Config, PreTrainedConfig)
    # Of the defaults, those of an encoder are for larger pictures than the tests' own.
    config = module.Config.for_ports(ports(shape), 7)
    assert config.context_length == 7
    for name, (_, default) in found.items():
        if name not in ("ports", "context_length"):
            value = getattr(config, name)
            assert value == (list(default) if isinstance(default, tuple) else default), name
    with pytest.raises(RecipeError, match="unknown setting"):
        module.Config.for_ports(ports(shape), 7, nonsense=1)


@acting
def test_acts_in_the_right_shape_and_repeatably(kind, shape):
    model, batch = tiny(kind, shape)
    assert isinstance(model, Policy)
    action = model.act(batch)["action"]
    expected = batch.values["action"]
    assert action.shape == (4, expected.shape[-1])
    assert action.dtype == expected.dtype
    uniform = torch.rand(action.shape)
    drawn = [model.act(batch, sample=True, uniform=uniform)["action"] for _ in range(2)]
    assert torch.equal(*drawn)
    if shape == "choices":
        assert (drawn[0] >= 0).all()
        assert (drawn[0] < 4).all()


@acting
def test_cached_play_equals_exact_play(kind, shape):
    model, batch = tiny(kind, shape)
    T = batch.time.shape[1]
    cache = model.init_cache(4, T)
    one = torch.ones(4, dtype=torch.int64)
    for t in range(T):
        step = {n: v[:, t : t + 1] for n, v in batch.values.items()} | {
            "action": batch.values["action"][:, max(t - 1, 0), None]
        }
        got = model.act(StreamBatch(step, batch.time[:, t : t + 1], one), cache)["action"]
        exact = model.act(StreamBatch(batch.values, batch.time, one * (t + 1)))["action"]
        torch.testing.assert_close(got, exact, rtol=0, atol=1e-5)
        assert cache.steps.tolist() == [t + 1] * 4
    half = StreamBatch({n: v[:2, T // 2 :] for n, v in batch.values.items()}, batch.time[:2, T // 2 :], one[:2] * (T - T // 2))
    model.refill(half, cache, torch.tensor([2, 0]))
    cache.reset(torch.tensor([1]))
    assert cache.steps.tolist() == [T - T // 2, 0, T - T // 2, T]
    assert cache.index(torch.tensor([3, 3, 1])).steps.tolist() == [T, T, 0]
