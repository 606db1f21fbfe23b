"""Every model kind that reads packed rows keeps the contract, and its tokens see what they may and nothing else."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from seqrl.core import kinds
from seqrl.core.contracts import Model, Policy
from seqrl.core.errors import RecipeError
from seqrl.core.packed import PackedBatch
from seqrl.core.stream import StreamBatch
from seqrl.nn.streamheads import read_only

KINDS = [f"{room}.{n}" for room in ("policies", "worlds") for n in kinds.names(room) if kinds.reads_packed(f"{room}.{n}")]
POLICIES = ["policies.gato", "policies.vla"]
# What a world dreams of is codes, and ends in an action; it has a loss on all of it.
DREAMT = {"plain": "codes", "front": "told", "readout": "codes", "world": "told"}
ROWS = [[[("a", 3)], [("b", 2)], [("a", 1)]], [[("b", 1), ("b", 3)], [("a", 2)]]]
TWO = pytest.mark.parametrize("layouts", [("plain", "front"), ("readout", "world")])
every = pytest.mark.parametrize("kind", KINDS)
every_policy = pytest.mark.parametrize("kind", [k for k in KINDS if k.startswith("policies.")])
acting = pytest.mark.parametrize("kind", POLICIES)
L = 96


def test_there_are_kinds():
    assert set(POLICIES) <= set(KINDS)


def make(kind, packed, layouts, numbers=False, **settings):
    module = kinds.load(kind)
    layouts = [packed.layouts[DREAMT[n] if kind.startswith("worlds.") else n] for n in layouts]
    ports = {d: packed.ports(text, numbers) for d, text in zip("ab", layouts, strict=True)}
    torch.manual_seed(0)
    config = module.Config.tiny(ports, L, **settings)
    return module.Model(config).eval(), ports


def hidden(model, batch):
    return model.trunk(model.embed(batch), pack=batch.pack, pos=batch.pos)


@every
@TWO
@pytest.mark.parametrize("numbers", [False, True])
def test_forward_answers_the_promised_losses(kind, packed, layouts, numbers):
    model, ports = make(kind, packed, layouts, numbers)
    batch, _ = packed.lay_out(ports, L, ROWS)
    assert isinstance(model, PreTrainedModel)
    assert isinstance(model, Model)
    losses = model(batch)
    assert tuple(losses.terms) == tuple(model.losses)
    sums = losses.sums()
    assert all(total.isfinite() and count > 0 for total, count in sums.values())
    assert {n: float(c) for n, c in model.counts(batch).items()} == pytest.approx({n: float(c) for n, (_, c) in sums.items()})
    sum(total / count for total, count in sums.values()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    assert model.embed.places.weight.grad.abs().sum() > 0


@every
@TWO
def test_every_trained_token_is_counted_once(kind, packed, layouts):
    model, ports = make(kind, packed, layouts)
    batch, _ = packed.lay_out(ports, L, ROWS)
    steps = sum(len(p.at) for p in batch.parts.values())
    slot, tokens = ("reward", 1) if kind.startswith("worlds.") else ("action", 2)
    assert float(model.counts(batch)[slot]) == tokens * steps


@every
@TWO
def test_packed_equals_unpacked(kind, packed, layouts):
    model, ports = make(kind, packed, layouts)
    batch, values = packed.lay_out(ports, L, ROWS)
    alone, _ = packed.lay_out(ports, L, [[d] for row in ROWS for d in row], values=values)
    a, b = (hidden(model, x)[x.pack >= 0] for x in (batch, alone))
    torch.testing.assert_close(a, b, rtol=0, atol=1e-5)
    a, b = (model(x).sums() for x in (batch, alone))
    for name in a:
        torch.testing.assert_close(a[name][0], b[name][0], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(a[name][1], b[name][1])


@every
@TWO
def test_the_future_and_other_documents_move_nothing(kind, packed, layouts):
    model, ports = make(kind, packed, layouts)
    batch, values = packed.lay_out(ports, L, ROWS)
    before = hidden(model, batch)
    for d, part in batch.parts.items():
        for i in (0, len(part.at) - 1):
            for name in model.domains[d].step:
                changed = {e: dict(v) for e, v in values.items()}
                new = values[d][name].clone()
                top = ports[d].vocabs[name]
                new[i] = (new[i] + 1) % top if top else new[i] // 2 if name == "image" else -new[i]
                changed[d][name] = new
                after = hidden(model, packed.lay_out(ports, L, ROWS, values=changed)[0])
                first = int(part.at[i]) + model.domains[d].layout.offset(name)
                b, at = divmod(first, L)
                later = (torch.arange(L) >= at) & (batch.pack[b] == batch.pack[b, at])
                still = batch.pack >= 0
                still[b] &= ~later
                torch.testing.assert_close(before[still], after[still], rtol=0, atol=1e-6)
                if top != 1:
                    assert not torch.allclose(before[b, at], after[b, at]), f"{name} does not even move itself"


@every_policy
@TWO
def test_reading_only_what_is_asked_changes_nothing(kind, packed, layouts):
    """``forward`` lets the last block compute just the places that are trained; so the losses are those of reading all."""
    model, ports = make(kind, packed, layouts, losses=["action"])
    batch, _ = packed.lay_out(ports, L, ROWS)
    asks = model.heads.asks(batch)
    assert read_only(asks, *batch.pack.shape)[0].shape[1] < 0.7 * L
    a, b = model(batch).terms, model.heads.loss(hidden(model, batch).flatten(0, 1), batch, asks).terms
    torch.testing.assert_close(a["action"], b["action"], rtol=1e-5, atol=1e-5)


@every
def test_cutting_into_pieces_counts_the_same(kind, packed):
    model, ports = make(kind, packed, ("front", "world"))
    batch, _ = packed.lay_out(ports, L, ROWS)
    pieces = [model(p).sums() for p in batch.split(2)]
    for name, (total, count) in model(batch).sums().items():
        torch.testing.assert_close(sum(p[name][0] for p in pieces), total)
        torch.testing.assert_close(sum(p[name][1] for p in pieces), count)


@every
def test_weights_of_nought_are_not_trained(kind, packed):
    model, ports = make(kind, packed, ("plain", "front"))
    batch, _ = packed.lay_out(ports, L, ROWS)
    quiet = {d: p.map(lambda t: t * 0 if t.dtype == torch.float32 else t, lambda t: t) for d, p in batch.parts.items()}
    assert all(c == 0 for _, c in model(PackedBatch(quiet, batch.pack, batch.pos)).sums().values())


@every
@TWO
@pytest.mark.parametrize("numbers", [False, True])
def test_tokens_that_share_a_weight_count_as_one_step(kind, packed, layouts, numbers):
    """An action of two codes then counts what one of two numbers does: the weight of its step."""
    model, ports = make(kind, packed, layouts, numbers)
    batch, _ = packed.lay_out(ports, L, ROWS)
    joint = PackedBatch({d: replace(p, joint=True, weight=p.weight * 3) for d, p in batch.parts.items()}, batch.pack, batch.pos)
    steps = sum(len(p.at) for p in batch.parts.values())
    slot = "reward" if kind.startswith("worlds.") else "action"
    assert float(model.counts(joint)[slot]) == pytest.approx(3 * steps)
    assert float(model(joint).sums()[slot][1]) == pytest.approx(3 * steps)


@every
def test_a_few_steps_of_training_lower_the_loss(kind, packed):
    model, ports = make(kind, packed, ("plain", "world"))
    batch, _ = packed.lay_out(ports, L, ROWS)
    optim = torch.optim.AdamW([p for p in model.train().parameters() if p.requires_grad], 3e-3)
    seen = []
    for _ in range(30):
        loss = sum(total / count for total, count in model(batch).sums().values())
        optim.zero_grad()
        loss.backward()
        optim.step()
        seen.append(loss.item())
    assert seen[-1] < 0.8 * seen[0]


@every
def test_it_needs_its_weights_alone(kind, packed, tmp_path):
    """What a model computes with is in its file: nothing that only ``__init__`` would fill."""
    model, ports = make(kind, packed, ("plain", "world"))
    batch, _ = packed.lay_out(ports, L, ROWS)
    model.config.save_pretrained(tmp_path)
    save_file({n: t.contiguous() for n, t in model.state_dict().items()}, tmp_path / "model.safetensors")
    module = kinds.load(kind)
    with torch.device("meta"):
        empty = module.Model(module.Config.from_pretrained(tmp_path))
    empty.load_state_dict(load_file(tmp_path / "model.safetensors"), assign=True)
    a, b = (m.eval()(batch).terms for m in (model, empty))
    assert all(torch.equal(a[n][0], b[n][0]) for n in a)


def windows(ports, packed, B, T, seed=1):
    """``[B, T, width]`` of every slot; prefix slots hold the same at every step."""
    g, out = torch.Generator().manual_seed(seed), {}
    for name in ports.widths:
        front = name in ports.layout.split("|")[0].split() and "|" in ports.layout
        one = packed.lay_out(
            {"a": ports}, 400, [[[("a", 1)] * B * (1 if front else T)]], seed=int(torch.randint(99, (1,), generator=g))
        )
        v = one[1]["a"][name]
        out[name] = v[:, None].expand(B, T, -1) if front else v.view(B, T, -1)
    return StreamBatch(out, torch.arange(T).expand(B, T), torch.full((B,), T))


LAYOUTS = pytest.mark.parametrize("layout", ["plain", "front", "readout", "world"])


@acting
@LAYOUTS
@pytest.mark.parametrize("numbers", [False, True])
def test_cached_play_equals_exact_play(kind, packed, layout, numbers):
    model, ports = make(kind, packed, (layout, "plain"), numbers)
    player = model.player("a")
    assert isinstance(player, Policy)
    B, T = 4, 5
    batch = windows(ports["a"], packed, B, T)
    cache, one = player.init_cache(B, T), torch.ones(B, dtype=torch.int64)
    late = player.after
    for t in range(T):
        step = {n: v[:, (max(t - 1, 0) if n in late else t), None] for n, v in batch.values.items()}
        uniform = torch.rand(B, ports["a"].widths["action"])
        options = {"sample": True, "uniform": uniform}
        got = player.act(StreamBatch(step, batch.time[:, t : t + 1], one), cache, **options)["action"]
        exact = player.act(StreamBatch(batch.values, batch.time, one * (t + 1)), **options)["action"]
        torch.testing.assert_close(got, exact, rtol=0, atol=1e-5)
        assert cache.steps.tolist() == [t + 1] * B
    half = StreamBatch({n: v[:2, 2:] for n, v in batch.values.items()}, batch.time[:2, 2:], one[:2] * 3)
    player.refill(half, cache, torch.tensor([2, 0]))
    cache.reset(torch.tensor([1]))
    assert cache.steps.tolist() == [3, 0, 3, T]
    assert cache.index(torch.tensor([3, 3, 1])).steps.tolist() == [T, T, 0]


@acting
@LAYOUTS
def test_what_is_said_is_what_a_whole_row_predicts(kind, packed, layout):
    """The likeliest codes, one after the other, are the likeliest at each token of a row that holds them all."""
    model, ports = make(kind, packed, (layout, "plain"))
    player, port = model.player("a"), ports["a"]
    T = 4
    batch = windows(port, packed, 1, T)
    said = player.act(batch)["action"]
    batch.values["action"][:, -1] = said
    flat = {n: v[:, 0] if n in player.domain.prefix else v[0] for n, v in batch.values.items()}
    row, _ = packed.lay_out({"a": port}, L, [[[("a", T)]]], values={"a": flat})
    asks = model.heads.asks(row)["a", "action"]
    y = hidden(model, row).flatten(0, 1)[asks.where[-1]]
    span = model.embed.ranges["a", "action"]
    logits = model.heads.codes(y.expand(span.tokens, -1), span)
    assert torch.equal(logits.argmax(-1), said[0])
    assert (said < port.vocabs["action"]).all()


@acting
def test_rows_do_not_depend_on_their_neighbours(kind, packed):
    model, ports = make(kind, packed, ("front", "plain"))
    player = model.player("a")
    batch, options = windows(ports["a"], packed, 5, 4), {"sample": True, "uniform": torch.rand(5, 2)}
    every_one = player.act(batch, **options)["action"]
    for b in range(5):
        alone = player.act(batch[b : b + 1], sample=True, uniform=options["uniform"][b : b + 1])["action"]
        assert torch.equal(alone[0], every_one[b])


@every_policy
def test_wrong_input_is_named(kind, packed):
    module = kinds.load(kind)
    layouts = [packed.layouts["front"], packed.layouts["plain"]]
    ports = {d: packed.ports(text) for d, text in zip("ab", layouts, strict=True)}
    with pytest.raises(RecipeError, match="raise tokens.pack"):
        module.Config.tiny(ports, 4)
    with pytest.raises(RecipeError, match="unknown setting"):
        module.Config.tiny(ports, L, nonsense=1)
    with pytest.raises(RecipeError, match="no domain has a slot 'stat'.*did you mean"):
        module.Config.tiny(ports, L, losses=["action", "stat"])
    with pytest.raises(RecipeError, match="must have a loss on 'action'"):
        module.Config.tiny(ports, L, losses=["reward"] if "reward" in ports["a"].widths else ["state"])
    with pytest.raises(RecipeError, match="has no domain 'c'"):
        module.Model(module.Config.tiny(ports, L)).player("c")
    with pytest.raises(RecipeError, match="has no ports"):
        module.Config().plan()
