"""Dreams from many real beginnings at once, and what they said of rewards and ends beside what really followed.

N excerpts, H imagined steps, F numbers of a feature.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from seqrl.rollout import measures
from seqrl.rollout.compare import Comparison, add_all
from seqrl.rollout.excerpts import Excerpts, Places
from seqrl.rollout.imagine import imagine, reached
from seqrl.rollout.worlds import Bridge


@dataclass(frozen=True)
class Dreams:
    """Every excerpt's dream: rewards and chances to go on ``(N, H)``, what really came, features ``(N, F)``, seconds."""

    said: np.ndarray
    conts: np.ndarray
    reward: np.ndarray
    done: np.ndarray
    mask: np.ndarray
    feats: np.ndarray
    seconds: float


def dream(
    bridge: Bridge,
    excerpts: Excerpts,
    places: Places,
    comparisons: dict[str, Comparison],
    sample: bool,
    batch: int,
    order: np.ndarray | None,
    tell: Callable[[int], None] | None,
) -> Dreams:
    """Dreams from every place.

    Args:
        comparisons: slot -> what takes in everything that was imagined.
        sample: draw what comes next. batch: excerpts at a time.
        order: ``(N,)`` whose actions each takes, where not its own. tell: called with the excerpts done.
    """
    parts: list[tuple[np.ndarray, ...]] = []
    seconds, H = 0.0, places.horizon
    for b in range(0, len(places), batch):
        here = places.pick(slice(b, b + batch))
        real = excerpts.read(here)
        seen, before, actions = real.context(places.context)
        if order is not None:
            actions = excerpts.read(places.pick(order[b : b + batch])).context(places.context)[2]
        carry, feat = bridge.begin(seen, before, real.front, H, sample)
        feats = feat[:, -1].float().cpu().numpy().copy()
        begun = time.perf_counter()
        _, dream = imagine(bridge.world, carry, feat[:, -1], actions, H, sample=sample)
        said, conts = dream.rewards.double().cpu().numpy(), dream.conts.double().cpu().numpy()
        seconds += time.perf_counter() - begun
        add_all(comparisons, bridge, dream.latents, real.seen, here)
        parts.append((said, conts, real.reward, real.done, real.mask, feats))
        if tell:
            tell(min(b + batch, len(places)))
    return Dreams(*(np.concatenate(p) for p in zip(*parts, strict=True)), seconds)


def rewards(d: Dreams, rare: bool, least: float) -> dict[str, Any]:
    real, said = d.reward[d.mask], d.said[d.mask]
    out: dict[str, Any] = {"rmse": measures.rmse(real, said), "r2": measures.r2(real[:, None], said[:, None])}
    if rare:
        kinds = (np.where(np.abs(x) > least, np.sign(x), 0) for x in (real, said))
        out |= measures.events(*kinds)
    return out


def ends(d: Dreams) -> dict[str, Any]:
    return measures.events(d.done[d.mask].astype(np.int64), (d.conts[d.mask] < 0.5).astype(np.int64))


def returns(d: Dreams, places: Places) -> dict[str, Any]:
    """Sums of rewards; a dream counts for as long as it goes on, and where the real episode was cut off it is cut as well."""
    ended = d.done.any(1)
    counted = d.mask | ended[:, None]
    weights = reached(torch.from_numpy(d.conts)).numpy() * counted
    real, dream = d.reward.sum(1), (d.said * weights).sum(1)
    return {
        "real": float(real.mean()),
        "dream": float(dream.mean()),
        "gap": float(np.abs(real - dream).mean()),
        "correlation": measures.agreement(real, dream),
    }
