"""Planning: the sequence of actions that scores best in a dream, for many environments at once.

All planners here draw candidates from a distribution over sequences, imagine each, and fit the distribution to the good ones,
some times over; they differ in how candidates count. ``cem`` counts the best few alike (Chua et al. 2018, section 5; Hafner
et al. 2019, algorithm 2). ``icem`` adds noise with a colour, keeps some of the best from one round and from one decision to
the next, draws fewer candidates each round, and does the best sequence it has seen (Pinneri et al. 2020). ``mppi`` weighs the
best by the exponential of their score (Williams et al. 2017; with a fitted deviation, Hansen et al. 2022, TD-MPC, section 3).
``random`` does the best of one large draw. For choices the distribution is a categorical a step, and the same four work.

The world's context is kept once for all candidates of a row (``WorldModel.share``). With ``sample`` off, a row's plan is a
function of its own seed and its own carry alone, up to rounding; with it, the world draws for all rows from one generator, so
a plan also depends on the rows beside it.

B rows, S candidates, H steps, A numbers (or codes) of an action, E elites, P proposals.
"""

from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from seqrl.core import tree
from seqrl.core.config import Frozen
from seqrl.core.errors import UserError
from seqrl.rollout import noise
from seqrl.rollout.imagine import imagine
from seqrl.rollout.objectives import Objective
from seqrl.rollout.sequences import Belief, Space, throw
from seqrl.rollout.worlds import untouched


class PlanConfig(Frozen):
    """How is planned."""

    planner: Literal["cem", "icem", "mppi", "random"] = "cem"
    """How candidates are drawn and counted."""
    horizon: int = Field(15, ge=1, le=1000)
    """Environment steps each candidate is imagined on (H)."""
    candidates: int = Field(128, ge=2)
    """Sequences imagined in each round (S)."""
    iterations: int = Field(3, ge=1)
    """Rounds of drawing and fitting; ``random`` draws as many candidates in one."""
    elites: int | None = Field(None, ge=1)
    """How many of the best are fitted to (E); null takes a tenth."""
    momentum: float = Field(0.1, ge=0, lt=1)
    """Share of the old distribution in the fitted one."""
    std: float = Field(1.0, gt=0)
    """Deviation in the beginning, as a share of half the range of actions."""
    min_std: float = Field(0.05, ge=0)
    """Smallest deviation, likewise; of choices the share that is always drawn evenly."""
    temperature: float = Field(0.5, gt=0)
    """Of ``mppi``'s weights, in deviations of the elites' scores: no scale of rewards need be known."""
    beta: float = Field(2.0, ge=0)
    """Colour of ``icem``'s noise; 0 is white."""
    kept: float = Field(0.3, ge=0, le=1)
    """Share of the elites that ``icem`` keeps."""
    decay: float = Field(1.25, ge=1)
    """By how much ``icem`` draws fewer candidates each round, down to twice its elites."""
    repeat: int = Field(1, ge=1)
    """Environment steps that each planned action is done for."""
    replan: int | None = Field(None, ge=1)
    """Environment steps that are done before a new plan is made; null takes ``repeat``."""
    discount: float = Field(0.99, gt=0, le=1)
    """Of rewards, for each environment step."""
    objective: Literal["return", "goal"] = "return"
    """What is wanted: reward, or to be where the goal is."""
    reach: Literal["end", "closest", "mean"] = "mean"
    """Which distance to the goal counts: after the last step, the smallest, or the mean of all."""
    pessimism: float = Field(0.0, ge=0)
    """Weight of what the members of an ensemble differ by; for worlds that are one."""
    sample: bool = False
    """Imagine what may happen (draws of the world), or what is likeliest."""
    prior_share: float = Field(0.25, gt=0, le=1)
    """With a prior: share of the candidates that it proposes."""
    prior_noise: float = Field(0.3, ge=0)
    """Deviation of the noise on its proposals that are numbers, as a share of half the range; the first has none."""

    @model_validator(mode="after")
    def _fits(self) -> "PlanConfig":
        if self.best > self.candidates:
            raise ValueError(f"elites: at most as many as there are candidates, {self.candidates} (got {self.elites})")
        if self.horizon % self.repeat:
            raise ValueError(f"horizon: a multiple of repeat, {self.repeat} (got {self.horizon})")
        if self.every % self.repeat or self.every > self.horizon:
            raise ValueError(f"replan: a multiple of repeat, {self.repeat}, up to the horizon (got {self.every})")
        return self

    @property
    def best(self) -> int:
        """E."""
        return self.elites or max(2, self.candidates // 10)

    @property
    def every(self) -> int:
        """Environment steps between plans."""
        return self.replan or self.repeat

    @property
    def steps(self) -> int:
        """Actions of a plan."""
        return self.horizon // self.repeat


class Memory(NamedTuple):
    """What is left of a row's last plan, for the next; a tree of tensors, batch first.

    Args:
        belief: the distribution. kept: ``[B, n, H, A]`` sequences that were best.
    """

    belief: Belief
    kept: Tensor


class Planner:
    """Plans for rows of one world."""

    def __init__(self, config: PlanConfig, world: Any, space: Space) -> None:
        self.config, self.world, self.space = config, world, space
        self.keeps = round(config.kept * config.best) if config.planner == "icem" else 0

    def begin(self, rows: int, device: Any = "cpu") -> Memory:
        """No plan yet."""
        belief = tree.map_leaves(lambda x: x.to(device), self.space.begin(rows, self.config.steps))
        middle = 0.0 if self.space.normal else 0.5
        dice = torch.full((rows, self.keeps, self.config.steps, self.space.width), middle, device=device)
        return Memory(belief, self.space.draw(belief, dice))

    def shift(self, memory: Memory, steps: int) -> Memory:
        """What is left after ``steps`` actions of a plan; the last action of what was kept is done again."""
        kept = torch.cat((memory.kept[:, :, steps:], memory.kept[:, :, -1:].expand(-1, -1, steps, -1)), 2)
        return Memory(self.space.shift(memory.belief, steps), kept)

    def __call__(
        self,
        carry: Any,
        memory: Memory,
        objective: Objective,
        states: np.ndarray,
        proposals: Tensor | None = None,
    ) -> tuple[Tensor, Memory]:
        """Plans.

        Args:
            carry: of B rows; it is left as it was.
            memory: of ``begin``, or what ``shift`` left of the last plan.
            objective: of N = B * S imagined rows, candidates of a row side by side.
            states: ``(B,)`` uint64 of rollout/noise.py, which decide the draws.
            proposals: ``[B, P, H, A]`` candidates that stand beside those drawn in every round.

        Returns:
            actions ``[B, H, A]``, encoded, and the memory of this plan.

        Raises:
            UserError: what the world imagines is not a number.
        """
        c, belief, kept = self.config, memory.belief, memory.kept
        B, rounds = len(belief.mean), 1 if c.planner == "random" else c.iterations
        top, best = torch.full((B,), -torch.inf, device=belief.mean.device), None
        for i in range(rounds):
            S = self._many(i)
            given = [x for x in (proposals, kept) if x is not None and x.shape[1]]
            if i == rounds - 1 and c.planner == "icem" and self.space.normal:
                given.append(belief.mean[:, None])
            given = torch.cat(given, 1)[:, : S - 1] if given else None
            actions = self._draw(belief, states, i, S - (0 if given is None else given.shape[1]))
            actions = actions if given is None else torch.cat((given.to(actions.dtype), actions), 1)
            scores = self.score(carry, actions, objective, int(np.bitwise_xor.reduce(states) >> np.uint64(1)) ^ i)
            value, at = scores.topk(min(c.best, S), 1)
            elite = actions.gather(1, at[..., None, None].expand(-1, -1, *actions.shape[2:]))
            best = elite[:, 0] if best is None else torch.where((value[:, 0] > top)[:, None, None], elite[:, 0], best)
            top = top.maximum(value[:, 0])
            if c.planner != "random":
                belief = self.space.fit(belief, elite, self._weights(value), c.momentum)
                kept = elite[:, : self.keeps]
        answer = best if c.planner in ("random", "icem") else self.space.answer(belief, best)
        return answer, Memory(belief, kept)

    def score(self, carry: Any, actions: Tensor, objective: Objective, seed: int = 0) -> Tensor:
        """``[B, S, H, A]`` to scores ``[B, S]``; a future that is not a number is worse than any other.

        Args:
            seed: of the world's draws.
        """
        B, S = actions.shape[:2]
        H = self.config.horizon
        flat = actions.flatten(0, 1).repeat_interleave(self.config.repeat, 1)
        with untouched(flat.device, seed):
            shared = self.world.share(carry, S, H)
            _, dream = imagine(self.world, shared, None, flat, H, sample=self.config.sample)
        scores = objective(dream).view(B, S)
        if not scores.isfinite().any(1).all():
            raise UserError("the world imagines what is not a number: its training has diverged (try a lower learning rate)")
        return scores.nan_to_num(-torch.inf, -torch.inf, -torch.inf)

    def _many(self, i: int) -> int:
        """Candidates of round ``i``."""
        c = self.config
        if c.planner == "random":
            return c.candidates * c.iterations
        return max(int(c.candidates / c.decay**i), min(2 * c.best, c.candidates)) if c.planner == "icem" else c.candidates

    def _draw(self, belief: Belief, states: np.ndarray, i: int, many: int) -> Tensor:
        c, normal = self.config, self.space.normal and self.config.planner != "random"
        shape = (many, c.steps, self.space.width)
        thrown = throw(noise.follow(states, np.array(i)), shape, normal, c.beta if c.planner == "icem" else 0.0)
        thrown = thrown.to(belief.mean.device)
        if self.space.normal and not normal:
            return self.space.low + (self.space.high - self.space.low) * thrown
        return self.space.draw(belief, thrown)

    def _weights(self, value: Tensor) -> Tensor:
        """Scores of the elites ``[B, E]``, best first, to weights of sum 1."""
        if self.config.planner != "mppi":
            return torch.full_like(value, 1 / value.shape[1])
        value = value.clamp(min=value[:, :1] - 1e6)
        spread = value.std(1, correction=0, keepdim=True).clamp(min=1e-8)
        return ((value - value[:, :1]) / (self.config.temperature * spread)).softmax(1)
