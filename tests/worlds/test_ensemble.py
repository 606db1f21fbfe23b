"""The ensemble: it learns a small world, its members differ where there were no data, and a plan made in it is a good one."""

import numpy as np
import pytest
import torch

from seqrl.core.contracts import Ports
from seqrl.core.errors import RecipeError
from seqrl.core.stream import StreamBatch
from seqrl.nn.members import bootstrap
from seqrl.rollout.objectives import Return
from seqrl.rollout.plan import PlanConfig, Planner
from seqrl.rollout.sequences import Numbers
from seqrl.worlds.ensemble import Config, Ensemble


def ports(layout="state action > reward done", **changes):
    names = layout.replace(">", "").split()
    known = {"state": 2, "action": 1, "reward": 1, "done": 1, "mode": 1, "image": 12}
    vocabs = {"done": 2, "mode": 3}
    fields = {
        "layout": layout,
        "widths": {n: known[n] for n in names},
        "vocabs": {n: vocabs.get(n, 0) for n in names},
        "bounded": {n: n == "action" for n in names},
        "levels": {"reward": [1.0, 3.0]},
    }
    return Ports(**{**fields, **changes})


def world(**settings):
    torch.manual_seed(0)
    return Ensemble(Config.for_ports(ports(), 4, **{"members": 3, "width": 32, **settings}))


def lived(B, T=4, seed=0):
    """A point that is pushed: ``state' = state + (0.1 speed, 0.2 action)``, reward minus the place, done beyond 1."""
    g = torch.Generator().manual_seed(seed)
    states, actions = [torch.rand(B, 2, generator=g) * 2 - 1], torch.rand(B, T + 1, 1, generator=g) * 2 - 1
    for t in range(T):
        s = states[-1]
        states.append(torch.stack((s[:, 0] + 0.1 * s[:, 1], s[:, 1] + 0.2 * actions[:, t, 0]), 1))
    state = torch.stack(states, 1)
    after = torch.cat((state[:, 1:], state[:, -1:]), 1)
    values = {"state": state, "action": actions, "reward": -after[..., :1], "done": (after[..., :1] > 1).long()}
    return StreamBatch(values, torch.arange(T + 1).expand(B, -1), torch.full((B,), T))


def trained(steps=300, **settings):
    model = world(**settings).train()
    optim = torch.optim.Adam(model.parameters(), 3e-3)
    for i in range(steps):
        loss = sum(total / count for total, count in model(lived(64, seed=i % 20)).sums().values())
        optim.zero_grad()
        loss.backward()
        optim.step()
    return model.eval()


@pytest.fixture(scope="module")
def learned():
    return trained()


def test_it_learns_a_world_and_knows_where_it_does_not(learned):
    batch = lived(200, seed=100)
    z = learned.encode(batch.values)
    carry, feat = learned.observe(learned.init(200, 4), z[:, :1], batch.values["action"][:, :1])
    assert torch.equal(feat[:, 0], z[:, 0])
    with torch.no_grad():
        for t in range(4):
            carry, pred = learned.step(carry, batch.values["action"][:, t], sample=False)
            assert (pred.latent - z[:, t + 1]).pow(2).mean().sqrt() < 0.05
            # Encoded rewards of 0 and 1 mean 1 and 3.
            assert (pred.reward - (1 + 2 * batch.values["reward"][:, t, 0])).abs().mean() < 0.1
            assert ((pred.cont < 0.5) == (batch.values["done"][:, t, 0] == 1)).float().mean() > 0.95
        known = learned.step(carry._replace(state=z[:, 0]), batch.values["action"][:, 0], sample=False)[1]
        strange = learned.step(carry._replace(state=z[:, 0] * 10), batch.values["action"][:, 0], sample=False)[1]
    assert strange.aux["disagreement"].mean() > 5 * known.aux["disagreement"].mean()
    for name, (said, truth, mask) in learned.predictions(batch).items():
        assert said.shape == truth.shape == (*mask.shape, batch.values[name].shape[-1])
        assert (said - truth).abs().mean() < 0.1, name


def test_a_plan_in_what_was_learned_is_good_in_the_world(learned):
    plan = Planner(PlanConfig(horizon=8, candidates=100, iterations=3), learned, Numbers(1))
    begin = torch.tensor([[0.5, 0.5], [-0.5, 0.0]])
    with torch.no_grad():
        carry = learned.init(2, 8)._replace(state=begin)
        actions, _ = plan(carry, plan.begin(2), Return(1.0), np.arange(2, dtype=np.uint64))
    # The reward is minus the place: the best is to push down as long as a push still counts.
    assert (actions[:, :3] < -0.75).all()


def test_members_resample_the_data_and_always_the_same_way():
    x = torch.randn(20000, 3)
    weight = bootstrap(x, 3)
    assert weight.mean(1).tolist() == pytest.approx([1, 1, 1], abs=0.03)
    assert weight.var(1).tolist() == pytest.approx([1, 1, 1], abs=0.06)
    assert (torch.corrcoef(weight) - torch.eye(3)).abs().max() < 0.03
    order = torch.randperm(len(x))
    assert torch.equal(bootstrap(x[order], 3), weight[:, order])
    batch = lived(8)
    plain = world(bootstrap=False).train()(batch).terms["state"][0]
    assert torch.equal(world().eval()(batch).terms["state"][0], plain)
    assert not torch.equal(world().train()(batch).terms["state"][0], plain)


def test_who_follows_a_member_goes_where_it_says():
    model = world(propagate="member").eval()
    carry = model.share(model.init(1, 1)._replace(state=torch.tensor([[0.3, -0.2]])), 6, 1)
    assert carry.member.tolist() == [0, 1, 2, 0, 1, 2]
    action = torch.full((6, 1), 0.5)
    one, mean = (model.step(carry, action, sample=sample)[1] for sample in (True, False))
    torch.testing.assert_close(one.latent[:3], one.latent[3:])
    torch.testing.assert_close(one.latent[:3].mean(0), mean.latent[0])
    torch.testing.assert_close(one.latent[:3].std(0, correction=0).mean(), one.aux["disagreement"][0])
    assert not torch.allclose(one.latent[0], one.latent[1])


def test_noise_is_learned_where_it_is_asked_for():
    model = world(noise="gaussian").train()
    optim = torch.optim.Adam(model.parameters(), 3e-3)
    g = torch.Generator().manual_seed(0)
    for _ in range(300):
        state = torch.rand(256, 2, 2, generator=g)
        state[:, 1] = state[:, 0] + torch.tensor([0.3, 0.05]) * torch.randn(256, 2, generator=g)
        values = {**lived(256, 1).values, "state": state}
        loss = sum(
            t / c for t, c in model(StreamBatch(values, torch.arange(2).expand(256, 2), torch.ones(256).long())).sums().values()
        )
        optim.zero_grad()
        loss.backward()
        optim.step()
    model.eval()
    carry = model.init(4000, 1)._replace(state=torch.full((4000, 2), 0.5))
    with torch.no_grad():
        torch.manual_seed(1)
        drawn = model.step(carry, torch.zeros(4000, 1))[1].latent
        still = model.step(carry, torch.zeros(4000, 1), sample=False)[1].latent
    assert drawn.std(0).tolist() == pytest.approx([0.3, 0.05], rel=0.2)
    assert still.std(0).max() < 1e-5


def test_choices_are_foreseen_as_choices():
    torch.manual_seed(0)
    model = Ensemble(Config.for_ports(ports("mode state action > reward"), 2, members=2, width=16)).train()
    assert model.losses == ("mode", "state", "reward")
    optim = torch.optim.Adam(model.parameters(), 1e-2)
    mode = torch.randint(3, (128, 1, 1))
    plain = lived(128, 1).values
    values = {"mode": torch.cat((mode, (mode + 1) % 3), 1), **{n: plain[n] for n in ("state", "action", "reward")}}
    batch = StreamBatch(values, torch.arange(2).expand(128, 2), torch.ones(128).long())
    for _ in range(150):
        loss = sum(t / c for t, c in model(batch).sums().values())
        optim.zero_grad()
        loss.backward()
        optim.step()
    model.eval()
    carry, _ = model.observe(model.init(128, 1), model.encode(values)[:, :1], values["action"][:, :1])
    _, pred = model.step(carry, values["action"][:, 0])
    assert (model.decode(pred.latent)["mode"] == values["mode"][:, 1]).float().mean() > 0.95
    assert (pred.cont == 1).all(), "without 'done' in the layout nothing ends"


def test_mistakes_are_named():
    with pytest.raises(RecipeError, match="'image' is a picture"):
        Config.for_ports(ports("image action > reward", images={"image": {"shape": [2, 2, 3]}}), 4)
    with pytest.raises(RecipeError, match="answers 'reward'"):
        Ensemble(Config.for_ports(ports("state action > done", levels={}), 4))
    with pytest.raises(RecipeError, match="members"):
        Config.for_ports(ports(), 4, members=1)
    with pytest.raises(RecipeError, match="propagate"):
        Config.for_ports(ports(), 4, propagate="all")


def test_members_that_agree_still_give_a_gradient():
    torch.manual_seed(0)
    model = Ensemble(Config.tiny(ports())).eval()
    for name, p in model.named_parameters():
        with torch.no_grad():
            p.zero_() if "weight" in name else None
    action = torch.zeros(4, 1, requires_grad=True)
    _, pred = model.step(model.init(4, 1), action)
    assert float(pred.aux["disagreement"].detach().max()) < 1e-5
    pred.aux["disagreement"].sum().backward()
    assert action.grad.isfinite().all()
