"""What a world says about the outcome of a step: its reward, and whether the episode goes on.

Rewards that are codes take cross-entropy over what the data's codes mean. Rewards that are numbers are learned by squared
error, or as a two-hot distribution over bins that are spaced exponentially, which any scale of rewards fits into (Hafner et
al. 2023, section "Robust predictions"; here as in the code of 2025, with bins ``symexp(-20 .. 20)``).

Letters: D width, K bins.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqrl.core.contracts import Ports
from seqrl.core.errors import RecipeError
from seqrl.nn.linear import Linear

KINDS = ("twohot", "mse")


def symlog(x: Tensor) -> Tensor:
    """``sign(x) ln(1 + |x|)``."""
    return x.sign() * x.abs().log1p()


def symexp(x: Tensor) -> Tensor:
    """The inverse of ``symlog``."""
    return x.sign() * x.abs().expm1()


def twohot(x: Tensor, bins: Tensor) -> Tensor:
    """``[...]`` to ``[..., K]`` weights of the two neighbouring bins whose mean is ``x``; beyond the ends, all on the last."""
    x = x.clamp(bins[0], bins[-1])
    above = torch.searchsorted(bins, x.detach().contiguous()).clamp(1, len(bins) - 1)
    low, high = bins[above - 1], bins[above]
    share = (x - low) / (high - low)
    out = x.new_zeros(*x.shape, len(bins))
    return out.scatter(-1, above[..., None] - 1, (1 - share)[..., None]).scatter_add(-1, above[..., None], share[..., None])


class TwoHot(nn.Module):
    """A number as a distribution over K bins; the mean is exactly 0 while all bins are equally likely.

    Args:
        bins: K, odd. low, high: of the bins, before ``symexp``; they must be opposite, so that uniform means 0.
    """

    def __init__(self, width: int, bins: int = 255, low: float = -20.0, high: float = 20.0) -> None:
        super().__init__()
        # Nothing is known at first: every bin as likely as any other, whatever is read.
        self.out = Linear(width, bins, True, 0.0)
        self.low, self.high, self.count = low, high, bins
        self._bins: dict[torch.device, Tensor] = {}

    def bins(self, device: torch.device) -> Tensor:
        """``[K]`` what each bin means."""
        if device not in self._bins:
            with torch.inference_mode(False):
                half = symexp(torch.linspace(self.low, 0.0, self.count // 2 + 1, device=device))
                self._bins[device] = torch.cat((half, -half[:-1].flip(0)))
        return self._bins[device]

    def loss(self, x: Tensor, target: Tensor) -> Tensor:
        """``[..., D]`` and numbers ``[...]`` to cross-entropies ``[...]``."""
        logits = self.out(x).float()
        wanted = twohot(target.float(), self.bins(logits.device))
        return -(wanted * logits.log_softmax(-1)).sum(-1)

    def mean(self, x: Tensor) -> Tensor:
        """``[..., D]`` to ``[...]`` float32."""
        p, bins = self.out(x).float().softmax(-1), self.bins(x.device)
        # From both ends at once: summed from one, what should cancel leaves rounding of the largest bins behind.
        half = self.count // 2
        return ((p[..., half + 1 :] - p[..., :half].flip(-1)) * bins[half + 1 :]).sum(-1)


class Number(nn.Module):
    """A number, learned by squared error."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.out = Linear(width, 1, True, 0.0)

    def loss(self, x: Tensor, target: Tensor) -> Tensor:
        """``[..., D]`` and numbers ``[...]`` to squared errors ``[...]``."""
        return (self.mean(x) - target.float()) ** 2

    def mean(self, x: Tensor) -> Tensor:
        """``[..., D]`` to ``[...]`` float32."""
        return self.out(x).float()[..., 0]


class Reward(nn.Module):
    """The reward of a step, as the data tell it.

    Args:
        ports: with ``levels["reward"]``: what the codes mean, or what the numbers 0 and 1 mean.
        kind: twohot or mse; not looked at where rewards are codes.
    """

    def __init__(self, ports: Ports, width: int, kind: str = "twohot") -> None:
        """Raises RecipeError where the layout has no reward of one number or code."""
        super().__init__()
        if "reward" not in ports.levels:
            raise RecipeError(f"layout '{ports.layout}': a world model answers 'reward', as in 'state action > reward done'")
        self.levels: Sequence[float] = list(ports.levels["reward"])
        self.codes = ports.vocabs["reward"] > 0
        if self.codes:
            self.head: nn.Module = Linear(width, len(self.levels), True, 0.0)
        else:
            self.head = TwoHot(width) if kind == "twohot" else Number(width)

    def loss(self, x: Tensor, target: Tensor) -> Tensor:
        """``[..., D]`` and encoded rewards ``[..., 1]`` to ``[...]``."""
        if not self.codes:
            return self.head.loss(x, target[..., 0])
        logits = self.head(x).float()
        return F.cross_entropy(logits.flatten(0, -2), target.flatten(), reduction="none").view(target.shape[:-1])

    def mean(self, x: Tensor) -> Tensor:
        """``[..., D]`` to the expected reward ``[...]``, float32, in units of the reward."""
        if not self.codes:
            zero, one = self.levels
            return zero + (one - zero) * self.head.mean(x)
        return self.head(x).float().softmax(-1) @ torch.tensor(self.levels, dtype=torch.float32, device=x.device)


class Continue(nn.Module):
    """Whether the episode goes on after a step: the opposite of the slot ``done``, which is 1 where it was terminated."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.out = Linear(width, 1, True, 0.0)

    def loss(self, x: Tensor, done: Tensor) -> Tensor:
        """``[..., D]`` and codes ``[..., 1]`` to cross-entropies ``[...]``."""
        logits = self.out(x).float()[..., 0]
        return F.binary_cross_entropy_with_logits(logits, 1.0 - done[..., 0].float(), reduction="none")

    def probability(self, x: Tensor) -> Tensor:
        """``[..., D]`` to ``[...]`` float32."""
        return self.out(x).float()[..., 0].sigmoid()
