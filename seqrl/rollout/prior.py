"""A policy as a planner's prior: it plays on in the dream, and what it does there are candidates.

A return-conditioned policy knows what was done in the data by those who got as much as is asked for; a planner knows what the
world would do. The policy goes on from what it has really seen, asked for what is left of its return; the dream answers; it
sees what the dream shows, spends what the dream gives, and acts again. So each proposal is a whole sequence, and one that the
planner may improve.

B rows, P proposals of each, H steps, A numbers (or codes) of an action.
"""

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seqrl.core.errors import UserError
from seqrl.rollout import noise
from seqrl.rollout.agent import Agent
from seqrl.rollout.plan import PlanConfig
from seqrl.rollout.sequences import Space, throw
from seqrl.rollout.worlds import Bridge


class Prior:
    """Proposals of a policy for the rows of one world; it follows the real episodes by an agent of its own."""

    def __init__(self, agent: Agent, bridge: Bridge, space: Space, config: PlanConfig) -> None:
        """Raises UserError where the policy's spaces are not the world's."""
        check_spaces(agent.tokenizer, bridge)
        self.agent, self.bridge, self.space, self.config = agent, bridge, space, config
        self.proposals = max(1, round(config.prior_share * config.candidates))

    def propose(self, carry: Any, rows: np.ndarray, obs: Mapping[str, np.ndarray], states: np.ndarray) -> Tensor:
        """What the policy would do from here; it is left as it was.

        Args:
            carry: of the R ``rows (R,)`` alone; it is left as it was.
            obs: name -> ``(R, *shape)`` what they see.
            states: ``(R,)`` uint64 of rollout/noise.py.

        Returns:
            ``[R, P, H, A]``, encoded for the world. The first is the policy's own; on the others is noise, or another draw.
        """
        c, P, R = self.config, self.proposals, len(rows)
        scout = copy.copy(self.agent)
        scout.keep(np.repeat(rows, P))
        scout.noise = np.where(np.arange(R * P) % P, noise.follow(scout.noise, np.arange(R * P) % P), scout.noise)
        dice = throw(noise.follow(states, np.array(1 << 20)), (P, c.horizon, self.space.width), True).flatten(0, 1)
        dice[::P] = 0
        world, seen = self.bridge.world, {n: np.repeat(v, P, 0) for n, v in obs.items()}
        carry, actions = world.share(carry, P, c.horizon), []
        for t in range(c.horizon):
            done = scout.act(seen)
            action = self.bridge.act(done)
            if self.space.normal and c.prior_noise:
                half = (self.space.high - self.space.low) / 2
                action = action + c.prior_noise * half * dice[:, t].to(action)
                action = action.clamp(self.space.low, self.space.high)
                remember(scout, self.bridge.tokenizer.decode_action({"action": action.cpu().numpy()}))
            actions.append(action)
            carry, pred = world.step(carry, action, sample=c.sample)
            scout.receive(pred.reward.double().cpu().numpy())
            seen = self.bridge.raw(self.bridge.show(pred.latent))
        return torch.stack(actions, 1)[:, :: c.repeat].unflatten(0, (R, P))

    def follow(self, obs: Mapping[str, np.ndarray], actions: Mapping[str, np.ndarray]) -> None:
        """Takes in a real step: what all rows see, and what they then do, both name -> ``(B, *shape)``."""
        self.agent.act(obs)
        remember(self.agent, actions)


def remember(agent: Agent, actions: Mapping[str, np.ndarray]) -> None:
    """Has an agent that has just acted believe that it did something else, name -> ``(B, *shape)``."""
    done = torch.from_numpy(agent.tokenizer.encode_action(actions)["action"]).to(agent.device)
    at = torch.from_numpy((agent.t - 1) % agent.context).to(agent.device)
    agent.history["action"][torch.arange(len(agent), device=agent.device), at] = done


def check_spaces(tokenizer: Any, bridge: Bridge) -> None:
    """Raises UserError where a policy reads what the world does not show, or acts otherwise."""
    theirs, ours = tokenizer.spec, bridge.tokenizer.spec
    used = {f for s in tokenizer.slots.values() for f in s.fields}
    for what, wanted, found, shown in (
        ("observation", theirs.obs, ours.obs, bridge.fields),
        ("action", theirs.act, ours.act, tuple(ours.act)),
    ):
        for name, m in wanted.items():
            if name not in used:
                continue
            if name not in shown:
                there = ", ".join(shown) or "nothing"
                raise UserError(f"--prior: the policy reads the {what} '{name}', and this world shows {there}; choose another")
            if (m.kind, tuple(m.shape), m.n) != (found[name].kind, tuple(found[name].shape), found[name].n):
                raise UserError(
                    f"--prior: the policy's {what} '{name}' is {_said(m)}, the world's {_said(found[name])}; choose a policy "
                    "of the same environment"
                )


def _said(m: Any) -> str:
    return f"{m.kind} of {list(m.n)} choices" if m.n else f"{m.kind} of shape {tuple(m.shape)}"
