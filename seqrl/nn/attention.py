"""Causal attention: who sees whom, the product itself, and the layer around it.

A row that holds one document needs no mask: it is right-padded, and with causal attention no real token sees padding. Rows
*packed* with several documents, and passes over a cache, carry a mask that is made once and shared by all blocks. A pass may
*read* only some tokens: then keys and values are made for all tokens, queries only for those, which gives their outputs
exactly and saves the rest. Rows *cut* over several processes need no mask either: a ring sees who belongs to whom (context/).

Letters: B rows, L tokens, R tokens read, S keys, H heads, G heads of keys and values, d numbers in a head, D width.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqrl.context.cut import Cut
from seqrl.context.ring import ring_attention
from seqrl.core.errors import RecipeError
from seqrl.nn.dropout import dropout
from seqrl.nn.kv import Memory
from seqrl.nn.linear import Linear, linear
from seqrl.nn.rotary import Turn, rotate, turn

Read = slice | Tensor | None
"""Tokens to read: all (None), a slice, or positions ``[B, R]`` for each row."""


NO_DROPPED_WEIGHTS = (
    "attention_dropout: ring attention never holds the weights that would be dropped; set it to 0 (dropout on residual "
    "branches is fine)"
)


def take(x: Tensor, read: Read) -> Tensor:
    """The tokens to read of ``x [B, L, ...]``."""
    if read is None:
        return x
    return x[:, read] if isinstance(read, slice) else x[torch.arange(len(x), device=x.device)[:, None], read]


@dataclass(frozen=True)
class Sight:
    """Who sees whom in one pass and where its tokens stand; made once and shared by all blocks.

    Args:
        places: ``[1 or B, L]`` int64, the place of each token among the keys; it sees the keys up to there.
        mask: ``[1 or B, 1, R, S]``, or None: the causal square. Bool, true where a query sees a key; or numbers that are
            added to the scores, 0 and -inf, which spares every block turning the one into the other.
        turn_q, turn_k: rotary angles of queries and keys, or None.
        cut: the tokens are this process's piece of longer rows, and see what this says.
    """

    places: Tensor
    mask: Tensor | None = None
    turn_q: Turn | None = None
    turn_k: Turn | None = None
    cut: Cut | None = None

    def at(self, read: Read) -> "Sight":
        """The sight of the tokens read."""
        if read is None:
            return self
        if self.mask is not None:
            mask = take(self.mask.transpose(1, 2), read).transpose(1, 2)
        else:
            keys = torch.arange(self.places.shape[1], device=self.places.device)
            mask = (keys <= _rows_of(self.places, read)[..., None])[:, None]
        turn_q = tuple(_rows_of(t, read) for t in self.turn_q) if self.turn_q else None
        return Sight(self.places, mask, turn_q, self.turn_k)


def _rows_of(x: Tensor, read: Read) -> Tensor:
    """``take`` for something that may be the same for all rows."""
    return take(x.expand(len(read), *x.shape[1:]) if isinstance(read, Tensor) else x, read)


def see_square(tokens: int, theta: float | None, head_dim: int, device: torch.device) -> Sight:
    """The sight of whole rows of ``tokens``: each sees itself and all before it."""
    places = torch.arange(tokens, device=device)[None]
    by = turn(places, head_dim, theta) if theta else None
    return Sight(places, None, by, by)


def places_in(pack: Tensor) -> Tensor:
    """``[B, L]`` place of each token within its own document, counted from 0; for ``pack`` see ``see_packed``."""
    at = torch.arange(pack.shape[1], device=pack.device)
    begins = torch.ones_like(pack, dtype=torch.bool)
    begins[:, 1:] = pack[:, 1:] != pack[:, :-1]
    return at - at.where(begins, 0).cummax(1).values


def see_packed(pack: Tensor, pos: Tensor, theta: float | None, head_dim: int, dtype: torch.dtype = torch.float32) -> Sight:
    """The sight of rows that hold several documents: a token sees those of its own document up to itself.

    Args:
        pack: ``[B, L]`` int64, the document of each token within its row; -1 is padding. Documents are contiguous.
        pos: ``[B, L]`` int64, position within the document, for rotary angles.
        theta, head_dim: as in ``rotary.turn``; None for no rotary positions.
        dtype: of the numbers added to the scores; that of the queries, where it is known.
    """
    # Padding counts as one more document, so that every token sees at least itself and softmax has something to share out.
    seen = (pack[:, :, None] == pack[:, None, :]).tril_()
    mask = torch.zeros((), dtype=dtype, device=pack.device).where(seen, -math.inf)
    by = turn(pos, head_dim, theta) if theta else None
    return Sight(torch.arange(pack.shape[1], device=pack.device)[None], mask[:, None], by, by)


def see_cut(pos: Tensor, cut: Cut, theta: float | None, head_dim: int) -> Sight:
    """The sight of this process's piece of packed rows; ``pos [1, N]``, ``theta`` and ``head_dim`` as in ``see_packed``."""
    by = turn(pos, head_dim, theta) if theta else None
    return Sight(cut.at[None], None, by, by, cut)


def see_cache(places: Tensor, slots: int, theta: float | None, head_dim: int) -> Sight:
    """The sight of new tokens at positions ``places [B, L]`` over the first ``slots`` slots of a cache (see nn/kv.py)."""
    at, keys = places + 1, torch.arange(slots, device=places.device)
    # Slot 0 is seen by the token in it alone: somebody must be seen, or softmax has nothing to share out.
    mask = (keys <= at[..., None]) & ((keys > 0) | (at[..., None] == 0))
    by = turn(places, head_dim, theta) if theta else None
    return Sight(at, mask[:, None], by, by)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, drop: float, cut: Cut | None = None) -> Tensor:
    """``softmax(q k^T / sqrt(d)) v``, the one place where tokens meet (Vaswani et al. 2017, equation 1).

    Args:
        q: ``[B, H, R, d]``. k, v: ``[B, G, S, d]``; G divides H.
        mask: as in ``Sight``.
        drop: probability of dropping a weight; 0 outside training.
        cut: as in ``Sight``.

    Returns:
        ``[B, H, R, d]``.

    Raises:
        RecipeError: ``drop`` with a cut.
    """
    if cut is not None:
        if drop:
            raise RecipeError(NO_DROPPED_WEIGHTS)
        return ring_attention(q, k, v, cut)
    shared = q.shape[1] != k.shape[1]
    if mask is not None and mask.dtype not in (torch.bool, q.dtype):
        mask = mask.to(q.dtype)
    if drop and q.device.type == "cpu":
        # On CPU the library's fused kernel knows no dropout; this is its plain form with a cheaper draw.
        if shared:
            k, v = (t.repeat_interleave(q.shape[1] // k.shape[1], 1) for t in (k, v))
        return _attend_dropped(q, k, v, mask, drop)
    return F.scaled_dot_product_attention(q, k, v, mask, drop, is_causal=mask is None, enable_gqa=shared)


def _attend_dropped(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, drop: float) -> Tensor:
    B, H, R, d = q.shape
    S = k.shape[2]
    if mask is None:
        mask = torch.ones(R, S, dtype=torch.bool, device=q.device).tril()
    hidden = mask if mask.dtype != torch.bool else q.new_zeros(()).where(mask, -math.inf)
    q, k, v = (t.reshape(B * H, -1, d) for t in (q, k, v))
    hidden = hidden.expand(B, H, R, S).reshape(B * H, R, S) if len(mask) == B > 1 else hidden.view(-1, R, S)[:1]
    weights = torch.baddbmm(hidden, q, k.transpose(1, 2), alpha=d**-0.5).softmax(-1)
    return torch.bmm(dropout(weights, drop), v).view(B, H, R, d)


class QKV(Linear):
    """One matrix for queries, keys and values of ``nn`` inputs, in this order; reads only some queries when asked."""

    def __init__(self, width: int, queries: int, keys_values: int, bias: bool) -> None:
        super().__init__(width, queries + keys_values, bias)
        self.split = (queries, keys_values)

    def forward(self, x: Tensor, read: Read = None) -> tuple[Tensor, Tensor]:
        if read is None:
            return linear(x, self.weight, self.bias).split(self.split, -1)
        (wq, wkv), n = self.weight.split(self.split), self.split[0]
        bq, bkv = (None, None) if self.bias is None else (self.bias[:n], self.bias[n:])
        return linear(take(x, read), wq, bq), linear(x, wkv, bkv)


class Attention(nn.Module):
    """Multi-head attention with shared key-value heads (Ainslie et al. 2023) and norms on queries and keys where asked."""

    def __init__(self, config, block: int) -> None:
        super().__init__()
        H, G, d = config.heads, config.kv_heads, config.head_dim
        self.shape_q, self.shape_kv, self.block = (H, d), (2, G, d), block
        self.drop = config.attention_dropout
        self.qkv = QKV(config.width, H * d, 2 * G * d, config.qkv_bias)
        self.out = Linear(H * d, config.width, config.bias, config.residual_scale)
        self.norm_q = nn.RMSNorm(d, config.eps) if config.qk_norm else None
        self.norm_k = nn.RMSNorm(d, config.eps) if config.qk_norm else None

    def _keys_values(self, kv: Tensor, sight: Sight, memory: Memory | None) -> Tensor:
        """``[B, L, 2Gd]`` to ``[B, S, 2, G, d]``, normed, turned and remembered."""
        kv = kv.unflatten(-1, self.shape_kv)
        if self.norm_k is not None or sight.turn_k is not None:
            k, v = kv.unbind(2)
            k = k if self.norm_k is None else self.norm_k(k.float()).to(k.dtype)
            k = k if sight.turn_k is None else rotate(k, sight.turn_k)
            kv = torch.stack((k, v), 2)
        return kv if memory is None else memory.write(self.block, kv)

    def remember(self, x: Tensor, sight: Sight, memory: Memory) -> None:
        """Only what later tokens need of ``x [B, L, D]``: its keys and values."""
        self._keys_values(self.qkv(x, slice(0, 0))[1], sight, memory)

    def forward(self, x: Tensor, sight: Sight, read: Read = None, memory: Memory | None = None) -> Tensor:
        """``[B, L, D]`` to ``[B, R, D]``; ``sight`` is already that of the tokens read."""
        q, kv = self.qkv(x, read)
        q = q.unflatten(-1, self.shape_q)
        q = q if self.norm_q is None else self.norm_q(q.float()).to(q.dtype)
        q = q if sight.turn_q is None else rotate(q, sight.turn_q)
        k, v = self._keys_values(kv, sight, memory).transpose(1, 3).unbind(2)
        y = attend(q.transpose(1, 2), k, v, sight.mask, self.drop if self.training else 0.0, sight.cut)
        return self.out(y.transpose(1, 2).flatten(2))
