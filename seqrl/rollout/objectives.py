"""What a planner wants of a dream: a score for each imagined future.

An objective is called with an ``Imagined`` of N rows and H steps and answers ``[N]``, the more the better. A step that lies
behind the likely end of the episode counts as little as it is likely to be reached.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from seqrl.core.errors import UserError
from seqrl.rollout.imagine import Imagined, reached

Objective = Callable[[Imagined], Tensor]


@dataclass(frozen=True)
class Return:
    """The discounted reward, each step weighed by the probability of coming to it, and what is left at the end.

    Args:
        discount: of a step.
        value: feature ``[N, F]`` to ``[N]``: what the time behind the horizon is worth; None: nothing.
    """

    discount: float = 0.99
    value: Callable[[Tensor], Tensor] | None = None

    def __call__(self, dream: Imagined) -> Tensor:
        weights = reached(dream.conts, self.discount)
        total = (weights * dream.rewards).sum(1)
        if self.value is None:
            return total
        return total + self.discount * weights[:, -1] * dream.conts[:, -1] * self.value(dream.feats[:, -1])


@dataclass
class Goal:
    """Minus the distance from what is imagined to what is wanted.

    Args:
        look: latents ``[N, H, *Z]`` to the numbers ``[N, H, G]`` that are compared, and the numbers ``[B, G]`` that are wanted
            by each of B rows, candidates of one row side by side (N a multiple of B). NaN among the wanted: does not matter.
        when: ``end``, the distance after the last step; ``closest``, the smallest on the way; ``mean``, of all steps, so that
            sooner is better and having arrived is to stay.
    """

    look: Callable[[Tensor], Tensor]
    wanted: Tensor = field(default_factory=lambda: torch.zeros(1, 1))
    when: Literal["end", "closest", "mean"] = "mean"

    def __call__(self, dream: Imagined) -> Tensor:
        seen = self.look(dream.latents)
        goal = self.wanted.to(seen.device, seen.dtype).repeat_interleave(len(seen) // len(self.wanted), 0)[:, None]
        matters = goal.isfinite()
        off = torch.where(matters, seen - goal.nan_to_num(), 0.0)
        distance = off.pow(2).sum(-1).div(matters.sum(-1).clamp(min=1)).sqrt()
        if self.when == "end":
            return -distance[:, -1]
        return -(distance.min(1).values if self.when == "closest" else distance.mean(1))


@dataclass(frozen=True)
class Pessimistic:
    """Minus what the members of an ensemble differ by, summed over the steps: keeps plans to where the world is known
    (Yu et al. 2020, MOPO, equation 4, with the members' spread as the uncertainty)."""

    discount: float = 0.99

    def __call__(self, dream: Imagined) -> Tensor:
        """Raises UserError where the world does not tell what its members differ by."""
        if "disagreement" not in dream.aux:
            raise UserError("this world model is no ensemble, so nothing can be said of what it does not know: pessimism 0")
        return -(reached(dream.conts, self.discount) * dream.aux["disagreement"]).sum(1)


@dataclass(frozen=True)
class Weighted:
    """A weighted sum of objectives, ``(weight, objective)`` each."""

    parts: Sequence[tuple[float, Objective]]

    def __call__(self, dream: Imagined) -> Tensor:
        return sum(weight * objective(dream) for weight, objective in self.parts)
