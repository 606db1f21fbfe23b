"""The RSSM: what may look at what, which observation tells an outcome, and that living in it equals being trained in it."""

import pytest
import torch

from seqrl.core import tree
from seqrl.core.contracts import Ports, WorldModel
from seqrl.core.errors import RecipeError
from seqrl.core.stream import StreamBatch
from seqrl.rollout.imagine import imagine
from seqrl.worlds._members import Members
from seqrl.worlds.rssm import PRESETS, Config, Model

T, B = 6, 5
LENGTHS = [6, 5, 1, 3, 6]
presets = pytest.mark.parametrize("preset", PRESETS)


def ports(layout="state room action > reward done", discrete=True, levels=(0.0, 1.0)):
    names = layout.replace(">", "").split()
    widths = {"state": 3, "room": 1, "action": 1 if discrete else 2, "reward": 1, "done": 1, "return": 1}
    vocabs = {"room": 4, "action": 3 if discrete else 0, "done": 2}
    rewards = {"reward": list(levels)} if "reward" in names else {}
    slots = {n: widths[n] for n in names}
    return Ports(layout, slots, {n: vocabs.get(n, 0) for n in names}, dict.fromkeys(names, False), levels=rewards)


def batch(of, seed=0, steps=T, lengths=LENGTHS):
    g = torch.Generator().manual_seed(seed)
    values = {
        n: torch.randint(of.vocabs[n], (len(lengths), steps + 1, w), generator=g)
        if of.vocabs[n]
        else torch.randn(len(lengths), steps + 1, w, generator=g)
        for n, w in of.widths.items()
    }
    return StreamBatch(values, torch.arange(steps + 1).expand(len(lengths), -1), torch.tensor(lengths))


def world(of=None, **settings):
    torch.manual_seed(0)
    model = Model(Config.tiny(of or ports(), **settings)).eval()
    with torch.no_grad():
        for head in model.outcomes.values():
            # Heads begin by knowing nothing, whatever they read; here they must tell one reading from another.
            for p in head.parameters():
                p.normal_(std=0.3)
    return model


def read(model, data, seed=7):
    """Features and parameters of the posteriors, side by side, the draws always the same."""
    torch.manual_seed(seed)
    return torch.cat(model._read(data.values)[1:], -1)


def losses(model, data, seed=3):
    torch.manual_seed(seed)
    return model(data).terms


def changed(data, slot, *places):
    """A batch that differs in some (row, step)s of a slot."""
    values = dict(data.values, **{slot: data.values[slot].clone()})
    for row, step in places:
        old = values[slot][row, step]
        values[slot][row, step] = (old + 1) % 2 if slot == "done" else (old + 1) % 3 if old.dtype == torch.int64 else old + 1
    return StreamBatch(values, data.time, data.length)


@presets
@pytest.mark.parametrize("discrete", [True, False])
def test_every_preset_trains_all_it_has(preset, discrete):
    of = ports(discrete=discrete)
    model, data = world(of, preset=preset, ensemble=2), batch(of)
    assert isinstance(model, WorldModel)
    sums = model.train()(data).sums()
    divergence = ("dyn", "rep") if preset == "v3" else ("kl",)
    assert tuple(sums) == model.losses == ("state", "room", "reward", "done", *divergence, "ensemble")
    seen, acted = sum(LENGTHS) + B, sum(LENGTHS)
    want = {n: acted if n in ("reward", "done", "ensemble") else seen for n in sums}
    assert {n: int(c) for n, (_, c) in sums.items()} == want
    assert {n: int(c) for n, c in model.counts(data).items()} == want
    sum(total / count for total, count in sums.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@presets
def test_living_in_it_is_being_trained_in_it(preset):
    """``observe`` walks the posteriors that ``forward`` trains, in one go or in two."""
    model, data = world(preset=preset), batch(ports())
    z, actions = model.encode(data.values), data.values["action"]
    before = torch.cat((torch.full_like(actions[:, :1], 2), actions[:, :-1]), 1)
    torch.manual_seed(7)
    trained = model._read(data.values)[1]
    torch.manual_seed(7)
    carry, whole = model.observe(model.init(B, T + 1), z, before)
    torch.testing.assert_close(whole, trained, rtol=0, atol=1e-6)
    torch.manual_seed(7)
    later, first = model.observe(model.init(B, T + 1), z[:, :T], before[:, :T])
    later, last = model.observe(later, z[:, T:], before[:, T:])
    torch.testing.assert_close(torch.cat((first, last), 1), whole, rtol=0, atol=1e-6)
    torch.testing.assert_close(later.h, carry.h, rtol=0, atol=1e-6)
    assert whole.shape == (B, T + 1, model.feat_width)


def test_the_action_in_front_of_the_first_step_is_not_looked_at():
    model, data = world(), batch(ports())
    z, a = model.encode(data.values)[:, :1], data.values["action"][:, :1]
    carry = model.init(B, 4)
    assert not carry.begun.any()
    assert all((leaf == 0).all() for leaf in carry)
    # Two of the rows have begun, and the others come new: the one place where both stand in one batch.
    begun, _ = model.observe(model.init(B, 4), z, a)
    old = torch.tensor([True, False, True, False, False])
    mixed, feats = tree.where(old, begun, carry), []
    for action in (a, (a + 1) % 3):
        torch.manual_seed(1)
        feats.append(model.observe(mixed, z, action)[1][:, 0])
    assert ((feats[0] - feats[1]).abs().amax(-1) > 1e-6).tolist() == old.tolist()
    assert begun.begun.all()


def test_without_a_draw_it_sees_the_same_twice():
    model, data = world(), batch(ports())
    z = model.encode(data.values)
    a, b = (model.observe(model.init(B, 0), z, data.values["action"], sample=False)[1] for _ in range(2))
    assert torch.equal(a, b)


@presets
def test_the_future_is_not_seen(preset):
    model, data = world(preset=preset), batch(ports())
    base = read(model, data)
    for slot, first in (("state", 3), ("room", 3), ("action", 4), ("reward", T + 1), ("done", T + 1)):
        moved = (read(model, changed(data, slot, (0, 3))) - base).abs().amax(-1) > 1e-6
        assert not moved[1:].any()
        assert not moved[0, :first].any()
        assert moved[0, first:].any() == (first <= T), slot


def test_padding_moves_no_loss():
    model, data = world(preset="v1", ensemble=2), batch(ports())
    padded = {n: [(1, 6), (2, 2), (2, 6), (3, 4), (3, 5)] for n in ("state", "room")}
    # Behind the last observation nothing counts; in the step that holds it, nothing but what is seen.
    padded |= {n: [*padded["state"], (1, 5), (2, 1), (3, 3), (0, 6)] for n in ("action", "reward", "done")}
    other = data
    for slot, places in padded.items():
        other = changed(other, slot, *places)
    for name, (value, mask) in losses(model, data).items():
        theirs, _ = losses(model, other)[name]
        torch.testing.assert_close((value * mask).sum(), (theirs * mask).sum(), rtol=1e-6, atol=0)


def test_an_outcome_is_told_from_where_the_action_led():
    """The terminal observation is behind the last action: reward and end of that action are learned from it."""
    model, data = world(preset="v1"), batch(ports())
    base = losses(model, data)
    for row, length in enumerate(LENGTHS):
        other = losses(model, changed(data, "state", (row, length)))
        for name in ("reward", "done"):
            moved = ((other[name][0] - base[name][0]).abs() > 1e-7) & base[name][1]
            assert moved[row, length - 1], "the last action's outcome does not see the last observation"
            assert not moved[row, : length - 1].any()


def test_rewards_and_ends_are_read_at_their_own_step():
    model, data = world(), batch(ports())
    base = losses(model, data)
    for name in ("reward", "done"):
        other = losses(model, changed(data, name, (0, 2)))
        moved = (other[name][0] - base[name][0]).abs() > 1e-7
        assert moved[0].tolist() == [False, False, True, False, False, False]
        assert all(torch.equal(other[n][0], base[n][0]) for n in base if n != name)


def test_a_dream_is_the_prior_s_and_speaks_in_units():
    """``step`` says of the imagined next step what training would say of it, reward in its own units."""
    model, data = world(ports(levels=(-1.0, 3.0))), batch(ports())
    carry, feat = model.observe(model.init(B, 0), model.encode(data.values), data.values["action"])
    action = data.values["action"][:, 0]
    kept = tree.clone(carry)
    after, pred = model.step(carry, action, sample=False)
    h = model.core.cell(kept.h, kept.s, model.core.cell.given(model.action(action)))
    s = model.latents.draw(model.core.prior(h), sample=False)
    torch.testing.assert_close(pred.feat, torch.cat((h, s), -1))
    torch.testing.assert_close(pred.reward, -1 + 4 * model.outcomes["reward"].head.mean(model.bodies["reward"](pred.feat)))
    assert pred.cont.shape == pred.reward.shape == (B,)
    assert ((pred.cont > 0) & (pred.cont < 1)).all()
    assert after.begun.all()
    shown = model.decode(pred.latent)
    assert shown["state"].shape == (B, 3)
    assert shown["room"].dtype == torch.int64
    assert model.decode(feat)["state"].shape == (B, T + 1, 3)


@presets
def test_rows_of_a_dream_do_not_meet(preset):
    model = world(preset=preset, ensemble=3)
    actions = torch.randint(3, (B, 4, 1))
    carry, feat = model.observe(model.init(B, 0), model.encode(batch(ports()).values), batch(ports()).values["action"])
    rows = torch.tensor([4, 1, 1])
    some = imagine(model, tree.index(carry, rows), feat[rows, -1], actions[rows], 4, sample=False)[1]
    shared = imagine(model, model.share(carry, 2, 4), None, actions.repeat_interleave(2, 0), 4, sample=False)[1]
    _, dream = imagine(model, carry, feat[:, -1], actions, 4, sample=False)
    torch.testing.assert_close(some.feats, dream.feats[rows])
    torch.testing.assert_close(shared.rewards, dream.rewards.repeat_interleave(2, 0))
    assert dream.aux["disagreement"].shape == (B, 4)
    assert (dream.aux["disagreement"] > 0).all()


@presets
def test_gradients_flow_from_what_is_imagined_to_the_actions(preset):
    of = ports(discrete=False)
    model, data = world(of, preset=preset), batch(of)
    assert model.differentiable
    carry, feat = model.observe(model.init(B, 0), model.encode(data.values), data.values["action"])
    actions = torch.randn(B, 3, 2, requires_grad=True)
    _, dream = imagine(model, tree.detach(carry), feat[:, -1].detach(), actions, 3)
    (grad,) = torch.autograd.grad(dream.rewards[:, -1].sum(), actions)
    assert (grad.abs().sum(-1) > 0).all(), "a reward does not know of an action in front of it"
    _, dream = imagine(model, tree.detach(carry), feat[:, -1].detach(), actions, 3)
    (grad,) = torch.autograd.grad(dream.rewards[:, 0].sum(), actions)
    assert (grad[:, 1:] == 0).all(), "a reward knows of an action behind it"


def test_the_ensemble_leaves_the_world_alone():
    model, data = world(ensemble=3), batch(ports())
    losses(model, data)["ensemble"][0].sum().backward()
    moved = {n for n, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert moved == {n for n, _ in model.named_parameters() if n.startswith("members.")}


def test_members_disagree_where_they_have_not_been():
    torch.manual_seed(0)
    members = Members(5, 4, 32, 3, "silu")
    x = torch.rand(256, 4) - 0.5
    optim = torch.optim.Adam(members.parameters(), 1e-2)
    for _ in range(200):
        optim.zero_grad()
        members.loss(x, x[:, :3].sin()).mean().backward()
        optim.step()
    near, far = members.disagreement(x).mean(), members.disagreement(20 * x).mean()
    assert far > 5 * near
    each = members(x)
    torch.testing.assert_close(members.loss(x, x[:, :3]), ((each - x[:, None, :3]) ** 2).mean((1, 2)))
    torch.testing.assert_close(members.disagreement(x), each.std(1, correction=0).mean(-1))


def test_noise_is_not_foreseen():
    """Of independent observations nothing can be known in advance: the prior's error is at least their variance."""
    torch.manual_seed(0)
    of = ports("state action > reward")
    model = Model(Config.tiny(of, preset="v1", free=0.0, hidden=32)).train()
    optim = torch.optim.Adam(model.parameters(), 5e-3)
    for i in range(120):
        optim.zero_grad()
        sums = model(batch(of, i, 3, [3] * 64)).sums()
        sum({"state": 10}.get(n, 1) * total / count for n, (total, count) in sums.items()).backward()
        optim.step()
    # Once it is seen the observation is shown, so that there is something to leak.
    assert sums["state"][0].detach() / sums["state"][1] < 1.5
    said, truth, mask = model.eval().predictions(batch(of, 1000, 3, [3] * 512))["state"]
    assert ((said - truth) ** 2)[mask].mean() > 0.98 * truth[mask].var()


def test_what_can_be_foreseen_is():
    """The reward is the sum of the last action's choice and a number seen a step before: both are found."""
    torch.manual_seed(0)
    of = ports("state action > reward")
    model = Model(Config.tiny(of, preset="v1", free=0.0, deter=32, hidden=32, size=8)).train()
    optim = torch.optim.Adam(model.parameters(), 3e-3)

    def lawful(seed):
        data = batch(of, seed=seed, lengths=[T] * 32)
        state, action = data.values["state"].clone(), data.values["action"]
        for t in range(T):
            state[:, t + 1, 0] = 0.5 * state[:, t, 1] + action[:, t, 0] - 1
        reward = torch.cat((state[:, 1:, :1], state[:, :1, :1]), 1)
        return StreamBatch({"state": state, "action": action, "reward": reward}, data.time, data.length)

    for i in range(150):
        optim.zero_grad()
        sums = model(lawful(i)).sums()
        sum({"state": 5, "reward": 5}.get(n, 1) * total / count for n, (total, count) in sums.items()).backward()
        optim.step()
    said, truth, mask = model.eval().predictions(lawful(1000))["reward"]
    assert ((said - truth) ** 2)[mask].mean() < 0.2 * truth[mask].var()


def test_a_world_without_ends_never_ends():
    of = ports("state action > reward")
    model = world(of)
    assert model.losses == ("state", "reward", "dyn", "rep")
    _, pred = model.step(model.init(2, 1), torch.zeros(2, 1, dtype=torch.int64))
    assert (pred.cont == 1).all()


def test_presets_and_what_wins_over_them():
    of = ports()
    assert Config.tiny(of, preset="v1").plan()[3].latent == "gaussian"
    own = Config.tiny(of, preset="v1", latent="categorical", free=0.0).plan()[3]
    assert (own.latent, own.free, own.gru) == ("categorical", 0.0, "plain")


@pytest.mark.parametrize(
    ("layout", "settings", "said"),
    [
        ("state action", {}, "reward"),
        ("reward state action > done", {}, "follows an action"),
        ("action > reward", {}, "what is seen"),
        ("state action > reward done", {"losses": ["state", "reward", "dyn", "rep"]}, "give 'done' a weight"),
        ("state action > reward", {"losses": ["reward", "dyn", "rep"]}, "at least one observed slot"),
        ("state action > reward", {"losses": ["stat", "reward", "dyn", "rep"]}, "did you mean 'state'"),
        ("state action > reward", {"losses": ["state", "reward", "kl"]}, "no 'kl'"),
        ("state action > reward", {"free": -1.0}, "model.free"),
        ("state action > reward", {"classes": 1}, "model.classes"),
        ("state action > reward", {"blocks": 3}, "blocks=3"),
        ("state action > reward", {"ensemble": 1}, "model.ensemble"),
    ],
)
def test_what_does_not_go_together_is_refused(layout, settings, said):
    with pytest.raises(RecipeError, match=said):
        Model(Config.tiny(ports(layout), **settings))
