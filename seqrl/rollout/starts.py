"""Where dreams begin: the world's carry behind any chosen observations of real windows.

A window is observed once; what the world then knew at each chosen step is kept, as a row of its own. A world that can say so
for all steps at once (``starts``, such as one with keys and values, which would have to copy them at every step) is asked.

Letters: B rows, T observations, N chosen ones.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from seqrl.core import tree


def pick(allowed: Tensor, most: int | None) -> Tensor:
    """Chooses at random, with torch's own generator, in the order in which they stand.

    Args:
        allowed: ``[B, T]`` bool.
        most: how many at most; None takes all.

    Returns:
        ``[B, T]`` bool.
    """
    found = torch.nonzero(allowed.flatten())[:, 0]
    if most is None or len(found) <= most:
        return allowed
    out = torch.zeros_like(allowed)
    out.view(-1)[found[torch.randperm(len(found), device=found.device)[:most]]] = True
    return out


def starts(
    world: Any,
    z: Tensor,
    actions: Tensor,
    lengths: Tensor,
    chosen: Tensor,
    steps: int,
    front: Mapping[str, Tensor] | None = None,
) -> tuple[Any, Tensor, Tensor]:
    """The carries from which one can go on imagining.

    Args:
        world: a ``core.contracts.WorldModel``. z: ``[B, T, *Z]`` of its ``encode``.
        actions: ``[B, T, A]`` taken at each step; the last is not looked at.
        lengths: ``[B]`` observations of each row. chosen: ``[B, T]`` bool, at least one, all of them within.
        steps: to be imagined from each. front: as for ``WorldModel.init``.

    Returns:
        a carry of N rows, ordered by row and then by step; ``feat [N, F]`` there; and ``feat [B, T, F]`` of all steps.
    """
    B, T = chosen.shape
    if hasattr(world, "starts"):
        carry, feat = world.starts(z, actions, lengths, steps)
        return tree.index(carry, chosen.flatten()), feat[chosen.flatten()], feat.unflatten(0, (B, T))
    carry = world.init(B, T + steps, front)
    kept, feats, places = [], [], []
    for t in range(T):
        # What led to the first is not looked at.
        carry, feat = world.observe(carry, z[:, t : t + 1], actions[:, max(t - 1, 0), None])
        feats.append(feat[:, 0])
        rows = torch.nonzero(chosen[:, t])[:, 0]
        if len(rows):
            # Choosing rows copies them, so what was kept stays as it was while the carry goes on.
            kept.append(tree.index(carry, rows))
            places.append(rows * T + t)
    everywhere = torch.stack(feats, 1)
    order = torch.cat(places).argsort()
    joined = tree.map_leaves(lambda *parts: torch.cat(parts)[order], kept[0], *kept[1:])
    return joined, everywhere[chosen], everywhere
