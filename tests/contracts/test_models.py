"""Every model kind on disk keeps the contract; a new file in policies, worlds or encoders is tested the day it is added."""

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

ROOMS = ("policies", "worlds", "encoders")
# Those that read packed rows have tests of their own.
KINDS = [k for room in ROOMS for name in kinds.names(room) if not kinds.reads_packed(k := f"{room}.{name}")]
POLICIES = [kind for kind in KINDS if kind.startswith("policies.")]
SHAPES = {
    "vectors": ({"return": 1, "state": 5, "action": 3}, {}),
    "choices": ({"return": 1, "state": 2, "action": 2}, {"state": 6, "action": 4}),
}
both = pytest.mark.parametrize("shape", SHAPES)


def ports(shape, layout="return state action"):
    widths, vocabs = SHAPES[shape]
    names = Layout.parse(layout).names
    return Ports(layout, {n: widths[n] for n in names}, {n: vocabs.get(n, 0) for n in names}, {n: n == "action" for n in names})


def rows(of, T, B=4, seed=0):
    g = torch.Generator().manual_seed(seed)
    values = {
        n: torch.randint(of.vocabs[n], (B, T, w), generator=g) if of.vocabs[n] else torch.rand(B, T, w, generator=g) * 2 - 1
        for n, w in of.widths.items()
    }
    return StreamBatch(values, torch.arange(T).expand(B, T), torch.arange(B) % T + 1)


def tiny(kind, shape):
    """A tiny model in evaluation mode and a batch that fits it, its context long."""
    module, of = kinds.load(kind), ports(shape)
    torch.manual_seed(0)
    config = module.Config.tiny(of)
    return module.Model(config).eval(), rows(of, config.context_length)


def test_there_are_kinds():
    assert {"policies.decision", "policies.clone"} <= set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
@both
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


@pytest.mark.parametrize("kind", KINDS)
def test_a_few_steps_of_training_lower_the_loss(kind):
    model, batch = tiny(kind, "choices")
    optim = torch.optim.AdamW(model.train().parameters(), 3e-3)
    seen = []
    for _ in range(40):
        loss = sum(total / count for total, count in model(batch).sums().values())
        optim.zero_grad()
        loss.backward()
        optim.step()
        seen.append(loss.item())
    assert seen[-1] < 0.9 * seen[0]


@pytest.mark.parametrize("kind", KINDS)
@both
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


@pytest.mark.parametrize("kind", KINDS)
def test_built_on_the_meta_device_it_needs_its_weights_alone(kind, tmp_path):
    """What a model computes with is in its file: nothing that only ``__init__`` would fill."""
    model, batch = tiny(kind, "vectors")
    model.save_pretrained(tmp_path)
    module = kinds.load(kind)
    with torch.device("meta"):
        empty = module.Model(module.Config.from_pretrained(tmp_path))
    assert not [n for n, _ in empty.named_buffers()], "a buffer must be re-created in _init_weights; better have none"
    empty.load_state_dict(load_file(tmp_path / "model.safetensors"), assign=True)
    a, b = (m.eval()(batch).terms for m in (model, empty))
    assert all(torch.equal(a[n][0], b[n][0]) for n in a)


@pytest.mark.parametrize("kind", KINDS)
def test_settings_can_be_read_without_importing(kind):
    module, found = kinds.load(kind), kinds.settings(kind)
    assert {"ports", "context_length"} <= set(found)
    assert issubclass(module.Config, PreTrainedConfig)
    config = module.Config.for_ports(ports("vectors"), 7)
    assert config.context_length == 7
    for name, (_, default) in found.items():
        if name not in ("ports", "context_length"):
            value = getattr(config, name)
            assert value == (list(default) if isinstance(default, tuple) else default), name
    with pytest.raises(RecipeError, match="unknown setting"):
        module.Config.for_ports(ports("vectors"), 7, nonsense=1)


@pytest.mark.parametrize("kind", POLICIES)
@both
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


@pytest.mark.parametrize("kind", POLICIES)
@both
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
