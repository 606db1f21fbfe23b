"""A linear layer that asks oneDNN for its float32 products where the default library is slow: on AMD processors.

PyTorch's CPU builds send float32 matrix products to MKL, which does not use the wide vectors of AMD processors; oneDNN,
which ships in the same builds and already does the bfloat16 products, does. Measured on a Zen 5 core with AVX-512: 230
against 100 GFLOP/s. Both are plain float32, so results differ by rounding only. Everywhere else (other processors, GPUs,
other dtypes, autocast, compilation, few rows) this is ``torch.nn.Linear`` and nothing more.
"""

import platform
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Below this many rows a product is so small that oneDNN's set-up costs more than it saves.
_FEW = 24
# Sides that are no multiple of a vector of numbers fall to a plain loop in oneDNN, thirty times slower.
_VECTOR = 16


@lru_cache
def onednn_is_faster() -> bool:
    """Whether this machine's processor and PyTorch build are those for which oneDNN wins."""
    if not (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()):
        return False
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise") or "AVX512" not in torch.backends.cpu.get_cpu_capability():
        return False
    cpuinfo = Path("/proc/cpuinfo")
    return "AuthenticAMD" in (cpuinfo.read_text() if cpuinfo.exists() else platform.processor())


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None, relu: bool = False) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "relu" if relu else "none", [], "")


class _OneDnnLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, relu):
        y = _product(x, weight, bias, relu)
        ctx.save_for_backward(x, weight, y if relu else None)
        ctx.biased = bias is not None
        return y

    @staticmethod
    def backward(ctx, grad):
        x, weight, y = ctx.saved_tensors
        if y is not None:
            grad = torch.ops.aten.threshold_backward(grad, y, 0)
        gx = _product(grad, weight.t()) if ctx.needs_input_grad[0] else None
        g, x = grad.flatten(0, -2), x.flatten(0, -2)
        gw = None
        if ctx.needs_input_grad[1]:
            # The product over all rows is faster with the smaller of its two sides in front.
            gw = _product(g.t(), x.t()) if weight.shape[0] <= weight.shape[1] else _product(x.t(), g.t()).t()
        return gx, gw, g.sum(0) if ctx.biased and ctx.needs_input_grad[2] else None, None


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, relu: bool = False) -> Tensor:
    """``x @ weight.T + bias`` for ``x [..., in]`` and ``weight [out, in]``, and only what is positive of it if ``relu``."""
    if (
        x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.numel() >= _FEW * x.shape[-1]
        and weight.shape[0] % _VECTOR == 0 == weight.shape[1] % _VECTOR
        and onednn_is_faster()
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    ):
        if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
            return _OneDnnLinear.apply(x, weight, bias, relu)
        return _product(x, weight, bias, relu)
    y = F.linear(x, weight, bias)
    return y.relu() if relu else y


class Linear(nn.Linear):
    """``torch.nn.Linear`` by way of ``linear``.

    Args:
        init_scale: factor on the standard deviation of the initial weights; residual branches use ``1/sqrt(2N)``
            (Radford et al. 2019, section 2.3).
        relu: whether to answer only what is positive, for which no second pass over the numbers is needed.
    """

    def __init__(self, inputs: int, outputs: int, bias: bool = True, init_scale: float = 1.0, relu: bool = False) -> None:
        super().__init__(inputs, outputs, bias)
        self.init_scale, self.relu = init_scale, relu

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias, self.relu)
