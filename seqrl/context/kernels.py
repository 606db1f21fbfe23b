"""The libraries' fused kernels behind one face (squares.py), and one that is written out.

On CPU one kernel does all dtypes and shared heads. On GPU it depends on dtype, and on whether documents, and with them the
shapes, change from batch to batch: cuDNN is fastest, and prepares itself for every shape anew.

Letters: H heads, G heads of keys and values (dividing H), S queries, T keys, d numbers in a head.
"""

import math
from functools import lru_cache
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from seqrl.context.errors import ContextError
from seqrl.context.squares import Kernel, Three, sums

aten = torch.ops.aten


@lru_cache(maxsize=64)
def choose(device: str, dtype: torch.dtype, head_dim: int, shared: bool = False, steady: bool = False) -> Kernel:
    """The fastest kernel there is.

    Args:
        device: its type, "cpu" or "cuda".
        shared: several heads share keys and values (G < H).
        steady: shapes stay the same from batch to batch, so a kernel may be prepared for each.

    Raises:
        ContextError: no kernel for this device.
    """
    if device == "cpu":
        return CPU
    if device != "cuda":
        raise ContextError(f"ring attention runs on cpu and cuda, not on '{device}'")
    if dtype == torch.float64:
        return MATH
    if dtype == torch.float32 or head_dim > 256:
        return EFFICIENT
    return CUDNN if steady and not shared and head_dim <= 128 and _cudnn_agrees(dtype, head_dim) else FLASH


# CPU: float16, bfloat16, float32, float64; any strides; shared heads.


def _cpu(q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool) -> tuple[Tensor, Tensor]:
    return aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, causal, scale=scale)


def _cpu_back(grad, q, k, v, out, lse, scale: float, causal: bool) -> Three:
    return aten._scaled_dot_product_flash_attention_for_cpu_backward(grad, q, k, v, out, lse, 0.0, causal, scale=scale)


# GPU, half precision: FlashAttention 2 (Dao 2023) wants [B, S, H, d], or [S, H, d] with edges.


def _flash(q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool) -> tuple[Tensor, Tensor]:
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    out, lse, *_ = aten._flash_attention_forward(q, k, v, None, None, q.shape[1], k.shape[1], 0.0, causal, False, scale=scale)
    return out.transpose(1, 2), lse


def _no_state(device: torch.device) -> tuple[Tensor, Tensor]:
    """The random state of dropout, which must be there and is not read without any."""
    return torch.empty(2, dtype=torch.uint64, device=device), torch.empty((), dtype=torch.uint64, device=device)


def _flash_back(grad, q, k, v, out, lse, scale: float, causal: bool) -> Three:
    grad, q, k, v, out = (t.transpose(1, 2) for t in (grad, q, k, v, out))
    state, sizes = _no_state(q.device), (None, None, q.shape[1], k.shape[1])
    grads = aten._flash_attention_backward(grad, q, k, v, out, lse.contiguous(), *sizes, 0.0, causal, *state, scale=scale)
    return tuple(t.transpose(1, 2) for t in grads)


@lru_cache(maxsize=64)
def _sizes(edges: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor, int, int]:
    cu, most = torch.tensor(edges, dtype=torch.int32, device=device), max(b - a for a, b in pairwise(edges))
    return cu, cu, most, most


def _flash_squares(q: Tensor, k: Tensor, v: Tensor, scale: float, edges: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    q, k, v = (t[0].transpose(0, 1) for t in (q, k, v))
    out, lse, *_ = aten._flash_attention_forward(q, k, v, *_sizes(edges, q.device), 0.0, True, False, scale=scale)
    return out.transpose(0, 1)[None], lse[None]


def _flash_squares_back(grad, q, k, v, out, lse, scale: float, edges: tuple[int, ...]) -> Three:
    grad, q, k, v, out = (t[0].transpose(0, 1) for t in (grad, q, k, v, out))
    state, sizes = _no_state(q.device), _sizes(edges, q.device)
    grads = aten._flash_attention_backward(grad, q, k, v, out, lse[0].contiguous(), *sizes, 0.0, True, *state, scale=scale)
    return tuple(t.transpose(0, 1)[None] for t in grads)


# GPU, half precision, shapes that stay: cuDNN, the fastest on Hopper.


def _cudnn(q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool) -> tuple[Tensor, Tensor]:
    out, lse, *_ = aten._scaled_dot_product_cudnn_attention(q, k, v, None, True, 0.0, causal, False, scale=scale)
    return out, lse.reshape(q.shape[:3])


def _cudnn_back(grad, q, k, v, out, lse, scale: float, causal: bool) -> Three:
    seed = offset = torch.zeros((), dtype=torch.int64, device=q.device)
    lse, rest = lse.contiguous()[..., None], (None, None, None, q.shape[2], k.shape[2], 0.0, causal)
    return aten._scaled_dot_product_cudnn_attention_backward(grad, q, k, v, out, lse, seed, offset, *rest, scale=scale)


@lru_cache(maxsize=8)
def _cudnn_agrees(dtype: torch.dtype, head_dim: int) -> bool:
    """Whether cuDNN is here and does with another's ``lse`` what it must: one small tile, forth and back, against flash."""
    if torch.cuda.get_device_capability() < (9, 0):
        return False
    make = torch.Generator("cuda").manual_seed(0)
    q, k, v, grad = (torch.randn(1, 2, 256, head_dim, generator=make, device="cuda").to(dtype) for _ in range(4))
    scale = head_dim**-0.5
    try:
        for causal in (False, True):
            mine, theirs = (kernel.forward(q, k, v, scale, causal) for kernel in (CUDNN, FLASH))
            # As if as much again had been seen elsewhere.
            out, lse = theirs[0], theirs[1] + math.log(2)
            mine += CUDNN.backward(grad, q, k, v, out, lse, scale, causal)
            theirs += FLASH.backward(grad, q, k, v, out, lse, scale, causal)
            if not all(torch.allclose(a.float(), b.float(), rtol=0.05, atol=0.02) for a, b in zip(mine, theirs, strict=True)):
                return False
    except RuntimeError:
        return False
    return True


# GPU, float32: the memory-efficient kernel; its heads are not shared, and its lse is padded to whole blocks of 32.


def _repeat(x: Tensor, heads: int) -> Tensor:
    return x if x.shape[1] == heads else x.repeat_interleave(heads // x.shape[1], 1)


def _fold(x: Tensor, heads: int) -> Tensor:
    return x if x.shape[1] == heads else x.unflatten(1, (heads, -1)).sum(2)


def _efficient(q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool) -> tuple[Tensor, Tensor]:
    k, v = (_repeat(t, q.shape[1]) for t in (k, v))
    out, lse, *_ = aten._scaled_dot_product_efficient_attention(q, k, v, None, True, 0.0, causal, scale=scale)
    return out, lse[..., : q.shape[2]]


def _efficient_back(grad, q, k, v, out, lse, scale: float, causal: bool) -> Three:
    G, seed = k.shape[1], torch.zeros((), dtype=torch.int64, device=q.device)
    k, v = (_repeat(t, q.shape[1]) for t in (k, v))
    lse = F.pad(lse, (0, -lse.shape[-1] % 32), value=math.inf)
    rest = (seed, seed, 0.0, [True, True, True, False], causal)
    dq, dk, dv, _ = aten._scaled_dot_product_efficient_attention_backward(grad, q, k, v, None, out, lse, *rest, scale=scale)
    return dq, _fold(dk, G), _fold(dv, G)


# Written out, for tests and for what no kernel takes: S x T numbers a head.


def _scores(q: Tensor, k: Tensor, scale: float, causal: bool) -> Tensor:
    found = (q @ _repeat(k, q.shape[1]).transpose(-1, -2)).to(sums(q.dtype)) * scale
    return found.masked_fill(~torch.ones_like(found, dtype=torch.bool).tril(), -math.inf) if causal else found


def _math(q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool) -> tuple[Tensor, Tensor]:
    scores = _scores(q, k, scale, causal)
    lse = scores.logsumexp(-1)
    return (scores - lse[..., None]).exp().to(q.dtype) @ _repeat(v, q.shape[1]), lse


def _math_back(grad, q, k, v, out, lse, scale: float, causal: bool) -> Three:
    H, G = q.shape[1], k.shape[1]
    weights = (_scores(q, k, scale, causal) - lse[..., None]).exp()
    through = (grad @ _repeat(v, H).transpose(-1, -2)).to(weights.dtype)
    inner = (weights * (through - (grad * out).to(weights.dtype).sum(-1, keepdim=True)) * scale).to(q.dtype)
    dk, dv = inner.transpose(-1, -2) @ q, weights.to(q.dtype).transpose(-1, -2) @ grad
    return inner @ _repeat(k, H), _fold(dk, G), _fold(dv, G)


CPU = Kernel("cpu flash", _cpu, _cpu_back)
FLASH = Kernel("cuda flash", _flash, _flash_back, (_flash_squares, _flash_squares_back))
CUDNN = Kernel("cuda cudnn", _cudnn, _cudnn_back)
EFFICIENT = Kernel("cuda efficient", _efficient, _efficient_back)
MATH = Kernel("math", _math, _math_back)
