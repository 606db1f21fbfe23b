"""Cross-entropy in chunks: the same numbers and gradients, and never the scores of all tokens at once."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from seqrl.nn.longloss import chunked_cross_entropy

N, D, V = 37, 8, 23


def make(dtype=torch.float32, biased=True):
    torch.manual_seed(0)
    x, weight = torch.randn(N, D, dtype=dtype), torch.randn(V, D, dtype=dtype)
    bias = torch.randn(V, dtype=dtype) if biased else None
    target = torch.randint(V, (N,))
    target[::5] = -1
    return [x, weight, bias], target


def run(fn, given, target, weights):
    given = [None if t is None else t.clone().requires_grad_() for t in given]
    out = fn(*given, target)
    (out * weights).sum().backward()
    return [out.detach(), *(t.grad for t in given if t is not None)]


def plain(x, weight, bias, target):
    return F.cross_entropy(F.linear(x, weight, bias), target, ignore_index=-1, reduction="none")


@pytest.mark.parametrize("chunk", [1, 7, 37, 1024])
@pytest.mark.parametrize("biased", [True, False])
def test_it_is_cross_entropy_and_so_are_its_gradients(chunk, biased):
    given, target = make(biased=biased)
    weights = torch.rand(N)
    found = run(lambda *a: chunked_cross_entropy(*a, chunk), given, target, weights)
    assert found[0].dtype == torch.float32
    assert (found[0][target < 0] == 0).all()
    for a, b in zip(found, run(plain, given, target, weights), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


def test_gradients_in_double_precision():
    given, target = make(torch.float64)
    given = [t.requires_grad_() for t in given]
    # Answers are float32, so differences are taken of a sum in which they are large.
    wanted = torch.autograd.grad(plain(*given, target).sum(), given)
    found = torch.autograd.grad(chunked_cross_entropy(*given, target, 8).sum(), given)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_half_precision_sums_in_float32():
    given, target = make(torch.bfloat16)
    found = run(lambda *a: chunked_cross_entropy(*a, 8), given, target, torch.ones(N))
    wanted = run(plain, [t.float() for t in given], target, torch.ones(N))
    assert [t.dtype for t in found] == [torch.float32] + 3 * [torch.bfloat16]
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a.float(), b, rtol=0.05, atol=0.05)


def test_under_autocast_scores_are_half_and_the_rest_is_not():
    given, target = make()
    with torch.autocast("cpu", torch.bfloat16):
        found = run(lambda *a: chunked_cross_entropy(*a, 8), given, target, torch.ones(N))
    wanted = run(plain, given, target, torch.ones(N))
    assert all(t.dtype == torch.float32 for t in found)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=0.05, atol=0.05)
    assert not torch.equal(found[0], wanted[0])


def test_frozen_weights_get_no_gradient():
    (x, weight, bias), target = make()
    x.requires_grad_()
    chunked_cross_entropy(x, weight, bias, target, 8).sum().backward()
    assert x.grad.abs().sum() > 0
    assert weight.grad is None
    weight.requires_grad_()
    chunked_cross_entropy(x.detach(), weight, None, target, 8).sum().backward()
    assert weight.grad.abs().sum() > 0


class Largest(TorchDispatchMode):
    """The most numbers of any tensor that an operation answers."""

    def __init__(self):
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for t in torch.utils._pytree.tree_leaves(out):
            if isinstance(t, torch.Tensor):
                self.numbers = max(self.numbers, t.numel())
        return out


def test_no_tensor_has_the_size_of_tokens_times_words():
    n, v, d, chunk = 600, 500, 4, 16
    x, weight, target = torch.randn(n, d, requires_grad=True), torch.randn(v, d, requires_grad=True), torch.randint(v, (n,))
    saved = []
    hooks = torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t)
    with Largest() as seen, hooks:
        chunked_cross_entropy(x, weight, None, target, chunk).sum().backward()
    assert seen.numbers == chunk * v
    assert max(saved) <= max(n, v) * d


def test_no_tokens_have_no_loss():
    (x, weight, bias), target = make()
    x.requires_grad_()
    out = chunked_cross_entropy(x[:0], weight, bias, target[:0])
    assert out.shape == (0,)
    out.sum().backward()
    assert (x.grad == 0).all()


def test_shapes_that_do_not_fit_are_named():
    (x, weight, bias), target = make()
    for given in ((x[None], weight, bias, target), (x, weight.T, bias, target), (x, weight, bias[1:], target)):
        with pytest.raises(ValueError, match="cross-entropy of"):
            chunked_cross_entropy(*given)
    with pytest.raises(ValueError, match="chunks of 0"):
        chunked_cross_entropy(x, weight, bias, target, 0)
