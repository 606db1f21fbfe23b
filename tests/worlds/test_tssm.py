"""The TSSM's own promises: living in it equals training on it, dreams begin anywhere at once, and a full memory slides."""

from dataclasses import replace

import pytest
import torch

from seqrl.core import tree
from seqrl.core.contracts import Ports
from seqrl.core.errors import RecipeError
from seqrl.core.stream import StreamBatch
from seqrl.nn.shared import Past
from seqrl.rollout.imagine import imagine
from seqrl.worlds.tssm import TSSM, TSSMConfig

PORTS = Ports(
    "state action > reward done",
    {"state": 3, "action": 1, "reward": 1, "done": 1},
    {"state": 0, "action": 4, "reward": 3, "done": 2},
    dict.fromkeys(("state", "action", "reward", "done"), False),
    levels={"reward": [0.0, 1.0, 3.0]},
)
B = 3


def make(**settings):
    torch.manual_seed(0)
    model = TSSM(TSSMConfig.tiny(PORTS, **settings)).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    return model


def window(T, rows=B, seed=1):
    g = torch.Generator().manual_seed(seed)
    values = {
        "state": torch.randn(rows, T + 1, 3, generator=g),
        "action": torch.randint(4, (rows, T + 1, 1), generator=g),
        "reward": torch.randint(3, (rows, T + 1, 1), generator=g),
        "done": torch.randint(2, (rows, T + 1, 1), generator=g),
    }
    return StreamBatch(values, torch.arange(T + 1).expand(rows, -1), torch.full((rows,), T))


def led_to(action):
    return torch.cat((torch.zeros_like(action[:, :1]), action[:, :-1]), 1)


def close(a, b, tolerance=1e-5):
    torch.testing.assert_close(a, b, rtol=0, atol=tolerance)


@pytest.mark.parametrize("body", ["gpt2", "llama", "qwen3"])
@torch.no_grad()
def test_living_in_it_equals_training_on_it(body):
    """The features that losses are computed from are those an agent gets, step by step."""
    model, batch = make(body=body), window(6)
    torch.manual_seed(3)
    feat, _ = model._read(batch.values)
    z = feat[..., : model.latents.width]
    carry, found = model.init(B, 7), []
    for t in range(7):
        carry, one = model.observe(carry, z[:, t : t + 1], led_to(batch.values["action"])[:, t : t + 1])
        found.append(one)
    close(torch.cat(found, 1), feat)


@torch.no_grad()
def test_dreams_from_every_step_equal_dreams_from_each():
    model, batch = make(), window(5)
    z, action = model.encode(batch.values, sample=False), batch.values["action"]
    ahead = torch.randint(4, (B * 6, 3, 1))
    lengths = torch.tensor([6, 6, 6])
    carry, feat = model.starts(z, action, lengths, 3)
    _, dream = imagine(model, tree.clone(carry), feat, ahead, 3, sample=False)
    for b in range(B):
        for t in range(6):
            own, one = model.observe(model.init(1, 12), z[b : b + 1, : t + 1], led_to(action)[b : b + 1, : t + 1])
            i = b * 6 + t
            close(feat[i], one[0, -1])
            _, alone = imagine(model, own, one[:, -1], ahead[i : i + 1], 3, sample=False)
            close(dream.feats[i], alone.feats[0])
            close(dream.rewards[i], alone.rewards[0])
            close(dream.conts[i], alone.conts[0])
    # Only some of them, as an actor would have it that leaves out padding.
    some = torch.rand(B * 6) < 0.5
    _, few = imagine(model, tree.index(carry, some), feat[some], ahead[some], 3, sample=False)
    close(few.feats, dream.feats[some])


@torch.no_grad()
def test_starts_behind_a_row_are_finite_and_move_no_other():
    model, batch = make(), window(5)
    z, action = model.encode(batch.values, sample=False), batch.values["action"]
    ahead, lengths = torch.zeros(B * 6, 2, 1, dtype=torch.int64), torch.tensor([6, 2, 4])
    real = (torch.arange(6) < lengths[:, None]).flatten()
    found = []
    for seed in range(2):
        other = torch.where(real.view(B, 6, 1), z, model.encode(window(5, seed=seed + 5).values, sample=False))
        carry, feat = model.starts(other, action, lengths, 2)
        dream = imagine(model, carry, feat, ahead, 2, sample=False)[1]
        assert dream.feats.isfinite().all()
        found.append(dream.feats[real])
    assert torch.equal(*found)


@torch.no_grad()
def test_one_start_is_enough():
    model, batch = make(), window(1)
    z = model.encode(batch.values, sample=False)[:, :1]
    carry, feat = model.starts(z, batch.values["action"][:, :1], torch.ones(B, dtype=torch.int64), 2)
    own, one = model.observe(model.init(B, 4), z, batch.values["action"][:, :1])
    close(feat, one[:, 0])
    ahead = torch.randint(4, (B, 2, 1))
    close(*(imagine(model, c, feat, ahead, 2, sample=False)[1].feats for c in (carry, own)))


@torch.no_grad()
def test_a_full_memory_slides_in_the_same_way_however_it_is_fed():
    model, batch = make(), window(20)
    z, before = model.encode(batch.values, sample=False), led_to(batch.values["action"])
    assert model.config.context_length == 6
    found, ends = [], []
    for cuts in ([21], [1] * 21, [3, 7, 1, 10]):
        carry, parts = model.init(B, 100), []
        for zs, acts in zip(z.split(cuts, 1), before.split(cuts, 1), strict=True):
            carry, feat = model.observe(carry, zs, acts)
            parts.append(feat)
        found.append(torch.cat(parts, 1))
        ends.append(carry)
    close(found[0], found[1])
    close(found[0], found[2])
    # Rows that began later slide when they are full, not when others are.
    late = tree.where(
        torch.tensor([False, True, False]), model.init(B, 100), model.observe(model.init(B, 100), z[:, :4], before[:, :4])[0]
    )
    _, feat = model.observe(late, z[:, 4:], before[:, 4:])
    close(feat[[0, 2]], found[0][[0, 2], 4:])
    _, alone = model.observe(model.init(1, 100), z[1:2, 4:], before[1:2, 4:])
    close(feat[1], alone[0])


@torch.no_grad()
def test_dreams_beyond_the_context_share_as_they_would_repeat():
    model, batch = make(), window(9)
    z, before = model.encode(batch.values, sample=False), led_to(batch.values["action"])
    for context in (1, 5, 6, 10):
        carry, _ = model.observe(model.init(B, 100), z[:, :context], before[:, :context])
        ahead = torch.randint(4, (B * 2, 15, 1))
        plain = tree.repeat(tree.clone(carry), 2)
        many = model.share(carry, 2, 15)
        a, b = (imagine(model, c, None, ahead, 15, sample=False)[1] for c in (plain, many))
        close(a.feats, b.feats)


@torch.no_grad()
def test_what_was_forgotten_moves_nothing_any_more():
    """With one block a key knows its own token only, so what slid out is gone; until then it matters."""
    model, batch = make(layers=1), window(12)
    z, before = model.encode(batch.values, sample=False), led_to(batch.values["action"])
    other = z.clone()
    other[:, 0] = z[:, 0].roll(1, -1)
    feats = [model.observe(model.init(B, 100), each, before)[1] for each in (z, other)]
    moved = (feats[0] != feats[1]).flatten(2).any(2).all(0)
    assert moved[:7].all()
    assert not moved[7:].any()


@torch.no_grad()
def test_candidates_do_not_copy_the_past():
    model, batch = make(), window(5)
    carry, _ = model.observe(model.init(1, 100), model.encode(batch.values)[:1], led_to(batch.values["action"])[:1])
    many = model.share(carry, 100, 2)
    assert isinstance(many.memory.past, Past)
    assert len(many.memory.past) == 1
    own = many.memory.keys[0]
    assert own.shape[0] == 100
    assert own.shape[2] == 2
    assert len(many.z) == 100


def test_a_memory_with_less_room_than_a_window_refuses_what_is_too_much():
    model, batch = make(), window(5)
    z, before = model.encode(batch.values), led_to(batch.values["action"])
    with pytest.raises(ValueError, match="room for 3 tokens"):
        model.observe(model.init(B, 4), z, before)
    many = model.share(model.observe(model.init(B, 6), z, before)[0], 2, 1)
    with pytest.raises(ValueError, match="room for 1 token"):
        imagine(model, many, None, torch.zeros(B * 2, 2, 1, dtype=torch.int64), 2)


def test_the_latent_alone_is_shown_where_the_decoder_reads_nothing_else():
    for decoder, moved in (("feat", True), ("latent", False)):
        model = make(decoder=decoder)
        feat = torch.randn(4, model.feat_width)
        other = feat.clone()
        other[:, model.latents.width :] += 1
        assert torch.equal(model.decode(feat)["state"], model.decode(other)["state"]) != moved


def test_divergences_are_named_as_they_are_weighed():
    batch = window(5)
    joint, each = make(free=0.0), make(free=0.0, kl_form="each")
    assert joint.losses == ("state", "reward", "done", "kl")
    assert each.losses == ("state", "reward", "done", "dyn", "rep")
    each.load_state_dict(joint.state_dict())
    found = []
    for model in (joint, each):
        torch.manual_seed(0)
        found.append({n: t[0] for n, t in model(batch).terms.items()})
    # All three are the same number; what differs is who is moved by it.
    close(found[0]["kl"], found[1]["dyn"])
    close(found[0]["kl"], found[1]["rep"])
    assert found[0]["kl"].shape == (B, 5)
    for name, moved, still in (("dyn", each.prior, each.sensors), ("rep", each.sensors, each.prior)):
        each.zero_grad()
        torch.manual_seed(0)
        each(batch).terms[name][0].sum().backward()
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in moved.parameters()), name
        if name == "rep":
            assert all(p.grad is None for p in still.parameters())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"losses": ["state", "reward", "done"]}, "give 'kl' a weight"),
        ({"losses": ["state", "reward", "done", "dyn", "rep"]}, "no 'dyn'"),
        ({"kl_form": "each", "losses": ["state", "reward", "done", "dyn"]}, "give 'rep' a weight"),
        ({"losses": ["reward", "done", "kl"]}, "at least one observed slot"),
        ({"body": "lama"}, "did you mean 'llama'"),
        ({"classes": 1}, "model.classes"),
        ({"free": -1.0}, "model.free"),
        ({"width": 18, "heads": 6}, "cannot be split in two"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(RecipeError, match=message):
        TSSM(TSSMConfig.tiny(PORTS, **settings))


def test_a_layout_without_a_reward_is_refused():
    with pytest.raises(RecipeError, match="answers 'reward'"):
        TSSMConfig.tiny(replace(PORTS, layout="state action > done"))
