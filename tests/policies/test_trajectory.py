"""Trajectory Transformer: nothing leaks, the search finds what a slow one finds, and planning beats imitating."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from seqrl.core.contracts import Ports
from seqrl.core.episode import EpisodeSpec, Modality
from seqrl.core.errors import RecipeError
from seqrl.core.packed import PackedBatch, Part
from seqrl.core.stream import StreamBatch
from seqrl.data.slots import TokensConfig
from seqrl.data.tokenizer import Tokenizer
from seqrl.policies._beam import draw_likely
from seqrl.policies.trajectory import Config, Model

LAYOUT = "state action reward > return"
WIDTHS, VOCABS = {"state": 3, "action": 2, "reward": 1, "return": 1}, {"state": 7, "action": 5, "reward": 4, "return": 6}


LEVELS = {"reward": [-1.0, 0.3, 0.8, 2.0], "return": [-3.0, -1.2, 0.1, 0.9, 2.5, 4.0]}


def make_ports(layout=LAYOUT, widths=WIDTHS, vocabs=VOCABS, levels=LEVELS, context=8):
    names = layout.replace(">", "").split()
    widths, vocabs, levels = ({n: given[n] for n in names if n in given} for given in (widths, vocabs, levels))
    bounded = dict.fromkeys(names, False)
    return Ports(layout, widths, vocabs, bounded, tokens=widths, levels=levels, discount=0.9, context=context)


def make_model(ports=None, length=64, **settings):
    torch.manual_seed(0)
    sizes = {"width": 16, "layers": 2, "heads": 2, "beam": 3, "expand": 2, "look_back": 3, "horizon": 3}
    model = Model(Config.for_domains({"main": ports or make_ports()}, length, **sizes | settings)).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.2)
    return model


def make_window(ports, B=3, T=5, length=(5, 1, 3), seed=0):
    g = torch.Generator().manual_seed(seed)
    values = {n: torch.randint(ports.vocabs[n], (B, T, w), generator=g) for n, w in ports.widths.items()}
    return StreamBatch(values, torch.arange(T).expand(B, T), torch.tensor(length))


def pack(model, values, documents=1):
    """``slot -> [B, T, K]`` as packed rows, each of so many documents."""
    B, T = values["state"].shape[:2]
    W, flat = model.domains["main"].W, {n: v.flatten(0, 1) for n, v in values.items()}
    at, each = torch.arange(B * T) * W, torch.arange(T * W).expand(B, -1)
    one, size = torch.ones(B * T), T * W // documents
    part = Part(flat, at, torch.arange(T).repeat(B), one, torch.arange(B) * T * W, {}, torch.ones(B))
    return PackedBatch({"main": part}, each // size, each % size)


def test_nothing_leaks():
    model, T, W = make_model(), 4, 6
    values = make_window(make_ports(), 2, T, (T, T)).values
    of = lambda v, n=1: (lambda b: model.trunk(model.embed(b), pack=b.pack, pos=b.pos))(pack(model, v, n))  # noqa: E731
    before = of(values)
    for slot, place in (("state", 0), ("action", 3), ("reward", 5)):
        other = {n: v.clone() for n, v in values.items()}
        other[slot][:, 2, 0] = (other[slot][:, 2, 0] + 1) % VOCABS[slot]
        after, first = of(other), 2 * W + place
        assert torch.equal(after[:, :first], before[:, :first])
        assert not torch.isclose(after[:, first:], before[:, first:]).all(-1).any()
    asked = values | {"return": (values["return"] + 1) % 6}
    assert torch.equal(of(asked), before), "returns are never fed"
    assert not torch.equal(model(pack(model, asked)).terms["return"][0], model(pack(model, values)).terms["return"][0])
    half = {n: torch.cat(((v[:, :2] + 1) % VOCABS[n], v[:, 2:]), 1) for n, v in values.items()}
    assert torch.equal(of(half, 2)[:, 2 * W :], of(values, 2)[:, 2 * W :]), "documents do not see each other"


# ---- the search, once more: lists instead of rows, whole numbers instead of tensors, everything recomputed ----------------


def mixed(x):
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = ((x ^ (x >> shift)) * factor) % 2**64
    return x ^ (x >> 31)


def uniform_at(state, counter):
    bits = mixed((state + (counter + 1) * 0x9E3779B97F4A7C15) % 2**64) >> 41 & 2**23 - 1
    return torch.tensor([(2 * bits + 1) * 2.0**-24])


def slow_search(model, batch, b, plan, uniform):
    """``[(score, codes of the steps)]`` of one environment, the best first."""
    d, embed, state = model.domains["main"], model.embed, 0
    for u in uniform[b].tolist():
        state = mixed((state + (int(u * 2**24) + 1) * 0x9E3779B97F4A7C15) % 2**64)
    steps = range(max(int(batch.length[b]) - plan.look_back, 0), int(batch.length[b]))
    x = torch.cat([embed.tokens("main", d.step, {n: batch.values[n][b, t][None] for n in d.step})[0] for t in steps])
    beams = [(0.0, x[: (len(steps) - 1) * d.W + d.layout.offset("action")], [[0] * d.W])] * plan.beam
    count, level = plan.beam * plan.expand, d.ports.levels

    def logits(x, slot, k=0):
        return model.heads.codes(model.trunk(x[None])[0, -1:], embed.ranges["main", slot], k)

    def go_on(x, codes, slots, h, j):
        reward = None
        for slot in slots:
            for k in range(WIDTHS[slot]):
                said, place = logits(x, slot, k), d.layout.offset(slot) + k
                u = uniform_at(state, (h * d.W + place) * count + j)
                if slot == "action":
                    code = draw_likely(said, u, plan.cdf_action, plan.top_action)
                else:
                    code = draw_likely(said, u) if plan.states == "drawn" and slot == "state" else said.argmax(-1)
                if slot == "reward":
                    p = said[0].softmax(-1)
                    reward = float(p @ torch.tensor(level[slot])) if plan.values == "mean" else level[slot][int(p.argmax())]
                codes = [*codes[:-1], [*codes[-1][:place], int(code), *codes[-1][place + 1 :]]]
                x = torch.cat((x, embed.code("main", slot, k, code)[0]))
        return x, codes, reward

    for h in range(plan.horizon):
        found = []
        for j in range(count):
            total, x, codes = beams[j % plan.beam]
            x, codes, reward = go_on(x, codes, ("action", "reward"), h, j)
            p = logits(x, "return")[0].softmax(-1)
            value = float(p @ torch.tensor(level["return"])) if plan.values == "mean" else level["return"][int(p.argmax())]
            found.append((total + 0.9**h * value, total + 0.9**h * reward, x, codes))
        best = sorted(found, key=lambda f: -f[0])[: plan.beam]
        beams = [(total, x, codes) for _, total, x, codes in best]
        if h + 1 < plan.horizon:
            beams = [(t, *go_on(x, [*c, [0] * d.W], ("state",), h + 1, n)[:2]) for n, (t, x, c) in enumerate(beams)]
    return [(score, codes) for score, _, _, codes in best]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"states": "drawn"},
        {"top_action": 3, "cdf_action": 0.0, "expand": 3, "beam": 2},
        {"horizon": 1, "values": "likeliest"},
    ],
    ids=["paper", "drawn", "top", "levels"],
)
@torch.inference_mode()
def test_the_search_finds_what_a_slow_one_finds(settings):
    ports = make_ports()
    player, batch = make_model(ports).player("main", **settings), make_window(ports)
    uniform = torch.rand(3, 2, generator=torch.Generator().manual_seed(5)).clamp(1e-3, 0.999)
    uniform = ((uniform * 2**23).long() * 2 + 1) * 2.0**-24
    found = player.search(batch, uniform)
    for b in range(3):
        slow = slow_search(player.model, batch, b, player.plan, uniform)
        torch.testing.assert_close(found.score[b], torch.tensor([s for s, _ in slow]), rtol=0, atol=1e-4)
        # Levels repeat, and which of several equals comes first is nobody's promise.
        assert player.plan.values == "likeliest" or found.codes[b].tolist() == [codes for _, codes in slow]
    assert player.act(batch, sample=True, uniform=uniform)["action"].tolist() == found.codes[:, 0, 0, 3:5].tolist()


def test_a_plan_depends_on_its_own_row_and_recent_past_alone():
    ports = make_ports()
    player, batch, uniform = make_model(ports).player("main"), make_window(ports), torch.rand(3, 2)
    whole = player.search(batch, uniform)
    # The buffer of the first search is written over by the second, which has other rows.
    for b in (2, 0, 1):
        alone = player.search(batch[[b]], uniform[[b]])
        assert torch.equal(alone.codes[0], whole.codes[b])
        torch.testing.assert_close(alone.score[0], whole.score[b], rtol=0, atol=1e-5)
    other = {n: torch.cat(((v[:, :2] + 1) % VOCABS[n], v[:, 2:]), 1) for n, v in batch.values.items()}
    assert torch.equal(player.search(replace(batch, values=other), uniform).codes[0], whole.codes[0])
    assert torch.equal(player.act(batch)["action"], player.act(batch, uniform=uniform)["action"])
    assert not torch.equal(player.search(batch, uniform.flip(0)).codes, whole.codes)


def test_of_codes_only_the_likely_are_drawn():
    p = torch.tensor([0.05, 0.3, 0.1, 0.4, 0.15])
    u = torch.linspace(0.0005, 0.9995, 1000)
    share = lambda **o: (draw_likely(p.log().expand(1000, -1), u, **o).bincount(minlength=5) / 1000).tolist()  # noqa: E731
    assert share() == pytest.approx(p.tolist(), abs=2e-3)
    assert share(cdf=0.6) == pytest.approx([0, 0, 0, 1, 0])
    assert share(cdf=0.59) == pytest.approx([0, 3 / 7, 0, 4 / 7, 0], abs=2e-3)
    assert share(top=3) == pytest.approx([0, 0.3 / 0.85, 0, 0.4 / 0.85, 0.15 / 0.85], abs=2e-3)
    assert share(top=1, cdf=0.99) == pytest.approx([0, 0, 0, 1, 0])


# ---- a world in which imitating is no good -------------------------------------------------------------------------------


def walks(n, T=8, places=5, seed=0):
    """Random walks on a line that pay 1 at its right end; action 1 goes right. Returns with discount 0.9, in bins."""
    g = torch.Generator().manual_seed(seed)
    at, action = torch.randint(places, (n,), generator=g), torch.randint(2, (n, 3 * T), generator=g)
    states, rewards = [], []
    for t in range(3 * T):
        states.append(at)
        at = (at + 2 * action[:, t] - 1).clamp(0, places - 1)
        rewards.append((at == places - 1).long())
    to_go = [torch.zeros(n)]
    for r in reversed(rewards):
        to_go.insert(0, r + 0.9 * to_go[0])
    returns = torch.stack(to_go[:-1], 1).clamp(0, 4.99).long()
    columns = {"state": torch.stack(states, 1), "action": action, "reward": torch.stack(rewards, 1), "return": returns}
    return {name: v[:, :T, None] for name, v in columns.items()}


def test_planning_finds_what_nobody_showed():
    widths, vocabs = dict.fromkeys(WIDTHS, 1), {"state": 5, "action": 2, "reward": 2, "return": 5}
    levels = {"reward": [0.0, 1.0], "return": [0.5, 1.5, 2.5, 3.5, 4.5]}
    ports = make_ports(widths=widths, vocabs=vocabs, levels=levels)
    torch.manual_seed(0)
    sizes = {"width": 32, "layers": 1, "heads": 2, "dropout": 0.0, "beam": 8, "look_back": 2, "horizon": 4, "cdf_action": 0.0}
    model = Model(Config.for_domains({"main": ports}, 24, **sizes))
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for step in range(120):
        losses = model.train()(pack(model, walks(64, seed=step)))
        sum(total / count for total, count in losses.sums().values()).backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    steps = walks(40, seed=1000)
    batch = StreamBatch({n: v[:, :3] for n, v in steps.items()}, torch.arange(3).expand(40, 3), torch.full((40,), 3))
    uniform = torch.rand(40, 1, generator=torch.Generator().manual_seed(0))
    imitated, planned = (model.player("main", horizon=h).act(batch, sample=True, uniform=uniform)["action"] for h in (0, 4))
    assert planned.float().mean() == 1
    assert 0.2 < imitated.float().mean() < 0.8


# ---- what cannot be ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "settings", "said"),
    [
        ({"layout": "state action > return"}, {}, "write 'state action reward > return'"),
        ({"layout": "state action reward"}, {}, "write 'state action reward > return'"),
        ({"layout": "return state action reward"}, {}, "write 'state action reward > return'"),
        ({"layout": "reward state action > return"}, {}, "write 'state action reward > return'"),
        ({"vocabs": VOCABS | {"state": 0}}, {}, "tokens.slots.state.kind=bins"),
        ({"levels": {}}, {}, "tokens.slots.reward.kind=bins"),
        ({}, {"losses": ["action", "reward", "return"]}, "'state', which must be learned"),
        ({}, {"horizon": 7}, "takes 9, and a document holds 8; lower model.horizon to 6, or raise tokens.context to 9"),
        ({"context": 0}, {"horizon": 9}, "holds 10; lower model.horizon to 8"),
        ({}, {"look_back": 9}, "lower model.look_back to 8"),
        ({}, {"beam": 0}, "model.beam: a number at least 1"),
        ({}, {"beam": 2.5}, "model.beam: a whole number"),
        ({}, {"cdf_action": 1.0}, "model.cdf_action"),
        ({}, {"states": "guessed"}, "likeliest, drawn"),
        ({}, {"horizons": 3}, "did you mean"),
    ],
)
def test_what_cannot_be_planned_says_how_it_can(change, settings, said):
    ports = make_ports(**change)
    present = [n for n in ("state", "action", "reward", "return") if n in ports.widths]
    with pytest.raises(RecipeError) as e:
        Config.for_domains({"main": ports}, 64, **{"look_back": 3, "horizon": 3, "losses": present, **settings})
    assert said in str(e.value)


def test_the_tokenizer_says_what_codes_mean():
    spec = EpisodeSpec(
        "tests/x-v0",
        {"observation": Modality("vector", (2,), "float32")},
        {"action": Modality("discrete", (), "int64", n=(3,))},
    )
    bins = {"kind": "bins", "bins": 8, "spacing": "quantile"}
    slots = {"state": bins, "reward": bins, "return": {"kind": "mulaw", "bins": 16}}
    tokenizer = Tokenizer(TokensConfig(layout=LAYOUT, pack=32, slots=slots), spec)
    for name in ("state", "reward", "return"):
        codec = tokenizer.slots[name].codec
        codec.fit(np.random.default_rng(0).normal(size=(200, codec.width)))
    tokenizer.discount = 0.97
    ports = tokenizer.ports()
    assert {n: len(v) for n, v in ports.levels.items()} == {"reward": 8, "return": 16}
    assert ports.levels["reward"] == tokenizer.slots["reward"].codec.centers[0].tolist()
    assert (ports.discount, ports.context) == (0.97, 8)
    config = Config.for_domains({"main": ports}, 32, look_back=2, horizon=2)
    assert json.loads(config.to_json_string())["ports"]["main"]["levels"] == ports.levels


def test_without_a_plan_any_layout_will_do():
    model = make_model(make_ports("state action"), losses=["state", "action"], horizon=0)
    window = make_window(make_ports("state action"))
    assert model.player("main").act(window)["action"].shape == (3, 2)
    with pytest.raises(RecipeError, match=r"model\.horizon=0"):
        model.player("main", horizon=2)
    with pytest.raises(RecipeError, match="no domain 'side'"):
        model.player("side")
