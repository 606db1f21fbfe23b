"""Every world model on disk keeps the contract: what it is told of the past moves what it foresees, and nothing else does.

A file that is added to worlds is tested the day it is added. Kinds that read windows are the world themselves; those of packed
rows answer ``world(domain)``. A kind that cannot take some shape of data refuses it in words and is tested with the others.
"""

import inspect
import math
from dataclasses import replace
from functools import cache

import pytest
import torch
from safetensors.torch import save_file
from transformers import PreTrainedModel

from seqrl import bundle
from seqrl.core import kinds, tree
from seqrl.core.contracts import Model, Ports, Pred, WorldModel
from seqrl.core.errors import RecipeError
from seqrl.core.layout import Layout
from seqrl.core.stream import StreamBatch
from seqrl.rollout.imagine import imagine

# Models of documents promise no dreams (tests/contracts/test_document_models.py).
KINDS = [k for n in kinds.names("worlds") if not kinds.reads_documents(k := f"worlds.{n}")]
# Those whose state is what they see: nothing that lies behind it matters to them.
MARKOV = {"worlds.ensemble"}
LEVELS = [-1.0, 0.0, 2.5]
PICTURE = {"shape": [8, 8, 3], "size": None, "encoder": "flat"}
# slot -> (width, vocab); numbers have no vocabulary.
WINDOWS = {
    "vectors": ("state action > reward done", {"state": (5, 0), "action": (3, 0), "reward": (1, 0)}),
    "codes": ("state action > reward done", {"state": (2, 6), "action": (1, 4), "reward": (1, 3)}),
    "pictures": ("image state action > reward done", {"image": (192, 0), "state": (2, 0), "action": (2, 3), "reward": (1, 3)}),
}
PACKED = {
    "codes": WINDOWS["codes"],
    "tokens": ("image action > reward done", {"image": (4, 16), "action": (2, 3), "reward": (1, 3)}),
    "numbers": ("state action > reward done", {"state": (2, 6), "action": (3, 0), "reward": (1, 3)}),
}
B, T = 4, 5


def make_ports(packed, shape):
    layout, own = (PACKED if packed else WINDOWS)[shape]
    own = own | {"done": (1, 2)}
    names = Layout.parse(layout).names
    codes = LEVELS if own["reward"][1] else [0.5, 2.5]
    return Ports(
        layout,
        {n: own[n][0] for n in names},
        {n: own[n][1] for n in names},
        {n: n == "action" and not own[n][1] for n in names},
        {n: own[n][0] if own[n][1] else 1 for n in names},
        {n: f"{n}-codes" if own[n][1] else "" for n in names},
        {n: PICTURE for n in names if n == "image" and not own[n][1]},
        {"reward": codes},
        context=T,
    )


def tiny_config(kind, ports):
    packed = kinds.reads_packed(kind)
    return kinds.load(kind).Config.tiny({"a": ports} if packed else ports)


@cache
def takes(kind, shape):
    """Whether a kind takes data of this shape; otherwise it must say why not, as a RecipeError."""
    try:
        tiny_config(kind, make_ports(kinds.reads_packed(kind), shape))
    except RecipeError:
        return False
    return True


CASES = [(k, s) for k in KINDS for s in (PACKED if kinds.reads_packed(k) else WINDOWS) if takes(k, s)]
READS_WINDOWS = [(k, s) for k, s in CASES if kinds.looks_ahead(k)]
READS_PACKED = [(k, s) for k, s in CASES if kinds.reads_packed(k)]
every = pytest.mark.parametrize(("kind", "shape"), CASES)
windows = pytest.mark.parametrize(("kind", "shape"), READS_WINDOWS)
packed_rows = pytest.mark.parametrize(("kind", "shape"), READS_PACKED)


def make(kind, shape, stir=0.1):
    """A tiny model in evaluation mode, the world it is, and its ports.

    Args:
        stir: weights are moved by so much noise. As they are at birth, nothing would depend on much.
    """
    ports = make_ports(kinds.reads_packed(kind), shape)
    torch.manual_seed(0)
    model = kinds.load(kind).Model(tiny_config(kind, ports)).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * stir)
    return model, model.world("a") if kinds.reads_packed(kind) else model, ports


def draw(ports, slot, *shape, generator=None):
    width, vocab = ports.widths[slot], ports.vocabs[slot]
    if slot in ports.images:
        return torch.randint(256, (*shape, width), generator=generator).to(torch.uint8)
    if vocab:
        return torch.randint(vocab, (*shape, width), generator=generator)
    # Not torch.rand, which some tests still.
    return torch.empty(*shape, width).uniform_(-1, 1, generator=generator)


def rows(ports, steps=T, count=B, seed=0, whole=False):
    """A batch whose windows hold one observation more than actions, of rows of different lengths."""
    g = torch.Generator().manual_seed(seed)
    values = {n: draw(ports, n, count, steps + 1, generator=g) for n in ports.widths}
    length = torch.full((count,), steps) if whole else steps - torch.arange(count) % steps
    return StreamBatch(values, torch.arange(steps + 1).expand(count, -1), length)


def seen(ports, batch):
    """What an agent is told: observations ``[B, T + 1, ...]``, and the action in front of each."""
    step = Layout.parse(ports.layout).step
    obs = [s.name for s in step[: [s.name for s in step].index("action")]]
    action = batch.values["action"]
    return {n: batch.values[n] for n in obs}, torch.cat((torch.zeros_like(action[:, :1]), action[:, :-1]), 1)


def alter(ports, slot, value):
    """Other values, different in every number."""
    vocab = ports.vocabs[slot]
    return (value + 1) % vocab if vocab else 255 - value if value.dtype == torch.uint8 else -value


@pytest.fixture
def still(monkeypatch):
    """Draws take what is likeliest, however and in whichever order they are made."""
    monkeypatch.setattr(torch.Tensor, "exponential_", lambda t, *_, **__: t.fill_(1.0))
    monkeypatch.setattr(torch, "multinomial", lambda p, *_, **__: p.argmax(-1, keepdim=True))
    monkeypatch.setattr(torch, "rand_like", lambda t, *_, **__: torch.full_like(t, 0.5))
    monkeypatch.setattr(torch, "randn_like", lambda t, *_, **__: torch.zeros_like(t))
    monkeypatch.setattr(torch, "rand", lambda *s, **k: torch.full(s[0] if not isinstance(s[0], int) else s, 0.5))
    monkeypatch.setattr(torch, "randn", lambda *s, **k: torch.zeros(s[0] if not isinstance(s[0], int) else s))


def close(a, b, tolerance=1e-5):
    torch.testing.assert_close(a, b, rtol=0, atol=tolerance)


def close_rewards(a, b):
    """Two-hot rewards reach to 5e8: so much of each as float32 can hold of the largest bin."""
    close(a.asinh(), b.asinh(), 1e-4)


def close_dreams(a, b):
    for name in ("feats", "latents", "conts"):
        close(getattr(a, name), getattr(b, name))
    close_rewards(a.rewards, b.rewards)
    assert set(a.aux) == set(b.aux)


def ragged(world, ports, room=16):
    """A carry whose rows are 5, 2, 5 and 2 steps old, the feature of each, and actions to go on with."""
    batch = rows(ports, 9, whole=True)
    obs, prev = seen(ports, batch)
    z = world.encode(obs, sample=False)
    carry, _ = world.observe(world.init(B, room), z[:, :3], prev[:, :3])
    carry = tree.where(torch.tensor([True, False, True, False]), carry, world.init(B, room))
    carry, feat = world.observe(carry, z[:, 3:5], prev[:, 3:5])
    return carry, feat[:, -1], batch.values["action"][:, 4:8]


# ---- shapes and names ---------------------------------------------------------------------------------------------------


def test_there_are_kinds():
    assert CASES
    assert {k for k, _ in CASES} == set(KINDS), "a kind takes none of the shapes of data that are tried"


@every
def test_it_is_a_model_and_a_world(kind, shape):
    model, world, _ = make(kind, shape)
    assert isinstance(model, PreTrainedModel)
    assert isinstance(model, Model)
    assert isinstance(world, WorldModel)
    assert isinstance(world.feat_width, int)
    assert isinstance(world.differentiable, bool)
    assert kinds.looks_ahead(kind) != kinds.reads_packed(kind), "a world reads windows that look ahead, or packed rows"
    for name in ("encode", "init", "observe", "step", "share", "decode"):
        wanted = list(inspect.signature(getattr(WorldModel, name)).parameters)[1:]
        found = [p for p in inspect.signature(getattr(world, name)).parameters.values() if p.name != "self"]
        assert [p.name for p in found][: len(wanted)] == wanted, name
        assert all(p.default is not p.empty for p in found[len(wanted) :]), f"{name} asks for more than its callers know"


@every
@torch.no_grad()
def test_shapes_and_dtypes(kind, shape):
    _, world, ports = make(kind, shape)
    batch = rows(ports, whole=True)
    obs, prev = seen(ports, batch)
    z = world.encode(obs)
    assert z.shape[:2] == (B, T + 1)
    carry = world.init(B, 16)
    tree.map_leaves(lambda t: (_ for _ in ()).throw(AssertionError("a leaf has no rows")) if len(t) != B else t, carry)
    carry, feat = world.observe(carry, z, prev)
    assert feat.shape == (B, T + 1, world.feat_width)
    assert feat.dtype == torch.float32
    for action in batch.values["action"][:, :3].unbind(1):
        carry, pred = world.step(carry, action)
        assert isinstance(pred, Pred)
        assert pred.feat.shape == (B, world.feat_width)
        assert len(pred.latent) == B
        assert pred.reward.shape == pred.cont.shape == (B,)
        assert {t.dtype for t in (pred.feat, pred.reward, pred.cont)} == {torch.float32}
        assert all(t.isfinite().all() for t in (pred.feat, pred.reward))
        assert ((pred.cont >= 0) & (pred.cont <= 1)).all()
        shown = world.decode(pred.latent)
        assert shown
        assert set(shown) <= set(obs)
        for name, value in shown.items():
            assert value.shape == (B, ports.widths[name])
            assert value.dtype == batch.values[name].dtype
            if ports.vocabs[name]:
                assert ((value >= 0) & (value < ports.vocabs[name])).all()
    latents = torch.stack((pred.latent, pred.latent), 1)
    assert all(v.shape == (B, 2, ports.widths[n]) for n, v in world.decode(latents).items())


@every
@torch.no_grad()
def test_rewards_are_in_their_own_units(kind, shape):
    """The mean of what the head says lies between the levels, and not where codes or stretched numbers would."""
    _, world, ports = make(kind, shape, stir=0.0)
    carry, _, actions = ragged(world, ports)
    _, pred = world.step(carry, actions[:, 0])
    low, high = ports.levels["reward"][0], ports.levels["reward"][-1]
    # A world that knows nothing: all codes alike, or the number that stands for 0.
    middle = sum(LEVELS) / 3 if ports.vocabs["reward"] else low
    close(pred.reward, torch.full((B,), middle), 0.25 * (high - low))


# ---- losses -------------------------------------------------------------------------------------------------------------


@windows
def test_forward_answers_the_promised_losses(kind, shape):
    model, _, ports = make(kind, shape)
    batch = rows(ports)
    losses = model.train()(batch)
    assert tuple(losses.terms) == tuple(model.losses)
    names = {*Layout.parse(ports.layout).names, *kinds.own_losses(kind)}
    assert set(model.losses) <= names, "a loss is named by its slot, or in LOSSES"
    sums = losses.sums()
    assert all(total.isfinite() and count > 0 for total, count in sums.values())
    assert {n: float(c) for n, c in model.counts(batch).items()} == {n: float(c) for n, (_, c) in sums.items()}
    sum(total / count for total, count in sums.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


@windows
def test_padding_moves_no_loss(kind, shape):
    model, _, ports = make(kind, shape)
    batch = rows(ports)
    observed = seen(ports, batch)[0]
    changed = {}
    for name, value in batch.values.items():
        real = batch.seen if name in observed else batch.mask & (torch.arange(T + 1) < T)
        changed[name] = torch.where(real[..., None], value, alter(ports, name, value))
    found = []
    for values in (batch.values, changed):
        torch.manual_seed(1)
        found.append(model(replace(batch, values=values)).sums())
    for name, (total, count) in found[0].items():
        close(found[1][name][0], total)
        assert torch.equal(found[1][name][1], count)


@windows
def test_cutting_into_pieces_counts_the_same(kind, shape, still):
    model, _, ports = make(kind, shape)
    batch = rows(ports)
    pieces = [model(p).sums() for p in batch.split(2)]
    for name, (total, count) in model(batch).sums().items():
        torch.testing.assert_close(sum(p[name][0] for p in pieces), total, rtol=1e-5, atol=1e-5)
        assert sum(p[name][1] for p in pieces) == count


@windows
def test_the_future_moves_no_earlier_loss(kind, shape):
    """From step k on everything is different: the terms of what was over by then must be the same numbers."""
    model, _, ports = make(kind, shape)
    batch, k = rows(ports, whole=True), 3
    changed = {n: torch.cat((v[:, :k], alter(ports, n, v[:, k:])), 1) for n, v in batch.values.items()}
    found = []
    for values in (batch.values, changed):
        torch.manual_seed(1)
        found.append(model(replace(batch, values=values)).terms)
    for name, (value, mask) in found[0].items():
        assert value.shape[:1] == (B,)
        assert value.shape[1] in (T, T + 1), name
        # Step k - 1 ends in the observation of step k, so a term of T + 1 may be one longer or, as one of transitions, not.
        assert torch.equal(value[:, : k - 1], found[1][name][0][:, : k - 1]), name
        assert not torch.equal(value[mask], found[1][name][0][mask]), f"{name} is moved by nothing"


def _train(model, batches, steps, lr=3e-3):
    optim = torch.optim.AdamW([p for p in model.train().parameters() if p.requires_grad], lr, weight_decay=0.0)
    seen = []
    for i in range(steps):
        means = {n: total / count for n, (total, count) in model(batches(i)).sums().items()}
        optim.zero_grad()
        sum(means.values()).backward()
        optim.step()
        seen.append({n: v.item() for n, v in means.items()})
    return seen


@every
def test_it_learns_a_few_rows_by_heart(kind, shape, packed):
    model, _, ports = make(kind, shape, stir=0.0)
    if kinds.reads_packed(kind):
        batch, _ = packed.lay_out({"a": ports}, model.config.length, [[[("a", 3)], [("a", 4)]], [[("a", 5)]]])
    else:
        batch = rows(ports)
    found = _train(model, lambda _: batch, 60, 1e-2)
    slots = [n for n in model.losses if n not in kinds.own_losses(kind)]
    first, last = (sum(each[n] for n in slots) for each in (found[0], found[-1]))
    assert last < 0.75 * first, found[-1]


# ---- leaks --------------------------------------------------------------------------------------------------------------


def _noise_floor(ports, packed):
    """Nats, per counted element, below which nobody who does not peek can come on codes that are drawn evenly."""
    of = Layout.parse(ports.layout).names
    each = {n: math.log(ports.vocabs[n]) for n in of if ports.vocabs[n] and n != "action"}
    return {n: v * (1 if packed else ports.widths[n]) for n, v in each.items()}


@pytest.mark.parametrize(("kind", "shape"), [c for c in CASES if c[1] == "codes"])
def test_noise_cannot_be_foreseen(kind, shape, packed):
    """On even noise no loss falls below the entropy; for latents that may look at what they describe, divergence included."""
    model, _, ports = make(kind, shape, stir=0.0)
    is_packed = kinds.reads_packed(kind)

    def batches(i):
        if is_packed:
            return packed.lay_out({"a": ports}, model.config.length, [[[("a", 6)]]] * 16, seed=i)[0]
        return rows(ports, T, 32, seed=i, whole=True)

    _train(model, batches, 160, 5e-3)
    with torch.no_grad():
        tests = [model.eval()(batches(1000 + i)).sums() for i in range(6)]
    mean = {n: float(sum(t[n][0] for t in tests) / sum(t[n][1] for t in tests)) for n in model.losses}
    hidden = next((mean[n] for n in ("kl", "dyn") if n in mean), 0.0)
    floor = _noise_floor(ports, is_packed)
    wanted = [n for n in floor if n in mean]
    assert wanted
    observed = seen(ports, rows(ports))[0] if not is_packed else ("state",)
    for name in wanted:
        got = mean[name] + (hidden if name in observed else 0.0)
        assert got > 0.96 * floor[name], f"{name}: {got:.3f} nats where {floor[name]:.3f} are to be had: it peeks"


@pytest.mark.parametrize(("kind", "shape"), [c for c in CASES if c[1] == "vectors"])
def test_noise_of_numbers_cannot_be_foreseen(kind, shape):
    """What is imagined is no nearer to the next observation than its mean is."""
    model, world, ports = make(kind, shape, stir=0.0)
    _train(model, lambda i: rows(ports, T, 32, seed=i, whole=True), 100, 5e-3)
    batch = rows(ports, T, 512, seed=10_000, whole=True)
    obs, prev = seen(ports, batch)
    with torch.no_grad():
        model.eval()
        carry, _ = world.observe(world.init(512, T + 2), world.encode(obs, sample=False)[:, :T], prev[:, :T])
        _, pred = world.step(carry, batch.values["action"][:, T - 1], sample=False)
    error = (world.decode(pred.latent)["state"] - obs["state"][:, T]).square().mean()
    assert error > 0.95 / 3, "even numbers of [-1, 1] have a variance of a third"


# ---- the past and the future --------------------------------------------------------------------------------------------


@every
@torch.no_grad()
def test_the_future_cannot_move_the_past(kind, shape, still):
    _, world, ports = make(kind, shape)
    batch, k = rows(ports, whole=True), 3
    obs, prev = seen(ports, batch)
    later = {n: torch.cat((v[:, :k], alter(ports, n, v[:, k:])), 1) for n, v in obs.items()}
    z, moved = world.encode(obs), world.encode(later)
    assert torch.equal(z[:, :k], moved[:, :k])
    _, feat = world.observe(world.init(B, 16), z, prev)
    _, other = world.observe(world.init(B, 16), moved, prev)
    close(feat[:, :k], other[:, :k], 1e-6)
    assert not torch.allclose(feat[:, k:], other[:, k:])
    done = torch.cat((prev[:, :k], alter(ports, "action", prev[:, k:])), 1)
    _, other = world.observe(world.init(B, 16), z, done)
    close(feat[:, :k], other[:, :k], 1e-6)
    assert (feat[:, k:] != other[:, k:]).flatten(1).any(1).all() or kind in MARKOV, "actions move nothing"


@every
@torch.no_grad()
def test_what_lies_long_ago_still_matters(kind, shape, still):
    """The carry holds the past: two that differ only in the first of five observations, or of actions, go on differently."""
    _, world, ports = make(kind, shape)
    obs, prev = seen(ports, rows(ports, whole=True))
    z = world.encode(obs)
    first = {n: torch.cat((alter(ports, n, v[:, :1]), v[:, 1:]), 1) for n, v in obs.items()}
    _, feat = world.observe(world.init(B, 16), z, prev)
    _, other = world.observe(world.init(B, 16), world.encode(first), prev)
    assert torch.equal(feat[:, -1], other[:, -1]) == (kind in MARKOV)


@every
@torch.no_grad()
def test_one_by_one_equals_all_at_once(kind, shape, still):
    """Cached equals uncached, in chunks of any length."""
    _, world, ports = make(kind, shape)
    obs, prev = seen(ports, rows(ports, whole=True))
    z = world.encode(obs)
    _, whole = world.observe(world.init(B, 16), z, prev)
    for cuts in ((T,), (1, 2, 3, 4, 5), (2, 4)):
        carry, found = world.init(B, 16), []
        for a, b in zip((0, *cuts), (*cuts, T + 1), strict=True):
            carry, feat = world.observe(carry, z[:, a:b], prev[:, a:b])
            found.append(feat)
        close(torch.cat(found, 1), whole)
    # And both go on alike.
    carries = [world.observe(world.init(B, 16), z, prev)[0], carry]
    actions = draw(ports, "action", B, 3)
    close_dreams(*(imagine(world, c, None, actions, 3, sample=False)[1] for c in carries))


@every
@torch.no_grad()
def test_what_was_imagined_was_taken_in(kind, shape):
    """The second imagined step depends on the first action."""
    _, world, ports = make(kind, shape)
    carry, _, actions = ragged(world, ports)
    other = torch.cat((alter(ports, "action", actions[:, :1]), actions[:, 1:]), 1)
    a, b = (imagine(world, c, None, x, 2, sample=False)[1] for c, x in ((tree.clone(carry), actions), (carry, other)))
    assert not torch.equal(a.feats[:, 1], b.feats[:, 1])
    assert not torch.equal(a.feats[:, 2], b.feats[:, 2])


@every
@torch.no_grad()
def test_a_dream_goes_on_from_what_was_drawn(kind, shape):
    """Rows in which other things were drawn in the first step go on to other second steps."""
    _, world, ports = make(kind, shape)
    carry, _, actions = ragged(world, ports)
    carry, actions = tree.repeat(carry, 8), actions.repeat_interleave(8, 0)
    torch.manual_seed(0)
    carry, first = world.step(carry, actions[:, 0], temperature=3.0)
    _, second = world.step(carry, actions[:, 1], sample=False)
    if kind in MARKOV:
        return
    found = [
        [x.round(decimals=4).unique(dim=0) for x in each]
        for each in zip(first.feat.split(8), second.feat.split(8), strict=True)
    ]
    assert max(len(f) for f, _ in found) > 1, "nothing is drawn"
    assert all(len(s) == len(f) for f, s in found)


@every
@torch.no_grad()
def test_rows_that_have_not_begun_know_no_action(kind, shape, still):
    _, world, ports = make(kind, shape)
    obs, prev = seen(ports, rows(ports, whole=True))
    z, wrong = world.encode(obs), alter(ports, "action", prev)
    carry, feat = world.observe(world.init(B, 16), z[:, :1], prev[:, :1])
    _, other = world.observe(world.init(B, 16), z[:, :1], wrong[:, :1])
    assert torch.equal(feat, other)
    if wrong.is_floating_point():
        _, other = world.observe(world.init(B, 16), z[:, :1], torch.full_like(wrong[:, :1], torch.nan))
        assert torch.equal(feat, other), "it may be no number at all"
    # Rows that have begun do; in a carry of both kinds each row goes by its own.
    fresh = torch.tensor([True, False, True, False])
    mixed = tree.where(fresh, world.init(B, 16), carry)
    _, one = world.observe(tree.clone(mixed), z[:, 1:3], prev[:, 1:3])
    _, two = world.observe(mixed, z[:, 1:3], torch.cat((wrong[:, 1:2], prev[:, 2:3]), 1))
    assert torch.equal(one[fresh, :1], two[fresh, :1])
    close(one[fresh], two[fresh])
    assert (one[~fresh] != two[~fresh]).flatten(1).any(1).all() or kind in MARKOV


@every
@torch.no_grad()
def test_rows_at_their_own_times_are_rows_alone(kind, shape, still):
    _, world, ports = make(kind, shape)
    carry, feat, actions = ragged(world, ports)
    _, dream = imagine(world, carry, feat, actions, 4, sample=False)
    obs, prev = seen(ports, rows(ports, 9, whole=True))
    for b, first in ((0, 0), (1, 3), (2, 0), (3, 3)):
        z = world.encode({n: v[b : b + 1, first:5] for n, v in obs.items()}, sample=False)
        alone, own = world.observe(world.init(1, 16), z, prev[b : b + 1, first:5])
        close(own[0, -1], feat[b])
        _, single = imagine(world, alone, own[:, -1], actions[b : b + 1], 4, sample=False)
        close(single.feats[0], dream.feats[b])
        close_rewards(single.rewards[0], dream.rewards[b])


# ---- carries ------------------------------------------------------------------------------------------------------------


@every
@torch.no_grad()
def test_choosing_rows_before_equals_choosing_after(kind, shape):
    _, world, ports = make(kind, shape)
    carry, feat, actions = ragged(world, ports)
    chosen = torch.tensor([3, 0, 0, 2, 1])
    some = tree.index(carry, chosen)
    _, all_of = imagine(world, carry, feat, actions, 4, sample=False)
    _, few = imagine(world, some, feat[chosen], actions[chosen], 4, sample=False)
    close_dreams(few, replace(all_of, **tree.index(vars(all_of), chosen)))


@every
@pytest.mark.parametrize("copies", [1, 3])
@torch.no_grad()
def test_sharing_equals_repeating(kind, shape, copies):
    _, world, ports = make(kind, shape)
    carry, _, _ = ragged(world, ports)
    actions, H = draw(ports, "action", B * copies, 5), 5
    plain = tree.repeat(tree.clone(carry), copies)
    _, wanted = imagine(world, plain, None, actions, H, sample=False)
    shared = world.share(tree.clone(carry), copies, H)
    _, found = imagine(world, shared, None, actions, H, sample=False)
    close_dreams(found, wanted)
    # A shared carry is a carry: rows of it can be chosen, repeated and kept, before the first step and between steps.
    chosen = torch.randperm(B * copies, generator=torch.Generator().manual_seed(0))[: B * copies - 1]
    chosen = torch.cat((chosen, chosen[:2]))
    shared = tree.index(world.share(carry, copies, H), chosen)
    shared, first = imagine(world, shared, None, actions[chosen, :2], 2, sample=False)
    kept = tree.clone(shared)
    _, rest = imagine(world, tree.index(shared, torch.arange(len(chosen)).flip(0)), None, actions[chosen.flip(0), 2:], 3, False)
    close(first.feats[:, 1:], wanted.feats[chosen, 1:3])
    close(rest.feats[:, 1:], wanted.feats[chosen.flip(0), 3:])
    _, rest = imagine(world, kept, None, actions[chosen, 2:], 3, sample=False)
    close_rewards(rest.rewards, wanted.rewards[chosen, 2:])


@every
@torch.no_grad()
def test_a_clone_survives(kind, shape):
    _, world, ports = make(kind, shape)
    carry, _, actions = ragged(world, ports)
    kept = tree.clone(carry)
    _, before = imagine(world, carry, None, actions, 3, sample=False)
    again = tree.clone(kept)
    imagine(world, kept, None, alter(ports, "action", actions), 3)
    _, after = imagine(world, again, None, actions, 3, sample=False)
    close_dreams(before, after)
    for name in ("feats", "latents", "rewards", "conts"):
        assert torch.equal(getattr(before, name), getattr(after, name))


@every
def test_nothing_is_left_behind_a_detached_carry(kind, shape):
    _, world, ports = make(kind, shape)
    carry, _, actions = ragged(world, ports)
    cut = tree.detach(carry)
    leaves = []
    tree.map_leaves(leaves.append, cut)
    assert leaves
    assert not any(t.requires_grad for t in leaves)
    _, pred = world.step(cut, actions[:, 0])
    assert pred.feat.isfinite().all()


@every
def test_gradients_reach_the_actions_where_it_says_so(kind, shape):
    _, world, ports = make(kind, shape)
    if ports.vocabs["action"]:
        action = torch.nn.functional.one_hot(draw(ports, "action", B), ports.vocabs["action"]).flatten(-2).float()
    else:
        action = draw(ports, "action", B)
    carry, _, _ = ragged(world, ports)
    if not world.differentiable:
        _, pred = world.step(carry, draw(ports, "action", B))
        assert not pred.feat.requires_grad, "no graph may grow where nobody will go back along it"
        return
    action.requires_grad_()
    for _ in range(3):
        carry, pred = world.step(carry, action)
    (grad,) = torch.autograd.grad(pred.reward.sum() + pred.feat.sum(), action)
    assert grad.isfinite().all()
    assert (grad != 0).any(1).all()


@every
@torch.no_grad()
def test_the_generator_alone_decides_the_draws(kind, shape):
    _, world, ports = make(kind, shape)
    carry, feat, actions = ragged(world, ports)
    found = []
    for _ in range(2):
        torch.manual_seed(7)
        found.append(imagine(world, tree.clone(carry), feat, actions, 4, temperature=1.5)[1])
    for name in ("feats", "latents", "rewards", "conts"):
        assert torch.equal(getattr(found[0], name), getattr(found[1], name))


@every
@torch.no_grad()
def test_the_likeliest_is_drawn_by_nobody(kind, shape):
    _, world, ports = make(kind, shape)
    carry, feat, actions = ragged(world, ports)
    before = torch.get_rng_state()
    imagine(world, carry, feat, actions, 3, sample=False)
    assert torch.equal(before, torch.get_rng_state())


# ---- files --------------------------------------------------------------------------------------------------------------


@every
@torch.no_grad()
def test_loaded_from_a_bundle_it_is_the_same(kind, shape, tmp_path):
    model, world, ports = make(kind, shape)
    model.config.save_pretrained(tmp_path)
    save_file({n: t.contiguous() for n, t in model.state_dict().items()}, tmp_path / "model.safetensors")
    again = bundle.load_model(tmp_path, kind)
    assert not again.training
    other = again.world("a") if kinds.reads_packed(kind) else again
    found = []
    for w in (world, other):
        torch.manual_seed(1)
        carry, feat, actions = ragged(w, ports)
        found.append(imagine(w, carry, feat, actions, 3, sample=False)[1])
    for name in ("feats", "latents", "rewards", "conts"):
        assert torch.equal(getattr(found[0], name), getattr(found[1], name))


@pytest.mark.parametrize("kind", KINDS)
def test_settings_can_be_read_without_importing(kind):
    found = kinds.settings(kind)
    shape = next(s for k, s in CASES if k == kind)
    config = tiny_config(kind, make_ports(kinds.reads_packed(kind), shape))
    fresh = type(config)()
    for name, (_, default) in found.items():
        if name not in ("ports", "context_length", "length"):
            value = getattr(fresh, name)
            assert value == (list(default) if isinstance(default, tuple) else default), name


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_settings_are_named(kind):
    module, packed = kinds.load(kind), kinds.reads_packed(kind)
    shape = next(s for k, s in CASES if k == kind)
    ports = make_ports(packed, shape)
    wanted, room = ({"a": ports}, 96) if packed else (ports, T)
    make_config = module.Config.for_domains if packed else module.Config.for_ports
    with pytest.raises(RecipeError, match="unknown setting"):
        make_config(wanted, room, nonsense=1)
    if "losses" in kinds.settings(kind):
        with pytest.raises(RecipeError, match="'stat'"):
            make_config(wanted, room, losses=["stat", "reward"])
    blind = replace(ports, layout=ports.layout.replace(" action", ""))
    blind = {"a": blind} if packed else blind
    with pytest.raises(RecipeError, match="action"):
        make_config(blind, room)
