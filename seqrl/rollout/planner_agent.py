"""An agent that acts by planning in a dream; to the runner it is like any other (rollout/agent.py).

It follows each real episode in the world (rollout/present.py), and every few steps has a planner find what to do from there.

B rows, H steps of a plan.
"""

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from seqrl.core import tree
from seqrl.core.errors import UserError
from seqrl.rollout import noise
from seqrl.rollout.goals import Goals
from seqrl.rollout.objectives import Goal, Pessimistic, Return, Weighted
from seqrl.rollout.plan import PlanConfig, Planner
from seqrl.rollout.present import Present
from seqrl.rollout.prior import Prior
from seqrl.rollout.sequences import space_of
from seqrl.rollout.worlds import Bridge, untouched

# Imagined rows at a time: what many environments with many candidates imagine would not fit into memory at once.
_MOST = 8192


class PlannerAgent:
    """Plans for ``rows`` environments with one world; rows are begun with ``reset`` and dropped with ``keep``.

    Attributes:
        seconds, decisions: spent on acting, and how many plans were made (a row's each counts).
    """

    def __init__(
        self,
        world: Any,
        tokenizer: Any,
        rows: int,
        config: PlanConfig,
        seed: int = 0,
        prior: Any = None,
        goal: str | None = None,
    ) -> None:
        """Makes an agent.

        Args:
            world, tokenizer: as ``rollout.worlds.world_of`` gives them.
            rows: B, environments at the start.
            config: how is planned.
            seed: with the episode's key, decides every draw of the planner.
            prior: an ``Agent`` of as many rows that proposes candidates.
            goal: where to be, in the words of ``goals.Goals``; None where the environment says it itself.

        Raises:
            UserError: the world cannot be asked for what is wanted, or the horizon is longer than what it was trained to see.
        """
        self.tokenizer, self.config, self.seed = tokenizer, config, seed
        self.bridge = Bridge(world, tokenizer)
        self.device, self.mode, self.context = self.bridge.device, config.planner, tokenizer.context
        self.space = space_of(tokenizer, config.std, config.min_std)
        self.planner = Planner(config, world, self.space)
        self.prior = None if prior is None else Prior(prior, self.bridge, self.space, config)
        self.goals = Goals(self.bridge, goal) if config.objective == "goal" else None
        self.objective = self._wanted()
        self.present = Present(self.bridge, rows, config.horizon, seed)
        self.noise = np.zeros(rows, np.uint64)
        self.seconds, self.decisions = 0.0, 0
        with torch.inference_mode():
            self.memory = self.planner.begin(rows, self.device)
            kind = torch.float32 if self.space.normal else torch.int64
            self.plan = torch.zeros(rows, config.steps, self.space.width, dtype=kind, device=self.device)
            self.before = self.plan[:, 0].clone()

    def __len__(self) -> int:
        return len(self.noise)

    def _wanted(self) -> Weighted:
        c = self.config
        if c.objective == "return" and "reward" not in self.tokenizer.ports().levels:
            raise UserError(
                f"layout '{self.tokenizer.layout}': this world says no reward, so there is no return to plan for; train it "
                "with '> reward' behind the action, or plan for a goal (--objective goal)"
            )
        first = Return(c.discount) if self.goals is None else Goal(self.goals.look, when=c.reach)
        return Weighted([(1.0, first), *([(c.pessimism, Pessimistic(c.discount))] if c.pessimism else [])])

    def reset(self, rows: Any, targets: Any, keys: Any) -> None:
        """Begins episodes; as ``Agent.reset``, and targets are the prior's."""
        rows = np.asarray(rows, np.int64)
        self.present.begin(rows)
        self.noise[rows] = noise.streams(self.seed, np.asarray(keys, np.int64))
        with torch.inference_mode():
            at, fresh = torch.from_numpy(rows).to(self.device), self.planner.begin(len(rows), self.device)
            tree.map_leaves(lambda x, y: x.index_copy_(0, at, y), self.memory, fresh)
        if self.prior is not None:
            self.prior.agent.reset(rows, targets, keys)

    def keep(self, rows: Any) -> None:
        """Drops all rows but ``(R,)`` ``rows``, which are then numbered 0 to R - 1 in this order."""
        rows = np.asarray(rows, np.int64)
        at = torch.from_numpy(rows).to(self.device)
        with torch.inference_mode():
            self.noise, self.plan, self.before = self.noise[rows], self.plan[at], self.before[at]
            self.memory = tree.index(self.memory, at)
            self.present.keep(rows)
        if self.prior is not None:
            self.prior.agent.keep(rows)

    def receive(self, reward: Any) -> None:
        """Takes in the rewards ``(B,)`` of the last actions, for the prior; the world foresees its own."""
        if self.prior is not None:
            self.prior.agent.receive(reward)

    @torch.inference_mode()
    def act(self, obs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """One action for each row: name -> ``(B, *shape)`` as the environment gives and takes them.

        Raises:
            UserError: what the world imagines is not a number.
        """
        began, c, t = time.perf_counter(), self.config, self.present.t
        self.present.observe(obs, self.before)
        due = np.flatnonzero(t % c.every == 0)
        most = max(1, _MOST // (c.candidates * (c.iterations if c.planner == "random" else 1)))
        for i in range(0, len(due), most):
            self._plan(due[i : i + most], t, obs)
        at = torch.from_numpy(t % c.every // c.repeat).to(self.device)
        code = self.plan[torch.arange(len(self), device=self.device), at]
        actions = self.tokenizer.decode_action({"action": code.cpu().numpy()})
        # What is remembered is what was done: within bounds.
        self.before = self.bridge.act(actions)
        if self.prior is not None:
            self.prior.follow(obs, actions)
        self.seconds, self.decisions = self.seconds + time.perf_counter() - began, self.decisions + len(due)
        return actions

    def _plan(self, rows: np.ndarray, t: np.ndarray, obs: Mapping[str, np.ndarray]) -> None:
        """New plans for some rows."""
        index = torch.from_numpy(rows).to(self.device)
        mine = {n: v[rows] for n, v in obs.items()}
        carry, memory = tree.index(self.present.carry, index), tree.index(self.memory, index)
        states = noise.follow(self.noise[rows], t[rows])
        proposals = None
        if self.prior is not None:
            with untouched(self.device, int(states[0] >> np.uint64(1))):
                proposals = self.prior.propose(carry, rows, mine, states)
            fresh = torch.from_numpy(t[rows] == 0).to(self.device)
            centred = self.space.around(memory.belief, proposals[:, 0])
            memory = memory._replace(belief=tree.where(fresh, centred, memory.belief))
        if self.goals is not None:
            self.objective.parts[0][1].wanted = self.goals.wanted(mine)
        self.plan[index], memory = self.planner(carry, memory, self.objective, states, proposals)
        ahead = self.planner.shift(memory, self.config.every // self.config.repeat)
        tree.map_leaves(lambda x, y: x.index_copy_(0, index, y), self.memory, ahead)
