"""All ranks of a ring in one process, one after the other: the same plan, tiles, kernels and sums, without messages.

For numerics (does an error grow with the ranks?), for what tiling costs on a device there is one of, and as a twin in tests.

Letters: L tokens, H heads, G heads of keys and values, d numbers in a head, n ranks.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from seqrl.context.plan import Plan, make_plan
from seqrl.context.squares import sums
from seqrl.context.tiles import Back, Forth, check, widen


def simulate(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    documents: Sequence[int],
    ranks: int,
    layout: str = "balanced",
    scale: float | None = None,
) -> Tensor:
    """What ``ring_attention`` computes on ``ranks`` ranks.

    Args:
        q: ``[1, H, L, d]``, whole. k, v: ``[1, G, L, d]``.
        documents: where each begins, ascending from 0, and the end L.

    Returns:
        ``[1, H, L, d]`` in q's dtype, with gradients.

    Raises:
        ContextError: as ``ring_attention`` and ``make_plan``.
    """
    plans = [make_plan(tuple(documents), ranks, r, layout) for r in range(ranks)]
    check(q, k, v, plans[0].share * ranks)
    d = q.shape[-1]
    out = _Simulated.apply(*widen(q, k, v), plans, d**-0.5 if scale is None else scale)
    return out if out.shape[-1] == d else out[..., :d]


class _Simulated(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor, plans: list[Plan], scale: float) -> Tensor:
        places = [torch.from_numpy(p.positions(p.rank)).to(q.device) for p in plans]
        whole, lse = torch.empty_like(q), q.new_empty(q.shape[:3], dtype=sums(q.dtype))
        for plan, at in zip(plans, places, strict=True):
            forth = Forth(*(t[:, :, at] for t in (q, k, v)), plan, scale)
            for i in range(1, plan.ranks):
                if (there := _needed(plan, places, i)) is not None:
                    forth.meet(k[:, :, there], v[:, :, there], plan.steps[i])
            whole[:, :, at], lse[:, :, at] = forth.out.to(q.dtype), forth.lse
        ctx.save_for_backward(q, k, v, whole, lse)
        ctx.plans, ctx.places, ctx.scale = plans, places, scale
        return whole

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, lse = ctx.saved_tensors
        dq, dk, dv = torch.empty_like(q), *(torch.zeros_like(t, dtype=sums(q.dtype)) for t in (k, v))
        for plan, at in zip(ctx.plans, ctx.places, strict=True):
            back = Back(*(t[:, :, at] for t in (grad, q, k, v, out, lse)), plan, ctx.scale)
            for i in range(1, plan.ranks):
                if (there := _needed(plan, ctx.places, i)) is not None:
                    found = back.meet(k[:, :, there], v[:, :, there], plan.steps[i])
                    # Rounded as on its way to the owner.
                    for whole, part in zip((dk, dv), found, strict=True):
                        whole[:, :, there] += part.to(k.dtype)
            dq[:, :, at] = back.dq.to(q.dtype)
            dk[:, :, at] += back.dk
            dv[:, :, at] += back.dv
        return dq, dk.to(k.dtype), dv.to(v.dtype), None, None


def _needed(plan: Plan, places: Sequence[Tensor], step: int) -> Tensor | None:
    """The places of the keys that a rank sees at a step, None where there are none."""
    owner = places[(plan.rank - step) % plan.ranks]
    return torch.cat([owner[a:b] for a, b in plan.need[step]]) if plan.need[step] else None
