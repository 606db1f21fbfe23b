"""An actor-critic in a small recurrent world: what it acts on, what it draws, and that the world is only looked at."""

import math

import pytest
import torch

from seqrl import bundle
from seqrl.core import kinds
from seqrl.core.contracts import Policy, Ports
from seqrl.core.errors import RecipeError
from seqrl.core.stream import StreamBatch
from seqrl.nn.heads import gaussian_log_density
from seqrl.policies._actor import Choices, Numbers
from seqrl.policies.actor_critic import ActorCritic, ActorCriticConfig

KIND = "policies.actor_critic"
LAYOUT = "state action > reward done"


def make_ports(choices, bounded=True, levels=(0.0, 1.0)):
    widths = {"state": 3, "action": 2, "reward": 1, "done": 1}
    vocabs = {"state": 0, "action": 4 if choices else 0, "reward": 0, "done": 2}
    return Ports(LAYOUT, widths, vocabs, {n: n == "action" and bounded for n in widths}, levels={"reward": list(levels)})


def windows(ports, B=4, T=6, seed=0, length=None):
    g = torch.Generator().manual_seed(seed)
    values = {"state": torch.randn(B, T + 1, 3, generator=g), "reward": torch.rand(B, T + 1, 1, generator=g)}
    values["done"] = torch.zeros(B, T + 1, 1, dtype=torch.int64)
    if ports.vocabs["action"]:
        values["action"] = torch.randint(4, (B, T + 1, 2), generator=g)
    else:
        values["action"] = torch.rand(B, T + 1, 2, generator=g) * 2 - 1
    return StreamBatch(values, torch.arange(T + 1).expand(B, -1), torch.tensor(length or [T] * B))


@pytest.fixture(params=["choices", "numbers"])
def made(request):
    torch.manual_seed(0)
    ports = make_ports(request.param == "choices")
    return ActorCritic(ActorCriticConfig.tiny(ports)).eval(), windows(ports)


def step_of(batch, t, begun=True):
    """What an agent feeds at step ``t``: the step, and the action before it; nonsense in rows that begin."""
    before = batch.values["action"][:, max(t - 1, 0), None]
    nonsense = torch.full_like(before, -7 if before.dtype == torch.int64 else float("nan"))
    values = {n: v[:, t, None] for n, v in batch.values.items()} | {"action": before if begun else nonsense}
    return StreamBatch(values, batch.time[:, t, None], torch.ones_like(batch.length))


def test_it_is_a_policy(made):
    model, batch = made
    assert isinstance(model, Policy)
    assert tuple(model(batch).terms) == model.losses
    assert {n: int(c) for n, c in model.counts(batch).items()} == {"anchor": 24, "replay": 24}


def test_cached_play_equals_exact_play(made):
    model, batch = made
    T, one = 6, torch.ones(4, dtype=torch.int64)
    cache = model.init_cache(4, T)
    assert not cache.fills
    for t in range(T):
        got = model.act(step_of(batch, t, begun=t > 0), cache)["action"]
        exact = model.act(StreamBatch(batch.values, batch.time, one * (t + 1)))["action"]
        torch.testing.assert_close(got, exact, rtol=0, atol=1e-6)
        assert cache.steps.tolist() == [t + 1] * 4


KINDS = [f"worlds.{n}" for n in kinds.names("worlds") if kinds.looks_ahead(f"worlds.{n}")]


@pytest.mark.parametrize("kind", KINDS)
def test_any_world_of_windows_can_be_lived_in(kind, tmp_path):
    torch.manual_seed(0)
    ports = make_ports(False)
    own = kinds.load(kind).Config.tiny(ports)
    world = {"kind": kind, "config": {n: getattr(own, n) for n in kinds.settings(kind)}}
    model = ActorCritic(ActorCriticConfig.for_ports(ports, own.context_length, world=world, width=16, layers=1)).eval()
    T, one = min(own.context_length, 6), torch.ones(4, dtype=torch.int64)
    batch, cache = windows(ports, T=T), model.init_cache(4, T)
    for t in range(T):
        got = model.act(step_of(batch, t, begun=t > 0), cache)["action"]
        exact = model.act(StreamBatch(batch.values, batch.time, one * (t + 1)))["action"]
        torch.testing.assert_close(got, exact, rtol=0, atol=1e-5)
    # What it is, world included, is in its file: built without memory it needs nothing else.
    bundle.save(tmp_path, model, Nameless(), f"model: {{kind: {KIND}}}", {})
    again = bundle.load_model(tmp_path, KIND)
    before, after = model.state_dict(), again.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[n], after[n]) for n in before)
    assert torch.equal(again.act(batch)["action"], model.act(batch)["action"])


class Nameless:
    """Stands where a tokenizer is saved."""

    def save(self, folder):
        pass


def test_rows_begin_anew_and_are_chosen(made):
    model, batch = made
    cache = model.init_cache(4, 6)
    for t in range(3):
        model.act(step_of(batch, t, begun=t > 0), cache)
    cache.reset(torch.tensor([1, 3]))
    some = cache.index(torch.tensor([3, 2, 2]))
    assert some.steps.tolist() == [0, 3, 3]
    rows = torch.tensor([3, 2, 2])
    got = model.act(step_of(batch, 3)[rows], some)["action"]
    fresh = model.act(step_of(batch, 3, begun=False), model.init_cache(4, 6))["action"]
    going = model.act(step_of(batch, 3), cache)["action"]
    torch.testing.assert_close(got, torch.stack([fresh[3], going[2], going[2]]), rtol=0, atol=1e-6)


def test_refilled_rows_have_read_their_windows(made):
    model, batch = made
    cache, part = (
        model.init_cache(4, 6),
        StreamBatch({n: v[:2, :4] for n, v in batch.values.items()}, batch.time[:2, :4], torch.tensor([4, 2])),
    )
    model.act(step_of(batch, 0, begun=False), cache)
    model.refill(part, cache, torch.tensor([2, 0]))
    assert cache.steps.tolist() == [2, 1, 4, 1]
    # Rows 2 and 0 stand where windows 0 and 1 had come to after 4 and 2 steps.
    here = {n: torch.stack([v[1, 2], v[1, 1], v[0, 4], v[3, 1]])[:, None] for n, v in batch.values.items()}
    before = batch.values["action"]
    here["action"] = torch.stack([before[1, 1], before[1, 0], before[0, 3], before[3, 0]])[:, None]
    got = model.act(StreamBatch(here, batch.time[:, :1], torch.ones(4, dtype=torch.int64)), cache)["action"]
    lengths = torch.tensor([5, 3, 1, 1])
    exact = model.act(StreamBatch(batch.values, batch.time, lengths))["action"]
    torch.testing.assert_close(got[[2, 0]], exact[[0, 1]], rtol=0, atol=1e-6)


def test_the_world_is_frozen_and_never_trains(made):
    model, batch = made
    model.train()
    assert model.training
    assert not any(m.training for m in model.world.modules())
    sum((v * m).sum() for v, m in model(batch).terms.values()).backward()
    assert all(p.grad is None for p in model.world.parameters())
    assert all(p.grad is not None for part in model.parts.values() for p in part)
    trained = {id(p) for part in model.parts.values() for p in part}
    assert trained == {id(p) for p in model.parameters() if p.requires_grad}


def test_the_slow_critic_begins_as_the_fast_one(made):
    model, batch = made
    feat = model.features(batch, sample=False)
    assert torch.equal(model.slow(feat), model.values(feat))


def test_real_windows_teach_what_was_done_and_what_it_was_worth():
    torch.manual_seed(0)
    ports = make_ports(True, levels=(1.0, 3.0))
    model = ActorCritic(ActorCriticConfig.tiny(ports))
    batch = windows(ports, length=[6, 2, 6, 1])
    batch.values["done"][1, 1] = 1
    reward, cont = model.rewards(batch)
    assert torch.allclose(reward, 1 + 2 * batch.values["reward"][..., 0])
    assert cont[1].tolist() == [1, 0, 1, 1, 1, 1, 1]
    with torch.no_grad():
        model.slow.head.out.bias[128:].fill_(1.0)
    feat = model.features(batch)
    slow, target = model.slow(feat), torch.zeros(4, 6)
    for b in range(4):
        for t in range(6):
            target[b, t] = reward[b, t] + model.config.discount * float(cont[b, t]) * slow[b, t + 1]
    terms = model.lessons(batch, feat).terms
    assert torch.allclose(terms["replay"][0], model.critic.losses(feat[:, :6], target)[0], atol=1e-5)
    log_p = model.judge(feat[:, :6], batch.values["action"][:, :6])[0]
    assert torch.allclose(terms["anchor"][0], -log_p)
    assert terms["anchor"][1].sum(1).tolist() == [6, 2, 6, 1]


# ---- what an actor says ---------------------------------------------------------------------------------------------


def test_choices_are_judged_as_they_are_drawn():
    torch.manual_seed(0)
    head = Choices(8, 2, 3, 0.1)
    torch.nn.init.normal_(head.out.weight)
    x = torch.randn(1, 8)
    p = head.log_probs(x)[0].exp()
    assert torch.allclose(p.sum(-1), torch.ones(2))
    assert p.min() >= 0.1 / 3
    drawn, told = head.draw(x.expand(40_000, -1))
    assert drawn is told
    for k in range(2):
        assert torch.allclose(torch.bincount(drawn[:, k], minlength=3) / 40_000, p[k], atol=0.01)
    log_p, entropy = head.judge(x.expand(40_000, -1), drawn)
    assert torch.allclose(log_p[0], p[0, drawn[0, 0]].log() + p[1, drawn[0, 1]].log())
    assert torch.allclose(-log_p.mean(), entropy[0], atol=0.02)


def test_the_gradient_of_a_choice_passes_straight_through():
    torch.manual_seed(0)
    head, worth = Choices(4, 2, 3, 0.01), torch.tensor([0.0, 1.0, 3.0])
    x = torch.randn(5, 4)
    codes, told = head.draw(x, through=True)
    assert told.shape == (5, 6)
    assert torch.allclose(told.detach().unflatten(-1, (2, 3)).argmax(-1), codes)
    (told.unflatten(-1, (2, 3)) @ worth).sum().backward()
    straight = head.out.weight.grad.clone()
    head.out.weight.grad = None
    (head.log_probs(x).exp() @ worth).sum().backward()
    assert torch.allclose(straight, head.out.weight.grad, atol=1e-6)


@pytest.mark.parametrize("squash", ["tanh", "clip", None])
def test_numbers_are_judged_as_they_are_drawn(squash):
    torch.manual_seed(0)
    head = Numbers(4, 2, squash, 0.1)
    torch.nn.init.normal_(head.out.weight)
    x = torch.randn(1, 4).expand(20_000, -1)
    mean, std = head.mean_std(x[:1])
    assert (std > 0.1).all()
    drawn, told = head.draw(x)
    assert torch.allclose(drawn.mean(0), mean[0], atol=0.05)
    assert torch.allclose(drawn.std(0), std[0], atol=0.05)
    assert (told.abs() <= 1).all() == (squash is not None)
    log_p, entropy = head.judge(x, drawn)
    density = torch.distributions.Normal(mean, std).log_prob(drawn).sum(-1)
    assert torch.allclose(log_p, density, atol=1e-4)
    if squash == "tanh":
        bent = gaussian_log_density(told, mean, std.log(), True).sum(-1)
        # At the very edge a bent number in float32 does not tell how far out it was drawn.
        inside = told.abs().amax(-1) < 0.999
        assert float(-bent[inside].mean()) == pytest.approx(float(entropy[inside].mean()), abs=0.05)
        assert torch.allclose(head.loss(x, told)[inside], -bent[inside], atol=1e-4)
    else:
        assert float(entropy[0]) == pytest.approx(float((std.log() + 0.5 * math.log(2 * math.pi * math.e)).sum()), abs=1e-5)
        assert torch.allclose(head.loss(x, drawn), -density, atol=1e-4)


def test_draws_for_the_environment_are_functions_of_the_uniform_numbers(made):
    model, batch = made
    u = torch.rand(4, 2)
    a, b = (model.act(batch, sample=True, uniform=u)["action"] for _ in range(2))
    assert torch.equal(a, b)
    assert not torch.equal(a, model.act(batch, sample=True, uniform=1 - u)["action"])
    if a.is_floating_point():
        assert (a.abs() <= 1).all()
        middle = model.act(batch, sample=True, uniform=torch.full((4, 2), 0.5))["action"]
        assert torch.allclose(middle, model.act(batch)["action"], atol=1e-5)


# ---- what is refused ------------------------------------------------------------------------------------------------


def test_without_a_world_there_is_nothing_to_live_in():
    config = ActorCriticConfig.for_ports(make_ports(True), 6)
    with pytest.raises(RecipeError, match="world=runs/rssm_cartpole"):
        ActorCritic(config)


@pytest.mark.parametrize("kind", ["policies.clone", "somebody.else", "worlds.nowhere"])
def test_only_worlds_of_this_house_are_made_from_a_config(kind):
    config = ActorCriticConfig.for_ports(make_ports(True), 6, world={"kind": kind, "config": {}})
    with pytest.raises(RecipeError, match="no world of this house"):
        ActorCritic(config)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"discount": 1.5}, "model.discount"),
        ({"width": 0}, "model.width"),
        ({"wide": 3}, "unknown setting"),
        ({"norm": "x"}, "rms"),
    ],
)
def test_settings_are_checked(settings, said):
    with pytest.raises(RecipeError, match=said):
        ActorCriticConfig.for_ports(make_ports(True), 6, **settings)


def test_its_settings_are_read_without_importing_it():
    found = kinds.settings("policies.actor_critic")
    assert {"world", "discount", "critic", "squash"} <= set(found)
    assert kinds.looks_ahead("policies.actor_critic")
    assert kinds.own_losses("policies.actor_critic") == ("actor", "critic", "anchor", "replay")
