"""Rotary positions: each pair of numbers in a query or key is turned by an angle that grows with its token's position.

Su et al. 2021 (arXiv 2104.09864), in the half-split arrangement of Llama and Qwen. Scores then depend on distances only,
so a cache may hold rows that stand at different positions. Angles are computed from the positions of each pass: there is
no table to size, and no buffer that loading could forget to fill.
"""

import torch
from torch import Tensor

Turn = tuple[Tensor, Tensor]


def turn(positions: Tensor, head_dim: int, theta: float) -> Turn:
    """Cosines and sines ``[..., 1, head_dim]`` (float32) for integer ``positions [...]``; the 1 is for the heads."""
    pairs = torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32)
    angle = positions[..., None, None].float() * (1.0 / theta ** (pairs / head_dim))
    angle = torch.cat((angle, angle), -1)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, by: Turn) -> Tensor:
    """Turns ``x [B, L, H, d]``; keeps its dtype."""
    cos, sin = by[0].to(x.dtype), by[1].to(x.dtype)
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat((-b, a), -1) * sin
