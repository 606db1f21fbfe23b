"""A transformer over video: attention within each frame, then back in time at each place, then a feed-forward layer.

Bruce et al. 2024 (Genie, arXiv 2402.15391, section 2): the cost grows with the frames instead of with the square of frames
times places, and as time is only looked at backwards, what is made of a frame never depends on later ones. Places within a
frame have a learned table, steps in time are rotary, so that a window may begin anywhere.

Letters: B rows, T frames, S places in a frame, D width, H heads.
"""

import torch
from torch import Tensor, nn

from seqrl.nn.attention import Attention, Sight, see_square
from seqrl.nn.blocks import MLP
from seqrl.nn.transformer import TrunkConfig, family_config

_THETA = 10000.0


class Block(nn.Module):
    """The three branches, each added to the residual stream and with a norm in front."""

    def __init__(self, config: TrunkConfig, block: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.RMSNorm(config.width, config.eps) for _ in range(3))
        self.space, self.time, self.mlp = Attention(config, block), Attention(config, block), MLP(config)

    def forward(self, x: Tensor, frame: Sight, past: Sight) -> Tensor:
        """``[B, T, S, D]`` to the same; ``frame`` and ``past``: who sees whom within a frame and in time."""
        x = x + self.space(self.norms[0](x).flatten(0, 1), frame).view_as(x)
        places = self.norms[1](x).transpose(1, 2)
        seen = self.time(places.flatten(0, 1), past)
        x = x + seen.view(places.shape).transpose(1, 2)
        return x + self.mlp(self.norms[2](x))


class SpaceTime(nn.Module):
    """N blocks over frames of S places, and a final norm.

    Raises RecipeError where width and heads do not divide.
    """

    def __init__(self, places: int, width: int, layers: int, heads: int) -> None:
        super().__init__()
        config = family_config("llama", width=width, layers=layers, heads=heads)
        self.head_dim = config.head_dim
        self.places = nn.Embedding(places, width)
        self.blocks = nn.ModuleList(Block(config, i) for i in range(layers))
        self.norm = nn.RMSNorm(width, config.eps)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, T, S, D]`` to the same; what is made of frame t depends on the frames up to t."""
        T, S = x.shape[1:3]
        everyone = torch.ones(1, 1, S, S, dtype=torch.bool, device=x.device)
        frame = Sight(torch.arange(S, device=x.device)[None], everyone)
        past = see_square(T, _THETA, self.head_dim, x.device)
        x = x + self.places.weight
        for block in self.blocks:
            x = block(x, frame, past)
        return self.norm(x)
