"""What a kernel is: one tile of attention with the logarithm of its softmax's sum, forth and back; and many squares by it.

A query meets its keys tile by tile. What it takes to put tiles together is each tile's output and the logarithm of the sum of
its exponentials (``lse``). What it takes to go back is that the kernel's backward believes the ``lse`` and output of *all*
tiles when it is given them, and so answers this tile's share of the true gradients. Kernels that do both are in kernels.py.

Letters: H heads, G heads of keys and values (dividing H), S queries, T keys, d numbers in a head, Q squares.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby, pairwise

import torch
from torch import Tensor

Three = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Kernel:
    """How tiles are computed on one device in one dtype.

    Args:
        name: which it is.
        forward: ``(q [B, H, S, d], k, v [B, G, T, d], scale, causal)`` to the output ``[B, H, S, d]`` and ``lse [B, H, S]``
            in float32 (float64 of float64). ``causal`` is for squares only.
        backward: ``(gradient, q, k, v, output, lse, scale, causal)`` to the gradients of q, k and v; output and ``lse`` are
            those of all tiles.
        varlen: forward and backward of many squares at once, or None. ``edges`` takes the place of ``causal``.
    """

    name: str
    forward: Callable[[Tensor, Tensor, Tensor, float, bool], tuple[Tensor, Tensor]]
    backward: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, float, bool], Three]
    varlen: tuple[Callable, Callable] | None = None

    def squares(self, q: Tensor, k: Tensor, v: Tensor, scale: float, edges: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Causal squares side by side, between ``edges [Q + 1]`` from 0 to S; ``q [1, H, S, d]``."""
        if len(edges) == 2:
            return self.forward(q, k, v, scale, True)
        if self.varlen is not None:
            return self.varlen[0](q, k, v, scale, edges)
        out, lse = torch.empty_like(q), q.new_empty(q.shape[:3], dtype=sums(q.dtype))
        for a, b, n in equal(edges):
            o, s = self.forward(*(_rows(t[:, :, a:b], n) for t in (q, k, v)), scale, True)
            _rows(out[:, :, a:b], n).copy_(o)
            _rows(lse[:, :, a:b], n).copy_(s)
        return out, lse

    def squares_back(self, grad, q, k, v, out, lse, scale: float, edges: tuple[int, ...]) -> Three:
        """The gradients of ``squares``."""
        if len(edges) == 2:
            return self.backward(grad, q, k, v, out, lse, scale, True)
        if self.varlen is not None:
            return self.varlen[1](grad, q, k, v, out, lse, scale, edges)
        grads = tuple(torch.empty_like(t) for t in (q, k, v))
        for a, b, n in equal(edges):
            found = self.backward(*(_rows(t[:, :, a:b], n) for t in (grad, q, k, v, out, lse)), scale, True)
            for whole, part in zip(grads, found, strict=True):
                _rows(whole[:, :, a:b], n).copy_(part)
        return grads


def equal(edges: tuple[int, ...]) -> list[tuple[int, int, int]]:
    """(from, to, how many) of neighbouring squares of one size, which are one call as rows of a batch."""
    found = []
    for _, run in groupby(pairwise(edges), lambda ab: ab[1] - ab[0]):
        same = list(run)
        found.append((same[0][0], same[-1][1], len(same)))
    return found


def _rows(x: Tensor, rows: int) -> Tensor:
    """``[1, H, rows * S, ...]`` seen as ``[rows, H, S, ...]``; nothing is copied."""
    return x if rows == 1 else x[0].unflatten(1, (rows, -1)).transpose(0, 1)


def sums(dtype: torch.dtype) -> torch.dtype:
    """The dtype sums are kept in."""
    return torch.float64 if dtype == torch.float64 else torch.float32
