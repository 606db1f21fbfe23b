"""Continuations that share a past: its keys and values are kept once, however many rows go on from it, or from its prefixes.

A planner imagines hundreds of action sequences from one long past; an actor is trained in dreams that begin at every step of a
window. Copies of the past would be nearly all the memory moved. Here the queries of all rows of one past meet its keys in one
product of matrices, and a row's own tokens by themselves; both go into one softmax, so the numbers are those of
``Transformer.extend`` on copies, but for rounding. Memory is C + R S tokens in place of R (C + S).

Letters: P pasts, C tokens of a past, R rows that go on, S tokens there is room for in each, L new tokens, N blocks, H heads,
G heads of keys and values, n = H / G, d numbers in a head, D width.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from seqrl.nn.attention import Sight
from seqrl.nn.kv import KVCache
from seqrl.nn.rotary import rotate, turn
from seqrl.nn.transformer import Transformer


class Past:
    """Keys and values that all rows share: a leaf of a carry that stays as it is when rows are chosen, repeated or copied.

    Args:
        keys, values: ``[N, P, G, C, d]``, never changed.
    """

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        self.keys, self.values = keys, values
        self.requires_grad = False

    def _same(self, *_: Any, **__: Any) -> "Past":
        return self

    # What core/tree.py asks of a leaf.
    __getitem__ = clone = detach = repeat_interleave = _same

    def __len__(self) -> int:
        return self.keys.shape[1]


class Shared(NamedTuple):
    """What R rows hold; batch first but for the past.

    Args:
        past: of all of them.
        owner: ``[R]`` int64, which past each goes on from.
        length: ``[R]`` int64, tokens of it that the row sees, from its beginning: each row may see a prefix of its own.
        first: ``[R]`` int64, the oldest position that is still seen.
        fed: ``[R]`` int64, tokens since.
        keys, values: a block each, ``[R, G, S, d]``.
    """

    past: Past
    owner: Tensor
    length: Tensor
    first: Tensor
    fed: Tensor
    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]

    @property
    def held(self) -> Tensor:
        """``[R]`` tokens a row sees."""
        return self.length + self.fed - self.first

    def forget(self, tokens: Tensor) -> None:
        """Hides the oldest ``tokens [R]`` of each row, in place: what ``kv.slide`` is to a cache."""
        self.first.add_(tokens)


def go_on(cache: KVCache, room: int, owner: Tensor, length: Tensor | None = None) -> Shared:
    """R rows that go on from what a cache holds, which is copied once.

    Args:
        cache: of P rows; positions are its own. room: S.
        owner: ``[R]`` int64, which row of the cache each goes on from; rows of one owner side by side are fastest.
        length: ``[R]`` int64, tokens of it each sees; all that the row holds if not given.
    """
    most = int(cache.length.max()) if cache.kv.device.type == "cpu" else cache.capacity
    past = cache.kv[:, :, 1 : most + 1].permute(3, 1, 0, 4, 2, 5)
    N, G, d = past.shape[1], past.shape[3], past.shape[5]
    keys, values = past[0].contiguous(), past[1].contiguous()
    length = cache.length[owner] if length is None else length.clone()
    zero = torch.zeros_like(length)
    own = [tuple(keys.new_zeros(len(owner), G, room, d) for _ in range(N)) for _ in range(2)]
    return Shared(Past(keys, values), owner.clone(), length, zero, zero.clone(), *own)


def spread(shared: Shared, copies: int, room: int) -> Shared:
    """Every row ``copies`` times, side by side, each with room for ``room`` tokens more."""
    used = int(shared.fed.max())

    def grow(own: Tensor) -> Tensor:
        new = own.new_zeros(len(own) * copies, own.shape[1], used + room, own.shape[3])
        new[:, :, :used] = own[:, :, :used].repeat_interleave(copies, 0)
        return new

    each = (t.repeat_interleave(copies) for t in shared[1:5])
    return Shared(shared.past, *each, tuple(map(grow, shared.keys)), tuple(map(grow, shared.values)))


@torch.no_grad()
def extend(trunk: Transformer, x: Tensor, shared: Shared) -> Tensor:
    """Feeds L tokens to every row; changes ``shared``.

    Args:
        trunk: in evaluation mode; nothing is dropped.
        x: ``[R, L, D]``.

    Returns:
        ``[R, L, D]``: what each token gives.

    Raises:
        ValueError: there is no room (checked on CPU only, where looking is free).
    """
    R, L = x.shape[:2]
    c, step = trunk.config, torch.arange(L, device=x.device)
    at = shared.fed[:, None] + step
    places = shared.length[:, None] + at
    x = trunk._placed(x, places).to(trunk.norm.weight.dtype)
    by = turn(places, c.head_dim, c.rope_theta) if c.positions == "rotary" else None
    sight = Sight(places, None, by, by)
    low, high, S = 0, shared.keys[0].shape[2], shared.keys[0].shape[2]
    if x.device.type == "cpu":
        low, high = int(at[:, 0].min()), int(at[:, -1].max()) + 1
        if high > S:
            raise ValueError(f"a continuation has room for {S} tokens, and token {high} was fed")
    meet = _Meeting(shared, places, at, high, c.heads // c.kv_heads)
    rows = torch.arange(R, device=x.device)[:, None]
    for i, block in enumerate(trunk.blocks):
        attn = block.attn
        q, kv = attn.qkv(block.norm1(x))
        q = q.unflatten(-1, attn.shape_q)
        q = q if attn.norm_q is None else attn.norm_q(q.float()).to(q.dtype)
        q = q if by is None else rotate(q, by)
        kv = attn._keys_values(kv, sight, None)
        for own, new in zip((shared.keys[i], shared.values[i]), kv.unbind(2), strict=True):
            if high - low == L:
                own[:, :, low:high] = new.transpose(1, 2)
            else:
                own[rows, :, at] = new
        x = x + attn.out(meet(i, q).flatten(2))
        x = x + block.mlp(block.norm2(x))
    shared.fed.add_(L)
    return trunk.norm(x)


class _Meeting:
    """Who sees whom in one pass, and the products; made once and used by all blocks."""

    def __init__(self, shared: Shared, places: Tensor, at: Tensor, high: int, n: int) -> None:
        self.shared, self.high, self.n = shared, high, n
        P, R, L = len(shared.past), *places.shape
        C, device = shared.past.keys.shape[3], places.device
        # Rows of one past stand side by side, [P, M]; where there are not equally many of each, some places stay empty.
        even = torch.arange(P, device=device).repeat_interleave(R // P)
        self.M, self.spot = R // P, None
        if R % P or not torch.equal(shared.owner, even):
            order = shared.owner.argsort(stable=True)
            count = torch.bincount(shared.owner, minlength=P)
            rank = torch.arange(R, device=device) - (count.cumsum(0) - count)[shared.owner[order]]
            self.M = int(count.max())
            self.spot = torch.empty_like(order).scatter_(0, order, shared.owner[order] * self.M + rank)
        key = torch.arange(C, device=device)
        seen = (key < shared.length[:, None]) & (key >= shared.first[:, None])
        self.old = None if bool(seen.all()) else self._hide(seen[:, None].expand(R, L, C))
        key = torch.arange(high, device=device)
        seen = (key <= at[..., None]) & (key + shared.length[:, None, None] >= shared.first[:, None, None])
        self.new = None if bool(seen.all()) else torch.where(seen, 0.0, -math.inf)[:, None, None]

    def _hide(self, seen: Tensor) -> Tensor:
        """``[R, L, C]`` bool to ``[P, 1, M, 1, L, C]``, 0 where seen and -inf elsewhere."""
        hide = self._gather(torch.where(seen, 0.0, -math.inf)[:, None])
        return hide.view(len(self.shared.past), self.M, 1, *seen.shape[1:])[:, None]

    def _gather(self, x: Tensor) -> Tensor:
        """Rows ``[R, ...]`` to their places ``[P * M, ...]``; empty ones hold zeros."""
        if self.spot is None:
            return x
        return x.new_zeros(len(self.shared.past) * self.M, *x.shape[1:]).index_copy_(0, self.spot, x)

    def __call__(self, i: int, q: Tensor) -> Tensor:
        """Queries ``[R, L, H, d]`` to ``[R, L, H, d]``, in block ``i``."""
        past, n, high = self.shared.past, self.n, self.high
        P, M, (R, L, H, d) = len(past), self.M, q.shape
        G, C = H // n, past.keys.shape[3]
        q = (q * d**-0.5).view(R, L, G, n, d).permute(0, 2, 3, 1, 4)  # [R, G, n, L, d]
        mine, yours = (t[i][:, :, :high].flatten(0, 1) for t in (self.shared.keys, self.shared.values))
        new = torch.bmm(q.reshape(R * G, n * L, d), mine.transpose(1, 2)).view(R, G, n, L, high)
        new = new if self.new is None else new + self.new
        # All rows of a past at once: [P, G, M n L, C].
        old = self._gather(q).reshape(P, M, G, n * L, d).transpose(1, 2).reshape(P, G, -1, d) @ past.keys[i].transpose(2, 3)
        if self.old is not None:
            old = (old.view(P, G, M, n, L, C) + self.old).view(P, G, -1, C)
        new = self._gather(new).view(P, M, G, n * L, high).transpose(1, 2).reshape(P, G, -1, high)
        weight = torch.cat((old, new), -1).softmax(-1)
        y = (weight[..., :C] @ past.values[i]).view(P, G, M, n * L, d).transpose(1, 2).reshape(P * M, G, n, L, d)
        own = weight[..., C:].reshape(P, G, M, n * L, high).transpose(1, 2).reshape(P * M, G, n * L, high)
        if self.spot is not None:
            y, own = y[self.spot], own[self.spot]
        y = y + torch.bmm(own.reshape(R * G, n * L, high), yours).view(R, G, n, L, d)
        return y.permute(0, 3, 1, 2, 4).reshape(R, L, H, d)


__all__ = ["Past", "Shared", "extend", "go_on", "spread"]
