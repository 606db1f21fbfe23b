"""Many continuations of one past: what a search feeds a trunk with, token after token, for all branches at once.

The past of an environment is read once, and its keys and values lie there once, however many branches go on from it: a token of
a branch attends to the past together with those of its siblings, as one product of matrices, and to its own branch alone. What
that saves is not arithmetic but moving keys and values about, which is what a decision takes most of its time for. The numbers
are those of ``Transformer.extend``, but for rounding.

Letters: B environments, N branches kept of each, E copies of them, R rows, laid ``[E, B, N]``; L tokens of the past, H heads,
G heads of keys and values, d numbers in a head, D width.
"""

import math

import torch
from torch import Tensor

from seqrl.nn.attention import Sight
from seqrl.nn.rotary import rotate, turn
from seqrl.nn.transformer import Transformer


class Branches:
    """E B N branches of B pasts, of which the first B N can be fed alone."""

    def __init__(self, trunk: Transformer, x: Tensor, length: Tensor, N: int, E: int, room: int) -> None:
        """
        Args:
            trunk: in evaluation mode.
            x: ``[B, L, D]``, the pasts, right-padded. length: ``[B]`` tokens of each, at least 1.
            N, E: branches.
            room: tokens that may be fed.
        """
        B, c, each = len(x), trunk.config, torch.arange(len(x), device=x.device)
        past = trunk.init_cache(B, x.shape[1])
        trunk.fill(x, past, each, length - 1)
        self.y = trunk.extend(x[each, length - 1][:, None], past, start=length - 1)[:, 0]
        """``[B, D]``, what the last token of each past gives."""
        self.trunk, self.B, self.N, self.E, self.fed = trunk, B, N, E, 0
        # [blocks, 2, B, G, L, d], and the same of what is fed with R for B: whole heads side by side, as products want them.
        self.past = past.kv[:, :, 1:].permute(1, 3, 0, 4, 2, 5).contiguous()
        self.own = x.new_empty(c.layers, 2, E * B * N, c.kv_heads, room, c.head_dim)
        self.places = length.repeat_interleave(N).repeat(E)[:, None]
        hidden = torch.arange(x.shape[1], device=x.device) >= length[:, None]
        # Of rows that are all of one length nothing need be hidden.
        self.hide = x.new_zeros(()).masked_fill(hidden, -math.inf)[:, None, None] if bool(hidden.any()) else None

    def feed(self, x: Tensor) -> Tensor:
        """One more token ``[R, 1, D]`` of all branches, or of the first B N: what it gives, ``[R, D]``."""
        trunk, c, at = self.trunk, self.trunk.config, self.places[: len(x)] + self.fed
        x = trunk._placed(x, at).to(trunk.norm.weight.dtype)
        by = turn(at, c.head_dim, c.rope_theta) if c.positions == "rotary" else None
        sight = Sight(at, None, by, by)
        self.fed += 1
        for i, block in enumerate(trunk.blocks):
            attn = block.attn
            q, kv = attn.qkv(block.norm1(x))
            q = q.unflatten(-1, attn.shape_q)
            q = q if attn.norm_q is None else attn.norm_q(q.float()).to(q.dtype)
            q = (q if by is None else rotate(q, by))[:, 0]
            self.own[i, :, : len(x), :, self.fed - 1] = attn._keys_values(kv, sight, None)[:, 0].transpose(0, 1)
            x = x + attn.out(self._attend(i, q).flatten(1))[:, None]
            x = x + block.mlp(block.norm2(x))
        return trunk.norm(x)[:, 0]

    def _attend(self, i: int, q: Tensor) -> Tensor:
        """``[R, H, d]`` queries to ``[R, H, d]``, in block ``i``."""
        R, H, d = q.shape
        G, L = self.past.shape[3:5]
        e, n = R // (self.B * self.N), H // G
        (past_k, past_v), own = self.past[i], self.own[i, :, :R, :, : self.fed].flatten(1, 2)
        shape, q = (e, self.B, self.N, G, n), (q * d**-0.5).contiguous()
        # Siblings side by side: [B, G, e N n, d].
        together = q.view(*shape, d).permute(1, 3, 0, 2, 4, 5).reshape(self.B, G, -1, d)
        old = together @ past_k.transpose(2, 3)
        old = old if self.hide is None else old + self.hide
        old = old.view(self.B, G, e, self.N, n, L).permute(2, 0, 3, 1, 4, 5).reshape(R * G, n, L)
        new = torch.bmm(q.view(R * G, n, d), own[0].transpose(1, 2))
        weight = torch.cat((old, new), -1).softmax(-1)
        y = torch.bmm(weight[..., L:], own[1]).view(R, H, d)
        old = weight[..., :L].view(*shape, L).permute(1, 3, 0, 2, 4, 5).reshape(self.B, G, -1, L) @ past_v
        return y + old.view(self.B, G, e, self.N, n, d).permute(2, 0, 3, 1, 4, 5).reshape(R, H, d)

    def keep(self, rows: Tensor) -> None:
        """The branches ``rows [B N]`` become the first ones, each staying with its environment."""
        for own in self.own[..., : self.fed, :].flatten(0, 1):
            own[: len(rows)] = own.index_select(0, rows)

    def expand(self) -> None:
        """The first B N, E times."""
        kept = self.B * self.N
        for own in self.own[..., : self.fed, :].flatten(0, 1) if self.fed else ():
            own[kept:].unflatten(0, (-1, kept))[:] = own[:kept]
