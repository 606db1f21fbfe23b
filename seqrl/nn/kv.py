"""A static cache of keys and values in which every row stands at a position of its own.

Environments end and begin at different times, so the rows of a batch hold different numbers of tokens. Token ``p`` of a row
lies in slot ``p + 1`` for ever. Slot 0 is nobody's: a token fed at position -1 goes there and no other token ever sees it,
so that a step can feed the same block of tokens to every row, also to those that have no previous action yet.

Nothing is ever wiped. What lies beyond the position of a token is not seen by it, so a row goes back simply by feeding other
tokens at positions it holds, and a beam search copies only the slots in which its rows can differ.

Letters: B rows, N blocks, S slots, G heads of keys and values, d numbers in a head, L new tokens, R chosen rows.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from seqrl.nn.rotary import rotate, turn


class KVCache(NamedTuple):
    """Keys and values of every block; a pytree whose leaves are batch first.

    Args:
        kv: ``[B, N, S, 2, G, d]``, keys at 0 and values at 1.
        length: ``[B]`` int64, tokens held.
    """

    kv: Tensor
    length: Tensor

    @property
    def capacity(self) -> int:
        """Tokens a row has room for."""
        return self.kv.shape[2] - 1

    def reset(self, rows: Tensor) -> None:
        """Forgets ``rows`` (indices or a bool mask), in place. Nothing is wiped: what is beyond the length is never seen."""
        self.length[rows] = 0

    def index(self, rows: Tensor) -> "KVCache":
        """A new cache of the chosen rows, which may repeat."""
        return KVCache(self.kv[rows], self.length[rows])

    def slots_for(self, places: Tensor) -> int:
        """How many slots a pass over new tokens at ``places [B, L]`` has to look at.

        Raises:
            ValueError: a token has no room (checked on CPU only).
        """
        if places.device.type != "cpu":
            return self.kv.shape[2]
        # Looking at numbers is free here, so slots beyond the furthest new token need not be read at all.
        last = int(places.max()) + 1
        if last > self.capacity:
            raise ValueError(f"the cache has room for {self.capacity} tokens a row, and position {last - 1} was fed")
        return last + 1


class Memory(NamedTuple):
    """Where the keys and values of one pass go, and what the pass sees of those that were there.

    Args:
        kv: of the cache.
        rows: ``[R, 1]`` which rows of the cache the pass is about.
        slots: ``[R or 1, L]`` where its tokens go.
        fresh: the rows were empty, so the new tokens are all there is to see.
    """

    kv: Tensor
    rows: Tensor
    slots: Tensor
    fresh: bool

    def write(self, block: int, kv: Tensor) -> Tensor:
        """Stores ``[R, L, 2, G, d]`` of a block; answers all it may see, ``[R, L or S, 2, G, d]``."""
        here = self.kv.select(1, block)
        here[self.rows, self.slots] = kv.to(here.dtype)
        return kv if self.fresh else here


def run_of(tokens: int, cache: KVCache, start: Tensor | None) -> tuple[Tensor, Tensor]:
    """Positions ``[B, L]`` of ``tokens`` side by side from ``start [B]`` (or from each row's end) on, and the lengths after."""
    start = cache.length if start is None else start
    return start[:, None] + torch.arange(tokens, device=start.device), start + tokens


def length_after(places: Tensor, cache: KVCache) -> Tensor:
    """Lengths ``[B]`` once tokens at ``places [B, L]`` are fed: a row ends at its last; one with none stays as it was."""
    last = places.amax(1)
    return torch.where(last < 0, cache.length, last + 1)


def make_cache(rows: int, blocks: int, tokens: int, heads: int, head_dim: int, like: Tensor) -> KVCache:
    """An empty cache with room for ``tokens`` tokens in each row, with the dtype and on the device of ``like``."""
    # Zeros, not empty: slots that were never written are masked out, but a NaN among them would not be.
    kv = torch.zeros(rows, blocks, tokens + 1, 2, heads, head_dim, dtype=like.dtype, device=like.device)
    return KVCache(kv, torch.zeros(rows, dtype=torch.int64, device=like.device))


@torch.no_grad()
def slide(cache: KVCache, tokens: Tensor, theta: float | None, head_dim: int) -> None:
    """Forgets the oldest ``tokens [B]`` (int64, 0 and more) of each row, in place; what is left moves to the front.

    With rotary positions scores depend on distances only: keys are turned back by the angle of so many places, and every later
    token sees of the kept ones just what it would have seen, had the old ones merely been hidden. Whoever forgets several at a
    time turns each key the fewer times, and rounding adds up the less.

    Args:
        theta, head_dim: of the trunk's rotary angles; None for a trunk without positions. A learned table cannot slide.
    """
    rows = (tokens > 0).nonzero()[:, 0]
    if not len(rows):
        return
    by, kv = tokens[rows], cache.kv
    slots = torch.arange(1, kv.shape[2], device=kv.device) + by[:, None]
    # Slots beyond the new length repeat the last one: nobody sees them.
    moved = kv[rows[:, None], :, slots.clamp(max=kv.shape[2] - 1)]
    if theta:
        back = turn(-by, head_dim, theta)
        moved[:, :, :, 0] = rotate(moved[:, :, :, 0], (back[0][:, None, None], back[1][:, None, None]))
    kv[rows[:, None], :, torch.arange(1, kv.shape[2], device=kv.device)] = moved
    cache.length[rows] = (cache.length[rows] - by).clamp(min=0)
