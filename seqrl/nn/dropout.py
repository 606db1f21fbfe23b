"""Dropout at a quarter of the price on CPU.

PyTorch draws one 64-bit random number for every element it may drop; sixteen bits are enough to tell a probability to
within 1e-5, so four elements share a draw here. What is kept is scaled by the probability that was really used, so the
expectation is exact. On other devices this is ``torch.nn.functional.dropout``, whose fused kernels are better.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

_LEVELS = 1 << 16


def _keep(like: Tensor, p: float) -> Tensor:
    """0 where an element is dropped, ``1 / (1 - p)`` where it is kept; shape and dtype of ``like``. Uses the global RNG."""
    n, dropped = like.numel(), round(p * _LEVELS)
    bits = torch.empty((n + 3) // 4, dtype=torch.int64).random_(-(2**63), None).view(torch.int16)[:n].view(like.shape)
    kept = torch.ge(bits, dropped - _LEVELS // 2, out=torch.empty(like.shape, dtype=like.dtype))
    return kept.mul_(_LEVELS / (_LEVELS - dropped))


def _cheap(x: Tensor) -> bool:
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


def dropout(x: Tensor, p: float) -> Tensor:
    """Drops elements of ``x`` with probability ``p``; call it in training only."""
    if p == 0:
        return x
    return x * _keep(x, p) if _cheap(x) else F.dropout(x, p)


def add_dropped(x: Tensor, h: Tensor, p: float) -> Tensor:
    """``x + dropout(h)``, the end of every residual branch, in one pass where that is possible."""
    if p == 0:
        return x + h
    if _cheap(h):
        keep = _keep(h, p)
        return torch.addcmul(x, h, keep) if x.dtype == h.dtype else x + h * keep
    return x + F.dropout(h, p)
