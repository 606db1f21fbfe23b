"""Packed rows: what is drawn how often, that documents never mix, and that every token says what the raw episode says.

Each step of these episodes carries its own name (source, episode, step) as its state, so whatever comes out of a batch can be
held against where it came from.
"""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seqrl.core.episode import Episode, EpisodeSpec, Modality
from seqrl.core.errors import DataError, RecipeError
from seqrl.data.dataset import DataConfig, Dataset, domains_of
from seqrl.data.mixture import Mixture
from seqrl.data.packing import Packer
from seqrl.data.slots import Prompts, TokensConfig
from seqrl.data.store import prepare

NAME = Modality("vector", (3,), "float32", (-np.inf,) * 3, (np.inf,) * 3)
ARM = EpisodeSpec("tests/arm-v0", {"name": NAME}, {"action": Modality("vector", (2,), "float32", (-1.0,) * 2, (1.0,) * 2)})
GRID = EpisodeSpec(
    "tests/grid-v0",
    {"name": NAME, "mission": Modality("text", (), "str"), "rgb": Modality("image", (8, 8, 3), "uint8")},
    {"action": Modality("discrete", (), "int64", n=(7,))},
)
MISSIONS = ("go to the red ball", "open the door", "", "pick up the box, then go to the green key")
STATE = {"kind": "vector", "scale": "none", "from": "name"}
TOKENS = {
    "layout": "state action",
    "slots": {"state": STATE},
    "domains": {
        "arm": {"layout": "state separator action > reward", "slots": {"action": {"kind": "bins", "bins": 16}, "state": STATE}},
        "grid": {"layout": "mission | rgb state action", "slots": {"rgb": {"kind": "patches", "size": 4}, "state": STATE}},
    },
}
WIDTH = {"arm": 4, "grid": 6}


def episode(spec, source, i, T):
    rng, ends = np.random.default_rng([source, i, T]), np.arange(T) == T - 1
    name = np.stack([np.full(T + 1, source), np.full(T + 1, i), np.arange(T + 1)], 1).astype(np.float32)
    obs = {"name": name}
    if spec.id == GRID.id:
        obs |= {"mission": np.full(T + 1, MISSIONS[i % 4]), "rgb": rng.integers(0, 256, (T + 1, 8, 8, 3), np.uint8)}
        act = {"action": rng.integers(0, 7, T)}
    else:
        act = {"action": rng.uniform(-1, 1, (T, 2)).astype(np.float32)}
    return Episode(obs, act, rng.normal(size=T).astype(np.float32), ends, np.zeros(T, bool), i)


class Source:
    def __init__(self, spec, number, lengths):
        self.spec, self.number, self.lengths = spec, number, np.array(lengths, np.int64)

    def fingerprint(self):
        return f"packing-{self.spec.id}-{self.number}-{self.lengths.tolist()}"

    def __len__(self):
        return len(self.lengths)

    def episode(self, i):
        return episode(self.spec, self.number, i, int(self.lengths[i]))


@cache
def store(domain, number, lengths):
    return prepare(Source(GRID if domain == "grid" else ARM, number, lengths))


def packer(sources, pack=60, held_out=0.0, context=None, own=TOKENS["domains"], **more):
    """``sources``: (domain, lengths of its episodes, {weight, tokens}) each, numbered in that order; ``own``: each domain's."""
    raw = [{"kind": "minari", "id": f"tests/{i}", "domain": d, **rest} for i, (d, _, rest) in enumerate(sources)]
    datasets = {}
    for name, numbers in domains_of(raw).items():
        plain = [{k: v for k, v in raw[i].items() if k != "weight"} for i in numbers]
        stores = [store(name, i, tuple(sources[i][1])) for i in numbers]
        datasets[name] = Dataset(stores, DataConfig(sources=plain, held_out=held_out))
    used = {d: t for d, t in own.items() if d in datasets}
    mixture = Mixture.build(TokensConfig(**{**TOKENS, "domains": used}, pack=pack, context=context), datasets)
    mixture.fit(datasets)
    return Packer(datasets, mixture, raw, **more)


BOTH = (("arm", (5, 1, 9, 20), {}), ("grid", (3, 1, 6, 2), {}))


def same(a, b):
    """Two batches, bit for bit."""
    assert torch.equal(a.pack, b.pack)
    assert torch.equal(a.pos, b.pos)
    assert a.parts.keys() == b.parts.keys()
    for name, p in a.parts.items():
        q = b.parts[name]
        for f in ("at", "time", "weight", "front", "front_weight"):
            assert torch.equal(getattr(p, f), getattr(q, f)), f
        for f in ("values", "lengths"):
            ours, theirs = getattr(p, f), getattr(q, f)
            assert ours.keys() == theirs.keys()
            assert all(torch.equal(ours[n], theirs[n]) for n in ours)


def named(batch):
    """``(steps, 3)`` source, episode and step of every step of a batch, and ``(steps,)`` its weight."""
    parts = batch.parts.values()
    return np.concatenate([p.values["state"].numpy() for p in parts]).astype(int), np.concatenate([p.weight for p in parts])


def documents(batch):
    """(row, document) -> what stands in it from left to right: (place, tokens, name or None for a prefix, weight)."""
    L, found = batch.pack.shape[1], {}
    flat = batch.pack.ravel()
    for domain, p in batch.parts.items():
        for i, at in enumerate(p.at.tolist()):
            here = (at, WIDTH[domain], tuple(p.values["state"][i].int().tolist()), float(p.weight[i]))
            found.setdefault((at // L, int(flat[at])), []).append(here)
        for i, at in enumerate(p.front.tolist()):
            tokens = sum(int(n[i]) for n in p.lengths.values())
            if tokens:
                found.setdefault((at // L, int(flat[at])), []).append((at, tokens, None, float(p.front_weight[i])))
    return {k: sorted(v, key=lambda x: x[0]) for k, v in sorted(found.items())}


# ---- what is drawn --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weigh", ["tokens", "documents"])
def test_a_draw_is_a_function_of_seed_and_step_and_ranks_share_it(weigh):
    ours, again = (packer(BOTH, prompts=Prompts(steps=2), weigh=weigh) for _ in range(2))
    for step in range(5):
        whole = ours.draw(3, step, 6)
        same(whole, again.draw(3, step, 6))
        ranks = [ours.draw(3, step, 2, rank, 3) for rank in range(3)]
        for piece, rank in zip(whole.split(3), ranks, strict=True):
            same(piece, rank)
    assert not torch.equal(ours.draw(3, 0, 6).pos, ours.draw(3, 1, 6).pos)
    assert not torch.equal(ours.draw(3, 0, 6).pos, ours.draw(4, 0, 6).pos)


def test_pieces_together_are_the_whole():
    whole = packer(BOTH).draw(0, 0, 12)
    for pieces in (1, 2, 3, 4, 6, 12):
        parts = whole.split(pieces)
        assert torch.equal(torch.cat([p.pack for p in parts]), whole.pack)
        for name, part in whole.parts.items():
            mine = [(i, p.parts[name]) for i, p in enumerate(parts) if name in p.parts]
            shift = whole.pack.numel() // pieces
            assert torch.equal(torch.cat([p.at + i * shift for i, p in mine]), part.at)
            assert torch.equal(torch.cat([p.front + i * shift for i, p in mine]), part.front)
            assert torch.equal(torch.cat([p.weight for _, p in mine]), part.weight)
            for slot in part.values:
                assert torch.equal(torch.cat([p.values[slot] for _, p in mine]), part.values[slot])


@pytest.mark.parametrize(("context", "most"), [(None, 15), (3, 3)])
def test_every_step_is_drawn_equally_often(context, most):
    # Two domains whose documents have different most steps (15 of 4 tokens, 8 of 6), and sources named in turns.
    made = packer((("arm", (3, 1, 40), {}), ("grid", (2, 30), {}), ("arm", (12,), {})), pack=61, context=context)
    counts = np.zeros((3, 3, 40))
    for step in range(600):
        np.add.at(counts, tuple(named(made.draw(0, step, 64))[0].T), 1)
    seen = counts[counts > 0]
    assert len(seen) == 3 + 1 + 40 + 2 + 30 + 12
    # A span brings its neighbours along, so counts vary more than those of single draws would: 4 standard deviations.
    np.testing.assert_allclose(seen / seen.mean(), 1.0, atol=4 * np.sqrt(most / seen.mean()))
    # Where a span may begin or end must not matter either; averaged, this is seen more finely.
    ends = [counts[0, 0, [0, 2]], counts[0, 2, [0, 39]], counts[1, 1, [0, 29]], counts[2, 0, [0, 11]]]
    np.testing.assert_allclose(np.mean(ends, 0) / seen.mean(), 1.0, atol=0.08)


@pytest.mark.parametrize("weights", [(1, 1, 1), (1, 3, 2), (0.2, 5, 1)])
def test_weights_are_shares_of_the_tokens(weights):
    lengths = (("arm", (30, 4)), ("grid", (2, 3, 5, 4)), ("arm", (7, 9, 200)))
    made = packer([(d, n, {"weight": w}) for (d, n), w in zip(lengths, weights, strict=True)], pack=200)
    tokens = np.zeros(3)
    for step in range(250):
        batch = made.draw(1, step, 16)
        for domain, p in batch.parts.items():
            tokens += WIDTH[domain] * np.bincount(p.values["state"][:, 0].int(), minlength=3)
            tokens[1] += sum(int(n.sum()) for n in p.lengths.values())
    np.testing.assert_allclose(tokens / tokens.sum(), np.array(weights) / sum(weights), atol=0.02)


def test_a_budget_of_tokens_leaves_whole_episodes():
    sources = (("arm", (10,) * 20, {"tokens": 170}), ("grid", (4, 6), {}))
    seen = {n: set() for n in (0, 1)}
    for step in range(60):
        for source, i, _ in named(packer_of(sources).draw(0, step, 8))[0]:
            seen[source].add(i)
    assert len(seen[0]) == 4, "four episodes of 40 tokens are within 170"
    assert seen[1] == {0, 1}
    least = packer((("arm", (10, 10), {"tokens": 1}),))
    assert len({i for step in range(20) for _, i, _ in named(least.draw(0, step, 4))[0]}) == 1, "at least one episode stays"


@cache
def _packer_of(sources):
    return packer([(d, n, dict(own)) for d, n, own in sources])


def packer_of(sources):
    return _packer_of(tuple((d, n, tuple(own.items())) for d, n, own in sources))


def test_a_mixture_that_cannot_be_drawn_is_named():
    with pytest.raises(RecipeError, match="every source a weight, or none"):
        packer((("arm", (5,), {"weight": 1}), ("grid", (3,), {})))
    with pytest.raises(RecipeError, match=r"sources.1.tokens: a number of tokens above 0 \(got True\)"):
        packer((("arm", (5,), {}), ("grid", (3,), {"tokens": True})))
    with pytest.raises(DataError, match=r"sources.\d: 'top' and 'held_out' leave none"):
        packer((("arm", (5,), {}), ("arm", (6,), {})), held_out=0.5)
    with pytest.raises(RecipeError, match=r"tokens.prompts.steps=15: .* at most 14"):
        packer((("arm", (5, 6), {}),), prompts=Prompts(steps=15))
    with pytest.raises(RecipeError, match=r"tokens.pack=3: a row holds not one step"):
        packer((("arm", (5,), {}),), pack=3)


# ---- how it stands in the rows --------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    pack=st.integers(30, 150),
    context=st.one_of(st.none(), st.integers(1, 3)),
    seed=st.integers(0, 2**31 - 1),
    prompts=st.sampled_from([None, Prompts(share=0.5, steps=1), Prompts(share=1.0, steps=2, end=0.0)]),
)
def test_documents_never_mix(pack, context, seed, prompts):
    # Two prefixes of a dozen tokens, a prompt of two steps and one behind it take some forty.
    prompts = prompts if pack >= 60 else None
    made = packer(BOTH, pack=pack, context=context, prompts=prompts)
    batch = made.draw(seed, 0, 5)
    used, pack_flat, pos_flat = np.zeros(5 * pack, int), batch.pack.ravel(), batch.pos.ravel()
    for (row, number), items in documents(batch).items():
        place = 0
        for at, tokens, _, _ in items:
            span = slice(at, at + tokens)
            used[span] += 1
            assert at // pack == (at + tokens - 1) // pack == row
            assert (pack_flat[span] == number).all()
            assert pos_flat[span].tolist() == list(range(place, place + tokens)), "no gap within a document"
            place += tokens
        assert int((batch.pack[row] == number).sum()) == place
        # Without the prompt, a document is consecutive steps of one episode.
        names = np.array([n for _, _, n, weight in items if n and weight])
        if len(names):
            assert (names[:, :2] == names[0, :2]).all()
            assert (np.diff(names[:, 2]) == 1).all()
            assert len(names) <= (context or pack)
    assert (used == (pack_flat >= 0).int().numpy()).all(), "every token stands in one place, and every place is told"
    for row in batch.pack:
        real = row[row >= 0]
        assert (torch.diff(real) >= 0).all()
        assert (row[len(real) :] == -1).all(), "what is free is at the end of the row"
        assert len(real) == 0 or real.unique().tolist() == list(range(int(real.max()) + 1))


def test_rows_are_full_of_episodes_such_as_babyai_s():
    rng = np.random.default_rng(0)
    slots = {"rgb": {"kind": "patches", "size": 2}, "state": STATE}
    grid = {"grid": {"layout": "mission | rgb state separator action", "slots": slots}}
    made = packer((("grid", tuple(np.maximum(rng.poisson(5, 300), 1).tolist()), {}),), pack=512, own=grid)
    assert made._domains[0].width == 19
    filled = [made.draw(0, step, 16).efficiency for step in range(40)]
    assert np.mean(filled) >= 0.95


# ---- prompts --------------------------------------------------------------------------------------------------------

MANY = (("arm", (9, 12, 20, 7), {}), ("grid", (4, 6, 5), {}), ("arm", (30, 15), {}))


def prompted(share=0.5, end=0.5, steps=3, sources=MANY, draws=150, seed=0):
    """(prompt's names, document's names) of every document that has both and is whole, and how many have none."""
    made = packer(sources, pack=600, prompts=Prompts(share=share, end=end, steps=steps), context=5)
    pairs, without = [], 0
    for step in range(draws):
        for items in documents(made.draw(seed, step, 2)).values():
            shown = [n for _, _, n, w in items if n and not w]
            names = [n for _, _, n, w in items if n and w]
            if shown and names:
                pairs.append((shown, names))
            else:
                without += not shown
    return pairs, without


def test_a_prompt_is_of_another_episode_of_the_same_source():
    pairs, _ = prompted(share=1.0)
    assert len(pairs) > 500
    for shown, names in pairs:
        assert shown[0][0] == names[0][0]
        assert {n[1] for n in shown}.isdisjoint({n[1] for n in names})
    # Sources of one domain named with another's between them: each of the others is as likely.
    partners = [(names[0][1], shown[0][1]) for shown, names in pairs if names[0][0] == 0]
    counts = np.array([partners.count((a, b)) for a in range(4) for b in range(4) if a != b])
    assert counts.min() > 0


@pytest.mark.parametrize("share", [0.0, 0.25, 0.8])
def test_the_share_of_prompts(share):
    pairs, without = prompted(share=share)
    n = len(pairs) + without
    assert abs(len(pairs) / n - share) < 4 * np.sqrt(share * (1 - share) / n) + 0.01


@pytest.mark.parametrize(("end", "low", "high"), [(1.0, 1.0, 1.0), (0.5, 0.5, 0.58), (0.0, 0.0, 0.09)])
def test_how_many_prompts_are_the_end_of_their_episode(end, low, high):
    pairs, _ = prompted(share=1.0, end=end, sources=(("arm", (30, 30, 30), {}),), draws=200)
    whole = [shown for shown, _ in pairs if len(shown) == 3]
    # A prompt from anywhere is the end in one of 28 places.
    share = np.mean([shown[-1][2] == 29 for shown in whole])
    assert low - 0.06 <= share <= high + 0.06


def test_an_only_episode_has_no_prompt():
    pairs, without = prompted(share=1.0, sources=(("arm", (30,), {}), ("grid", (5, 5), {})), draws=40)
    assert {names[0][0] for _, names in pairs} == {1}
    assert without


# ---- weights --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prompts", [None, Prompts(share=0.5, steps=2)])
def test_weighed_by_documents_all_count_the_same(prompts):
    batch = packer(BOTH, weigh="documents", prompts=prompts).draw(0, 0, 8)
    totals = [sum(w for _, _, name, w in items if name is not None) for items in documents(batch).values()]
    assert all(p.joint for p in batch.parts.values())
    totals = [t for t in totals if t]
    np.testing.assert_allclose(totals, totals[0], rtol=1e-5)
    every = packer(BOTH, weigh="tokens", prompts=prompts).draw(0, 0, 8)
    weights = {float(w) for p in every.parts.values() for w in (*p.weight, *p.front_weight)}
    assert weights == ({1.0} if prompts is None else {0.0, 1.0})


# ---- what the tokens say --------------------------------------------------------------------------------------------


def test_read_from_the_file_it_is_the_same():
    resident, mapped = packer(BOTH, held_out=0.3), packer(BOTH, held_out=0.3, budget=0)
    assert all(d.tables.resident for d in resident._domains)
    assert not any(d.tables.resident for d in mapped._domains)
    for step in range(4):
        same(resident.draw(5, step, 4), mapped.draw(5, step, 4))
    for a, b in zip(resident.validation(40, 4), mapped.validation(40, 4), strict=True):
        same(a, b)


def test_the_budget_is_for_all_tables_together():
    sizes = [sum(t.nbytes for t in d.tables.tables.values()) for d in packer(BOTH)._domains]
    assert [d.tables.resident for d in packer(BOTH, budget=sum(sizes))._domains] == [True, True]
    assert [d.tables.resident for d in packer(BOTH, budget=sum(sizes) - 1)._domains] == [True, False]


def test_validation_is_of_the_held_out_alone_and_always_the_same():
    made = packer(BOTH, held_out=0.3, prompts=Prompts(share=1.0, steps=1))
    held = {(d.stores[0].episode(0).obs["name"][0, 0], i) for d in made.datasets.values() for i in d.held_out.index}
    first, second = (list(made.validation(60, 4)) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        same(a, b)
        names, weight = named(a)
        assert {(s, i) for s, i, _ in names} <= held
        assert (weight == 1).all()
    drawn = {(s, i) for step in range(30) for s, i, _ in named(made.draw(0, step, 4))[0]}
    assert drawn.isdisjoint(held)
    assert list(packer(BOTH).validation(60, 4)) == []


def test_values_are_what_the_codecs_say_of_the_raw_episode():
    made = packer(BOTH)
    for step in range(3):
        batch = made.draw(2, step, 8)
        for domain, part in batch.parts.items():
            held, spec = made.datasets[domain].stores[0], GRID if domain == "grid" else ARM
            slots = made._domains[list(made.datasets).index(domain)].tables.tokenizer.slots
            for i, (source, e, t) in enumerate(part.values["state"].int().tolist()):
                whole = held.episode(e)
                expected = episode(spec, source, e, len(whole))
                np.testing.assert_array_equal(whole.obs["name"], expected.obs["name"])
                assert part.time[i] == t
                action = slots["action"].codec.encode(expected.act["action"][t].reshape(1, -1))[0]
                assert part.values["action"][i].tolist() == action.tolist()
                if domain == "grid":
                    assert part.values["rgb"][i].tolist() == expected.obs["rgb"][t].ravel().tolist()
                else:
                    back = slots["reward"].codec.decode(part.values["reward"][i].numpy())
                    np.testing.assert_allclose(back, expected.rew[t], atol=1e-5)


def test_a_prefix_stands_as_long_as_its_text():
    made = packer(BOTH, pack=90)
    codec = made._domains[1].tables.codecs["mission"]
    part = made.draw(0, 0, 8).parts["grid"]
    flat = {int(at): i for i, at in enumerate(part.at)}
    for i, front in enumerate(part.front.tolist()):
        n = int(part.lengths["mission"][i])
        # The span's first step stands right behind its text and says whose it is.
        source_episode = int(part.values["state"][flat[front + n]][1])
        assert codec.decode(part.values["mission"][i].numpy())[0] == MISSIONS[source_episode % 4]
        assert n == int(codec.lengths(part.values["mission"][i].numpy()))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_device_draws_the_same():
    here, there = (packer(BOTH, device=d, prompts=Prompts(steps=2)) for d in ("cpu", "cuda"))
    for step in range(10):
        batch = there.draw(0, step, 6)
        assert batch.pack.is_cuda
        same(here.draw(0, step, 6), batch.to("cpu"))


def test_a_batch_moves_whole():
    batch = packer(BOTH).draw(0, 0, 2)
    same(batch, batch.to("cpu"))
    assert replace(batch, pack=torch.full_like(batch.pack, -1)).efficiency == 0


def test_weighed_by_rows_a_step_counts_the_tokens_it_takes():
    batch = packer(BOTH, weigh="rows", prompts=Prompts(share=1, steps=2)).draw(0, 0, 8)
    for name, part in batch.parts.items():
        assert part.joint
        assert set(part.weight.tolist()) <= {0.0, float(WIDTH[name])}
        assert WIDTH[name] in part.weight
