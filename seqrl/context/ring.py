"""Ring attention: exact causal attention over documents whose tokens lie on several ranks (Liu et al. 2023).

Every rank keeps its queries and meets the keys it sees of each other rank in turn; the next keys are on their way while the
kernels work on these. Back, the keys are sent again rather than kept, and gradients of keys go straight back to their owners.
Shared heads of keys and values are never repeated, neither on the way nor in memory. Nothing of the size of tokens x tokens
exists, and a rank holds its share, the keys of two steps and their gradients, whatever the number of ranks.

Letters: n ranks, N tokens of this rank, H heads, G heads of keys and values, d numbers in a head.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from seqrl.context.cut import Cut
from seqrl.context.exchange import GRADIENTS, KEYS, Exchange, Parcel
from seqrl.context.plan import Plan
from seqrl.context.tiles import Back, Forth, check, widen


@torch.compiler.disable
def ring_attention(q: Tensor, k: Tensor, v: Tensor, cut: Cut, scale: float | None = None) -> Tensor:
    """Each token sees those of its own document up to itself, wherever they lie.

    Args:
        q: ``[1, H, N, d]`` this rank's queries in the order of its cut; float16, bfloat16, float32 or float64.
        k, v: ``[1, G, N, d]``; G divides H.
        cut: of the batch; all its ranks call this alike, in one order.
        scale: of the scores; ``d ** -0.5`` where None.

    Returns:
        ``[1, H, N, d]`` in q's dtype (autocast's, where it is on), with gradients.

    Raises:
        ContextError: shapes that cannot be honoured, or a cut over several ranks without an exchange.
        LostRank: another rank does not answer.
    """
    if torch.is_autocast_enabled(q.device.type):
        half = torch.get_autocast_dtype(q.device.type)
        q, k, v = (t if t.dtype == torch.float64 else t.to(half) for t in (q, k, v))
    check(q, k, v, cut.plan.share)
    exchange = cut.connected()
    cut.called()
    d = q.shape[-1]
    out = _Ring.apply(*widen(q, k, v), cut.plan, exchange, d**-0.5 if scale is None else scale)
    return out if out.shape[-1] == d else out[..., :d]


class _Keys:
    """Keys and values of every step but the first, fetched one step ahead."""

    def __init__(self, k: Tensor, v: Tensor, plan: Plan, exchange: Exchange | None) -> None:
        self.k, self.v, self.plan, self.exchange = k, v, plan, exchange
        self.next = self._start(1)

    def _start(self, i: int) -> Parcel | None:
        plan = self.plan
        if i >= plan.ranks:
            return None
        give = _pick(self.k, self.v, plan.give[i]) if plan.give[i] else None
        shape = (2, self.k.shape[1], _tokens(plan.need[i]), self.k.shape[3]) if plan.need[i] else None
        ends = ((plan.rank + i) % plan.ranks, shape, (plan.rank - i) % plan.ranks)
        return self.exchange.start(give, *ends, KEYS, self.k)

    def take(self, i: int) -> tuple[Tensor, Tensor] | None:
        """``[1, G, T, d]`` keys and values of step i, None where nothing is seen; those of step i + 1 set out."""
        got = self.exchange.wait(self.next)
        self.next = self._start(i + 1)
        return None if got is None else (got[:1], got[1:])


class _Ring(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor, plan: Plan, exchange: Exchange | None, scale: float) -> Tensor:
        keys = _Keys(k, v, plan, exchange)
        forth = Forth(q, k, v, plan, scale)
        for i in range(1, plan.ranks):
            if got := keys.take(i):
                forth.meet(*got, plan.steps[i])
        if exchange is not None:
            exchange.finish()
        out = forth.out.to(q.dtype)
        ctx.save_for_backward(q, k, v, out, forth.lse)
        ctx.plan, ctx.exchange, ctx.scale = plan, exchange, scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        (q, k, v, out, lse), plan, exchange = ctx.saved_tensors, ctx.plan, ctx.exchange
        keys = _Keys(k, v, plan, exchange)
        back = Back(grad, q, k, v, out, lse, plan, ctx.scale)
        home = None
        for i in range(1, plan.ranks):
            found = None
            if got := keys.take(i):
                found = torch.cat([t.to(k.dtype) for t in back.meet(*got, plan.steps[i])])
            if home is not None:
                _add(back, plan.give[i - 1], exchange.wait(home))
            shape = (2, k.shape[1], _tokens(plan.give[i]), k.shape[3]) if plan.give[i] else None
            home = exchange.start(found, (plan.rank - i) % plan.ranks, shape, (plan.rank + i) % plan.ranks, GRADIENTS, k)
        if home is not None:
            _add(back, plan.give[-1], exchange.wait(home))
            exchange.finish()
        return back.dq.to(q.dtype), back.dk.to(k.dtype), back.dv.to(v.dtype), None, None, None


def _pick(k: Tensor, v: Tensor, intervals: Sequence[tuple[int, int]]) -> Tensor:
    """``[2, G, T, d]`` keys and values of some intervals, one behind the other."""
    picked, at = k.new_empty(2, k.shape[1], _tokens(intervals), k.shape[3]), 0
    for a, b in intervals:
        picked[0, :, at : at + b - a], picked[1, :, at : at + b - a] = k[0, :, a:b], v[0, :, a:b]
        at += b - a
    return picked


def _add(back: Back, intervals: Sequence[tuple[int, int]], found: Tensor | None) -> None:
    """Gradients ``[2, G, T, d]`` of keys that were given away, back in their places."""
    at = 0
    for a, b in intervals:
        back.dk[:, :, a:b] += found[:1, :, at : at + b - a]
        back.dv[:, :, a:b] += found[1:, :, at : at + b - a]
        at += b - a


def _tokens(intervals: Sequence[tuple[int, int]]) -> int:
    return sum(b - a for a, b in intervals)
