"""What a model says about a slot: a point, a Gaussian or a choice. Each head has a loss and an answer.

Answers are deterministic functions of their arguments: where one is drawn, the caller brings the uniform numbers, so that a
rollout can be repeated whatever the device or the batch.

Letters: D width, A numbers of a continuous slot, K codes of a discrete one, V vocabulary.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqrl.core.contracts import Ports
from seqrl.nn.linear import Linear

# Chen et al. 2021's heads are limited to [-1, 1] by tanh; data may hold the limits themselves, where atanh is infinite.
_EDGE = 1e-6
_LOG_STD = (-5.0, 2.0)


def _uniform(uniform: Tensor | None) -> Tensor:
    if uniform is None:
        raise ValueError("sample=True needs 'uniform': numbers in (0, 1), one for each number or code of the answer")
    return uniform


class Point(nn.Module):
    """One number each, learned by squared error; through tanh where values lie in [-1, 1] (Chen et al. 2021)."""

    def __init__(self, width: int, size: int, bounded: bool) -> None:
        super().__init__()
        self.out, self.bounded, self.terms = Linear(width, size), bounded, size

    def forward(self, x: Tensor) -> Tensor:
        y = self.out(x)
        return y.tanh() if self.bounded else y

    def loss(self, x: Tensor, target: Tensor) -> Tensor:
        """``[..., D]`` and ``[..., A]`` to squared errors ``[..., A]``."""
        return (self(x).float() - target) ** 2

    def answer(self, x: Tensor, sample: bool, uniform: Tensor | None, temperature: float) -> Tensor:
        """``[..., A]`` float32; there is nothing to draw."""
        return self(x).float()


def gaussian_log_density(value: Tensor, mean: Tensor, log_std: Tensor, squashed: bool) -> Tensor:
    """Log density per number of a normal, or of the tanh of a normal (Haarnoja et al. 2018, appendix C), at ``value``."""
    if squashed:
        value = value.clamp(-1 + _EDGE, 1 - _EDGE).atanh()
    z = (value - mean) * (-log_std).exp()
    density = -0.5 * z * z - log_std - 0.5 * math.log(2 * math.pi)
    # log(1 - tanh(u)^2), written so that it does not underflow for large u.
    return density - 2 * (math.log(2) - value - F.softplus(-2 * value)) if squashed else density


class Gaussian(nn.Module):
    """A diagonal Gaussian, learned by likelihood with an optional bonus for entropy (Zheng et al. 2022, section 4.1).

    Args:
        squash: ``"tanh"`` bends the Gaussian into (-1, 1), ``"clip"`` cuts its samples there; None leaves them open.
        entropy: weight of the bonus.
    """

    def __init__(self, width: int, size: int, squash: Literal["tanh", "clip"] | None, entropy: float) -> None:
        super().__init__()
        self.out, self.squash, self.entropy, self.terms = Linear(width, 2 * size), squash, entropy, 1

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation, before squashing; ``[..., A]`` each."""
        mean, raw = self.out(x).float().chunk(2, -1)
        low, high = _LOG_STD
        return mean, low + 0.5 * (high - low) * (raw.tanh() + 1)

    def loss(self, x: Tensor, target: Tensor) -> Tensor:
        """``[..., D]`` and ``[..., A]`` to negative log likelihoods less the bonus, summed over the A numbers: ``[..., 1]``."""
        mean, log_std = self(x)
        squashed = self.squash == "tanh"
        loss = -gaussian_log_density(target, mean, log_std, squashed)
        if self.entropy and squashed:
            # The entropy of a squashed Gaussian has no closed form; one sample estimates it, and its gradient, unbiased.
            drawn = (mean + log_std.exp() * torch.randn_like(mean)).tanh()
            loss = loss + self.entropy * gaussian_log_density(drawn, mean, log_std, squashed)
        elif self.entropy:
            loss = loss - self.entropy * (log_std + 0.5 * math.log(2 * math.pi * math.e))
        return loss.sum(-1, keepdim=True)

    def answer(self, x: Tensor, sample: bool, uniform: Tensor | None, temperature: float) -> Tensor:
        """``[..., A]`` float32: the median, or a draw with the deviation times ``temperature``."""
        value, log_std = self(x)
        if sample:
            u = _uniform(uniform).to(value).clamp(_EDGE, 1 - _EDGE)
            value = value + temperature * log_std.exp() * torch.special.ndtri(u)
        return value.tanh() if self.squash == "tanh" else value.clamp(-1, 1) if self.squash == "clip" else value


class Categorical(nn.Module):
    """K choices of V, made side by side; learned by cross-entropy."""

    def __init__(self, width: int, places: int, vocab: int) -> None:
        super().__init__()
        self.out, self.shape, self.terms = Linear(width, places * vocab), (places, vocab), places

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``[..., K, V]``, float32."""
        return self.out(x).float().unflatten(-1, self.shape)

    def loss(self, x: Tensor, target: Tensor) -> Tensor:
        """``[..., D]`` and codes ``[..., K]`` to cross-entropies ``[..., K]``."""
        logits = self(x)
        return F.cross_entropy(logits.flatten(0, -2), target.flatten(), reduction="none").view(target.shape)

    def answer(self, x: Tensor, sample: bool, uniform: Tensor | None, temperature: float) -> Tensor:
        """Codes ``[..., K]`` int64: the likeliest, or drawn by the inverse of the cumulative probabilities."""
        return draw(self(x), sample, uniform, temperature)


def draw(logits: Tensor, sample: bool, uniform: Tensor | None, temperature: float = 1.0) -> Tensor:
    """Codes ``[...]`` int64 from ``[..., V]``: the likeliest, or drawn with ``uniform [...]`` in (0, 1).

    Drawn by the inverse of the cumulative probabilities.
    """
    if not sample:
        return logits.argmax(-1)
    below = (logits / temperature).softmax(-1).cumsum(-1) < _uniform(uniform).to(logits)[..., None]
    # The sum of probabilities may end below one by rounding, and a uniform number above it.
    return below.sum(-1).clamp(max=logits.shape[-1] - 1)


def make_head(
    ports: Ports, slot: str, width: int, kind: str = "tanh_mse", squash: str = "tanh", entropy: float = 0.0
) -> nn.Module:
    """The head of a slot: Categorical for codes, otherwise what ``kind`` says."""
    size, bounded = ports.widths[slot], ports.bounded[slot]
    if ports.vocabs[slot]:
        return Categorical(width, size, ports.vocabs[slot])
    if kind == "gaussian":
        return Gaussian(width, size, squash if bounded else None, entropy)
    return Point(width, size, bounded)
