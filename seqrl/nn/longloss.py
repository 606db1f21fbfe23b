"""Cross-entropy over a large vocabulary for many tokens, without ever holding the scores of all of them.

A million tokens times 32,000 words are 119 GiB of float32. Here the scores of ``chunk`` tokens at a time are made, read off and
thrown away, and made once more for the gradient, which costs a third more arithmetic in this one layer.

Letters: N tokens, D width, V vocabulary.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor


def chunked_cross_entropy(x: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, chunk: int = 1024) -> Tensor:
    """``cross_entropy(x @ weight.T + bias, target)`` of each token, exact, with its gradients.

    Args:
        x: ``[N, D]``. weight: ``[V, D]``. bias: ``[V]`` or None. Scores are made in their dtype (autocast's, where it is on),
            everything after that and sums of gradients in float32.
        target: ``[N]`` int64, 0 to V; below 0 where there is nothing to foretell.
        chunk: tokens whose scores are alive at once.

    Returns:
        ``[N]`` float32; 0, and without a gradient, where the target is below 0.

    Raises:
        ValueError: shapes that do not fit, or a chunk below 1.
    """
    shapes = (tuple(x.shape), tuple(weight.shape), None if bias is None else tuple(bias.shape), tuple(target.shape))
    if x.ndim != 2 or weight.ndim != 2 or target.shape != x.shape[:1] or x.shape[1] != weight.shape[1]:
        raise ValueError(f"cross-entropy of [N, D] by [V, D] and [N] asked for, given {shapes}")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"cross-entropy of [N, D] by [V, D] and [N] asked for, given {shapes}")
    if chunk < 1:
        raise ValueError(f"chunks of {chunk} tokens")
    kind, dtype = x.device.type, torch.promote_types(x.dtype, weight.dtype)
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
    return _ChunkedCrossEntropy.apply(x, weight, bias, target, chunk, dtype)


def _as_it_is(kind: str) -> AbstractContextManager:
    """No autocast: it would keep copies of the weights of its own; here one is made, and let go."""
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()


def _scores(x: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """``[n, V]`` in float32 (float64 of float64)."""
    found = F.linear(x.to(dtype), weight, bias)
    return found if dtype == torch.float64 else found.float()


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, target, chunk, dtype):
        out = torch.empty(len(x), dtype=torch.float32, device=x.device)
        with _as_it_is(x.device.type):
            w, b = weight.to(dtype), None if bias is None else bias.to(dtype)
            for part, wanted, found in zip(x.split(chunk), target.split(chunk), out.split(chunk), strict=True):
                scores = _scores(part, w, b, dtype)
                said = scores.gather(1, wanted.clamp(min=0)[:, None])[:, 0]
                found.copy_((scores.logsumexp(1) - said).where(wanted >= 0, 0))
        ctx.save_for_backward(x, weight, bias, target)
        ctx.chunk, ctx.dtype = chunk, dtype
        return out

    @staticmethod
    def backward(ctx, grad):
        (x, weight, bias, target), dtype = ctx.saved_tensors, ctx.dtype
        of_x, of_weight, of_bias = ctx.needs_input_grad[:3]
        sums = torch.float64 if dtype == torch.float64 else torch.float32
        gx = torch.empty_like(x) if of_x else None
        gw = torch.zeros(weight.shape, dtype=sums, device=x.device) if of_weight else None
        gb = torch.zeros(weight.shape[:1], dtype=sums, device=x.device) if of_bias else None
        with _as_it_is(x.device.type):
            w, b = weight.to(dtype), None if bias is None else bias.to(dtype)
            for first in range(0, len(x), ctx.chunk):
                here = slice(first, first + ctx.chunk)
                part, wanted = x[here], target[here]
                # The gradient of a score is its probability, less one where it was the target.
                g = _scores(part, w, b, dtype).softmax(1)
                g.scatter_add_(1, wanted.clamp(min=0)[:, None], g.new_full((len(g), 1), -1.0))
                g *= grad[here].where(wanted >= 0, 0)[:, None]
                if gb is not None:
                    gb += g.sum(0)
                g = g.to(dtype)
                if gx is not None:
                    gx[here] = g @ w
                if gw is not None:
                    gw += g.t() @ part.to(dtype)
        gw = None if gw is None else gw.to(weight.dtype)
        return gx, gw, None if gb is None else gb.to(bias.dtype), None, None, None
