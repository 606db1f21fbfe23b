"""The second loop: an actor and a critic learn in the dreams of a world that stays as it is (Hafner et al. 2020, 2021, 2023).

A batch of real windows is observed; from every step of it a dream begins, in which the actor acts. It is led by what it did
better than the critic foresaw (REINFORCE), or by gradients that come back through the world, or by both; the critic learns the
lambda-returns of what was dreamed. Actor and critic have a clip and a learning rate each: they share no weight, and one clip
for losses of different scale would starve the smaller.

To ``train/clockwork.py`` it looks like ``train/loop.py``. Letters: B windows, T steps, N dreams, H imagined steps.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call

from seqrl.core.errors import RecipeError, UserError
from seqrl.core.stream import StreamBatch
from seqrl.data.loader import Loader
from seqrl.data.windows import Starts
from seqrl.rollout.foreseen import dream_returns
from seqrl.rollout.imagine import Imagined, imagine, lambda_return, reached
from seqrl.rollout.starts import pick, starts
from seqrl.train.engine import Engine
from seqrl.train.loop import Sums, Tally, weigh
from seqrl.train.optim import Average, learning_rate, make_optimizer
from seqrl.train.recipe import ImaginationConfig, TrainConfig

# Dreams of whole episodes that are held against real ones.
_EPISODES = 64


def own_optimizer(model: Any, config: TrainConfig, how: ImaginationConfig) -> torch.optim.AdamW:
    """AdamW with groups for each part of the model; a group's ``part`` says whose it is, its ``share`` multiplies the rate."""
    groups = []
    for part, parameters in model.parts.items():
        if not any(p.requires_grad for p in parameters):
            continue
        share = how.critic_lr / config.lr if part == "critic" and how.critic_lr is not None else 1.0
        mine = torch.nn.ParameterList(parameters)
        groups += [
            {**g, "lr": config.lr * share, "part": part, "share": share} for g in make_optimizer(mine, config).param_groups
        ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=True)


class DreamTrainer:
    """One actor-critic, its optimiser, one loader of real windows: takes steps, and looks at dreams from held-out windows."""

    def __init__(self, config: TrainConfig, how: ImaginationConfig, engine: Engine, model: Any, loader: Loader) -> None:
        """
        Args:
            config, how: the recipe's ``train`` and ``imagination``.
            model: ``policies.actor_critic`` or its like. loader: of windows that look ahead.

        Raises:
            UserError: the batch does not divide over processes, or the world cannot do what is asked of it.
        """
        if config.batch % engine.world:
            raise UserError(f"train.batch={config.batch} must be a multiple of the {engine.world} processes")
        if how.dynamics and not model.inner.differentiable:
            raise RecipeError("imagination.dynamics: no gradient flows through this world; leave it 0, which is REINFORCE")
        self.config, self.how, self.engine, self.loader = config, how, engine, loader
        self.model, self.optimizer = engine.prepare(model, own_optimizer(model, config, how))
        self.bare = engine.bare(self.model)
        self.average = Average(self.bare, config.ema) if config.ema else None
        self.tally, self._norms = Tally(), {}

    # ---- one step ---------------------------------------------------------------------------------------------------

    def step(self, step: int) -> None:
        """Optimiser step number ``step`` (from 0)."""
        config, engine = self.config, self.engine
        batch = self.loader.draw(config.seed, step, config.batch // engine.world, engine.rank, engine.world)
        engine.reseed(step, 0)
        sums, facts = self._learn(batch, training=True)
        self.tally.add({**sums, **facts})
        counts = {n: engine.total(c.detach()) for n, (_, c) in sums.items()}
        engine.backward(weigh(sums, counts, config.losses), self.model, last=True)
        self._clip()
        rate = learning_rate(config, step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["share"]
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if (step + 1) % self.how.slow_every == 0:
            self._follow()
        if self.average:
            self.average.update(self.bare, step)

    def _clip(self) -> None:
        """Each part's gradient to the norm it may have, and summed over processes before that."""
        for part, parameters in self.bare.parts.items():
            for p in (p for p in parameters if p.requires_grad) if self.engine.world > 1 else ():
                p.grad = self.engine.total(torch.zeros_like(p) if p.grad is None else p.grad)
            most = float("inf") if self.config.clip is None else self.config.clip
            self._norms[part] = torch.nn.utils.clip_grad_norm_(parameters, most, foreach=True)

    @torch.no_grad()
    def _follow(self) -> None:
        """Moves the slow critic after the fast one."""
        slow, fast = (list(c.parameters()) for c in (self.bare.slow, self.bare.critic))
        torch._foreach_lerp_(slow, fast, self.how.slow_rate)

    # ---- dreams -----------------------------------------------------------------------------------------------------

    def _dream(self, batch: StreamBatch, through: bool) -> tuple[Imagined, Tensor, Tensor]:
        """Dreams from the real steps of windows ``[B, T + 1, ...]``.

        Args:
            through: let gradients flow back through the world to the actions.

        Returns:
            the dreams ``[N, H, ...]``, what the actor drew in them ``[N, H, A]``, and all windows' features.
        """
        model, how = self.bare, self.how
        world, drawn = model.inner, []
        with torch.no_grad():
            # Nothing is to be learned from after the end.
            allowed = batch.seen.clone()
            allowed[:, 1:] &= model.rewards(batch)[1][:, :-1] > 0
            chosen, z = pick(allowed, how.starts), world.encode(batch.values)
            actions, lengths = batch.values["action"], batch.length + 1
            carry, feat, feats = starts(world, z, actions, lengths, chosen, how.horizon, model.front(batch))

        def act(feat: Tensor, _: int) -> Tensor:
            kept, told = model.choose(feat.detach(), through)
            drawn.append(kept)
            return told

        with torch.set_grad_enabled(through):
            _, dream = imagine(world, carry, feat, act, how.horizon, temperature=how.temperature)
        return dream, torch.stack(drawn, 1), feats

    def _learn(self, batch: StreamBatch, training: bool) -> tuple[Sums, Sums]:
        """The losses of a batch, and facts about its dreams, as sums and counts.

        Time: ``returns[:, t]`` is that of the action drawn at ``feats[:, t]``; a step weighs what it takes to come to it, its
        own outcome left out.
        """
        model, how, losses = self.bare, self.how, self.config.losses
        through = training and how.dynamics > 0
        dream, drawn, feats = self._dream(batch, through)
        # The actor's gradient comes through what the critic says, and must not change how it says it.
        critic = {n: p.detach() for n, p in model.critic.named_parameters()}
        with torch.set_grad_enabled(through):
            values = functional_call(model.critic, critic, (dream.feats,))
            rewards = self._rewards(dream)
            slow = model.slow(dream.feats)
            ahead = slow if how.target == "slow" else values
            returns = lambda_return(rewards, dream.conts, ahead, model.config.discount, how.lam)
        weight, known = reached(dream.conts.detach(), model.config.discount), dream.feats[:, :-1].detach()
        scale = self._scale(returns.detach(), training) if how.normalize else torch.ones((), device=weight.device)
        log_p, entropy = model.judge(known, drawn)
        gain = (1 - how.dynamics) * log_p * ((returns - ahead[:, :-1]) / scale).detach()
        gain = gain + how.dynamics * returns / scale if through else gain
        fit, stay = model.critic.losses(known, returns.detach(), slow[:, :-1].detach())
        terms = {
            "actor": (-gain - how.entropy * entropy, weight),
            "critic": (fit + how.slow_weight * stay, weight),
        }
        real = model.lessons(batch, feats).terms if {"anchor", "replay"} & set(losses) else {}
        found = {n: t for n, t in {**terms, **real}.items() if n in losses}
        sums = {n: ((value.float() * mask).sum(), mask.sum()) for n, (value, mask) in found.items()}
        many, ones = weight.new_tensor(len(weight)), weight.new_ones(())
        facts = {
            "dream/return": (returns[:, 0].detach().sum(), many),
            "dream/reward": ((dream.rewards.detach() * weight).sum(), weight.sum()),
            "dream/length": (reached(dream.conts.detach()).sum(), many),
            "dream/entropy": ((entropy.detach() * weight).sum(), weight.sum()),
            "dream/scale": (scale.clone(), ones),
        }
        return sums, facts

    def _rewards(self, dream: Imagined) -> Tensor:
        """``[N, H]``: what the world promises, less what it does not know (Yu et al. 2020, MOPO, equation 3)."""
        if not self.how.pessimism:
            return dream.rewards
        if "disagreement" not in dream.aux:
            raise RecipeError(
                "imagination.pessimism: this world cannot say what it does not know; train it with an ensemble "
                "(model.ensemble=5 of worlds.rssm, or worlds.ensemble)"
            )
        return dream.rewards - self.how.pessimism * dream.aux["disagreement"]

    @torch.no_grad()
    def _scale(self, returns: Tensor, training: bool) -> Tensor:
        """What returns are divided by: how far apart their 5 % and 95 % quantiles were of late, but never less than 1, so that
        small ones are not blown up (Hafner et al. 2023, equation 11)."""
        spread = self.bare.spread
        if training:
            low, high = torch.quantile(returns.flatten().float(), returns.new_tensor([0.05, 0.95])).unbind()
            now = self.engine.total(high - low) / self.engine.world
            spread.lerp_(torch.stack((now, torch.ones_like(now))), 1 - self.how.memory)
        return (spread[0] / spread[1].clamp(min=1e-8)).clamp(min=1.0)

    # ---- what clockwork asks ----------------------------------------------------------------------------------------

    def measured(self) -> dict[str, float]:
        """Losses and facts about dreams since the last call, and the last gradients' norms."""
        self.check()
        norms = {f"grad_norm/{part}": float(norm) for part, norm in self._norms.items()}
        return self._told(self.tally) | norms

    def _told(self, tally: Tally, prefix: str = "") -> dict[str, float]:
        weights = {n.removeprefix("tally/"): 0.0 for n in tally.tensors()} | self.config.losses
        means = tally.means(self.engine, weights, prefix)
        return {n.replace("loss/dream/", "dream/"): v for n, v in means.items()}

    def check(self) -> None:
        """Stops the run where the losses are no numbers any more, so that no such weights are ever saved."""
        if wrong := [n.removeprefix("tally/") for n, t in self.tally.tensors().items() if not t.isfinite().all()]:
            raise UserError(
                f"what was learned in the dream became NaN ({', '.join(wrong)}); lower train.lr, set train.clip, or shorten "
                "imagination.horizon; the last checkpoint is from before"
            )

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Losses in dreams that begin in the held-out episodes' fixed windows: the same ones each time."""
        if self.loader.held_out is None:
            return {}
        tally = Tally()
        self.model.eval()
        with self.published():
            for i, batch in enumerate(self.loader.validation(self.config.validate_windows, self.config.batch)):
                self.engine.reseed(i, 1)
                sums, facts = self._learn(batch, training=False)
                tally.add({**sums, **facts})
        self.model.train()
        return self._told(tally, "val/")

    @contextmanager
    def published(self) -> Iterator[Any]:
        """A context in which the model holds the weights that are published: the average, where there is one."""
        swap = self.average.swap if self.average else lambda _: None
        swap(self.bare)
        try:
            yield self.bare
        finally:
            swap(self.bare)

    def gap(self, real: float, sample: bool | None) -> dict[str, float]:
        """What the policy gets in the dream, from the first observations of real episodes, beside what it got outside.

        Args:
            real: its mean return outside. sample: as it was played; None draws where actions are codes.
        """
        dataset, model = self.loader.dataset, self.bare
        episodes = dataset.held_out if len(dataset.held_out) else dataset.train
        which = np.linspace(0, len(episodes) - 1, min(_EPISODES, len(episodes))).astype(np.int64)
        batch = self.loader.batch(Starts(episodes.row[which], np.zeros_like(which), np.ones_like(which)))
        first = StreamBatch({n: v[:, :1] for n, v in batch.values.items()}, batch.time[:, :1], batch.length)
        steps = self.how.episode or int(max(dataset.train.length.max(), episodes.length.max()))
        draws = model.ports.vocabs["action"] > 0 if sample is None else sample
        self.engine.reseed(0, 2)
        found = float(dream_returns(model, first, steps, draws).mean())
        return {"eval/dream_return": found, "eval/dream_gap": found - real}
