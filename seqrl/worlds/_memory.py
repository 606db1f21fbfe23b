"""What a dream of tokens holds of its past, and how it makes room: by forgetting whole steps, or by sharing what is common.

A row holds at most ``remember`` steps. When it holds as many, it forgets the oldest of them; what stands in front of the steps
stays where it is, and those that are left move up to it (``nn.kv.slide`` does the same where nothing stands in front).

Letters: B rows, S slots of a cache, W tokens of a step, K of them of what is observed, P in front, d numbers in a head.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from seqrl.core import tree
from seqrl.core.errors import UserError
from seqrl.nn import shared
from seqrl.nn.feed import head_major
from seqrl.nn.kv import KVCache
from seqrl.nn.rotary import rotate, turn


class Carry(NamedTuple):
    """What a dream goes on from.

    Args:
        kv: keys and values of all tokens but the last; of continuations that share their past, ``nn.shared.Shared``.
        steps: ``[B]`` int64, observations held; 0 in rows that have not begun.
        front: ``[B]`` int64, tokens in front of the first.
        now: ``[B, K]`` int64, the newest observation; its last code was not fed yet.
    """

    kv: KVCache | shared.Shared
    steps: Tensor
    front: Tensor
    now: Tensor


class Memory:
    """Room in the caches of one trunk."""

    def __init__(self, trunk: Any, front: int, step: int, seen: int, remember: int, forget: int) -> None:
        """
        Args:
            trunk: an ``nn.transformer.Transformer``.
            front, step, seen: P, W and K. remember: steps a row holds at most. forget: steps that go at once.
        """
        # One step at least is kept: the next one is said behind it.
        self.trunk, self.remember, self.drop = trunk, remember, min(forget, remember - 1)
        self.P, self.W, self.K = front, step, seen
        self.slides = trunk.config.positions == "rotary" and remember > 1

    def begin(self, rows: int, steps: int) -> Carry:
        """An empty carry with room for ``steps`` steps, or for as many as are remembered.

        Raises:
            UserError: that is fewer than asked for, and this trunk cannot forget the oldest.
        """
        if steps > self.remember and not self.slides:
            raise UserError(
                f"a dream of {steps} steps: this world remembers {self.remember} and cannot forget the oldest; ask for at most "
                f"{self.remember}, or train with rotary positions (model.body=llama) and tokens.context of 2 or more"
            )
        kv = self._cache(rows, min(steps, self.remember), self.trunk.norm.weight)
        zero = torch.zeros_like(kv.length)
        return Carry(kv, zero, zero.clone(), zero.new_zeros(rows, self.K))

    def _cache(self, rows: int, steps: int, like: Tensor) -> KVCache:
        c = self.trunk.config
        return head_major(rows, c.layers, self.P + steps * self.W, c.kv_heads, c.head_dim, like)

    def room(self, kv: KVCache) -> int:
        """Steps a row of a cache can hold."""
        return (kv.capacity - self.P) // self.W

    def make(self, carry: Carry) -> Carry:
        """Room for one more step in every row.

        Raises:
            UserError: the carry was made with room for fewer steps than are remembered, and it is used up.
        """
        if not isinstance(carry.kv, KVCache):
            return carry
        room = self.room(carry.kv)
        full = carry.steps >= room
        if not bool(full.any()):
            return carry
        if room < self.remember or not self.slides:
            raise UserError(f"this dream has room for {room} steps and all are used; ask for more when it begins (init, share)")
        return self.forget(carry, torch.where(full, self.drop, 0))

    def forget(self, carry: Carry, steps: Tensor) -> Carry:
        """Drops the oldest ``steps [B]`` of each row, in place."""
        kv, rows = carry.kv.kv, steps.nonzero()[:, 0]
        by, front = (steps * self.W)[rows, None], carry.front[rows, None]
        slots = torch.arange(kv.shape[2], device=kv.device)[None]
        stays = slots <= front
        source = torch.where(stays, slots, slots + by).clamp(max=kv.shape[2] - 1)
        # Scores depend on distances alone: keys are turned back by as many places as they move.
        back = turn(torch.where(stays, 0, -by), self.trunk.config.head_dim, self.trunk.config.rope_theta)
        for block in range(kv.shape[1]):
            here = kv.select(1, block)
            moved = here[rows[:, None], source]
            moved[:, :, 0] = rotate(moved[:, :, 0], back)
            here[rows] = moved
        carry.kv.length.sub_(steps * self.W)
        return carry._replace(steps=carry.steps - steps)

    def share(self, carry: Carry, candidates: int, steps: int) -> Carry:
        """Room for ``candidates`` continuations of each row, of ``steps`` steps.

        The past is kept once for all, cut to what leaves room for the steps to come. Where these are more than half of what is
        remembered, each continuation has a copy of the past and forgets as it goes.
        """
        if not isinstance(carry.kv, KVCache):
            kv = shared.spread(carry.kv, candidates, steps * self.W)
            return Carry(kv, *tree.repeat(tuple(carry[1:]), candidates))
        over = (carry.steps + steps - self.remember).clamp(min=0)
        if bool((over > 0).any()):
            if 2 * steps > self.remember or not self.slides:
                return tree.repeat(self._grown(carry, steps), candidates)
            # The caller shares its carry once a round: it must stay as it was.
            carry = self.forget(tree.clone(carry), over)
        owner = torch.arange(len(carry.steps), device=carry.steps.device).repeat_interleave(candidates)
        kv = shared.go_on(carry.kv, steps * self.W, owner)
        return Carry(kv, *tree.repeat(tuple(carry[1:]), candidates))

    def _grown(self, carry: Carry, steps: int) -> Carry:
        """The same carry with room for ``steps`` more, or for all that is remembered."""
        old, room = carry.kv, min(int(carry.steps.max()) + steps, self.remember)
        if room <= self.room(old):
            return carry
        made = self._cache(len(carry.steps), room, old.kv)
        made.kv[:, :, : old.kv.shape[2]] = old.kv
        made.length.copy_(old.length)
        return carry._replace(kv=made)


__all__ = ["Carry", "Memory"]
