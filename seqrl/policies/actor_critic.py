"""An actor and a critic that live in a world model: what was learned in its dreams acts outside (Hafner et al. 2020, 2023).

The world comes along, frozen, so that one checkpoint acts, dreams and plans: real observations go through it and become
features, which are all that actor and critic read. A dream gives the same features, so how they learn there
(train/imagination.py) is no concern of this file; ``forward`` is what they can learn from real windows alone.

Letters: B rows, T environment steps, F numbers of a feature, A numbers (or codes) of an action.
"""

from inspect import signature
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init

from seqrl.core import kinds, tree
from seqrl.core.contracts import Losses, Ports
from seqrl.core.errors import RecipeError
from seqrl.core.layout import Layout
from seqrl.core.settings import check_ranges, config_for, ports_of
from seqrl.core.stream import StreamBatch
from seqrl.nn.init import init_weights
from seqrl.nn.mlp import Dense
from seqrl.nn.outcomes import Number, TwoHot, twohot
from seqrl.policies._actor import make_actor
from seqrl.policies._carried import Carried, fills_up, put

AHEAD = True
LOSSES = ("actor", "critic", "anchor", "replay")
_SEEN = ("numbers", "pictures")


class ActorCriticConfig(PreTrainedConfig):
    """Settings of an actor-critic."""

    model_type = "seqrl_actor_critic"

    ports: dict | None = None
    """What the data look like (core.contracts.Ports as plain JSON)."""
    context_length: int = 20
    """Environment steps in a window."""
    world: dict | None = None
    """The world lived in: its ``kind``, and its ``config`` as plain JSON."""
    domain: str = ""
    """Of a world of several domains, the one lived in."""
    width: int = 256
    """Hidden units of each layer, of actor and critic."""
    layers: int = 2
    """Hidden layers of each."""
    activation: Literal["silu", "relu", "gelu", "elu", "mish", "tanh"] = "silu"
    """Of the hidden layers."""
    norm: Literal["rms", "layer", "none"] = "rms"
    """Behind each matrix."""
    critic: Literal["twohot", "mse"] = "twohot"
    """How values are learned."""
    discount: float = 0.997
    """Of what the critic foresees; 0.997 is a horizon of 333 steps."""
    unimix: float = 0.01
    """Share of the uniform in choices of actions that are codes."""
    squash: Literal["tanh", "clip"] = "clip"
    """How actions that are numbers keep to their bounds: tanh as Dreamer V1 and V2, clip as V3."""
    min_std: float = 0.1
    """Smallest deviation of actions that are numbers."""

    @classmethod
    def for_ports(cls, ports: Ports, context: int, **settings: Any) -> "ActorCriticConfig":
        """The config for some data, those of the ``world`` it is given; raises RecipeError on an unknown setting or one that
        cannot be."""
        config = config_for(cls, ports, context, settings)
        config.plan()
        return config

    @classmethod
    def tiny(cls, ports: Ports) -> "ActorCriticConfig":
        """The smallest sensible one, in a small recurrent world, for tests."""
        kind = "worlds.rssm"
        config = kinds.load(kind).Config.tiny(ports)
        world = {"kind": kind, "config": {n: getattr(config, n) for n in kinds.settings(kind)}}
        return cls.for_ports(ports, config.context_length, world=world, width=16, layers=1)

    def plan(self) -> Ports:
        """The ports; raises RecipeError where a setting is out of range, or there is no action."""
        check_ranges(self, {"width": (1, None), "layers": (0, None), "unimix": (0, 1), "min_std": (1e-3, 1)})
        check_ranges(self, {"discount": (0, 1)})
        ports = Ports(**self.ports) if self.ports else ports_of(self)[0]
        if "action" not in ports.widths:
            raise RecipeError(f"layout '{ports.layout}': an actor needs an 'action', as in 'state action > reward done'")
        return ports

    def make_world(self) -> PreTrainedModel:
        """The world with fresh weights.

        Raises:
            RecipeError: there is none, or its code is not of this house, which a config may not ask for.
        """
        if not self.world:
            raise RecipeError("policies.actor_critic lives in a world: name one, as in world=runs/rssm_cartpole")
        kind = str(self.world["kind"])
        if not (kind.startswith("worlds.") and kinds.is_own(kind)):
            raise RecipeError(f"policies.actor_critic: '{kind}' is no world of this house ({', '.join(kinds.names('worlds'))})")
        module, known = kinds.load(kind), kinds.settings(kind)
        return module.Model(module.Config(**{n: v for n, v in self.world["config"].items() if n in known}))


class Critic(nn.Module):
    """Features ``[..., F]`` to values ``[...]``, in units of the reward."""

    def __init__(self, inputs: int, config: ActorCriticConfig) -> None:
        super().__init__()
        self.body = Dense(inputs, config.width, config.layers, config.activation, config.norm)
        self.head = TwoHot(self.body.width) if config.critic == "twohot" else Number(self.body.width)

    def forward(self, feat: Tensor) -> Tensor:
        return self.head.mean(self.body(feat))

    def losses(self, feat: Tensor, *targets: Tensor) -> list[Tensor]:
        """``[..., F]`` and values ``[...]`` to a loss ``[...]`` for each of the latter."""
        x = self.body(feat)
        if not isinstance(self.head, TwoHot):
            return [self.head.loss(x, target) for target in targets]
        # Hundreds of bins cost more than all layers in front of them: one pass for all targets.
        log_p, bins = self.head.out(x).float().log_softmax(-1), self.head.bins(x.device)
        return [-(twohot(target.float(), bins) * log_p).sum(-1) for target in targets]


class ActorCritic(PreTrainedModel):
    """``act`` for playing; ``choose``, ``judge``, ``values`` and the critics for dreams; ``forward`` for real windows."""

    config_class = ActorCriticConfig
    base_model_prefix = "world"
    main_input_name = "batch"
    ANSWERS = ("head.", "critic.head.", "slow.head.")
    # A feature may be what is seen, as it is (worlds.ensemble).
    JOINED = {"head.": ("action",), **dict.fromkeys(("body.layers.0.", "critic.body.layers.0.", "slow.body.layers.0."), _SEEN)}

    def __init__(self, config: ActorCriticConfig) -> None:
        super().__init__(config)
        self.ports = config.plan()
        self.fronts = [slot.name for slot in Layout.parse(self.ports.layout).prefix]
        self.world = config.make_world().requires_grad_(False)
        self._undrawn = "sample" in signature(self.inner.observe).parameters
        width = self.inner.feat_width
        self.body = Dense(width, config.width, config.layers, config.activation, config.norm)
        self.head = make_actor(self.ports, self.body.width, config.unimix, config.squash, config.min_std)
        self.critic = Critic(width, config)
        self.slow = Critic(width, config).requires_grad_(False)
        # The spread of returns so far, and how much of an average that is yet; no weight, but it must be saved like one.
        self.spread = nn.Parameter(torch.zeros(2), requires_grad=False)
        self.losses = ("anchor", "replay")
        self.post_init()
        if self.spread.device.type != "meta":
            self.slow.load_state_dict(self.critic.state_dict())

    def _init_weights(self, module: nn.Module) -> None:
        init_weights(module, getattr(module, "in_features", 1) ** -0.5)
        if module is self:
            init.zeros_(self.spread)

    @property
    def inner(self) -> Any:
        """The world as its one domain sees it (``core.contracts.WorldModel``)."""
        return self.world.world(self.config.domain) if self.config.domain else self.world

    @property
    def parts(self) -> dict[str, list[nn.Parameter]]:
        """What has an optimiser of its own: loss -> parameters."""
        return {"actor": [*self.body.parameters(), *self.head.parameters()], "critic": list(self.critic.parameters())}

    def train(self, mode: bool = True) -> "ActorCritic":
        """As ever, but the world is only looked at."""
        super().train(mode)
        self.world.eval()
        return self

    # ---- what is read off a feature ---------------------------------------------------------------------------------

    def choose(self, feat: Tensor, through: bool = False) -> tuple[Tensor, Tensor]:
        """Features ``[N, F]`` to actions: what was drawn, and what a world is told; see policies/_actor.py."""
        return self.head.draw(self.body(feat), through)

    def likeliest(self, feat: Tensor) -> Tensor:
        """Features ``[N, F]`` to the actions one would bet on, ``[N, A]``."""
        return self.head.answer(self.body(feat), False, None, 1.0)

    def judge(self, feat: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
        """Log probabilities of what was drawn at features ``[..., F]``, and entropies, ``[...]`` each."""
        return self.head.judge(self.body(feat), drawn)

    def values(self, feat: Tensor) -> Tensor:
        """What the critic foresees from features ``[..., F]``: discounted reward ``[...]``."""
        return self.critic(feat)

    # ---- real windows -----------------------------------------------------------------------------------------------

    def _before(self, batch: StreamBatch) -> Tensor:
        """The action that led to each step; at the first nothing that is looked at."""
        action = batch.values["action"]
        return torch.cat((torch.zeros_like(action[:, :1]), action[:, :-1]), 1)

    def front(self, batch: StreamBatch) -> dict[str, Tensor] | None:
        """What stands in front of the steps of windows, as ``WorldModel.init`` wants it."""
        return {n: batch.values[n][:, 0] for n in self.fronts} or None

    def observe(self, carry: Any, z: Tensor, prev_action: Tensor, sample: bool = True) -> tuple[Any, Tensor]:
        """The world's ``observe``. What is drawn there and not in ``encode``, because it needs the past, is left undrawn too
        without ``sample``: who acts must answer the same twice."""
        options = {"sample": False} if not sample and self._undrawn else {}
        return self.inner.observe(carry, z, prev_action, **options)

    @torch.no_grad()
    def features(self, batch: StreamBatch, sample: bool = True) -> Tensor:
        """``[B, T, F]`` of the steps of windows; of padding nothing that means something."""
        B, T = batch.time.shape
        z = self.inner.encode(batch.values, sample)
        carry = self.inner.init(B, T, self.front(batch))
        return self.observe(carry, z, self._before(batch), sample)[1]

    def rewards(self, batch: StreamBatch) -> tuple[Tensor, Tensor]:
        """Rewards in their own units, and 1 where the episode went on, 0 where it was terminated; ``[B, T + 1]`` each."""
        reward, levels = batch.values["reward"][..., 0], self.ports.levels["reward"]
        if self.ports.vocabs["reward"]:
            reward = torch.tensor(levels, device=reward.device)[reward]
        else:
            reward = levels[0] + (levels[1] - levels[0]) * reward
        done = batch.values["done"][..., 0].float() if "done" in batch.values else torch.zeros_like(reward)
        return reward.float(), 1 - done

    def forward(self, batch: StreamBatch) -> Losses:
        """What real windows ``[B, T + 1, ...]`` teach, ``[B, T]``: ``anchor``, the negative log likelihood of their actions
        (behaviour cloning), and ``replay``, values learned one step ahead of whoever gathered them."""
        return self.lessons(batch, self.features(batch))

    def lessons(self, batch: StreamBatch, feat: Tensor) -> Losses:
        """``forward`` with the features ``[B, T + 1, F]`` known."""
        T = feat.shape[1] - 1
        mask = batch.mask[:, :T]
        anchor = self.head.loss(self.body(feat[:, :T]), batch.values["action"][:, :T])
        reward, cont = (x[:, :T] for x in self.rewards(batch))
        with torch.no_grad():
            target = reward + self.config.discount * cont * self.slow(feat[:, 1:])
        return Losses({"anchor": (anchor, mask), "replay": (self.critic.losses(feat[:, :T], target)[0], mask)})

    def counts(self, batch: StreamBatch) -> dict[str, Tensor]:
        """How many elements each term of ``forward`` counts in ``batch``."""
        return dict.fromkeys(self.losses, batch.mask[:, : batch.time.shape[1] - 1].sum())

    # ---- acting -----------------------------------------------------------------------------------------------------

    def init_cache(self, rows: int, steps: int) -> Carried:
        """Room for ``rows`` environments with a window of ``steps`` steps."""
        begun = torch.zeros(rows, dtype=torch.int64, device=self.spread.device)
        kinds_of = {n: torch.int64 if self.ports.vocabs[n] else torch.float32 for n in self.fronts}
        front = {n: torch.zeros(1, self.ports.widths[n], dtype=k, device=begun.device) for n, k in kinds_of.items()}
        return Carried(self.inner, None, begun, steps, fills_up(self.inner, steps, front or None))

    @torch.inference_mode()
    def refill(self, batch: StreamBatch, cache: Carried, rows: Tensor) -> None:
        """Forgets what the cache holds of ``rows`` and reads the steps of ``batch [R, T, ...]`` instead."""
        z, before = self.inner.encode(batch.values, sample=False), self._before(batch)
        carry = self.inner.init(len(z), cache.room, self.front(batch))
        for length in batch.length.unique().tolist():
            here = torch.nonzero(batch.length == length)[:, 0]
            part, _ = self.observe(tree.index(carry, here), z[here, :length], before[here, :length], sample=False)
            cache.carry = put(cache.carry, rows[here], part)
        cache.steps[rows] = batch.length

    @torch.inference_mode()
    def act(
        self,
        batch: StreamBatch,
        cache: Carried | None = None,
        sample: bool = False,
        uniform: Tensor | None = None,
        temperature: float = 1.0,
    ) -> dict[str, Tensor]:
        """The action of the last real step of each row; arguments and answer as in ``policies.decision``."""
        if cache is None:
            feat = self.features(batch, sample=False)
            feat = feat[torch.arange(len(feat), device=feat.device), batch.length - 1]
        else:
            z = self.inner.encode(batch.values, sample=False)
            carry = cache.begun(self.front(batch))
            # Rows that begin have no action before, and what stands there may be anything.
            before = torch.where((cache.steps > 0)[:, None, None], batch.values["action"], 0)
            cache.carry, feat = self.observe(carry, z, before, sample=False)
            cache.steps.add_(1)
            feat = feat[:, 0]
        return {"action": self.head.answer(self.body(feat), sample, uniform, temperature)}


Model = ActorCritic
Config = ActorCriticConfig
