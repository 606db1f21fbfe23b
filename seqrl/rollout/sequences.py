"""Distributions over sequences of actions: what a planner draws its candidates from, and fits to the best of them.

Numbers are Gaussians within bounds, each step and number by itself; choices are categoricals, each step and place by itself.
Both take noise that is already drawn, so that what a row gets does not depend on who stands beside it.

B rows, S candidates, H steps, A numbers (or K codes) of an action, V codes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from seqrl.core.errors import UserError
from seqrl.rollout import noise

# Encoded numbers without bounds are standardised: beyond three deviations there were next to no data.
_OPEN = 3.0
# Of a plan for choices that is taken over to the next step: how much of it is forgotten, lest it never change its mind.
_DOUBT = 0.5


class Belief(NamedTuple):
    """A distribution for each of B rows; a tree of tensors, batch first.

    Args:
        mean: ``[B, H, A]``, or probabilities ``[B, H, K, V]``. std: ``[B, H, A]``; of choices empty, ``[B, 0]``.
    """

    mean: Tensor
    std: Tensor


class Space(Protocol):
    """All sequences of H actions, encoded."""

    def begin(self, rows: int, steps: int) -> Belief:
        """Nothing is known yet."""
        ...

    def around(self, belief: Belief, actions: Tensor) -> Belief:
        """Centred on ``actions [B, H, A]``, as wide as ``belief``."""
        ...

    def draw(self, belief: Belief, dice: Tensor) -> Tensor:
        """``[B, S, H, A]`` sequences, from as many dice (normal for numbers, uniform for choices)."""
        ...

    def fit(self, belief: Belief, actions: Tensor, weights: Tensor, momentum: float) -> Belief:
        """The distribution of ``actions [B, S, H, A]`` under ``weights [B, S]`` (of sum 1), with a share of the old one."""
        ...

    def shift(self, belief: Belief, steps: int) -> Belief:
        """What is left of a plan after ``steps`` of it, as wide as in the beginning; at the end nothing is known."""
        ...

    def answer(self, belief: Belief, best: Tensor) -> Tensor:
        """The sequence to do, ``[B, H, A]``, given the ``best`` that was seen."""
        ...


@dataclass(frozen=True)
class Numbers:
    """Actions of ``width`` numbers in ``[low, high]``.

    Args:
        std: deviation in the beginning, as a share of half the range. least: the smallest deviation, likewise.
    """

    width: int
    low: float = -1.0
    high: float = 1.0
    std: float = 1.0
    least: float = 0.05
    normal = True

    @property
    def _half(self) -> float:
        return (self.high - self.low) / 2

    def begin(self, rows: int, steps: int) -> Belief:
        mean = torch.full((rows, steps, self.width), (self.low + self.high) / 2)
        return Belief(mean, torch.full_like(mean, self.std * self._half))

    def around(self, belief: Belief, actions: Tensor) -> Belief:
        return belief._replace(mean=actions.to(belief.mean))

    def draw(self, belief: Belief, dice: Tensor) -> Tensor:
        return (belief.mean[:, None] + belief.std[:, None] * dice).clamp(self.low, self.high)

    def fit(self, belief: Belief, actions: Tensor, weights: Tensor, momentum: float) -> Belief:
        w = weights[..., None, None]
        mean = (w * actions).sum(1)
        std = (w * (actions - mean[:, None]) ** 2).sum(1).sqrt()
        mean, std = (momentum * old + (1 - momentum) * new for old, new in zip(belief, (mean, std), strict=True))
        return Belief(mean, std.clamp(self.least * self._half, self.std * self._half))

    def shift(self, belief: Belief, steps: int) -> Belief:
        fresh = self.begin(*belief.mean.shape[:2])
        mean = torch.cat((belief.mean[:, steps:], fresh.mean[:, :steps].to(belief.mean)), 1)
        return Belief(mean, fresh.std.to(belief.std))

    def answer(self, belief: Belief, best: Tensor) -> Tensor:
        return belief.mean


@dataclass(frozen=True)
class Choices:
    """Actions of K codes, the k-th of ``sizes[k]`` choices.

    Args:
        least: share of the uniform distribution that no refitting takes away.
    """

    sizes: Sequence[int]
    least: float = 0.05
    normal = False

    @property
    def width(self) -> int:
        return len(self.sizes)

    def _even(self) -> Tensor:
        """``[K, V]`` probabilities where nothing is known; places have no more choices than there are."""
        sizes = torch.tensor(self.sizes)[:, None]
        return (torch.arange(max(self.sizes)) < sizes) / sizes

    def begin(self, rows: int, steps: int) -> Belief:
        return Belief(self._even().expand(rows, steps, -1, -1).clone(), torch.zeros(rows, 0))

    def around(self, belief: Belief, actions: Tensor) -> Belief:
        return belief._replace(mean=self._mixed(self._hot(actions, belief.mean), _DOUBT))

    def draw(self, belief: Belief, dice: Tensor) -> Tensor:
        below = belief.mean.cumsum(-1)[:, None]
        # Rounding may leave the last sum a little under 1, and dice above it.
        most = torch.tensor(self.sizes, device=dice.device) - 1
        return (dice[..., None] > below).sum(-1).minimum(most)

    def fit(self, belief: Belief, actions: Tensor, weights: Tensor, momentum: float) -> Belief:
        found = (weights[..., None, None, None] * self._hot(actions, belief.mean)).sum(1)
        return belief._replace(mean=self._mixed(momentum * belief.mean + (1 - momentum) * found, self.least))

    def shift(self, belief: Belief, steps: int) -> Belief:
        ahead = torch.cat((belief.mean[:, steps:], self._even().to(belief.mean).expand_as(belief.mean[:, :steps])), 1)
        return belief._replace(mean=self._mixed(ahead, _DOUBT))

    def answer(self, belief: Belief, best: Tensor) -> Tensor:
        # The likeliest choices, each by itself, may be none that ever stood in one sequence.
        return best

    def _hot(self, actions: Tensor, like: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(actions, max(self.sizes)).to(like)

    def _mixed(self, probabilities: Tensor, share: float) -> Tensor:
        return (1 - share) * probabilities + share * self._even().to(probabilities)


def space_of(tokenizer: Any, std: float, least: float) -> Numbers | Choices:
    """The actions of some data, encoded: numbers within [-1, 1] where their bounds are closed, else within three deviations.

    Raises:
        UserError: an action spans several steps.
    """
    ports, slot = tokenizer.ports(), tokenizer.slots["action"]
    if slot.codec.chunk > 1:
        raise UserError(f"layout '{tokenizer.layout}': actions span {slot.codec.chunk} steps, and a plan is made step by step")
    K, V = ports.widths["action"], ports.vocabs["action"]
    if not V:
        most = 1.0 if ports.bounded["action"] else _OPEN
        return Numbers(K, -most, most, std, least)
    sizes = getattr(slot.codec, "sizes", None)
    return Choices([V] * K if sizes is None else [int(n) for n in sizes], least)


def throw(states: np.ndarray, shape: Sequence[int], normal: bool, beta: float = 0.0) -> Tensor:
    """Noise ``[B, *shape]`` float32, a row's a function of its own state.

    Args:
        states: ``(B,)`` uint64, of rollout/noise.py.
        shape: ends in ``H, A``.
        normal: standard normal numbers, or uniform ones in [0, 1).
        beta: colour of normal numbers over H: the power of frequency f falls like ``f^-beta`` (Pinneri et al. 2020, iCEM,
            section 3.1), so that actions near in time are alike; 0 is white.
    """
    draw, rng = (torch.randn if normal else torch.rand), torch.Generator()
    # The finaliser once more: neighbours' states must not be neighbours' seeds.
    seeds = (noise.mix(states) >> np.uint64(1)).astype(np.int64).tolist()
    out = torch.stack([draw(*shape, generator=rng.manual_seed(seed)) for seed in seeds])
    H = shape[-2]
    if not (normal and beta and H > 1):
        return out
    f = torch.fft.rfftfreq(H).clamp(min=1 / H)
    scale = f ** (-beta / 2)
    # Each frequency but the first and (of an even H) the last stands for two.
    twice = torch.full_like(scale, 2.0)
    twice[0] = 1.0
    twice[-1] = 1.0 if H % 2 == 0 else 2.0
    scale = scale / ((twice * scale**2).sum() / H).sqrt()
    return torch.fft.irfft(torch.fft.rfft(out, dim=-2) * scale[:, None], n=H, dim=-2)
