"""Rows that share a past give what copies of it give, whatever the trunk, from any prefix, after any choice of rows."""

import pytest
import torch

from seqrl.core import tree
from seqrl.nn import shared
from seqrl.nn.kv import slide
from seqrl.nn.transformer import Transformer, family_config

P, C, D = 3, 7, 32
KINDS = {"gpt2": {}, "gpt2-rotary": {"positions": "rotary"}, "llama": {"kv_heads": 2}, "qwen3": {"kv_heads": 1, "head_dim": 16}}


def trunk(kind):
    torch.manual_seed(0)
    sizes = {"width": D, "layers": 2, "heads": 4, "max_positions": 64}
    model = Transformer(family_config(kind.split("-")[0], **sizes, **KINDS[kind])).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    return model


def close(a, b, tolerance=1e-5):
    torch.testing.assert_close(a, b, rtol=0, atol=tolerance)


def filled(model, x, lengths):
    cache = model.init_cache(len(x), x.shape[1])
    model.fill(x, cache, torch.arange(len(x)), lengths)
    return cache


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("owner", "length"),
    [
        ([0, 0, 1, 1, 2, 2], [7, 7, 7, 7, 7, 7]),
        ([0, 0, 1, 1, 2, 2], [7, 7, 3, 3, 0, 0]),
        ([0, 0, 0, 1, 1, 1, 2, 2, 2], [0, 3, 7, 1, 2, 5, 6, 0, 7]),
        ([2, 0, 2, 2], [7, 1, 4, 0]),
        ([1, 1], [2, 7]),
    ],
    ids=["even", "ragged", "prefixes", "any", "one"],
)
@torch.inference_mode()
def test_rows_that_share_a_past_equal_whole_rows(kind, owner, length):
    model, x = trunk(kind), torch.randn(P, C, D)
    owner, length = torch.tensor(owner), torch.tensor(length)
    state = shared.go_on(filled(model, x, torch.full((P,), C)), 6, owner, length)
    rows = [x[o, :n] for o, n in zip(owner, length, strict=True)]
    for L in (1, 3, 1, 1):
        new = torch.randn(len(owner), L, D)
        rows = [torch.cat((r, t)) for r, t in zip(rows, new, strict=True)]
        close(shared.extend(model, new, state), torch.stack([model(r[None])[0, -L:] for r in rows]))
    assert state.fed.tolist() == [6] * len(owner)
    with pytest.raises(ValueError, match="room for 6 tokens"):
        shared.extend(model, new, state)


@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_rows_can_be_chosen_repeated_and_mixed_in_age(kind):
    model, x = trunk(kind), torch.randn(P, C, D)
    lengths = torch.tensor([7, 2, 5])
    state = shared.go_on(filled(model, x, lengths), 3, torch.arange(P))
    rows = [x[p, :n] for p, n in enumerate(lengths)]

    def feed(state, rows, L):
        new = torch.randn(len(rows), L, D)
        rows = [torch.cat((r, t)) for r, t in zip(rows, new, strict=True)]
        close(shared.extend(model, new, state), torch.stack([model(r[None])[0, -L:] for r in rows]))
        return rows

    rows = feed(state, rows, 2)
    kept, before = tree.clone(state), list(rows)
    state = shared.spread(state, 2, 4)
    rows = feed(state, [r for r in rows for _ in range(2)], 1)
    chosen = torch.tensor([5, 0, 1, 5])
    state, rows = tree.index(state, chosen), [rows[i] for i in chosen]
    rows = feed(state, rows, 2)
    # A clone was not moved by any of this; rows of different ages may stand together.
    rows = feed(kept, before, 1)
    old = tree.index(kept, torch.tensor([0]))
    young = shared.go_on(filled(model, x, lengths), 3, torch.tensor([1, 2]))
    parts = {n: torch.cat((getattr(old, n), getattr(young, n))) for n in ("owner", "length", "first", "fed")}
    own = {n: tuple(torch.cat(p) for p in zip(getattr(old, n), getattr(young, n), strict=True)) for n in ("keys", "values")}
    old = shared.Shared(young.past, **parts, **own)
    with pytest.raises(ValueError, match="room for 3 tokens"):
        shared.extend(model, torch.randn(3, 1, D), old)
    grown = shared.spread(old, 1, 2)
    feed(grown, [rows[0], x[1, :2], x[2, :5]], 1)


@torch.inference_mode()
def test_memory_is_that_of_one_past():
    model = trunk("llama")
    state = shared.go_on(filled(model, torch.randn(1, 50, D), torch.tensor([50])), 2, torch.zeros(100, dtype=torch.int64))
    sizes = []
    tree.map_leaves(lambda t: sizes.append(t.keys.numel() * 2 if isinstance(t, shared.Past) else t.numel()), state)
    copies = 100 * model.init_cache(1, 52).kv.numel()
    assert sum(sizes) < copies / 15


# ---- sliding ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["gpt2-rotary", "llama", "qwen3"])
@torch.inference_mode()
def test_sliding_equals_hiding_what_is_old(kind):
    """Later tokens see of the kept keys what they saw before, at the same distances; each row forgets as many as it likes."""
    model, x = trunk(kind), torch.randn(P, C, D)
    cache, lengths = filled(model, x, torch.tensor([7, 4, 7])), torch.tensor([7, 4, 7])
    gone = torch.tensor([3, 0, 6])
    # The reference: the same keys and values, with the old ones hidden and nothing moved.
    hidden = shared.go_on(filled(model, x, lengths), 3, torch.arange(P))
    hidden.forget(gone)
    c = model.config
    slide(cache, gone, c.rope_theta, c.head_dim)
    assert cache.length.tolist() == [4, 4, 1]
    for _ in range(3):
        new = torch.randn(P, 1, D)
        close(model.extend(new, cache), shared.extend(model, new, hidden))
    assert hidden.held.tolist() == cache.length.tolist()


@torch.inference_mode()
def test_keys_slid_many_times_are_still_themselves():
    model, x = trunk("llama"), torch.randn(1, 4, D)
    c, cache = model.config, model.init_cache(1, 40)
    model.extend(torch.randn(1, 30, D), cache)
    model.extend(x, cache)
    before, values = cache.kv.clone(), cache.kv[:, :, 31:35, 1].clone()
    for _ in range(30):
        slide(cache, torch.ones(1, dtype=torch.int64), c.rope_theta, c.head_dim)
    once = type(cache)(before, torch.tensor([34]))
    slide(once, torch.tensor([30]), c.rope_theta, c.head_dim)
    close(cache.kv[:, :, 1:5], once.kv[:, :, 1:5])
    assert cache.length.tolist() == [4]
    assert torch.equal(cache.kv[:, :, 1:5, 1], values)


@torch.inference_mode()
def test_sliding_by_nothing_touches_nothing_and_the_spare_slot_stays():
    model = trunk("llama")
    cache = filled(model, torch.randn(P, C, D), torch.full((P,), C))
    before = cache.kv.clone()
    slide(cache, torch.zeros(P, dtype=torch.int64), 10000.0, 8)
    assert torch.equal(cache.kv, before)
    slide(cache, torch.tensor([1, 0, 0]), 10000.0, 8)
    assert torch.equal(cache.kv[:, :, 0], before[:, :, 0])
    assert torch.equal(cache.kv[1:], before[1:])
