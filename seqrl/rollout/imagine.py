"""Imagining: what every family of world models is asked to do, written once. And what a return is, inside a dream.

One transition has one index: ``actions[t]`` was chosen at ``feats[t]``, and the world answered ``rewards[t]``, ``conts[t]`` and
``feats[t + 1]``. Nobody else shifts arrays.

Letters: B rows, H imagined steps, A numbers (or codes) of an action, F numbers in a feature.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from seqrl.core.contracts import Pred

Act = Callable[[Tensor, int], Tensor]
"""``act(feat [B, F], t) -> action [B, A]``, encoded."""


@dataclass(frozen=True)
class Imagined:
    """H steps of a dream.

    Args:
        feats: ``[B, H + 1, F]``; the first is where the dream began.
        actions: ``[B, H, A]``. latents: ``[B, H, *Z]``, of what was imagined after each.
        rewards: ``[B, H]``, in units of the reward. conts: ``[B, H]``, probability of going on after each.
        aux: what else the world said of every step, ``[B, H, ...]``.
    """

    feats: Tensor
    actions: Tensor
    latents: Tensor
    rewards: Tensor
    conts: Tensor
    aux: Mapping[str, Tensor]


def imagine(
    world: Any,
    carry: Any,
    feat: Tensor | None,
    act: Act | Tensor,
    horizon: int,
    sample: bool = True,
    temperature: float = 1.0,
) -> tuple[Any, Imagined]:
    """Imagines ``horizon`` steps from a carry.

    Args:
        world: a ``core.contracts.WorldModel``. carry: of B rows; it is used up.
        feat: ``[B, F]`` of the last observed step; None where ``act`` does not look at it.
        act: chooses actions, or the actions ``[B, H, A]`` themselves.
        sample, temperature: as in ``WorldModel.step``.

    Returns:
        the carry after the last step, and all steps.
    """
    feats, actions, preds = [feat], [], []
    for t in range(horizon):
        action = act[:, t] if isinstance(act, Tensor) else act(feats[-1], t)
        carry, pred = world.step(carry, action, sample=sample, temperature=temperature)
        feats.append(pred.feat)
        actions.append(action)
        preds.append(pred)
    if feats[0] is None:
        feats[0] = torch.zeros_like(feats[1])
    return carry, Imagined(torch.stack(feats, 1), torch.stack(actions, 1), *_joined(preds))


def _joined(preds: list[Pred]) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
    aux = {n: torch.stack([p.aux[n] for p in preds], 1) for n, v in preds[0].aux.items() if isinstance(v, Tensor)}
    parts = (torch.stack([getattr(p, n) for p in preds], 1) for n in ("latent", "reward", "cont"))
    return (*parts, aux)


def lambda_return(rewards: Tensor, conts: Tensor, values: Tensor, discount: float, lam: float) -> Tensor:
    """``R_t = r_t + g c_t ((1 - l) v_{t+1} + l R_{t+1})``, ``R_H = v_H`` (Hafner et al. 2020, equation 6, with
    continuation as in Hafner et al. 2021, equation 4).

    Args:
        rewards, conts: ``[B, H]``. values: ``[B, H + 1]``, of the feature each step began in and of the last.
        discount: g. lam: l, from 0 (one step) to 1 (the whole horizon).

    Returns:
        ``[B, H]``.
    """
    steps = discount * conts
    inputs = rewards + steps * (1 - lam) * values[:, 1:]
    last, out = values[:, -1], []
    for t in reversed(range(rewards.shape[1])):
        last = inputs[:, t] + steps[:, t] * lam * last
        out.append(last)
    return torch.stack(out[::-1], 1)


def reached(conts: Tensor, discount: float = 1.0) -> Tensor:
    """``[B, H]`` how much each step of a dream counts: the discounted probability of coming to it. A step's own outcome is not
    in its weight (the first always counts 1)."""
    steps = discount * conts
    return torch.cat((torch.ones_like(steps[:, :1]), steps[:, :-1].cumprod(1)), 1)
