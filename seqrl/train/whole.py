"""What engines that deal out weights have in common: the units that are dealt, and a forward around all."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from seqrl.core.stream import StreamBatch


def bodies_of(model: nn.Module) -> list[nn.Module]:
    """The trunks of a model: what can attend by ring, be computed again, and be made longer (core/contracts.py, LongBody)."""
    return [m for m in model.modules() if hasattr(m, "prepare_ring")]


def blocks_of(model: nn.Module) -> Iterator[nn.Module]:
    """The blocks of a model's trunks: all processes compute each, in the same order."""
    for body in bodies_of(model):
        for part in body.modules():
            # Experts and the like are lists too, but inside of a block; those are left whole.
            if isinstance(part, nn.ModuleList) and len({type(m) for m in part}) == 1:
                yield from part
                break


def loose_of(model: nn.Module) -> list[tuple[nn.Module, str]]:
    """Where the weights stand that are in no block: in which module, and under which name."""
    inside = {id(p) for block in blocks_of(model) for p in block.parameters()}
    parts = [(m, n, p) for m in model.modules() for n, p in m.named_parameters(recurse=False)]
    return [(m, n) for m, n, p in parts if id(p) not in inside]


class Whole(nn.Module):
    """A model from its batch to its sums, with all its weights in one graph.

    Args:
        half: what is computed in, or None.
        touch: whether weights outside of blocks get a gradient even where nothing of a batch uses them. A process may have none
            of some domain's steps, and where gradients are dealt out they must be there, or not be there, on all alike.
    """

    def __init__(self, module: nn.Module, half: torch.dtype | None, touch: bool) -> None:
        super().__init__()
        self.module, self.half = module, half
        # By their places: sharding puts other objects there.
        self._loose = [(m, n) for m, n in loose_of(module) if getattr(m, n).requires_grad] if touch else []

    def forward(self, batch: StreamBatch) -> dict[str, tuple[Tensor, Tensor]]:
        """name -> sum and count, as ``Losses.sums``."""
        device = next(iter(self.module.parameters())).device.type
        with torch.autocast(device, dtype=self.half, enabled=self.half is not None):
            sums = self.module(batch).sums()
        if self._loose and torch.is_grad_enabled():
            nothing = sum(getattr(m, n).flatten()[:1].float().sum() for m, n in self._loose) * 0.0
            sums = {n: (total + nothing, count) for n, (total, count) in sums.items()}
        return sums


class Last(torch.autograd.Function):
    """A loss whose weights outside of blocks get their gradients last, all of them, and in the same order everywhere.

    DeepSpeed sends gradients in the order in which they come to be, and with several domains that differs from process to
    process: it would add those of one weight to those of another.
    """

    @staticmethod
    def forward(ctx: Any, loss: list[Tensor], stand_ins: Sequence[Tensor], *weights: Tensor) -> Tensor:
        """``loss`` (in a list, so that nobody looks into it) of what was computed with ``stand_ins`` for ``weights``."""
        ctx.loss, ctx.stand_ins = loss[0], stand_ins
        return loss[0].detach()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        with torch.enable_grad():
            torch.autograd.backward(ctx.loss, gradient)
        found = [torch.zeros_like(s) if s.requires_grad and s.grad is None else s.grad for s in ctx.stand_ins]
        for s in ctx.stand_ins:
            s.grad = None
        ctx.loss = None
        return None, None, *found
