"""Stochastic latents of world models: Gaussians (PlaNet, Dreamer V1) and groups of categoricals (Dreamer V2, V3, TransDreamer).

Both are given by parameters in one tensor, so that a carry can hold them, and both know how to draw with a gradient and how
far one is from another.

Letters: G groups of C classes; a Gaussian of Z numbers.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Categoricals:
    """G categoricals of C classes, with a share of the uniform mixed in (Hafner et al. 2023: 1 %; no probability is 0)."""

    def __init__(self, groups: int, classes: int, unimix: float = 0.01) -> None:
        self.groups, self.classes, self.unimix = groups, classes, unimix
        self.parameters = self.width = groups * classes
        """Numbers that give the distribution, and numbers of a draw."""

    def probs(self, raw: Tensor) -> Tensor:
        """``[..., G * C]`` of a matrix to probabilities ``[..., G, C]``, float32."""
        p = raw.float().unflatten(-1, (self.groups, self.classes)).softmax(-1)
        return torch.add(self.unimix / self.classes, p, alpha=1 - self.unimix) if self.unimix else p

    def log_probs(self, raw: Tensor) -> Tensor:
        """The logs of ``probs``."""
        if self.unimix:
            return self.probs(raw).log()
        return raw.float().unflatten(-1, (self.groups, self.classes)).log_softmax(-1)

    def draw(self, raw: Tensor, sample: bool = True, temperature: float = 1.0) -> Tensor:
        """``[..., G * C]`` to one-hot vectors of the same shape; gradients pass straight through to the probabilities
        (Bengio et al. 2013; Hafner et al. 2021, algorithm 1)."""
        p = self.probs(raw)
        with torch.no_grad():
            race = p if temperature == 1.0 or not sample else (self.log_probs(raw) / temperature).softmax(-1)
            index = self._pick(race) if sample else race.argmax(-1)
            hot = torch.zeros_like(p).scatter_(-1, index[..., None], 1.0)
        if torch.is_grad_enabled() and p.requires_grad:
            hot = hot + (p - p.detach())
        return hot.flatten(-2)

    def _pick(self, p: Tensor) -> Tensor:
        """Probabilities ``[..., G, C]`` to a drawn class ``[..., G]``: where a uniform number falls among their sums. One a
        group costs a tenth of one a class (Gumbel), and those were a tenth of an imagined step."""
        sums = p.cumsum(-1)
        at = torch.rand_like(sums[..., :1]) * sums[..., -1:]
        return torch.searchsorted(sums, at, right=True)[..., 0].clamp_(max=self.classes - 1)

    def codes(self, drawn: Tensor) -> tuple[Tensor, Tensor]:
        """One-hot vectors ``[N, G * C]`` to the row of each in a table ``[G * C, ...]``, ``[N, G]`` int64, and 1 where there is
        one, ``[N, G]`` float32: a carry that has not begun holds none."""
        each = drawn.unflatten(-1, (self.groups, self.classes))
        count = torch.arange(self.classes, dtype=drawn.dtype, device=drawn.device)
        first = torch.arange(0, self.width, self.classes, device=drawn.device)
        # A product with the classes' numbers takes a tenth of a search for the largest.
        return (each @ count).long() + first, each.sum(-1)

    def kl(self, raw_q: Tensor, raw_p: Tensor) -> Tensor:
        """``KL(q || p)``, summed over groups: ``[...]`` nats."""
        log_q, log_p = self.log_probs(raw_q), self.log_probs(raw_p)
        return (log_q.exp() * (log_q - log_p)).sum((-2, -1))


class Gaussians:
    """Z independent Gaussians with a smallest deviation (Hafner et al. 2019: softplus + 0.1)."""

    def __init__(self, size: int, min_std: float = 0.1) -> None:
        self.size, self.min_std = size, min_std
        self.parameters, self.width = 2 * size, size

    def mean_std(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """``[..., 2 * Z]`` of a matrix to mean and standard deviation, ``[..., Z]`` float32."""
        mean, std = raw.float().chunk(2, -1)
        return mean, F.softplus(std) + self.min_std

    def draw(self, raw: Tensor, sample: bool = True, temperature: float = 1.0) -> Tensor:
        """``[..., 2 * Z]`` to ``[..., Z]``, with the gradient of the reparameterised draw; the mean where not ``sample``."""
        mean, std = self.mean_std(raw)
        return mean + temperature * std * torch.randn_like(std) if sample else mean

    def kl(self, raw_q: Tensor, raw_p: Tensor) -> Tensor:
        """``KL(q || p)``, summed over the numbers: ``[...]`` nats."""
        (m, s), (n, u) = self.mean_std(raw_q), self.mean_std(raw_p)
        return (u.log() - s.log() + (s**2 + (m - n) ** 2) / (2 * u**2) - 0.5).sum(-1)


Latents = Categoricals | Gaussians


class FromLatent(nn.Module):
    """A draw ``[..., S]`` times a matrix: ``[..., width]``.

    One-hot vectors choose rows, and to add up a few rows costs a tenth of a product with all; so that is done wherever no
    gradient is asked for. The matrix lies the other way round than a linear layer's, for its rows to be in one piece. It has no
    bias: what it gives is added to something that has.
    """

    def __init__(self, latents: Latents, width: int) -> None:
        super().__init__()
        self.latents = latents
        self.weight = nn.Parameter(torch.empty(latents.width, width))
        nn.init.normal_(self.weight, std=latents.width**-0.5)

    def forward(self, s: Tensor) -> Tensor:
        learning = torch.is_grad_enabled() and (s.requires_grad or self.weight.requires_grad)
        if learning or isinstance(self.latents, Gaussians):
            return s @ self.weight
        rows, there = self.latents.codes(s.flatten(0, -2))
        return F.embedding_bag(rows, self.weight, mode="sum", per_sample_weights=there).view(*s.shape[:-1], -1)


def balanced(
    latents: Latents, raw_q: Tensor, raw_p: Tensor, free: float, form: Literal["plain", "joint", "each"], prior: float = 0.8
) -> dict[str, Tensor]:
    """The divergence of posterior ``q`` from prior ``p``, as the papers train it.

    Args:
        raw_q, raw_p: parameters ``[..., P]``.
        free: nats below which nothing is to be gained.
        form: ``plain`` gives one term ``kl``, the divergence itself (Hafner et al. 2019). ``joint`` gives one of this name as
            well, ``prior KL(sg q || p) + (1 - prior) KL(q || sg p)`` (Hafner et al. 2021, algorithm 2): the same number, but
            the sides share its gradient. ``each`` gives two, ``dyn = KL(sg q || p)`` and ``rep = KL(q || sg p)``, which the
            recipe weighs (Hafner et al. 2023, equation 5).
        prior: share of the term that moves the prior; only for ``joint``.

    Returns:
        name -> ``[...]``.
    """
    if form == "plain":
        return {"kl": latents.kl(raw_q, raw_p).clamp(min=free)}
    dyn, rep = latents.kl(raw_q.detach(), raw_p), latents.kl(raw_q, raw_p.detach())
    if form == "each":
        return {"dyn": dyn.clamp(min=free), "rep": rep.clamp(min=free)}
    return {"kl": prior * dyn.clamp(min=free) + (1 - prior) * rep.clamp(min=free)}
