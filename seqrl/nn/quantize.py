"""Vectors to codes and back: a learned codebook (VQ), and a grid of rounded numbers that needs none (FSQ).

VQ (van den Oord et al. 2017, arXiv 1711.00937) takes the nearest of V learned codes. The codes are not trained by gradients:
each is the running mean of the vectors that chose it (appendix A.1). Codes that nobody chooses any more are put where vectors
are far from their code. FSQ (Mentzer et al. 2023, arXiv 2309.15505) squashes each of d numbers and rounds it to one of a few
levels; the product of the levels is the vocabulary, and a code is a number written in that mixed base.
Both pass gradients straight through to the vectors, and both compute in float32 whatever the rest does.

Letters: N vectors, d numbers in each, V codes.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PATIENCE = 50
"""Updates that a code put anew may go unused before it counts as dead again."""


class Quantized(NamedTuple):
    """What a quantizer answers.

    Args:
        vectors: ``[..., d]`` what the decoder reads; gradients go to the input as if nothing had been rounded.
        codes: ``[...]`` int64.
        commitment: ``[...]`` mean squared distance of each input from its code, to be made small by the encoder; None (FSQ).
    """

    vectors: Tensor
    codes: Tensor
    commitment: Tensor | None


class VQ(nn.Module):
    """The nearest of ``codes`` learned vectors of ``width`` numbers.

    Three buffers are all its state, so that a checkpoint goes on exactly: ``sizes [V]`` running mean of how many vectors an
    update sends to each code, ``sums [V, d]`` running mean of their sum, ``table [V, d]`` the codes, ``sums / sizes``. An
    update is one forward in training: a batch that is cut into pieces moves the codes once a piece, each piece as a batch of
    its own, and so forgets that many times as fast. Processes that train together share one update. What is random in it
    (which vectors begin dead codes) comes from PyTorch's global generator.

    Args:
        codes, width: V and d.
        decay: of the running means, gamma in appendix A.1.
        revive: a code whose share of the vectors falls below this share of an even one is dead; 0 lets the dead lie.
        cosine: compare directions only: inputs and codes have length 1 (Yu et al. 2021, arXiv 2110.04627).
    """

    def __init__(self, codes: int, width: int, decay: float = 0.99, revive: float = 0.01, cosine: bool = False) -> None:
        super().__init__()
        self.vocab, self.width, self.decay, self.revive, self.cosine = codes, width, decay, revive, cosine
        self.register_buffer("table", torch.zeros(codes, width))
        self.register_buffer("sums", torch.zeros(codes, width))
        self.register_buffer("sizes", torch.zeros(codes))

    def lookup(self, codes: Tensor) -> Tensor:
        """``[...]`` int64 codes to their vectors ``[..., d]``."""
        return F.embedding(codes, self.table)

    def distances(self, x: Tensor) -> Tensor:
        """``[N, V]`` squared distances of ``x [N, d]`` from the codes, less ``|x|^2``, which is the same for all codes."""
        return torch.addmm(self.table.square().sum(1), x, self.table.t(), alpha=-2)

    def nearest(self, x: Tensor) -> Tensor:
        """``[..., d]`` to the codes ``[...]`` int64, which stay where they are."""
        with torch.autocast(x.device.type, enabled=False):
            flat = x.float().reshape(-1, self.width)
            flat = F.normalize(flat, dim=-1) if self.cosine else flat
            return self.distances(flat).argmin(1).view(x.shape[:-1])

    def forward(self, x: Tensor, real: Tensor | None = None) -> Quantized:
        """``[..., d]`` to its codes; in training the codes move.

        Args:
            x: the vectors.
            real: ``[...]`` bool, false for padding, which moves no code; all are real where not given.
        """
        with torch.autocast(x.device.type, enabled=False):
            x = x.float()
            x = F.normalize(x, dim=-1) if self.cosine else x
            flat = x.detach().reshape(-1, self.width)
            if self.training:
                seen = flat if real is None else flat[real.reshape(-1)]
                self._raise_dead(seen)
            codes = self.distances(flat).argmin(1)
            near = self.lookup(codes).view_as(x)
            if self.training:
                self._move(seen, codes if real is None else codes[real.reshape(-1)])
            return Quantized(x + (near - x).detach(), codes.view(x.shape[:-1]), (x - near).square().mean(-1))

    @torch.no_grad()
    def _move(self, x: Tensor, codes: Tensor) -> None:
        """One step of the running means (appendix A.1) with ``x [N, d]`` and the codes ``[N]`` they chose."""
        sizes = torch.bincount(codes, minlength=self.vocab).to(x.dtype)
        sums = torch.zeros_like(self.sums).index_add_(0, codes, x)
        if _together():
            torch.distributed.all_reduce(sizes)
            torch.distributed.all_reduce(sums)
        self.sizes.lerp_(sizes, 1 - self.decay)
        self.sums.lerp_(sums, 1 - self.decay)
        # A code whose count has faded to nothing stays where it is.
        means = torch.where(self.sizes[:, None] > 1e-12, self.sums / self.sizes.clamp(min=1e-12)[:, None], self.table)
        self.table.copy_(F.normalize(means, dim=-1) if self.cosine else means)

    @torch.no_grad()
    def _raise_dead(self, x: Tensor) -> None:
        """Puts codes of too small a count on some of ``x [N, d]``, and all of them in the first update.

        Vectors are drawn in proportion to their squared distance from the nearest code, as k-means++ does (Arthur and
        Vassilvitskii 2007), so that what is rare and badly served gets a code and what is frequent does not get them all.
        """
        total, N = float(self.sizes.sum()), len(x)
        if N == 0 or (total > 0 and not self.revive):
            return
        least = self.revive * total / self.vocab if total else N * self.revive / self.vocab or 1.0
        dead = (self.sizes < least).nonzero()[:, 0] if total else torch.arange(self.vocab, device=x.device)
        if len(dead) == 0:
            return
        # Before there are codes, the mean of all vectors is the one they have.
        here = self.lookup(self.nearest(x)) if total else x.mean(0)
        far = (x - here).square().sum(1)
        # Some chance for all: vectors that lie exactly on codes are drawn once there are no others.
        far = far + far.mean() * 1e-3 + 1e-9
        chosen = x[torch.multinomial(far, len(dead), replacement=len(dead) > N)]
        if _together():
            torch.distributed.broadcast(chosen, 0)
        size = least / self.decay**PATIENCE
        self.table[dead], self.sums[dead], self.sizes[dead] = chosen, chosen * size, size


def _together() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1


class FSQ(nn.Module):
    """Each of d numbers is squashed and rounded to one of ``levels[i]`` values, evenly spaced over [-1, 1].

    An even number of levels has no middle one: the squashing is then moved by half a level, so that 0 stays 0 (appendix A.1).
    The code is the number whose digits are the levels, the first the least.
    """

    def __init__(self, levels: Sequence[int]) -> None:
        super().__init__()
        self.levels, self.width, self.vocab = tuple(levels), len(levels), math.prod(levels)

    def _of_each(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Levels ``[d]`` and the lowest whole number of each, negative."""
        levels = torch.tensor(self.levels, dtype=like.dtype, device=like.device)
        return levels, -torch.div(levels, 2, rounding_mode="floor")

    def bound(self, x: Tensor) -> Tensor:
        """``x [..., d]`` squashed so that it rounds to ``levels`` whole numbers, those from ``-(L // 2)`` on; 0 stays 0."""
        levels, _ = self._of_each(x)
        # A little wider than between the outer levels, so that those are reached before infinity.
        half, offset = (levels - 1) * (1 + 1e-3) / 2, (levels % 2 == 0) * 0.5
        return (x + (offset / half).atanh()).tanh() * half - offset

    def nearest(self, x: Tensor) -> Tensor:
        """``[..., d]`` to the codes ``[...]`` int64."""
        return self(x).codes

    def forward(self, x: Tensor, real: Tensor | None = None) -> Quantized:
        """``[..., d]`` to its codes; ``real`` does not matter, for nothing is learned here."""
        with torch.autocast(x.device.type, enabled=False):
            bounded = self.bound(x.float())
            whole = bounded + (bounded.round() - bounded).detach()
            _, low = self._of_each(bounded)
            return Quantized(whole / -low, self.index(whole.detach()), None)

    def index(self, whole: Tensor) -> Tensor:
        """Whole numbers ``[..., d]`` of each level to codes ``[...]`` int64."""
        _, low = self._of_each(whole)
        digits, code = (whole - low).round().long(), 0
        for i in reversed(range(self.width)):
            code = code * self.levels[i] + digits[..., i]
        return code

    def lookup(self, codes: Tensor) -> Tensor:
        """``[...]`` int64 codes to their vectors ``[..., d]``; the inverse of ``index``, in units of half the range."""
        digits = []
        for n in self.levels:
            digits.append(codes % n)
            codes = codes // n
        whole = torch.stack(digits, -1).float()
        _, low = self._of_each(whole)
        return (whole + low) / -low
