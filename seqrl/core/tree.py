"""A carry is a NamedTuple of tensors, batch first in every leaf: what can be done to the rows of any of them, written once.

B rows, S copies of each, R chosen rows.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def map_leaves(fn: Callable[..., Any], tree: Any, *more: Any) -> Any:
    """``fn`` of every tensor of a tree (tuples, NamedTuples, dicts, None), and of those at the same place in ``more``."""
    if tree is None:
        return None
    if isinstance(tree, dict):
        return {k: map_leaves(fn, v, *(m[k] for m in more)) for k, v in tree.items()}
    if isinstance(tree, tuple):
        parts = [map_leaves(fn, *each) for each in zip(tree, *more, strict=True)]
        return type(tree)(*parts) if hasattr(tree, "_fields") else tuple(parts)
    return fn(tree, *more)


def index(tree: Any, rows: "torch.Tensor") -> Any:
    """The chosen rows, which may repeat; ``[R]`` int64 or a bool mask ``[B]``."""
    return map_leaves(lambda t: t[rows], tree)


def repeat(tree: Any, copies: int) -> Any:
    """Every row S times, copies side by side: row ``b`` becomes rows ``b * S`` to ``b * S + S - 1``."""
    return map_leaves(lambda t: t.repeat_interleave(copies, 0), tree)


def detach(tree: Any) -> Any:
    """The same numbers, with no gradient behind them."""
    return map_leaves(lambda t: t.detach(), tree)


def clone(tree: Any) -> Any:
    """A copy that shares no memory: for a carry that must survive being handed over."""
    return map_leaves(lambda t: t.clone(), tree)


def where(chosen: "torch.Tensor", this: Any, that: Any) -> Any:
    """``this`` in the rows ``chosen [B]`` (bool), ``that`` in the others."""
    import torch

    def pick(a: "torch.Tensor", b: "torch.Tensor") -> "torch.Tensor":
        return torch.where(chosen.view(-1, *(1,) * (a.ndim - 1)), a, b)

    return map_leaves(pick, this, that)
