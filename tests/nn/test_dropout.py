"""Dropping keeps its rate, its expectation and its gradient, and follows the global seed."""

import pytest
import torch

from seqrl.nn.dropout import add_dropped, dropout


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_rate_and_scale(p, dtype):
    torch.manual_seed(0)
    y = dropout(torch.ones(1000, 401, dtype=dtype), p)
    assert (y == 0).float().mean().item() == pytest.approx(p, abs=0.003)
    assert y.float().mean().item() == pytest.approx(1, abs=0.01)
    assert len(y.unique()) == 2


def test_elements_are_dropped_independently():
    torch.manual_seed(0)
    y = dropout(torch.ones(400_000), 0.5).view(-1, 8) > 0
    together = (y[:, :, None] & y[:, None]).float().mean(0)
    assert together.fill_diagonal_(0.25).sub(0.25).abs().max() < 0.01


def test_gradient_passes_where_values_did():
    x = torch.randn(50, 3, requires_grad=True)
    y = dropout(x, 0.3)
    y.sum().backward()
    assert ((x.grad == 0) == (y == 0)).all()
    torch.testing.assert_close(x.grad[x.grad > 0], torch.full_like(x.grad[x.grad > 0], 1 / 0.7), rtol=1e-4, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_adding_equals_dropping_then_adding(dtype):
    x, h = torch.randn(7, 5), torch.randn(7, 5).to(dtype)
    torch.manual_seed(1)
    expected = x + dropout(h, 0.4)
    torch.manual_seed(1)
    torch.testing.assert_close(add_dropped(x, h, 0.4), expected)
    assert torch.equal(add_dropped(x, h, 0.0), x + h)
