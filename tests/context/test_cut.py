"""Cuts of whole rows, and attention in one process: no ring at all, and rings simulated."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F

from seqrl.context.cut import cut_rows, documents_of, unshard
from seqrl.context.errors import ContextError, LostRank
from seqrl.context.layouts import LAYOUTS
from seqrl.context.plan import make_plan
from seqrl.context.ring import ring_attention
from seqrl.context.simulate import simulate

PACK = torch.tensor([[0] * 3 + [1] * 5, [0] * 6 + [-1] * 2])


def draw(L, H=4, G=2, d=8, dtype=torch.float32):
    make = torch.Generator().manual_seed(0)
    return [torch.randn(1, h, L, d, generator=make, dtype=torch.float64).to(dtype).requires_grad_() for h in (H, G, G)]


def masked(q, k, v, documents):
    number = torch.searchsorted(torch.tensor(documents), torch.arange(q.shape[2]), right=True)
    return F.scaled_dot_product_attention(q, k, v, (number[:, None] == number[None]).tril(), enable_gqa=True)


def test_documents_are_runs_within_a_row_and_padding_is_one():
    assert documents_of(PACK) == (0, 3, 8, 14, 16)
    # The last of one row and the first of the next have the same number and are two.
    assert documents_of(torch.zeros(2, 4, dtype=torch.int64)) == (0, 4, 8)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_place_is_taken_once(layout):
    x = torch.randn(2, 8, 3)
    cuts = [cut_rows(PACK, None, 4, r, layout) for r in range(4)]
    assert torch.equal(unshard([c.take(x) for c in cuts], cuts[0].plan), x.reshape(1, 16, 3))
    owned = torch.stack([c.spot >= 0 for c in cuts]).sum(0)
    assert (owned == 1).all()
    for cut in cuts:
        assert torch.equal(cut.spot[cut.at], torch.arange(4))
        assert cut.take(x).shape == (1, 4, 3)
        assert (cut.ranks, cut.calls) == (4, 0)


def test_a_cut_does_not_change_but_for_its_count():
    cut = cut_rows(PACK, None, 1, 0)
    q, k, v = draw(16)
    ring_attention(q, k, v, cut)
    ring_attention(q, k, v, cut)
    assert cut.calls == 2
    with pytest.raises(AttributeError):
        cut.calls = 0
    assert copy.copy(cut).plan is cut.plan


def test_a_length_that_does_not_fit_is_told_with_those_that_do():
    with pytest.raises(ContextError, match=r"3 rows of 10 tokens cannot be cut over 4 ranks .* multiple of 8: .* 8 and 16"):
        cut_rows(torch.zeros(3, 10, dtype=torch.int64), None, 4, 0)


@pytest.mark.parametrize(("dtype", "most"), [(torch.float64, 1e-12), (torch.float32, 2e-5)])
def test_one_rank_is_attention(dtype, most):
    q, k, v = draw(16, dtype=dtype)
    out, wanted = ring_attention(q, k, v, cut_rows(PACK, None, 1, 0)), masked(q, k, v, documents_of(PACK))
    grad = torch.randn_like(out)
    torch.testing.assert_close(out, wanted, rtol=0, atol=most)
    for a, b in zip(*(torch.autograd.grad(x, (q, k, v), grad) for x in (out, wanted)), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=most)


@pytest.mark.parametrize("ranks", [1, 3, 8])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("cuts", [(), (1, 5), (10, 20, 30, 40, 47, 54, 90), tuple(range(1, 96))])
def test_simulated_rings_are_attention(ranks, layout, cuts):
    q, k, v = draw(96, 4, 1, dtype=torch.float64)
    documents = (0, *cuts, 96)
    out, wanted = simulate(q, k, v, documents, ranks, layout, scale=None), masked(q, k, v, documents)
    grad = torch.randn_like(out)
    torch.testing.assert_close(out, wanted, rtol=0, atol=1e-12)
    for a, b in zip(*(torch.autograd.grad(x, (q, k, v), grad) for x in (out, wanted)), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_gradients_are_those_of_small_differences():
    q, k, v = draw(8, 2, 1, 4, torch.float64)
    assert torch.autograd.gradcheck(lambda *x: simulate(*x, (0, 3, 8), 2, scale=0.7), (q, k, v))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_errors_of_half_precision_do_not_grow_with_the_ranks(dtype):
    whole = draw(512, 4, 2, 32)
    grad = torch.randn(1, 4, 512, 32)
    wanted = masked(*whole, (0, 200, 512))
    wanted = (wanted, *torch.autograd.grad(wanted, whole, grad))
    gaps = []
    for ranks in (1, 2, 16):
        half = [t.detach().to(dtype).requires_grad_() for t in whole]
        out = simulate(*half, (0, 200, 512), ranks)
        assert out.dtype == dtype
        found = (out, *torch.autograd.grad(out, half, grad.to(dtype)))
        gaps.append([float((a - b).detach().square().mean().sqrt()) for a, b in zip(found, wanted, strict=True)])
    for many in gaps[1:]:
        assert all(m <= 1.2 * one for m, one in zip(many, gaps[0], strict=True)), gaps


def test_strides_and_values_seen_many_times():
    q, k, v = draw(16, dtype=torch.float64)
    cut = cut_rows(PACK, None, 1, 0)
    turned = [t.transpose(2, 3).contiguous().transpose(2, 3) for t in (q, k, v)]
    out = ring_attention(*turned, cut)
    torch.testing.assert_close(out, masked(q, k, v, documents_of(PACK)))
    (dq,) = torch.autograd.grad(out.sum(), q)
    torch.testing.assert_close(dq, torch.autograd.grad(masked(q, k, v, documents_of(PACK)).sum(), q)[0])


def test_autocast_is_heeded():
    q, k, v = draw(16)
    with torch.autocast("cpu", torch.bfloat16):
        out = ring_attention(q, k.double().float(), v.bfloat16(), cut_rows(PACK, None, 1, 0))
    assert out.dtype == torch.bfloat16
    assert torch.autograd.grad(out.float().sum(), q)[0].dtype == torch.float32


def test_what_cannot_be_honoured_is_named():
    q, k, v = (t.detach() for t in draw(16))
    cut = cut_rows(PACK, None, 1, 0)
    for wrong, says in [
        ((q, k, v[..., :4]), "values of 4 numbers and queries of 8"),
        ((q[:, :3], k, v), "3 heads cannot share 2"),
        ((q[:, :, :8], k[:, :, :8], v[:, :, :8]), "share is 16 tokens; here are q \\[1, 4, 8, 8\\]"),
        ((q.expand(2, -1, -1, -1), k, v), "one flattened row"),
        ((q, k[:, :1], v), "every key has a value"),
        ((q, k, v.double()), "of one dtype"),
    ]:
        with pytest.raises(ContextError, match=says):
            ring_attention(*wrong, cut)
    with pytest.raises(ContextError, match="a cut over 2 ranks needs an exchange"):
        ring_attention(q[:, :, :8], k[:, :, :8], v[:, :, :8], cut_rows(PACK, None, 2, 0))
    assert cut.calls == 0


def test_a_lost_rank_travels_between_processes():
    lost = pickle.loads(pickle.dumps(LostRank(3, "closed")))
    assert (lost.rank, lost.why, str(lost)) == (3, "closed", str(LostRank(3, "closed")))


def test_plans_are_shared_by_cuts_of_the_same_documents():
    assert cut_rows(PACK, None, 2, 1).plan is make_plan((0, 3, 8, 14, 16), 2, 1, "balanced")
