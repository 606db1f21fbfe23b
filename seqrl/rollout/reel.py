"""A dream, step by step, ready to be drawn: what was imagined, what really came, and what the world said of it.

C observed steps, H imagined ones.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from seqrl.core.errors import UserError
from seqrl.rollout.compare import raw_of, view
from seqrl.rollout.excerpts import Excerpts, Places
from seqrl.rollout.imagine import imagine
from seqrl.rollout.worlds import untouched
from seqrl.tokens import patches


@dataclass(frozen=True)
class Reel:
    """One dream, to be shown.

    Args:
        context: C.
        seen: ``(C + H, ...)`` what is shown of the dream, real for the first C steps: a picture ``(h, w, 3)`` uint8 or numbers
            ``(D,)``.
        real: ``(C + n, ...)`` what really came, n of at most H steps; None where there is no truth.
        names: of the numbers. reward, cont: ``(H,)`` what the dream said. real_reward: ``(n,)``.
        spread: ``(D,)`` what is far for a number, so that small differences are drawn small; None where that is not known.
    """

    context: int
    seen: np.ndarray
    real: np.ndarray | None
    names: tuple[str, ...]
    reward: np.ndarray
    cont: np.ndarray
    real_reward: np.ndarray | None
    spread: np.ndarray | None = None


def screen(bridge: Any) -> str:
    """The slot that is looked at: pictures before vectors before choices; raises UserError where the world shows nothing."""
    kinds = {n: bridge.tokenizer.slots[n].modality.kind for n in bridge.shown}
    for kind in ("image", "vector", "discrete"):
        if found := [n for n, k in kinds.items() if k == kind]:
            return found[0]
    raise UserError("this world shows nothing one could draw")


def look(bridge: Any, slot: str, codes: np.ndarray, raw: np.ndarray | None = None) -> np.ndarray:
    """Values of a slot ``(N, width)`` as pictures ``(N, h, w, 3)`` uint8, or as numbers ``(N, D)``."""
    made = bridge.tokenizer.slots[slot]
    if made.modality.kind != "image":
        return np.asarray(made.codec.decode(codes) if raw is None else raw, np.float64)
    seen = view(made, codes, raw)
    if "pictures" not in seen:
        frames = patches.Codec(patches.Config(size=None), made.modality)
        # Categories of cells are small numbers: spread them over what the eye can see.
        seen["pictures"] = np.minimum(codes.astype(np.int64) * 25, 255).astype(np.uint8).reshape(-1, *frames.image["shape"])
    found = seen["pictures"]
    return found if found.shape[-1] == 3 else found[..., -1:].repeat(3, -1)


@torch.no_grad()
def of_data(bridge: Any, excerpts: Excerpts, context: int, horizon: int, seed: int = 0, sample: bool = False) -> Reel:
    """A dream under the actions of a held-out episode: one that goes on for as long as any, chosen by the seed."""
    places = excerpts.places(512, context, horizon, seed)
    longest = np.flatnonzero(places.length == places.length.max())
    # Neither the first nor the last of an episode, where little happens.
    here: Places = places.pick(longest[[len(longest) // 2]])
    real, slot = excerpts.read(here), screen(bridge)
    values, before, actions = real.context(context)
    with untouched(bridge.device, seed):
        carry, feat = bridge.begin(values, before, real.front, horizon, sample)
        _, dream = imagine(bridge.world, carry, feat[:, -1], actions, horizon, sample=sample)
    came = look(bridge, slot, *_values(excerpts, slot, here.rows[0]))[: context + int(here.length[0])]
    said = look(bridge, slot, bridge.show(dream.latents[0])[slot])
    rewards, conts = (x[0].float().cpu().numpy() for x in (dream.rewards, dream.conts))
    told = real.reward[0, : int(here.length[0])]
    far = look(bridge, slot, *_values(excerpts, slot, places.row)).std(0) if came.ndim == 2 else None
    return Reel(context, np.concatenate([came[:context], said]), came, names_of(bridge, slot), rewards, conts, told, far)


def _values(excerpts: Excerpts, slot: str, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    return excerpts.tables.read(rows, {slot})[slot], raw_of(excerpts, slot, rows)


@torch.no_grad()
def of_player(env: Any, act: Callable[[], Any], seed: int = 0) -> Reel:
    """A dream in which somebody acts, until it ends.

    Args:
        env: a ``DreamEnv`` of one row. act: answers an action as the environment's space has it.
    """
    env.reset(seed=seed)
    seen, rewards, conts, over = [seen_now(env)], [], [], False
    while not over:
        _, reward, terminated, truncated, _ = env.step(act())
        over = bool(terminated[0] or truncated[0])
        if hasattr(act, "receive"):
            act.receive(reward)
        seen.append(seen_now(env))
        rewards.append(float(reward[0]))
        conts.append(float(env.cont[0]))
    names = names_of(env.bridge, screen(env.bridge))
    return Reel(1, np.stack(seen), None, names, np.array(rewards), np.array(conts), None)


def seen_now(env: Any) -> np.ndarray:
    """What a ``DreamEnv`` shows in its first row: a picture ``(h, w, 3)`` uint8, or numbers ``(D,)``."""
    bridge, slot = env.bridge, screen(env.bridge)
    made, now = bridge.tokenizer.slots[slot], {n: v[:1] for n, v in env.now.items()}
    raw = np.concatenate([now[f].reshape(1, -1) for f in made.fields], -1)
    return look(bridge, slot, bridge.tokenizer.encode_slot(slot, now), raw)[0]


def names_of(bridge: Any, slot: str) -> tuple[str, ...]:
    """The numbers of a slot by the names of their fields."""
    known, out = bridge.tokenizer.spec.obs, []
    for field in bridge.tokenizer.slots[slot].fields:
        size = len(known[field].n) if known[field].n else known[field].size
        out += [field] if size == 1 else [f"{field} {i}" for i in range(size)]
    return tuple(out)
