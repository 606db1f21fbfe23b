"""The trunk's promises: causal, exact where only some tokens are read, exact from its cache with rows at any positions."""

import pytest
import torch
from torch.utils import _pytree as pytree

from seqrl.core.errors import RecipeError
from seqrl.nn.transformer import FAMILIES, Transformer, family_config

SIZES = {"width": 32, "layers": 3, "heads": 4}
KINDS = {
    "gpt2": {},
    "gpt2-none": {"positions": "none", "activation": "relu"},
    "gpt2-rotary": {"positions": "rotary"},
    "llama": {"kv_heads": 2},
    "qwen2": {"kv_heads": 1},
    "qwen3": {"kv_heads": 2, "head_dim": 16},
}


def trunk(kind, **more):
    torch.manual_seed(0)
    model = Transformer(family_config(kind.split("-")[0], **SIZES, **KINDS[kind], **more)).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    return model


def close(a, b, tolerance=5e-6):
    torch.testing.assert_close(a, b, rtol=0, atol=tolerance)


@pytest.mark.parametrize("kind", KINDS)
def test_reading_some_equals_reading_all(kind):
    model, x = trunk(kind), torch.randn(3, 17, 32)
    whole = model(x)
    close(model(x, slice(1, None, 3)), whole[:, 1::3])
    at = torch.tensor([[0, 16], [7, 3], [5, 5]])
    close(model(x, at), torch.stack([whole[i, at[i]] for i in range(3)]))


@pytest.mark.parametrize("kind", ["gpt2-none", "qwen3"])
def test_gradients_of_reading_some_equal_those_of_reading_all(kind):
    model, x = trunk(kind).train(), torch.randn(3, 17, 32)
    found = []
    for read in (slice(1, None, 3), None):
        y = model(x, read)
        y = y if read is not None else y[:, 1::3]
        found.append(torch.autograd.grad(y.square().sum(), list(model.parameters())))
    for a, b in zip(*found, strict=True):
        close(a, b, 2e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_future_cannot_move_the_past(kind):
    model, x = trunk(kind), torch.randn(2, 12, 32)
    moved = x.clone()
    moved[:, 7:] = torch.randn(2, 5, 32) * 100
    assert torch.equal(model(moved)[:, :7], model(x)[:, :7])
    assert not torch.allclose(model(moved)[:, 7:], model(x)[:, 7:])


PACK = torch.tensor([[0] * 5 + [1] * 3 + [2] * 9 + [-1] * 3, [7] * 1 + [3] * 12 + [4] * 7, [-1] * 20])
DOCUMENTS = [(0, 0, 5), (0, 5, 8), (0, 8, 17), (1, 0, 1), (1, 1, 13), (1, 13, 20)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_packed_document_equals_the_document_alone(kind):
    model, x = trunk(kind), torch.randn(3, 20, 32)
    y = model(x, pack=PACK)
    assert y.isfinite().all()
    for row, first, end in DOCUMENTS:
        close(y[row, first:end], model(x[row : row + 1, first:end])[0], 1e-5)
    close(model(x, slice(1, None, 3), PACK), y[:, 1::3])
    at = torch.tensor([[0, 16], [7, 3], [5, 5]])
    close(model(x, at, PACK), torch.stack([y[i, at[i]] for i in range(3)]))
    counted = torch.arange(20) - torch.tensor([[0] * 5 + [5] * 3 + [8] * 9 + [17] * 3, [0] + [1] * 12 + [13] * 7, [0] * 20])
    assert torch.equal(model(x, pack=PACK, pos=counted), y)
    with pytest.raises(ValueError, match="need the documents"):
        model(x, pos=counted)


@pytest.mark.parametrize("kind", KINDS)
def test_neither_other_documents_nor_the_future_nor_padding_move_an_output(kind):
    model, x = trunk(kind), torch.randn(3, 20, 32)
    y = model(x, pack=PACK)
    for row, first, end in DOCUMENTS:
        moved, middle = torch.randn(3, 20, 32) * 100, (first + end) // 2
        moved[row, first : middle + 1] = x[row, first : middle + 1]
        assert torch.equal(model(moved, pack=PACK)[row, first : middle + 1], y[row, first : middle + 1])


@pytest.mark.parametrize("drop", [0.0, 1e-7])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_packed_documents_equal_those_of_documents_alone(kind, drop):
    """With so small a probability nothing is dropped, but the plain form of attention is taken on CPU."""
    model, x = trunk(kind, attention_dropout=drop).train(), torch.randn(3, 20, 32)
    given = [*model.parameters(), x.requires_grad_()]
    packed = model(x, pack=PACK)[PACK >= 0].square().sum()
    alone = sum(model(x[row : row + 1, first:end]).square().sum() for row, first, end in DOCUMENTS)
    for a, b in zip(torch.autograd.grad(packed, given), torch.autograd.grad(alone, given), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_cache_with_rows_at_their_own_positions(kind):
    """Four rows; row 1 is reset in the middle, so that from then on positions differ."""
    model, x = trunk(kind), torch.randn(4, 12, 32)
    cache = model.init_cache(4, 12)
    pieces = [model.extend(x[:, :5], cache), model.extend(x[:, 5:6], cache)]
    close(torch.cat(pieces, 1), model(x[:, :6]))
    cache.reset(torch.tensor([1]))
    assert cache.length.tolist() == [6, 0, 6, 6]
    y = model.extend(x[:, 6:9], cache)
    close(y[[0, 2, 3]], model(x[:, :9])[[0, 2, 3], 6:])
    close(y[1], model(x[1:2, 6:9])[0])
    chosen = cache.index(torch.tensor([3, 1, 1]))
    y = model.extend(x[[3, 1, 1], 9:12], chosen, read=slice(-1, None))
    close(y[0], model(x[3:4])[0, -1:])
    close(y[1], model(x[1:2, 6:12])[0, -1:])
    close(y[1], y[2])
    assert cache.length.tolist() == [9, 3, 9, 9]


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_token_at_position_minus_one_is_never_seen(kind):
    model, x = trunk(kind), torch.randn(3, 9, 32)
    cache = model.init_cache(3, 8)
    model.extend(x[:, :4], cache, torch.tensor([-1, -1, -1]))
    assert cache.length.tolist() == [3, 3, 3]
    close(model.extend(x[:, 4:], cache), model(x[:, 1:])[:, 3:])


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_filled_rows_go_on_from_what_they_were_given(kind):
    model, x = trunk(kind), torch.randn(4, 9, 32)
    cache = model.init_cache(4, 9)
    model.extend(torch.randn(4, 8, 32), cache)
    model.fill(x[[2, 0], :6], cache, torch.tensor([2, 0]), torch.tensor([6, 4]))
    assert cache.length.tolist() == [4, 8, 6, 8]
    cache = cache.index(torch.tensor([0, 2]))
    y = model.extend(torch.stack((x[0, 4:7], x[2, 6:9])), cache)
    close(y[0], model(x[:1, :7])[0, 4:])
    close(y[1], model(x[2:3])[0, 6:])


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_ragged_rows_with_absent_tokens_equal_whole_rows(kind):
    """Each pass feeds every row as many tokens as chance will have, some absent ones before, between and after them."""
    model, x = trunk(kind), torch.randn(5, 20, 32)
    whole, cache, held = model(x), model.init_cache(5, 20), [0] * 5
    for seed in range(6):
        there = torch.rand(5, 4, generator=torch.Generator().manual_seed(seed)) < torch.tensor([1, 0.6, 0.6, 0.3, 0])[:, None]
        there[4] &= seed == 3
        there &= torch.tensor(held)[:, None] + there.cumsum(1) <= 20
        places = torch.where(there, torch.tensor(held)[:, None] + there.cumsum(1) - 1, -1)
        fed = torch.where(there[..., None], x.gather(1, places.clamp(min=0)[..., None].expand(-1, -1, 32)), 1e3)
        y = model.extend(fed, cache, places=places)
        assert y.isfinite().all()
        close(y[there], whole.gather(1, places.clamp(min=0)[..., None].expand(-1, -1, 32))[there], 1e-5)
        held = [n + int(m) for n, m in zip(held, there.sum(1), strict=True)]
        assert cache.length.tolist() == held
    assert held[0] == 20
    assert held[4] == 0


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_going_back_equals_never_having_fed_what_was_replaced(kind):
    model, x, wrong = trunk(kind), torch.randn(3, 10, 32), torch.randn(3, 6, 32) * 10
    cache = model.init_cache(3, 12)
    model.extend(x[:, :5], cache)
    model.extend(wrong, cache)
    back = torch.tensor([[5, 6], [-1, -1], [5, -1]])
    y = model.extend(x[:, 5:7], cache, places=back)
    assert cache.length.tolist() == [7, 11, 6]
    close(y[0], model(x)[0, 5:7], 1e-5)
    close(y[2, 0], model(x)[2, 5], 1e-5)
    y = model.extend(x[[0, 0, 2], 7:8], cache, places=torch.tensor([[7], [-1], [6]]), read=slice(-1, None))
    close(y[0, 0], model(x)[0, 7], 1e-5)
    close(y[2, 0], model(torch.cat((x[2:, :6], x[2:, 7:8]), 1))[0, 6], 1e-5)


def test_a_full_cache_is_refused():
    model = trunk("gpt2")
    cache = model.init_cache(2, 4)
    assert cache.capacity == 4
    model.extend(torch.randn(2, 4, 32), cache)
    with pytest.raises(ValueError, match="room for 4 tokens"):
        model.extend(torch.randn(2, 1, 32), cache)


def test_the_cache_is_a_pytree_with_batch_first_leaves():
    cache = trunk("llama").init_cache(5, 8)
    leaves, form = pytree.tree_flatten(cache)
    assert [len(leaf) for leaf in leaves] == [5, 5]
    assert type(pytree.tree_unflatten(leaves, form)) is type(cache)


@pytest.mark.parametrize("kind", ["gpt2-none", "llama"])
def test_dropout_is_drawn_in_training_alone(kind):
    model, x = trunk(kind, dropout=0.5, attention_dropout=0.5), torch.randn(2, 8, 32)
    assert torch.equal(model(x), model(x))
    model.train()
    assert not torch.equal(model(x), model(x))
    torch.manual_seed(3)
    first = model(x)
    torch.manual_seed(3)
    assert torch.equal(model(x), first)


@pytest.mark.parametrize("kind", ["gpt2-none", "qwen3"])
def test_dropping_nothing_equals_the_fused_kernel(kind):
    """The plain form of attention, taken when weights are dropped on CPU, is the same function."""
    model, x = trunk(kind), torch.randn(2, 9, 32)
    expected = model(x, slice(0, None, 2)), model(x)
    # So small a probability rounds to no level at all: nothing is dropped, but the other path is taken.
    rare = trunk(kind, attention_dropout=1e-7).train()
    close(rare(x, slice(0, None, 2)), expected[0])
    close(rare(x), expected[1])


@pytest.mark.parametrize("family", FAMILIES)
def test_autocast_stays_close(family):
    model, x = trunk(family), torch.randn(2, 9, 32)
    with torch.autocast("cpu", torch.bfloat16):
        y = model(x, slice(0, None, 2))
        packed = model(x, slice(0, None, 2), torch.tensor([[0] * 9, [0] * 8 + [-1]]))
    torch.testing.assert_close(packed[:, :4], y[:, :4], rtol=0.1, atol=0.15)
    torch.testing.assert_close(y.float(), model(x, slice(0, None, 2)), rtol=0.1, atol=0.15)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"family": "lama"}, "did you mean 'llama'"),
        ({"heads": 5}, "try width 35"),
        ({"kv_heads": 3}, "no multiple of kv_heads"),
        ({"activation": "rely"}, "did you mean 'relu'"),
        ({"family": "llama", "heads": 32}, "turn pairs"),
        ({"layers": 0}, "at least 1"),
    ],
)
def test_impossible_shapes_are_refused(settings, message):
    with pytest.raises(RecipeError, match=message):
        family_config(**{"family": "gpt2", **SIZES, **settings})
