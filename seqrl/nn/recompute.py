"""Memory for arithmetic: what a backward pass needs is computed again, block by block, or in chunks of tokens.

A block keeps some thirty numbers per token and unit of width for its gradient, and its input is one of them. Keeping that
alone and computing the rest once more costs a third more arithmetic (Chen et al. 2016, arXiv 1604.06174); the inputs may wait
in the host's memory as well. Within a block most of what is alive at once is the inner layer of the feed-forward part, which is
a function of each token alone and may be computed a few thousand tokens at a time (Liu & Abbeel 2023, arXiv 2305.19370).

Dropout draws the same numbers again, and under a cut (nn/ringed.py) all processes go through their blocks in the same order.

Letters: B rows, L tokens, D width.
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from seqrl.core.errors import RecipeError, did_you_mean

How = Literal["none", "blocks", "offload"]
HOWS = ("none", "blocks", "offload")


def check_recompute(how: str, feed: int | None) -> None:
    """Raises RecipeError for an unknown ``how``, or chunks of less than a token."""
    if how not in HOWS:
        raise RecipeError(f"recompute: unknown '{how}'{did_you_mean(how, HOWS)} (there are: {', '.join(HOWS)})")
    if feed is not None and feed < 1:
        raise RecipeError(f"chunk: at least 1 token of the feed-forward layer at a time (got {feed})")


def again(block: Callable[..., Any], x: Tensor, *args: Any, offload: bool = False, **kwargs: Any) -> Any:
    """``block(x, *args, **kwargs)``, of which only ``x`` is kept for the backward pass.

    Args:
        offload: whether ``x`` waits in the host's memory.
    """
    with _on_host(x) if offload else nullcontext():
        return checkpoint(block, x, *args, use_reentrant=False, **kwargs)


def in_chunks(layer: Callable[[Tensor], Tensor], x: Tensor, tokens: int) -> Tensor:
    """``layer(x)`` for ``x [B, L, D]``, ``tokens`` of each row at a time; nothing inside of ``layer`` is kept."""

    def of(part: Tensor) -> Tensor:
        # Some layers look at all tokens as one row, which a piece of several rows is not.
        return layer(part.contiguous())

    parts = x.split(tokens, -2)
    found = [again(of, part) if torch.is_grad_enabled() else of(part) for part in parts]
    return torch.cat(found, -2) if len(found) > 1 else found[0]


class _on_host(torch.autograd.graph.saved_tensors_hooks):
    """What is saved of ``x`` lies in pinned memory of the host; everything else (positions, angles) is shared by all blocks."""

    def __init__(self, x: Tensor) -> None:
        there, same = x.device, (x.data_ptr(), x.shape)

        def pack(t: Tensor) -> tuple[bool, Tensor]:
            if t.device.type == "cpu" or (t.data_ptr(), t.shape) != same:
                return False, t
            held = torch.empty(t.shape, dtype=t.dtype, pin_memory=t.device.type == "cuda")
            return True, held.copy_(t, non_blocking=True)

        def unpack(packed: tuple[bool, Tensor]) -> Tensor:
            moved, t = packed
            return t.to(there, non_blocking=True) if moved else t

        super().__init__(pack, unpack)
