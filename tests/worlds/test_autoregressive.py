"""The token world: dreams are what whole rows predict, nothing leaks, and what is full forgets whole steps."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from seqrl.core import tree
from seqrl.core.contracts import Ports, WorldModel
from seqrl.core.errors import RecipeError, UserError
from seqrl.core.layout import Layout
from seqrl.core.packed import PackedBatch, Part
from seqrl.nn.kv import KVCache, slide
from seqrl.nn.shared import Shared
from seqrl.rollout.imagine import imagine
from seqrl.worlds.autoregressive import Config, Model

# slot -> (width, vocab, share); numbers have no vocabulary. The task's last code is padding.
SLOTS = {
    "task": (3, 7, "text-0"),
    "image": (4, 11, "vq"),
    "state": (2, 6, "bins6"),
    "action": (1, 3, "choice"),
    "move": (2, 0, ""),
    "reward": (1, 3, "levels"),
    "amount": (1, 0, ""),
    "done": (1, 2, "choice"),
}
TOLD = "task | image state action > reward done"
LEVELS = [-1.0, 0.0, 4.0]
T = 5


def make_ports(layout=TOLD, context=8, **instead):
    """``instead``: slot -> the entry of SLOTS it takes."""
    own = {s.name: SLOTS[instead.get(s.name, s.name)] for s in Layout.parse(layout).slots}
    return Ports(
        layout,
        {n: w for n, (w, _, _) in own.items()},
        {n: v for n, (_, v, _) in own.items()},
        dict.fromkeys(own, False),
        {n: w if v else 1 for n, (w, v, _) in own.items()},
        {n: share for n, (_, _, share) in own.items()},
        levels={"reward": LEVELS if own.get("reward", (0, 1, ""))[1] else [0.5, 2.5]},
        context=context,
    )


def make(ports=None, length=128, stir=0.2, **settings):
    ports = ports or make_ports()
    torch.manual_seed(0)
    model = Model(Config.tiny({"a": ports}, length, **settings)).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * stir)
    return model, model.world("a"), ports


def draw(ports, slot, *shape, g=None):
    width, vocab = ports.widths[slot], ports.vocabs[slot]
    if slot == "task":
        real = torch.arange(1, shape[0] + 1) % width + 1
        return torch.where(
            torch.arange(width) < real[:, None], torch.randint(vocab - 1, (*shape, width), generator=g), vocab - 1
        )
    return torch.randint(vocab, (*shape, width), generator=g) if vocab else torch.rand(*shape, width, generator=g) * 2 - 1


def episodes(ports, B=3, steps=T, seed=0):
    """slot -> ``[B, steps, width]``, and ``[B, width]`` of what stands in front."""
    g, layout = torch.Generator().manual_seed(seed), Layout.parse(ports.layout)
    front = {s.name: draw(ports, s.name, B, g=g) for s in layout.prefix}
    return front, {s.name: draw(ports, s.name, B, steps, g=g) for s in (*layout.step, *layout.readout)}


def lay_out(ports, front, values, L=None, together=False):
    """The same as packed rows: a document a row, or all in one."""
    layout = Layout.parse(ports.layout, ports.tokens)
    B, steps = values["action"].shape[:2]
    lengths = {n: (v != ports.vocabs[n] - 1).sum(1) for n, v in front.items()}
    P = sum(lengths.values(), torch.zeros(B, dtype=torch.int64))
    each = P + steps * layout.step_width
    L = L or int(each.sum() if together else each.max())
    begin = each.cumsum(0) - each if together else torch.arange(B) * L
    pack, pos = torch.full((1 if together else B, L), -1), torch.zeros(1 if together else B, L, dtype=torch.int64)
    for b in range(B):
        pack.view(-1)[begin[b] : begin[b] + each[b]] = b if together else 0
        pos.view(-1)[begin[b] : begin[b] + each[b]] = torch.arange(each[b])
    at = (begin + P)[:, None] + torch.arange(steps) * layout.step_width
    flat = {n: v.flatten(0, 1) for n, v in values.items()} | front
    one = torch.ones(B * steps), torch.ones(B)
    part = Part(flat, at.flatten(), torch.arange(steps).repeat(B), one[0], begin, lengths, one[1], frozenset(front))
    return PackedBatch({"a": part}, pack, pos)


def observed(world, front, values, steps=T, room=8):
    """A carry that has seen ``steps`` of each episode, and the features."""
    z = world.encode({n: values[n] for n in world.seen})
    before = torch.cat((torch.zeros_like(values["action"][:, :1]), values["action"][:, :-1]), 1)
    return world.observe(world.init(len(z), room, front or None), z[:, :steps], before[:, :steps])


def forced(world, z):
    """From now on the world says the codes ``z [B, K]``; returns the logits it would have chosen by, as they come."""
    said, seen, world.guess = iter(z.unbind(-1)), [], 0

    def choose(logits, *_):
        seen.append(logits)
        return next(said)

    world._choose = choose
    return seen


def close(a, b, tolerance=1e-5):
    torch.testing.assert_close(a, b, rtol=0, atol=tolerance)


# ---- a dream is what a whole row predicts -----------------------------------------------------------------------------------


@pytest.mark.parametrize("body", ["gpt2", "llama", "qwen3"])
@pytest.mark.parametrize(
    ("layout", "instead"),
    [
        (TOLD, {}),
        ("image action > reward done", {"action": "move"}),
        ("state action > reward", {"reward": "amount"}),
        ("done action > reward", {}),
    ],
)
@torch.no_grad()
def test_dreams_of_the_datas_own_codes_have_the_losses_of_training(body, layout, instead):
    ports = make_ports(layout, **instead)
    if "done" in Layout.parse(layout).names[:1]:
        ports = replace(ports, layout=layout.replace("done", "state"), **_renamed(ports, "done", "state"))
    model, world, ports = make(ports, body=body)
    front, values = episodes(ports)
    terms = {n: v.view(len(values["action"]), -1) for n, (v, _) in model(lay_out(ports, front, values)).terms.items()}
    carry, _ = observed(world, front, values, 1)
    K = {n: ports.tokens[n] for n in world.seen}
    heads = world.model.heads
    for t in range(1, T):
        z = world.encode({n: values[n][:, t] for n in world.seen})
        seen = forced(world, z)
        carry, pred = world.step(carry, values["action"][:, t - 1])
        at = 0
        for n in world.seen:
            want = terms[n][:, t * K[n] : (t + 1) * K[n]]
            got = [F.cross_entropy(seen[at + k], values[n][:, t, k], reduction="none") for k in range(K[n])]
            close(torch.stack(got, 1), want)
            at += K[n]
        if "done" in terms:
            over = values["done"][:, t - 1, 0] == 1
            close(-torch.where(over, 1 - pred.cont, pred.cont).log(), terms["done"][:, t - 1], 1e-4)
        assert torch.equal(pred.latent, z)
    del heads


def _renamed(ports, old, new):
    own = ("widths", "vocabs", "bounded", "tokens", "shares")
    return {f: {new if n == old else n: v for n, v in getattr(ports, f).items()} for f in own}


@pytest.mark.parametrize("layout", [TOLD, "image action > reward done"])
@torch.no_grad()
def test_stepping_equals_observing(layout):
    """What is said, and what was seen, leave the same behind: features, and all that is imagined from there on."""
    _, world, ports = make(make_ports(layout))
    front, values = episodes(ports)
    carry, feat = observed(world, front, values)
    other, _ = observed(world, front, values, 2)
    for t in range(2, T):
        forced(world, world.encode({n: values[n][:, t] for n in world.seen}))
        other, pred = world.step(other, values["action"][:, t - 1])
        close(pred.feat, feat[:, t])
    del world._choose
    world.guess = 4
    actions = values["action"][:, :2]
    a, b = (imagine(world, c, None, actions, 2, sample=False)[1] for c in (carry, other))
    close(a.feats[:, 1:], b.feats[:, 1:])
    close(a.rewards, b.rewards)
    assert torch.equal(a.latents, b.latents)


@torch.no_grad()
def test_rewards_are_means_of_the_levels():
    model, world, ports = make()
    front, values = episodes(ports)
    carry, _ = observed(world, front, values, 1)
    batch = lay_out(ports, front, values)
    y = model.trunk(model.embed(batch), pack=batch.pack, pos=batch.pos).flatten(0, 1)
    at = model.heads.asks(batch)["a", "reward"].where.view(3, T)[:, 0]
    p = model.heads.codes(y[at], model.embed.ranges["a", "reward"], 0).softmax(-1)
    _, pred = world.step(carry, values["action"][:, 0])
    close(pred.reward, p @ torch.tensor(LEVELS))
    assert (pred.reward.std() > 0.01).all()


# ---- who sees what ----------------------------------------------------------------------------------------------------------


def test_packed_equals_unpacked():
    model, _, ports = make()
    front, values = episodes(ports)
    a, b = (model(lay_out(ports, front, values, together=how)).sums() for how in (True, False))
    for name in a:
        close(a[name][0], b[name][0], 1e-4)
        assert a[name][1] == b[name][1]
    assert {n: float(c) for n, c in model.counts(lay_out(ports, front, values)).items()} == {
        n: float(c) for n, (_, c) in b.items()
    }


def test_noise_cannot_be_foreseen():
    """On even noise the codes of a frame cost ln V, the first of the document included; who peeks pays less."""
    ports = make_ports("image action > reward done")
    model, _, _ = make(ports, stir=0.0)
    optim = torch.optim.AdamW(model.train().parameters(), 5e-3, weight_decay=0.0)
    for i in range(120):
        loss = sum(v / n for v, n in model(lay_out(ports, *episodes(ports, 16, 4, seed=i))).sums().values())
        optim.zero_grad()
        loss.backward()
        optim.step()
    with torch.no_grad():
        found = [model.eval()(lay_out(ports, *episodes(ports, 64, 4, seed=10_000 + i))).sums() for i in range(4)]
    for name, vocab in (("image", 11), ("reward", 3), ("done", 2)):
        mean = float(sum(f[name][0] for f in found) / sum(f[name][1] for f in found))
        assert 0.97 * math.log(vocab) < mean < 1.1 * math.log(vocab), name


def test_what_follows_is_learned():
    """The next frame is the last one, moved by the action, and the reward tells which action it was: all can be known."""
    ports = make_ports("image action > reward done")
    model, world, _ = make(ports, stir=0.0, embed_std=0.2)
    optim = torch.optim.AdamW(model.train().parameters(), 1e-2, weight_decay=0.0)

    def lawful(B, seed):
        _, v = episodes(ports, B, 4, seed)
        for t in range(1, 4):
            v["image"][:, t] = (v["image"][:, t - 1] + v["action"][:, t - 1]) % 11
        return v | {"reward": v["action"], "done": torch.zeros_like(v["done"])}

    for i in range(250):
        loss = sum(x / n for x, n in model(lay_out(ports, {}, lawful(16, i))).sums().values())
        optim.zero_grad()
        loss.backward()
        optim.step()
    model.eval()
    v = lawful(64, 9999)
    carry, _ = observed(world, {}, v, 2)
    _, pred = world.step(carry, v["action"][:, 1], sample=False)
    assert (pred.latent == v["image"][:, 2]).float().mean() > 0.95
    close(pred.reward, torch.tensor(LEVELS)[v["action"][:, 1, 0]], 0.2)
    assert (pred.cont > 0.95).all()


# ---- room -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", [TOLD, "image action > reward done"])
@torch.no_grad()
def test_a_full_row_forgets_its_oldest_steps_and_nothing_else(layout):
    """With one block, keys and values know nothing of what was before: a row that forgot is a row that began later."""
    _, world, ports = make(make_ports(layout), layers=1, remember=4, forget=2)
    front, values = episodes(ports, steps=9)
    carry, _ = observed(world, front, values, 7, room=20)
    # 1 2 3 4 -> 3 4 5 6 -> 5 6 7
    assert carry.steps.tolist() == [3] * 3
    late = {n: v[:, 4:] for n, v in values.items()}
    fresh, _ = observed(world, front, late, 3, room=20)
    close_dreams(world, carry, fresh, values["action"][:, 6:7])


@pytest.mark.parametrize("layers", [1, 3])
@torch.no_grad()
def test_forgetting_is_the_same_in_pieces_and_while_dreaming(layers):
    _, world, ports = make(layers=layers, remember=4, forget=1)
    front, values = episodes(ports, steps=9)
    whole, feats = observed(world, front, values, 9, room=20)
    other, _ = observed(world, front, values, 2, room=20)
    for t in range(2, 9):
        if t % 2:
            z = world.encode({n: values[n][:, t : t + 1] for n in world.seen})
            other, feat = world.observe(other, z, values["action"][:, t - 1 : t])
            close(feat[:, 0], feats[:, t])
        else:
            forced(world, world.encode({n: values[n][:, t] for n in world.seen}))
            other, pred = world.step(other, values["action"][:, t - 1])
            del world._choose
            close(pred.feat, feats[:, t])
            world.guess = 4
        assert (other.steps <= 4).all()
    close_dreams(world, whole, other, values["action"][:, 8:9])


@torch.no_grad()
def test_rows_forget_each_in_its_own_time():
    _, world, ports = make(remember=4, forget=2)
    front, values = episodes(ports, 2, steps=6)
    carry, _ = observed(world, front, values, 3, room=20)
    carry = tree.where(torch.tensor([True, False]), carry, world.init(2, 20, front))
    z, actions = world.encode({n: values[n] for n in world.seen}), values["action"]
    carry, feat = world.observe(carry, z[:, 3:6], actions[:, 2:5])
    assert carry.steps.tolist() == [4, 3]
    for b, first in ((0, 0), (1, 3)):
        alone = world.init(1, 20, {n: v[b : b + 1] for n, v in front.items()})
        before = torch.cat((actions[:, :1], actions), 1)[b : b + 1, first:6]
        alone, own = world.observe(alone, z[b : b + 1, first:], before)
        close(own[0, -1], feat[b, -1])
        close_dreams(world, tree.index(tree.clone(carry), torch.tensor([b])), alone, actions[b : b + 1, 5:6])


@torch.no_grad()
def test_where_nothing_stands_in_front_forgetting_is_sliding():
    model, world, ports = make(make_ports("image action > reward done"), layers=2)
    carry, _ = observed(world, *episodes(ports))
    cut, trunk = torch.tensor([0, 1, 3]), model.trunk
    plain = KVCache(carry.kv.kv.clone(), carry.kv.length.clone())
    slide(plain, cut * world.W, trunk._theta, trunk.config.head_dim)
    carry = world.memory.forget(carry, cut)
    assert torch.equal(carry.kv.length, plain.length)
    for b, n in enumerate(plain.length):
        close(carry.kv.kv[b, :, 1 : n + 1], plain.kv[b, :, 1 : n + 1], 1e-6)


def close_dreams(world, a, b, action):
    a, b = (imagine(world, c, None, action.expand(-1, 3, -1), 3, sample=False)[1] for c in (a, b))
    close(a.feats[:, 1:], b.feats[:, 1:])
    close(a.rewards, b.rewards)


@pytest.mark.parametrize(("remember", "steps", "shares"), [(32, 3, True), (8, 4, True), (6, 4, False)])
@torch.no_grad()
def test_candidates_that_share_a_past_dream_as_if_each_had_a_copy(remember, steps, shares):
    _, world, ports = make(layers=1, remember=remember, forget=1)
    front, values = episodes(ports)
    carry, _ = observed(world, front, values, room=16)
    actions = draw(ports, "action", 9, steps, g=torch.Generator().manual_seed(3))
    before = tree.clone(carry)
    imagine(world, world.share(carry, 3, steps), None, actions, steps, sample=False)
    assert torch.equal(carry.kv.length, before.kv.length), "a planner shares the same carry once a round"
    found = world.share(carry, 3, steps)
    assert isinstance(found.kv, Shared) == shares
    cut = max(0, 5 + steps - remember) if shares else 0
    plain = world.memory.forget(carry, torch.full((3,), cut)) if cut else carry
    a, b = (imagine(world, c, None, actions, steps, sample=False)[1] for c in (found, tree.repeat(plain, 3)))
    close(a.feats[:, 1:], b.feats[:, 1:])
    assert torch.equal(a.latents, b.latents)


# ---- how it dreams ----------------------------------------------------------------------------------------------------------


def test_what_is_drawn_follows_the_odds():
    model, _, _ = make()
    logits = torch.tensor([2.0, 1.0, 0.5, -3.0, -math.inf]).expand(20_000, -1)
    for settings, heat in (({}, 1.0), ({}, 2.0), ({"top_k": 2}, 1.0), ({"top_k": 9}, 0.5)):
        torch.manual_seed(0)
        said = model.world("a", **settings)._choose(logits, torch.rand(len(logits)), heat)
        found = torch.bincount(said, minlength=5) / len(logits)
        wanted = logits[0].clone() / heat
        wanted[settings.get("top_k", 5) :] = -math.inf
        close(found, wanted.softmax(-1), 0.015)
        assert found[4] == 0
    assert (model.world("a", top_k=1)._choose(logits, torch.rand(len(logits)), 1.0) == 0).all()
    assert (model.world("a")._choose(logits, None, 1.0) == 0).all()


@pytest.mark.parametrize("sample", [True, False])
@pytest.mark.parametrize("stir", [0.02, 0.2, 1.0])
@torch.no_grad()
def test_a_guessed_frame_is_the_one_that_would_have_been_said(sample, stir, monkeypatch):
    """From frames that hardly change to such as change everywhere; rows begin at places of their own."""
    _, world, ports = make(stir=stir)
    front, values = episodes(ports)
    carry, _ = observed(world, front, values, 2)
    other, passes = tree.clone(carry), []
    extend = world.model.trunk.extend
    monkeypatch.setattr(world.model.trunk, "extend", lambda *a, **k: (passes.append(1), extend(*a, **k))[1])
    for t in range(4):
        found = []
        for guessed in (0, 4):
            world.guess = guessed
            torch.manual_seed(t)
            c, pred = world.step(other if guessed else carry, values["action"][:, t], sample, 0.7)
            carry, other = (carry, c) if guessed else (c, other)
            found.append(pred)
        assert torch.equal(found[0].latent, found[1].latent)
        assert torch.equal(carry.kv.length, other.kv.length)
        for name in ("feat", "reward", "cont"):
            close(getattr(found[0], name), getattr(found[1], name), 1e-4)
    assert 4 <= len(passes) <= 4 * world.K


@torch.no_grad()
def test_the_words_in_front_matter_and_padding_does_not():
    _, world, ports = make()
    front, values = episodes(ports)
    _, feat = observed(world, front, values)
    padded = {"task": torch.tensor([[1, 6, 6], [1, 6, 4], [2, 6, 6]])}
    _, a = observed(world, padded, values)
    _, b = observed(world, {"task": torch.tensor([[1, 6, 5], [1, 6, 6], [3, 6, 6]])}, values)
    close(a[:2], b[:2])
    assert not torch.isclose(a[2], b[2]).all()
    assert not torch.isclose(a, feat).all()


def test_it_meets_the_protocol_and_keeps_no_graph():
    model, world, ports = make()
    assert isinstance(world, WorldModel)
    assert world.feat_width == 64
    front, values = episodes(ports)
    carry, feat = observed(world, front, values)
    _, pred = world.step(carry, values["action"][:, 0])
    assert not feat.requires_grad
    assert not pred.feat.requires_grad
    assert all(p.requires_grad for p in world.parameters())
    assert world.train() is model


# ---- wrong input ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layout", "instead", "said"),
    [
        ("image > reward done", {}, "ends in 'action'"),
        ("action > reward done", {}, "shows something"),
        ("image action state > reward done", {}, "ends in 'action'"),
        ("image state action > reward done", {"state": "move"}, "'state' is no codes.*tokens.slots.state"),
        ("image action > done", {}, "answers 'reward'"),
        ("image action reward > done", {}, "ends in 'action'"),
        ("image done action > reward", {}, "'done' is read out"),
    ],
)
def test_layouts_that_cannot_be_dreamt_are_named(layout, instead, said):
    with pytest.raises(RecipeError, match=said):
        Config.tiny({"a": make_ports(layout, **instead)})


def test_wrong_settings_are_named():
    ports = {"a": make_ports()}
    for settings, said in (
        ({"losses": ["image", "stat", "reward", "done"]}, "no domain has a slot 'stat'.*did you mean 'state'"),
        ({"losses": ["image", "reward", "done"]}, "a dream needs 'state'"),
        ({"losses": ["image", "state", "reward"]}, "a dream needs 'done'"),
        ({"topk": 3}, "unknown setting.*top_k"),
        ({"remember": 0}, "model.remember"),
        ({"remember": 2, "forget": 2}, "nothing is left"),
        ({"body": "gpt3"}, "none of gpt2"),
    ):
        with pytest.raises(RecipeError, match=said):
            Config.tiny(ports, **settings)
    with pytest.raises(RecipeError, match="raise tokens.pack"):
        Config.tiny(ports, 8)
    with pytest.raises(RecipeError, match="no ports"):
        Config().plan()
    model, _, _ = make()
    with pytest.raises(RecipeError, match="no domain 'b'"):
        model.world("b")
    with pytest.raises(RecipeError, match="no setting 'horizon'"):
        model.world("a", horizon=3)


def test_dreams_longer_than_can_be_held_are_named():
    _, world, ports = make(body="gpt2", remember=4)
    front, values = episodes(ports)
    with pytest.raises(UserError, match="remembers 4.*model.body=llama"):
        world.init(3, 5, front)
    with pytest.raises(UserError, match="'task' stands in front"):
        world.init(3, 4)
    carry, _ = observed(world, front, values, 4, room=4)
    with pytest.raises(UserError, match="room for 4 steps"):
        world.step(carry, values["action"][:, 0])
    _, world, _ = make(remember=1)
    with pytest.raises(UserError, match="remembers 1 and cannot"):
        world.init(3, 2, front)
    _, world, _ = make(remember=8)
    carry, _ = observed(world, front, values, 3, room=3)
    with pytest.raises(UserError, match="room for 3 steps"):
        world.step(carry, values["action"][:, 0])
