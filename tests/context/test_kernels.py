"""Every kernel against attention written out; those of GPUs by shapes, and over stand-ins that insist on layouts."""

import math
from itertools import pairwise

import pytest
import torch

from seqrl.context import kernels
from seqrl.context.errors import ContextError
from seqrl.context.kernels import CPU, CUDNN, EFFICIENT, FLASH, MATH, choose
from seqrl.context.squares import equal

D = 16
SCALE = 0.3


def draw(S, T, H=4, G=2, dtype=torch.float64, device="cpu"):
    torch.manual_seed(0)
    shapes = [(1, H, S, D), (1, G, T, D), (1, G, T, D), (1, H, S, D)]
    return [torch.randn(s, dtype=torch.float64).to(dtype).to(device) for s in shapes]


def close(found, wanted, atol):
    for a, b in zip(found, wanted, strict=True):
        assert a.shape == b.shape
        torch.testing.assert_close(a.double(), b.double(), rtol=0, atol=atol)


@pytest.mark.parametrize(("S", "T", "causal"), [(5, 5, True), (40, 40, True), (3, 50, False), (50, 3, False)])
def test_written_out_is_what_autograd_says(S, T, causal):
    q, k, v, grad = draw(S, T)
    q, k, v = (t.requires_grad_() for t in (q, k, v))
    scores = (q @ k.repeat_interleave(2, 1).transpose(-1, -2)) * SCALE
    if causal:
        scores = scores.masked_fill(torch.ones(S, T).triu(1) > 0, -math.inf)
    out = scores.softmax(-1) @ v.repeat_interleave(2, 1)
    wanted = torch.autograd.grad(out, (q, k, v), grad)
    q, k, v = (t.detach() for t in (q, k, v))
    found, lse = MATH.forward(q, k, v, SCALE, causal)
    close((found, lse), (out, scores.logsumexp(-1)), 1e-12)
    close(MATH.backward(grad, q, k, v, found, lse, SCALE, causal), wanted, 1e-12)


@pytest.mark.parametrize(
    ("dtype", "atol"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 0.06), (torch.float16, 0.01)]
)
@pytest.mark.parametrize(("S", "T", "causal"), [(1, 1, True), (40, 40, True), (3, 50, False), (50, 3, False)])
@pytest.mark.parametrize("G", [1, 2, 4])
def test_cpu_believes_a_sum_it_did_not_make(dtype, atol, S, T, causal, G):
    q, k, v, grad = draw(S, T, G=G, dtype=dtype)
    double = [t.double() for t in (q, k, v)]
    wanted = MATH.forward(*double, SCALE, causal)
    found = CPU.forward(q, k, v, SCALE, causal)
    assert found[1].dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    close(found, wanted, atol)
    # As if as much again had been seen elsewhere: the weights are halves.
    out, lse = wanted[0], wanted[1] + math.log(2)
    # A slice of a longer row, as the ring has it.
    longer = torch.zeros(1, 4, S + 7, dtype=found[1].dtype)
    longer[:, :, 2 : S + 2] = lse
    back = CPU.backward(grad, q, k, v, out.to(dtype), longer[:, :, 2 : S + 2], SCALE, causal)
    close(back, MATH.backward(grad.double(), *double, out, lse, SCALE, causal), 2 * atol)


def test_equal_neighbours_are_rows_of_one_batch():
    assert equal((0, 4, 8, 9, 10, 14)) == [(0, 8, 2), (8, 10, 2), (10, 14, 1)]


@pytest.mark.parametrize("edges", [(0, 24), (0, 4, 8, 9, 10, 24), tuple(range(25)), (0, 8, 16, 24)])
def test_squares_side_by_side(edges):
    q, k, v, grad = draw(24, 24)
    out, lse = CPU.squares(q, k, v, SCALE, edges)
    back = CPU.squares_back(grad, q, k, v, out, lse, SCALE, edges)
    for a, b in pairwise(edges):
        parts = [t[:, :, a:b] for t in (q, k, v)]
        o, s = MATH.forward(*parts, SCALE, True)
        close((out[:, :, a:b], lse[:, :, a:b]), (o, s), 1e-12)
        close([t[:, :, a:b] for t in back], MATH.backward(grad[:, :, a:b], *parts, o, s, SCALE, True), 1e-12)


@pytest.mark.parametrize("kernel", [FLASH, EFFICIENT, CUDNN], ids=lambda k: k.name)
@pytest.mark.parametrize(("S", "T", "causal"), [(40, 40, True), (33, 70, False)])
def test_shapes_of_gpu_kernels(kernel, S, T, causal):
    G = 4 if kernel is CUDNN else 2
    dtype = torch.float32 if kernel is EFFICIENT else torch.bfloat16
    q, k, v, grad = draw(S, T, G=G, dtype=dtype, device="meta")
    out, lse = kernel.forward(q, k, v, SCALE, causal)
    assert (out.shape, lse.shape, lse.dtype) == (q.shape, q.shape[:3], torch.float32)
    back = kernel.backward(grad, q, k, v, out, lse, SCALE, causal)
    assert [t.shape for t in back] == [q.shape, k.shape, v.shape]


def test_shapes_of_many_squares_on_gpu():
    q, k, v, grad = draw(40, 40, dtype=torch.bfloat16, device="meta")
    out, lse = FLASH.squares(q, k, v, SCALE, (0, 7, 30, 40))
    assert (out.shape, lse.shape) == (q.shape, q.shape[:3])
    assert [t.shape for t in FLASH.squares_back(grad, q, k, v, out, lse, SCALE, (0, 7, 30, 40))] == [q.shape, k.shape, v.shape]


@pytest.fixture
def stand_ins():
    """The GPU's operators on CPU, written out: they insist on the layouts their names promise."""

    def heads_first(*tensors):
        return [t.transpose(1, 2) if t.dim() == 4 else t.transpose(0, 1)[None] for t in tensors]

    def tokens_first(x, like):
        return x.transpose(1, 2).contiguous() if like.dim() == 4 else x[0].transpose(0, 1).contiguous()

    def flash(q, k, v, cu_q, cu_k, most_q, most_k, drop, causal, debug, *, scale=None, **_):
        hq, hk, hv = heads_first(q, k, v)
        edges = [0, hq.shape[2]] if cu_q is None else cu_q.tolist()
        assert cu_q is not None or (most_q, most_k) == (hq.shape[2], hk.shape[2])
        assert cu_q is None or most_q == max(b - a for a, b in pairwise(edges))
        out, lse = (
            MATH.squares(hq, hk, hv, scale, tuple(edges)) if cu_q is not None else MATH.forward(hq, hk, hv, scale, causal)
        )
        empty = torch.empty(0)
        return tokens_first(out, q), lse if q.dim() == 4 else lse[0], empty, empty, empty

    def flash_back(grad, q, k, v, out, lse, cu_q, cu_k, most_q, most_k, drop, causal, state, unused, *, scale=None, **_):
        tensors = heads_first(grad, q, k, v, out)
        assert lse.is_contiguous()
        if cu_q is None:
            back = MATH.backward(*tensors, lse, scale, causal)
        else:
            back = MATH.squares_back(*tensors, lse[None], scale, tuple(cu_q.tolist()))
        return tuple(tokens_first(t, q) for t in back)

    def efficient(q, k, v, bias, compute, drop=0.0, causal=False, *, scale=None):
        assert q.shape[1] == k.shape[1]
        out, lse = MATH.forward(q, k, v, scale, causal)
        zero = torch.zeros((), dtype=torch.int64)
        return out, torch.nn.functional.pad(lse, (0, -lse.shape[-1] % 32), value=math.nan), zero, zero

    def efficient_back(grad, q, k, v, bias, out, lse, seed, offset, drop, mask, causal=False, *, scale=None):
        assert lse.shape[-1] % 32 == 0
        assert (lse[..., q.shape[2] :] == math.inf).all()
        back = MATH.backward(grad, q, k, v, out, lse[..., : q.shape[2]], scale, causal)
        return *back, torch.empty(0)

    library = torch.library.Library("aten", "IMPL")
    for name, what in [
        ("_flash_attention_forward", flash),
        ("_flash_attention_backward", flash_back),
        ("_scaled_dot_product_efficient_attention", efficient),
        ("_scaled_dot_product_efficient_attention_backward", efficient_back),
    ]:
        library.impl(name, what, "CPU")
    yield
    library._destroy()


@pytest.mark.parametrize("kernel", [FLASH, EFFICIENT], ids=lambda k: k.name)
@pytest.mark.parametrize(("S", "T", "causal"), [(40, 40, True), (33, 70, False)])
def test_gpu_kernels_get_what_they_expect(stand_ins, kernel, S, T, causal):
    q, k, v, grad = draw(S, T)
    wanted = MATH.forward(q, k, v, SCALE, causal)
    found = kernel.forward(q, k, v, SCALE, causal)
    close(found, wanted, 1e-12)
    close(kernel.backward(grad, q, k, v, *found, SCALE, causal), MATH.backward(grad, q, k, v, *wanted, SCALE, causal), 1e-12)


def test_many_squares_get_what_they_expect(stand_ins):
    q, k, v, grad = draw(24, 24)
    edges = (0, 4, 8, 9, 10, 24)
    found, wanted = (kernel.squares(q, k, v, SCALE, edges) for kernel in (FLASH, MATH))
    close(found, wanted, 1e-12)
    back = [kernel.squares_back(grad, q, k, v, *wanted, SCALE, edges) for kernel in (FLASH, MATH)]
    close(*back, 1e-12)


def test_which_kernel(monkeypatch):
    monkeypatch.setattr(kernels, "_cudnn_agrees", lambda dtype, d: True)
    choose.cache_clear()
    assert choose("cpu", torch.bfloat16, 64) is CPU
    assert choose("cuda", torch.float32, 64) is EFFICIENT
    assert choose("cuda", torch.float64, 64) is MATH
    assert choose("cuda", torch.bfloat16, 512) is EFFICIENT
    assert choose("cuda", torch.bfloat16, 64) is FLASH
    assert choose("cuda", torch.bfloat16, 64, shared=True, steady=True) is FLASH
    assert choose("cuda", torch.bfloat16, 64, steady=True) is CUDNN
    with pytest.raises(ContextError, match="not on 'mps'"):
        choose("mps", torch.float32, 64)
    choose.cache_clear()
