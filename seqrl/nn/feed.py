"""Token after token into a cache, where it is known beforehand how many will follow: what a pass needs is made once for all.

A world that says a picture makes as many passes as the picture has tokens, each of one token a row. ``Transformer.extend``
would make angles, a mask and indices anew for each of them; here they are cut out of what was made for all. Where all rows
stand at one place nobody needs a mask of its own and new keys go in as one block. The numbers are those of ``extend``.

Letters: B rows, N blocks, S slots, G heads of keys and values, d numbers in a head, L tokens of a pass, M of all, D width.
"""

import math

import torch
from torch import Tensor

from seqrl.nn.attention import Sight, see_cache
from seqrl.nn.kv import KVCache
from seqrl.nn.transformer import Transformer


def head_major(rows: int, blocks: int, tokens: int, heads: int, head_dim: int, like: Tensor) -> KVCache:
    """``nn.kv.make_cache`` with the tokens of a head side by side in memory, where a pass of one token reads them.

    The shape is the same; a query then runs through memory from one end to the other, which takes two thirds of the time.
    """
    kv = torch.zeros(rows, blocks, 2, heads, tokens + 1, head_dim, dtype=like.dtype, device=like.device)
    return KVCache(kv.permute(0, 1, 4, 2, 3, 5), torch.zeros(rows, dtype=torch.int64, device=like.device))


class Feed:
    """M tokens of every row, one behind the other from where each row ends, in passes of any size."""

    def __init__(self, trunk: Transformer, cache: KVCache, tokens: int) -> None:
        """
        Args:
            trunk: in evaluation mode. cache: of B rows; it changes with every pass.
            tokens: M, as many as will be fed.

        Raises:
            ValueError: a row has no room (checked on CPU only).
        """
        c, self.trunk, self.cache, self.fed = trunk.config, trunk, cache, 0
        step = torch.arange(tokens, device=cache.length.device)
        places = cache.length[:, None] + step
        slots = cache.slots_for(places)
        # On CPU looking at numbers is free; elsewhere rows are never taken to be alike.
        self.even = places.device.type == "cpu" and bool((cache.length == cache.length[0]).all())
        self.last = slots - tokens
        self.rows = torch.arange(len(places), device=places.device)[:, None]
        sight = see_cache(places[:1] if self.even else places, slots, trunk._theta, c.head_dim)
        hidden = cache.kv.new_zeros(()).masked_fill(~sight.mask, -math.inf)
        self.sight = Sight(sight.places, hidden, sight.turn_q, sight.turn_k)

    def __call__(self, x: Tensor) -> Tensor:
        """The next tokens ``[B, L, D]``: what the last of them gives, ``[B, D]``."""
        now, whole = slice(self.fed, self.fed + x.shape[1]), self.sight
        self.fed = now.stop
        end = self.last + now.stop if self.cache.kv.device.type == "cpu" else whole.mask.shape[-1]
        turns = None if whole.turn_q is None else tuple(t[:, now] for t in whole.turn_q)
        sight = Sight(whole.places[:, now], whole.mask[:, :, now, :end], turns, turns)
        memory = _Here(self.cache.kv[:, :, :end], self.rows, sight.places, self.even)
        y = self.trunk._run(self.trunk._placed(x, sight.places - 1), sight, slice(-1, None), memory)
        self.cache.length.add_(x.shape[1])
        return y[:, 0]


class _Here:
    """As ``nn.kv.Memory``, for tokens that stand side by side."""

    def __init__(self, kv: Tensor, rows: Tensor, slots: Tensor, even: bool) -> None:
        self.kv, self.rows, self.slots, self.even = kv, rows, slots, even

    def write(self, block: int, kv: Tensor) -> Tensor:
        """Stores ``[B, L, 2, G, d]`` of a block; answers all it may see, ``[B, S, 2, G, d]``."""
        here = self.kv.select(1, block)
        if self.even:
            here[:, here.shape[1] - kv.shape[1] :] = kv
        else:
            here[self.rows, self.slots] = kv.to(here.dtype)
        return here


__all__ = ["Feed", "head_major"]
