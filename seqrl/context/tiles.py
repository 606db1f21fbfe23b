"""A rank's passes over its tiles: what ``ring`` does with keys from elsewhere and ``simulate`` with its own.

Forth, the outputs o1, o2 of two tiles of keys for the same queries, with the logarithms l1, l2 of their softmax's sums, become
one: ``o1 + sigmoid(l2 - l1) (o2 - o1)`` with ``log(exp l1 + exp l2)``, which is exact and never overflows. Step 0 has given
every query at least itself, so no logarithm is infinite. Back, each tile's kernel is given the final output and logarithm and
answers its share. Sums over tiles are kept in float32 (float64 of float64): errors of half precision do not grow with ranks.

Letters: H heads, G heads of keys and values, N queries, T keys of a step, d numbers in a head.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from seqrl.context.errors import ContextError
from seqrl.context.kernels import choose
from seqrl.context.plan import Plan, Tile
from seqrl.context.squares import Kernel, sums


class Forth:
    """The forward pass of the queries ``q [1, H, N, d]``; ``out`` and ``lse [1, H, N]`` grow step by step."""

    def __init__(self, q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float) -> None:
        """Takes step 0: the rank's own keys."""
        q, k, v = (dense(t) for t in (q, k, v))
        self.q, self.scale, self.kernel = q, scale, kernel_for(q, k, plan)
        self.out, self.lse = self.kernel.squares(q, k, v, scale, plan.edges)
        if any(plan.steps[1:]):
            self.out = self.out.to(sums(q.dtype))

    def meet(self, k: Tensor, v: Tensor, tiles: Sequence[Tile]) -> None:
        """A later step: keys and values ``[1, G, T, d]``."""
        for q0, q1, k0, k1, _ in tiles:
            o, s = self.kernel.forward(self.q[:, :, q0:q1], k[:, :, k0:k1], v[:, :, k0:k1], self.scale, False)
            lse = self.lse[:, :, q0:q1]
            self.out[:, :, q0:q1].lerp_(o.to(self.out.dtype), torch.sigmoid(s - lse)[..., None])
            torch.logaddexp(lse, s, out=lse)


class Back:
    """The backward pass: ``dq [1, H, N, d]`` and what ``meet`` answers are the gradients."""

    def __init__(self, grad, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, plan: Plan, scale: float) -> None:
        """Takes step 0; ``dk``, ``dv`` are the gradients of the rank's own keys so far."""
        grad, q, k, v, out = (dense(t) for t in (grad, q, k, v, out))
        self.kernel, self.scale = kernel_for(q, k, plan), scale
        self.given = (grad, q, out, lse)
        grads = self.kernel.squares_back(grad, q, k, v, out, lse, scale, plan.edges)
        # What is added to later is kept in more digits; what is not, as it is.
        self.dq = grads[0].to(sums(q.dtype)) if any(plan.steps[1:]) else grads[0]
        self.dk, self.dv = (t.to(sums(q.dtype)) if plan.ranks > 1 else t for t in grads[1:])

    def meet(self, k: Tensor, v: Tensor, tiles: Sequence[Tile]) -> tuple[Tensor, Tensor]:
        """A later step: the gradients of its keys and values, ``[1, G, T, d]``, through these queries."""
        whole = len(tiles) == 1 and (tiles[0].k0, tiles[0].k1) == (0, k.shape[2])
        dk, dv = (None, None) if whole else (torch.zeros_like(t, dtype=self.dq.dtype) for t in (k, v))
        for q0, q1, k0, k1, _ in tiles:
            grad, q, out, lse = (t[:, :, q0:q1] for t in self.given)
            found = self.kernel.backward(grad, q, k[:, :, k0:k1], v[:, :, k0:k1], out, lse, self.scale, False)
            self.dq[:, :, q0:q1] += found[0]
            if whole:
                return found[1], found[2]
            dk[:, :, k0:k1] += found[1]
            dv[:, :, k0:k1] += found[2]
        return dk, dv


def kernel_for(q: Tensor, k: Tensor, plan: Plan) -> Kernel:
    """The kernel for one attention under ``plan``."""
    return choose(q.device.type, q.dtype, q.shape[-1], q.shape[1] != k.shape[1], plan.documents == 1)


def dense(x: Tensor) -> Tensor:
    """The same with the numbers of a head side by side, which the kernels take for granted."""
    return x if x.stride(-1) == 1 else x.contiguous()


def widen(*tensors: Tensor) -> list[Tensor]:
    """On GPU, heads filled up with zeros to a multiple of 8, which its kernels need and which changes nothing."""
    return [F.pad(t, (0, -t.shape[-1] % 8)) if t.is_cuda and t.shape[-1] % 8 else t for t in tensors]


def check(q: Tensor, k: Tensor, v: Tensor, tokens: int) -> None:
    """Refuses shapes ring attention does not know.

    Raises:
        ContextError: naming what is wrong.
    """
    if q.dim() != 4 or k.dim() != 4 or len(q) != 1 or len(k) != 1:
        raise ContextError(f"ring attention reads one flattened row, [1, heads, tokens, d]; here are {_shapes(q, k, v)}")
    if k.shape[:3] != v.shape[:3]:
        raise ContextError(f"every key has a value; here are {_shapes(q, k, v)}")
    if v.shape[-1] != q.shape[-1] or k.shape[-1] != q.shape[-1]:
        raise ContextError(
            f"values of {v.shape[-1]} numbers and queries of {q.shape[-1]}: ring attention needs heads of one size. Models "
            "with values of another (multi-head latent attention) cannot be cut over ranks; train them with attention: sdpa"
        )
    if q.shape[2] != tokens or k.shape[2] != tokens:
        raise ContextError(f"this rank's share is {tokens} tokens; here are {_shapes(q, k, v)}")
    if q.shape[1] % k.shape[1]:
        raise ContextError(f"{q.shape[1]} heads cannot share {k.shape[1]} heads of keys and values: it must divide them")
    if not q.dtype == k.dtype == v.dtype:
        raise ContextError(f"queries, keys and values are of one dtype; here {q.dtype}, {k.dtype}, {v.dtype}")


def _shapes(*tensors: Tensor) -> str:
    return ", ".join(f"{n} {list(t.shape)}" for n, t in zip("qkv", tensors, strict=True))
