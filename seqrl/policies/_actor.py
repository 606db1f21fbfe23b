"""What an actor says about a feature: a choice of codes, or numbers within bounds, to be drawn, judged and learned.

Made for dreams, where an action is drawn with torch's own generator, and where its gradient may have to come back through the
world. What is *drawn* and what the world is *told* differ: a normal is judged at the draw itself, and the world gets it bent or
cut to its bounds.

Letters: D width, A numbers of an action, K codes of one, V vocabulary.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqrl.core.contracts import Ports
from seqrl.nn.heads import draw, gaussian_log_density
from seqrl.nn.linear import Linear

# Factor on the last matrix at the beginning: all actions nearly alike (Hafner et al. 2023).
_QUIET = 0.01
_EDGE = 1e-6


class Choices(nn.Module):
    """K choices of V side by side, with a share of the uniform mixed in (Hafner et al. 2023: 1 %)."""

    def __init__(self, width: int, places: int, vocab: int, unimix: float) -> None:
        super().__init__()
        self.out, self.shape, self.unimix = Linear(width, places * vocab, True, _QUIET), (places, vocab), unimix

    def log_probs(self, x: Tensor) -> Tensor:
        """``[..., D]`` to ``[..., K, V]``, float32."""
        logits = self.out(x).float().unflatten(-1, self.shape)
        if not self.unimix:
            return logits.log_softmax(-1)
        return ((1 - self.unimix) * logits.softmax(-1) + self.unimix / self.shape[1]).log()

    def draw(self, x: Tensor, through: bool = False) -> tuple[Tensor, Tensor]:
        """What was drawn, codes ``[..., K]``, and what a world is told: the same.

        Args:
            through: tell one-hot vectors ``[..., K * V]`` instead, through which gradients pass straight to the
                probabilities.
        """
        log_p = self.log_probs(x)
        # The largest of log p plus Gumbel noise is a draw; minus the log of an exponential's draw is such noise.
        codes = (log_p - torch.empty_like(log_p).exponential_().log()).argmax(-1)
        if not through:
            return codes, codes
        p = log_p.exp()
        return codes, (F.one_hot(codes, self.shape[1]).to(p.dtype) + p - p.detach()).flatten(-2)

    def judge(self, x: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
        """Log probability of what was drawn, and entropy; ``[...]`` each, nats, summed over the K places."""
        log_p = self.log_probs(x)
        return log_p.gather(-1, drawn[..., None])[..., 0].sum(-1), -(log_p.exp() * log_p).sum((-2, -1))

    def loss(self, x: Tensor, action: Tensor) -> Tensor:
        """``[..., D]`` and actions of the data ``[..., K]`` to negative log likelihoods ``[...]``."""
        return -self.judge(x, action)[0]

    def answer(self, x: Tensor, sample: bool, uniform: Tensor | None, temperature: float) -> Tensor:
        """Codes ``[..., K]``: the likeliest, or drawn with ``uniform``."""
        return draw(self.log_probs(x), sample, uniform, temperature)


class Numbers(nn.Module):
    """A diagonal normal whose draws are kept to [-1, 1], where the slot has bounds.

    Args:
        squash: ``tanh`` bends the draws, with means up to 5 that change slowly (Hafner et al. 2020, appendix A; their first
            deviation is 5, ours 1); ``clip`` cuts them, with the mean inside and deviations from ``min_std`` to 1 (Hafner et
            al. 2023); None leaves them open.
    """

    def __init__(self, width: int, size: int, squash: Literal["tanh", "clip"] | None, min_std: float) -> None:
        super().__init__()
        self.out, self.squash, self.min_std = Linear(width, 2 * size, True, _QUIET), squash, min_std

    def mean_std(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Of the normal, before bending or cutting: ``[..., A]`` each, float32."""
        mean, raw = self.out(x).float().chunk(2, -1)
        if self.squash == "tanh":
            # softplus(0.54) = 1: the first draws reach all of the bounds, and few lie on them.
            return 5 * (mean / 5).tanh(), F.softplus(raw + 0.5413) + self.min_std
        std = self.min_std + (1 - self.min_std) * (raw + 2).sigmoid()
        return (mean.tanh() if self.squash == "clip" else mean), std

    def told(self, drawn: Tensor) -> Tensor:
        """What a world, or the environment, gets of a draw."""
        return drawn.tanh() if self.squash == "tanh" else drawn.clamp(-1, 1) if self.squash == "clip" else drawn

    def draw(self, x: Tensor, through: bool = False) -> tuple[Tensor, Tensor]:
        """What was drawn, and what a world is told, ``[..., A]`` each; the latter with its gradient."""
        mean, std = self.mean_std(x)
        drawn = mean + std * torch.randn_like(mean)
        return drawn.detach(), self.told(drawn)

    def judge(self, x: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
        """Log density of what was drawn (of the normal: how it is bent does not depend on the weights), and entropy; ``[...]``
        each, nats, summed over the numbers. The entropy of a bent normal is estimated with one draw of its own."""
        mean, std = self.mean_std(x)
        log_std = std.log()
        density = gaussian_log_density(drawn, mean, log_std, False).sum(-1)
        if self.squash == "tanh":
            fresh = mean + std * torch.randn_like(mean)
            bend = 2 * (math.log(2) - fresh - F.softplus(-2 * fresh))
            return density, (bend - gaussian_log_density(fresh, mean, log_std, False)).sum(-1)
        return density, (log_std + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)

    def loss(self, x: Tensor, action: Tensor) -> Tensor:
        """``[..., D]`` and actions of the data ``[..., A]`` to negative log likelihoods ``[...]``."""
        mean, std = self.mean_std(x)
        return -gaussian_log_density(action.float(), mean, std.log(), self.squash == "tanh").sum(-1)

    def answer(self, x: Tensor, sample: bool, uniform: Tensor | None, temperature: float) -> Tensor:
        """``[..., A]`` float32: the median, or drawn with ``uniform``."""
        value, std = self.mean_std(x)
        if sample:
            if uniform is None:
                raise ValueError("sample=True needs 'uniform': numbers in (0, 1), one for each number of the answer")
            value = value + temperature * std * torch.special.ndtri(uniform.to(value).clamp(_EDGE, 1 - _EDGE))
        return self.told(value)


def make_actor(ports: Ports, width: int, unimix: float, squash: str, min_std: float) -> nn.Module:
    """The head for a system's actions: choices where they are codes, numbers otherwise."""
    size, vocab = ports.widths["action"], ports.vocabs["action"]
    if vocab:
        return Choices(width, size, vocab, unimix)
    return Numbers(width, size, squash if ports.bounded["action"] else None, min_std)
