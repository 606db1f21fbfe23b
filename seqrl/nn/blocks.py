"""The feed-forward layer and the decoder block, in the two builds that nearly every decoder has today.

GPT-2's: LayerNorm, biases, one hidden layer. Llama's: RMSNorm, no biases, a gated hidden layer (SwiGLU, Shazeer 2020).
Both normalise in front of each branch and add the branch to the residual stream.
"""

from collections.abc import Callable
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from seqrl.nn.attention import Attention, Read, Sight, take
from seqrl.nn.dropout import add_dropped
from seqrl.nn.kv import Memory
from seqrl.nn.linear import Linear
from seqrl.nn.recompute import in_chunks

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "silu": F.silu,
    "elu": F.elu,
    "mish": F.mish,
    "tanh": F.tanh,
}


class MLP(nn.Module):
    """``[..., D]`` to ``[..., D]`` through ``inner`` hidden units; ``gated`` multiplies them with a second product."""

    def __init__(self, config) -> None:
        super().__init__()
        self.feed: int | None = None
        """Tokens whose hidden units are alive at once; None for all."""
        self.gated, joined = config.gated, config.activation == "relu" and not config.gated
        self.act = nn.Identity() if joined else ACTIVATIONS[config.activation]
        self.up = Linear(config.width, config.inner * (2 if config.gated else 1), config.bias, relu=joined)
        self.down = Linear(config.inner, config.width, config.bias, config.residual_scale)

    def forward(self, x: Tensor) -> Tensor:
        return self._all(x) if self.feed is None else in_chunks(self._all, x, self.feed)

    def _all(self, x: Tensor) -> Tensor:
        x = self.up(x)
        if self.gated:
            gate, x = x.chunk(2, -1)
            return self.down(self.act(gate) * x)
        return self.down(self.act(x))


class Block(nn.Module):
    """Attention and feed-forward, each on a residual branch."""

    def __init__(self, config, block: int) -> None:
        super().__init__()
        norm = nn.LayerNorm if config.norm == "layer" else nn.RMSNorm
        self.norm1, self.attn = norm(config.width, config.eps), Attention(config, block)
        self.norm2, self.mlp = norm(config.width, config.eps), MLP(config)
        self.drop = config.dropout

    def remember(self, x: Tensor, sight: Sight, memory: Memory) -> None:
        """Stores the keys and values of ``x`` and computes nothing else."""
        self.attn.remember(self.norm1(x), sight, memory)

    def forward(self, x: Tensor, sight: Sight, read: Read = None, memory: Memory | None = None) -> Tensor:
        """``[B, L, D]`` to ``[B, R, D]``."""
        drop = self.drop if self.training else 0.0
        x = add_dropped(take(x, read), self.attn(self.norm1(x), sight, read, memory), drop)
        return add_dropped(x, self.mlp(self.norm2(x)), drop)
