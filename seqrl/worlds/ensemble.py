"""An ensemble: several small networks that each foresee the next state, and by differing tell where none of them knows.

The model of PETS (Chua et al. 2018) without its particles: M multilayer perceptrons read state and action and answer how the
state changes, the reward, and whether the episode goes on. Each begins elsewhere and learns from a bootstrap of the data
(Breiman 1996), so they agree where there were data and nowhere else; their spread is ``Pred.aux["disagreement"]``. States are
what the world shows, numbers and choices; there is no memory, so what is seen must be all there is to know.

Letters: B rows, T environment steps, M members, D numbers of a state (choices as one-hot vectors), N rows or steps alike.
"""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from seqrl.core import tree
from seqrl.core.contracts import Losses, Ports, Pred
from seqrl.core.errors import RecipeError
from seqrl.core.layout import Layout
from seqrl.core.settings import check_ranges, config_for, ports_of
from seqrl.core.stream import StreamBatch
from seqrl.nn.blocks import ACTIVATIONS
from seqrl.nn.init import init_weights
from seqrl.nn.latents import Gaussians
from seqrl.nn.members import Members, bootstrap
from seqrl.nn.outcomes import Continue, Reward
from seqrl.nn.sensors import ActionIn, observed

AHEAD = True
_SMALLEST_STD = 0.01
_AGREE = 1e-12
"""Variance below which members count as agreeing: at 0 the root has no gradient."""


class EnsembleConfig(PreTrainedConfig):
    """Settings of an ensemble."""

    model_type = "seqrl_ensemble"

    ports: dict | None = None
    """What the data look like (core.contracts.Ports as plain JSON)."""
    context_length: int = 1
    """Environment steps in a window; the model reads one at a time."""
    members: int = 5
    """Networks (M)."""
    width: int = 128
    """Hidden units of each layer."""
    layers: int = 2
    """Hidden layers."""
    activation: Literal["silu", "relu", "gelu", "elu", "mish", "tanh"] = "silu"
    """Of the hidden layers."""
    noise: Literal["none", "gaussian"] = "none"
    """Whether numbers of the next state are foreseen as such, or as a distribution (a probabilistic ensemble)."""
    propagate: Literal["mean", "member"] = "mean"
    """What a dream goes on with: the mean of all members, or one member for each row (TS-infinity); without draws, the mean."""
    reward: Literal["mse", "twohot"] = "mse"
    """How rewards that are numbers are learned."""
    bootstrap: bool = True
    """Each member learns from a resampling of the data."""

    @classmethod
    def for_ports(cls, ports: Ports, context: int, **settings: Any) -> "EnsembleConfig":
        """The config for some data; raises RecipeError on an unknown setting or one that does not fit the layout."""
        config = config_for(cls, ports, context, settings)
        config.plan()
        return config

    @classmethod
    def tiny(cls, ports: Ports) -> "EnsembleConfig":
        """The smallest sensible one, for tests."""
        return cls.for_ports(ports, 4, members=2, width=16, layers=1)

    def plan(self) -> tuple[Ports, Layout, list[str]]:
        """Ports, layout and the slots of a state; raises RecipeError where settings and layout clash."""
        ports, layout = ports_of(self)
        seen = observed(ports, [slot.name for slot in layout.step])
        for name in seen:
            if name in ports.images:
                raise RecipeError(
                    f"layout '{layout}': an ensemble reads numbers and choices, and '{name}' is a picture; "
                    "take worlds.rssm, or a slot of numbers"
                )
        check_ranges(self, {"members": (2, None), "width": (1, None), "layers": (1, None)})
        return ports, layout, seen


class Here(NamedTuple):
    """Where B rows are: the carry.

    Args:
        state: ``[B, D]``. member: ``[B]`` int64, whom a row follows where it follows one.
    """

    state: Tensor
    member: Tensor


class Ensemble(PreTrainedModel):
    """``forward`` for training; ``encode``, ``init``, ``observe``, ``step``, ``share`` and ``decode`` for dreaming."""

    config_class = EnsembleConfig
    base_model_prefix = "layers"
    main_input_name = "batch"
    ANSWERS = ("out.", "outcomes.")
    JOINED = {"layers.0.": ("numbers", "action"), "out.": ("numbers",)}
    differentiable = True

    def __init__(self, config: EnsembleConfig) -> None:
        super().__init__(config)
        ports, layout, self.seen = config.plan()
        M, W = config.members, config.width
        self.widths = {n: ports.widths[n] for n in self.seen}
        self.vocabs = {n: ports.vocabs[n] for n in self.seen}
        sizes = [self.widths[n] * max(self.vocabs[n], 1) for n in self.seen]
        self.feat_width = sum(sizes)
        self.action = ActionIn(ports)
        self.layers = nn.ModuleList(
            Members(M, W if i else self.feat_width + self.action.width, W) for i in range(config.layers)
        )
        # Behind the change of each number, and the logits of each choice, stand the deviations of the numbers.
        self.noisy = Gaussians(1, _SMALLEST_STD) if config.noise == "gaussian" else None
        self.out = Members(M, W, self.feat_width * (1 if self.noisy is None else 2), 0.1)
        # One matrix reads all members' hidden units, which are each one's own: many small products would cost more than these.
        self.outcomes = nn.ModuleDict({"reward": Reward(ports, W, config.reward)})
        if "done" in layout.names:
            self.outcomes["done"] = Continue(W)
        self.losses = (*self.seen, *self.outcomes)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        # Without norms between the layers, the deviation must follow their width to keep signals alive (LeCun et al. 1998).
        if isinstance(module, Members):
            module.begin()
        else:
            init_weights(module, getattr(module, "in_features", 1) ** -0.5)

    # ---- what the members say ---------------------------------------------------------------------------------------

    def _hidden(self, x: Tensor) -> Tensor:
        """States and actions ``[N, I]`` to hidden units ``[M, N, W]``."""
        act = ACTIVATIONS[self.config.activation]
        for layer in self.layers:
            x = act(layer(x))
        return x

    def _next(self, state: Tensor, hidden: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """For each slot what comes next, ``[M, N, width]`` numbers or ``[M, N, K, V]`` log probabilities, and the deviations of
        the numbers where they have some."""
        said, stds = self.out(hidden).float(), {}
        if self.noisy is not None:
            said, raw = said.chunk(2, -1)
            stds = F.softplus(raw) + self.noisy.min_std
        means = {}
        for n, was, part in self._parts(state, said):
            means[n] = part.unflatten(-1, (-1, self.vocabs[n])).log_softmax(-1) if self.vocabs[n] else was + part
        spread = {n: s for n, s, _ in self._parts(stds, stds) if not self.vocabs[n]} if self.noisy is not None else {}
        return means, spread

    def _parts(self, *joined: Tensor) -> list[tuple[Any, ...]]:
        """The slots, each with its part of ``[..., D]`` tensors."""
        sizes = [self.widths[n] * max(self.vocabs[n], 1) for n in self.seen]
        return list(zip(self.seen, *(x.split(sizes, -1) for x in joined), strict=True))

    # ---- training ---------------------------------------------------------------------------------------------------

    def forward(self, batch: StreamBatch) -> Losses:
        """A term for each slot that is seen, for ``reward`` and for ``done``, ``[B, T, M]`` over real steps.

        Args:
            batch: ``[B, T + 1, ...]``, the observation after the last action included.

        Those of numbers are squared errors, or negative log likelihoods, in units of the data's deviation, the mean over
        the slot; those of choices are cross-entropies.
        """
        z = self.encode(batch.values)
        x = torch.cat((z[:, :-1], self.action(batch.values["action"][:, :-1])), -1)
        N, (B, T) = x.shape[:2].numel(), x.shape[:2]
        x, state, after = x.flatten(0, 1), z[:, :-1].reshape(N, -1), z[:, 1:].reshape(N, -1)
        hidden = self._hidden(x)
        means, stds = self._next(state, hidden)
        found = {}
        for n, wanted in self._parts(after):
            if self.vocabs[n]:
                found[n] = -(wanted.unflatten(-1, (-1, self.vocabs[n])) * means[n]).sum((-2, -1))
            elif n in stds:
                found[n] = (((wanted - means[n]) / stds[n]) ** 2 / 2 + stds[n].log()).mean(-1)
            else:
                found[n] = ((wanted - means[n]) ** 2).mean(-1)
        for n, head in self.outcomes.items():
            found[n] = head.loss(hidden, batch.wanted(n)[:, :T].reshape(1, N, -1).expand(len(hidden), -1, -1))
        weight = bootstrap(x, self.config.members) if self.training and self.config.bootstrap else 1.0
        mask = batch.mask[:, :T, None].expand(B, T, self.config.members)
        return Losses({n: ((v * weight).unflatten(1, (B, T)).permute(1, 2, 0), mask) for n, v in found.items()})

    def counts(self, batch: StreamBatch) -> dict[str, Tensor]:
        """How many elements each term counts in ``batch``, without computing it."""
        many = batch.mask[:, : batch.time.shape[1] - 1].sum() * self.config.members
        return dict.fromkeys(self.losses, many)

    @torch.no_grad()
    def predictions(self, batch: StreamBatch) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
        """What the mean of all members foresees one step ahead: slot of numbers -> prediction and truth ``[B, T, width]``, and
        whether it counts ``[B, T]``."""
        z, T = self.encode(batch.values), batch.time.shape[1] - 1
        acted, mask = batch.values["action"][:, :T], batch.mask[:, :T]
        here = self.init(mask.numel(), 1)._replace(state=z[:, :T].flatten(0, 1))
        _, pred = self.step(here, acted.flatten(0, 1), sample=False)
        shown = {n: v.unflatten(0, mask.shape) for n, v in self.decode(pred.latent).items() if not self.vocabs[n]}
        out = {n: (v, batch.wanted(n)[:, 1:], mask) for n, v in shown.items()}
        if not self.outcomes["reward"].codes:
            zero, one = self.outcomes["reward"].levels
            truth = zero + (one - zero) * batch.wanted("reward")[:, :T]
            out["reward"] = (pred.reward.view(*mask.shape, 1), truth, mask)
        return out

    # ---- dreaming ---------------------------------------------------------------------------------------------------

    def encode(self, obs: Mapping[str, Tensor], sample: bool = True) -> Tensor:
        """Slots ``[B, T, width]`` to states ``[B, T, D]``; there is nothing to draw."""
        parts = [F.one_hot(obs[n], v).flatten(-2) if v else obs[n] for n, v in self.vocabs.items()]
        return torch.cat([p.to(self.out.weight.dtype) for p in parts], -1)

    def init(self, rows: int, steps: int, front: Mapping[str, Tensor] | None = None) -> Here:
        """Nowhere yet; ``steps`` does not matter, for nothing fills."""
        weight = self.out.weight
        return Here(weight.new_zeros(rows, self.feat_width), torch.arange(rows, device=weight.device) % self.config.members)

    def observe(self, carry: Here, z: Tensor, prev_action: Tensor) -> tuple[Here, Tensor]:
        """Goes to the last of the states ``z [B, T, D]``, each its own feature."""
        return carry._replace(state=z[:, -1]), z

    def share(self, carry: Here, candidates: int, steps: int) -> Here:
        """Copies; those of a row follow the members in turn."""
        out = tree.repeat(carry, candidates)
        return out._replace(member=torch.arange(len(out.member), device=out.member.device) % candidates % self.config.members)

    def step(self, carry: Here, action: Tensor, sample: bool = True, temperature: float = 1.0) -> tuple[Here, Pred]:
        """One step; ``aux["disagreement"] [B]`` is the deviation of the members' next states, the mean over numbers."""
        hidden = self._hidden(torch.cat((carry.state, self.action(action)), -1))
        means, stds = self._next(carry.state, hidden)
        one = sample and self.config.propagate == "member"

        def agreed(x: Tensor) -> Tensor:
            return x[carry.member, torch.arange(x.shape[1], device=x.device)] if one else x.mean(0)

        parts, spreads = [], []
        for n, vocab in self.vocabs.items():
            said = means[n].exp() if vocab else means[n]
            spreads.append(said.var(0, correction=0).flatten(1))
            chosen = agreed(said)
            if vocab:
                codes = _draw(chosen, temperature) if sample else chosen.argmax(-1)
                chosen = F.one_hot(codes, vocab).flatten(-2).to(said.dtype)
            elif sample and n in stds:
                chosen = chosen + temperature * agreed(stds[n]) * torch.randn_like(chosen)
            parts.append(chosen)
        state = torch.cat(parts, -1)
        reward = agreed(self.outcomes["reward"].mean(hidden))
        cont = agreed(self.outcomes["done"].probability(hidden)) if "done" in self.outcomes else torch.ones_like(reward)
        disagreement = torch.cat(spreads, -1).clamp(min=_AGREE).sqrt().mean(-1)
        return Here(state, carry.member), Pred(state, state, reward, cont, {"disagreement": disagreement})

    def decode(self, latent: Tensor) -> dict[str, Tensor]:
        """States ``[..., D]`` to encoded values, slot -> ``[..., width]``: numbers, or codes."""
        return {n: p.unflatten(-1, (-1, v)).argmax(-1) if (v := self.vocabs[n]) else p for n, p in self._parts(latent)}


def _draw(probabilities: Tensor, temperature: float) -> Tensor:
    """``[..., V]`` to codes ``[...]``."""
    logits = probabilities.clamp(min=1e-9).log() / max(temperature, 1e-6)
    return (logits - torch.empty_like(logits).exponential_().log()).argmax(-1)


Model = Ensemble
Config = EnsembleConfig
