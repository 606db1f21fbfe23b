"""What a policy that lives in a world expects of itself there: whole episodes in the dream, to be held against real ones.

A dream that promises more than the world gives is where a policy learned to cheat; the difference is the first thing to look
at (a done head that was badly trained said 200 of 200 steps, and outside it were 11).

Letters: N episodes, F numbers of a feature.
"""

from typing import Any

import torch
from torch import Tensor

from seqrl.core.stream import StreamBatch

# A dream that is so surely over adds nothing any more.
_OVER = 1e-4


@torch.no_grad()
def dream_returns(model: Any, first: StreamBatch, steps: int, sample: bool = True) -> Tensor:
    """The return each dreamed episode is expected to have: its rewards, each by the probability of coming to it.

    Args:
        model: lives in a world (``policies.actor_critic``), in evaluation mode.
        first: ``[N, 1, ...]`` the first observations of real episodes.
        steps: the most of an episode.
        sample: draw the actions; False takes the likeliest.

    Returns:
        ``[N]`` float32, undiscounted, in units of the reward.
    """
    world, (N, _) = model.inner, first.time.shape
    carry = world.init(N, 1 + steps, model.front(first))
    carry, feat = world.observe(carry, world.encode(first.values), first.values["action"])
    feat, alive = feat[:, 0], torch.ones(N, device=feat.device)
    total = torch.zeros_like(alive)
    for _ in range(steps):
        carry, pred = world.step(carry, model.choose(feat)[1] if sample else model.likeliest(feat))
        total += alive * pred.reward
        alive = alive * pred.cont
        feat = pred.feat
        if float(alive.max()) < _OVER:
            break
    return total
