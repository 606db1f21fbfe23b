"""The fast product is the product: values and gradients equal the plain layer's."""

import pytest
import torch
import torch.nn.functional as F

from seqrl.nn import linear as module
from seqrl.nn.linear import Linear, linear

SHAPES = [(64, 16, 48), (64, 48, 16), (3, 32, 32), (40, 5, 16)]


@pytest.fixture(params=[True, False], ids=["onednn", "plain"])
def choice(request, monkeypatch):
    if request.param and not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        pytest.skip("this PyTorch has no oneDNN")
    monkeypatch.setattr(module, "onednn_is_faster", lambda: request.param)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(("rows", "inputs", "outputs"), SHAPES)
def test_equals_the_plain_layer(choice, rows, inputs, outputs, biased, relu):
    torch.manual_seed(0)
    x = torch.randn(2, rows, inputs, requires_grad=True)
    layer = Linear(inputs, outputs, biased, relu=relu)
    g = torch.randn(2, rows, outputs)
    expected = F.linear(x, layer.weight, layer.bias)
    expected = expected.relu() if relu else expected
    wanted = torch.autograd.grad(expected, [x, *layer.parameters()], g)
    y = layer(x)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-5)
    for a, b in zip(torch.autograd.grad(y, [x, *layer.parameters()], g), wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-4)
    with torch.inference_mode():
        torch.testing.assert_close(layer(x), expected.detach(), rtol=0, atol=1e-5)


def test_a_frozen_weight_gets_no_gradient(choice):
    x, weight = torch.randn(64, 32, requires_grad=True), torch.randn(16, 32)
    linear(x, weight).sum().backward()
    assert weight.grad is None
    torch.testing.assert_close(x.grad, weight.sum(0).expand(64, 32), rtol=0, atol=1e-5)


def test_slices_of_a_tensor_are_taken_as_they_lie(choice):
    x, weight = torch.randn(4, 40, 96)[:, 1::2, 32:64], torch.randn(32, 32)
    torch.testing.assert_close(linear(x, weight), F.linear(x, weight), rtol=0, atol=1e-5)
