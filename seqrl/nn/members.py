"""Several networks side by side, and the data each of them learns from.

A layer of M networks is one batched product. That they learn different things, they learn from a bootstrap each (Breiman 1996):
a resampling of the data, as weights that say how often a step is in it.

Letters: M members, N rows, I and O numbers in and out.
"""

import torch
from torch import Tensor, nn
from transformers import initialization as init

# Of a Poisson distribution of mean 1: the chance of at most 0, 1, ... 5.
_AT_MOST = (0.36788, 0.73576, 0.91970, 0.98101, 0.99634, 0.99941)


class Members(nn.Module):
    """A matrix and a bias for each member: ``[M, N, I]``, or ``[N, I]`` that all read, to ``[M, N, O]``."""

    def __init__(self, members: int, inputs: int, outputs: int, init_scale: float = 1.0) -> None:
        """``init_scale``: factor on the deviation of the initial weights, ``I ** -0.5``."""
        super().__init__()
        self.weight = nn.Parameter(torch.empty(members, inputs, outputs))
        self.bias = nn.Parameter(torch.empty(members, 1, outputs))
        self.init_scale = init_scale

    def begin(self) -> None:
        """Fills in the initial weights, each member's its own."""
        init.normal_(self.weight, mean=0.0, std=self.init_scale * self.weight.shape[1] ** -0.5)
        init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return torch.baddbmm(self.bias, x.expand(len(self.weight), -1, -1), self.weight)


def bootstrap(x: Tensor, members: int) -> Tensor:
    """How often each member has each row in its resampling, ``[M, N]`` float32: draws from a Poisson distribution of mean 1
    (Oza and Russell 2001).

    Args:
        x: ``[N, I]``. The draw is a function of these numbers' bits alone, so a row counts the same in every epoch.
    """
    bits = x.detach().float().contiguous().view(torch.int32).long()
    place = torch.arange(1, x.shape[-1] + 1, device=x.device)
    member = torch.arange(1, members + 1, device=x.device)
    # Multiplied with odd constants and folded; what overflows 64 bits does so in silence, and the same everywhere.
    key = (bits * (place * 0x9E3779B97F4A7C15 % (1 << 31) | 1)).sum(-1) + (member * 0x632BE59BD9B4E019 % (1 << 61))[:, None]
    for shift, odd in ((31, 0x3F58476D1CE4E5B9), (29, 0x14D049BB133111EB)):
        key = (key ^ (key >> shift & ((1 << (63 - shift)) - 1))) * odd
    uniform = (key >> 24 & 0xFFFFFF).float() / (1 << 24)
    return torch.bucketize(uniform, torch.tensor(_AT_MOST, device=x.device), right=True).float()
