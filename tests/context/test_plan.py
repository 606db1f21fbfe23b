"""Plans against a mask made by brute force, how even the layouts are, what travels, and that many documents are no trouble."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqrl.context.errors import ContextError
from seqrl.context.layouts import LAYOUTS, deal, ring_share, work_before
from seqrl.context.plan import Tile, make_plan


@st.composite
def rows(draw):
    """Ranks, a layout, and the boundaries of random documents of a length that fits."""
    ranks = draw(st.integers(1, 8))
    total = 2 * ranks * draw(st.integers(1, 18))
    cuts = draw(st.sets(st.integers(1, total - 1), max_size=total - 1)) if total > 1 else set()
    return tuple(sorted({0, total, *cuts})), ranks, draw(st.sampled_from(LAYOUTS))


def brute_force(documents):
    """``[L, L]`` counts of how often a query should meet a key: once, or never."""
    number = np.searchsorted(documents, np.arange(documents[-1]), "right")
    return np.tril(number[:, None] == number).astype(int)


def met(plan, i):
    """The places of the keys a rank has at step i, put together from what the owner gives."""
    owner = (plan.rank - i) % plan.ranks
    places = plan.positions(owner)
    return places if i == 0 else np.concatenate([places[a:b] for a, b in plan.need[i]] or [places[:0]])


@given(rows())
@settings(max_examples=400, deadline=None)
def test_every_allowed_pair_is_met_once_and_no_other_ever(case):
    documents, ranks, layout = case
    plans = [make_plan(documents, ranks, r, layout) for r in range(ranks)]
    count = np.zeros((documents[-1], documents[-1]), int)
    for plan in plans:
        mine = plan.positions(plan.rank)
        assert len(mine) == plan.share == documents[-1] // ranks
        for i, tiles in enumerate(plan.steps):
            keys = met(plan, i)
            for q0, q1, k0, k1, causal in tiles:
                assert 0 <= q0 < q1 <= len(mine)
                assert 0 <= k0 < k1 <= len(keys)
                assert not causal or (i == 0 and (q0, q1) == (k0, k1))
                block = np.ones((q1 - q0, k1 - k0), int)
                count[np.ix_(mine[q0:q1], keys[k0:k1])] += np.tril(block) if causal else block
    allowed = brute_force(documents)
    np.testing.assert_array_equal(count, allowed)
    owner = np.empty(documents[-1], int)
    for plan in plans:
        owner[plan.positions(plan.rank)] = plan.rank
    for plan in plans:
        assert plan.cost == tuple(np.bincount(owner, allowed.sum(1), ranks).astype(int))


@given(rows())
@settings(max_examples=200, deadline=None)
def test_what_one_rank_needs_is_what_another_gives_and_nothing_travels_unseen(case):
    documents, ranks, layout = case
    plans = [make_plan(documents, ranks, r, layout) for r in range(ranks)]
    for plan in plans:
        for i in range(1, ranks):
            assert plan.need[i] == plans[(plan.rank - i) % ranks].give[i]
            seen = np.zeros(len(met(plan, i)), bool)
            for _, _, k0, k1, _ in plan.steps[i]:
                seen[k0:k1] = True
            assert seen.all()
    assert sum(p.sent for p in plans) == sum(p.received for p in plans)


@given(rows())
@settings(max_examples=100, deadline=None)
def test_every_place_is_somebodys_and_locals_ascend(case):
    documents, ranks, layout = case
    plan = make_plan(documents, ranks, 0, layout)
    places = [plan.positions(r) for r in range(ranks)]
    assert all((np.diff(p) > 0).all() for p in places)
    np.testing.assert_array_equal(np.sort(np.concatenate(places)), np.arange(documents[-1]))


@pytest.mark.parametrize("layout", ["zigzag", "balanced"])
@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_one_document_is_one_tile_a_step_and_even(ranks, layout):
    plans = [make_plan((0, 64 * ranks), ranks, r, layout) for r in range(ranks)]
    for plan in plans:
        assert plan.steps[0] == (Tile(0, 64, 0, 64, True),)
        assert all(len(tiles) == 1 for tiles in plan.steps[1:])
    assert len(set(plans[0].cost)) == 1
    assert sum(p.received for p in plans) == 0.75 * ranks * (ranks - 1) * 64


def lengths_of(kind, total, seed):
    """Boundaries of documents of a mix, the last one cut where the row ends."""
    rng = np.random.default_rng(seed)
    some = {
        "1k to 8k": lambda n: rng.integers(1024, 8193, n),
        "under 1k": lambda n: rng.integers(16, 1024, n),
        "lognormal": lambda n: np.clip(rng.lognormal(8, 1.2, n), 16, total // 4).astype(int),
        "half and short": lambda n: np.concatenate(([total // 2], rng.integers(512, 4097, n))),
    }[kind](10_000)
    ends = np.cumsum(some)
    return (0, *ends[ends < total].tolist(), total)


@pytest.mark.parametrize("kind", ["1k to 8k", "under 1k", "lognormal", "half and short"])
def test_balanced_is_even_where_zigzag_is_not(kind):
    for seed in range(5):
        cost = make_plan(lengths_of(kind, 1 << 17, seed), 8, 0, "balanced").cost
        assert max(cost) * 8 / sum(cost) <= 1.05, seed
    uneven = make_plan(lengths_of("half and short", 1 << 17, 0), 8, 0, "zigzag").cost
    assert max(uneven) * 8 / sum(uneven) > 1.5


@pytest.mark.parametrize("kind", ["1k to 8k", "under 1k"])
def test_little_travels_where_documents_are_short(kind):
    documents = lengths_of(kind, 1 << 17, 0)
    plans = [make_plan(documents, 8, r) for r in range(8)]
    assert sum(p.received for p in plans) <= 0.15 * 8 * 7 * plans[0].share


def test_thousands_of_documents_in_a_million_tokens_are_planned():
    # Three hundredths of a second; a loop over pairs of documents would meet the timeout.
    documents = tuple(range(0, (1 << 20) + 1, 64))
    plans = [make_plan(documents, 64, r) for r in range(64)]
    assert all(len(p.steps[0]) == 256 and p.received == 0 for p in plans)
    assert len(set(plans[0].cost)) == 1
    assert make_plan(documents, 64, 63) is plans[63]


def test_work_is_counted():
    np.testing.assert_array_equal(work_before(np.array([0, 3, 4]), np.arange(5)), [0, 1, 3, 6, 7])


@pytest.mark.parametrize("documents", [(), (0,), (1, 8), (0, 4, 4, 8), (0, 6, 4, 8)])
def test_boundaries_that_are_none(documents):
    with pytest.raises(ContextError, match="where they begin"):
        deal(documents, 2, "zigzag")


def test_lengths_that_do_not_fit():
    assert ring_share(96, 4) == 24
    assert ring_share(4, 4, "contiguous") == 1
    assert ring_share(7, 1) == 7
    with pytest.raises(ContextError, match=r"100 tokens cannot be cut over 8 ranks .* of 16: the nearest are 96 and 112"):
        ring_share(100, 8)
    with pytest.raises(ContextError, match=r"a length of 3 tokens .* the nearest is 4$"):
        ring_share(3, 4, "contiguous")
    # Two rows share what is needed.
    assert ring_share(24, 8, "zigzag", rows=2) == 6
    with pytest.raises(ContextError, match=r"2 rows of 20 tokens .* the nearest are 16 and 24"):
        ring_share(20, 8, "zigzag", rows=2)
    with pytest.raises(ContextError, match="no layout 'striped'; there are balanced, zigzag, contiguous"):
        ring_share(16, 2, "striped")
    with pytest.raises(ContextError, match="over 0 ranks"):
        ring_share(16, 0)
