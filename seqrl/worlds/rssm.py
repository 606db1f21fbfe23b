"""The recurrent state-space model of PlaNet and Dreamer: a memory that is certain and a latent that is not, step by step.

The memory ``h`` moves by what was and what was done, ``h_t = f(h_{t-1}, s_{t-1}, a_{t-1})``. The latent ``s_t`` is drawn from
the posterior ``q(s_t | h_t, o_t)`` where there is an observation, and from the prior ``p(s_t | h_t)`` where one is imagined;
training makes the two agree. Everything else reads both side by side, the feature: the decoder, and the outcome of an action,
which is told from where the action led, the terminal observation included.

``preset`` names a paper: PlaNet (Hafner et al. 2019, arXiv 1811.04551), Dreamer (2020, arXiv 1912.01603), DreamerV2 (2021,
arXiv 2010.02193) and DreamerV3 (2023, arXiv 2301.04104, in the code of 2025). Whatever else is set wins. PlaNet's latent
overshooting, which the later papers do without, is not built.

Letters: B rows, T environment steps, D numbers of memory, S of a latent, E of an embedded observation, F = D + S, M members.
"""

from types import SimpleNamespace
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init

from seqrl.core import tree
from seqrl.core.contracts import Losses, Ports, Pred
from seqrl.core.settings import check_ranges, config_for, ports_of
from seqrl.core.stream import StreamBatch
from seqrl.nn.cells import BlockLinear
from seqrl.nn.init import init_weights
from seqrl.nn.latents import Categoricals, FromLatent, Gaussians, balanced
from seqrl.nn.outcomes import Continue, Reward
from seqrl.nn.sensors import ActionIn, Screens, Sensors, heed, observed
from seqrl.worlds._losses import check_losses
from seqrl.worlds._members import Members
from seqrl.worlds._recurrence import FromFeat, Recurrence

AHEAD = True
LOSSES = ("kl", "dyn", "rep", "ensemble")

_FORM = ("latent", "gru", "kl_form", "balance", "free", "unimix", "prior_layers", "activation", "norm", "squash", "reward")
_VALUES = {
    "planet": ("gaussian", "plain", "plain", 0.5, 3.0, 0.0, 1, "relu", "none", False, "mse"),
    "v1": ("gaussian", "plain", "plain", 0.5, 3.0, 0.0, 1, "elu", "none", False, "mse"),
    "v2": ("categorical", "layer_norm", "joint", 0.8, 0.0, 0.0, 1, "elu", "none", False, "mse"),
    "v3": ("categorical", "block", "each", 0.5, 1.0, 0.01, 2, "silu", "rms", True, "twohot"),
}
PRESETS = {name: dict(zip(_FORM, values, strict=True)) for name, values in _VALUES.items()}
"""What the papers set, preset -> setting -> value."""


class RSSMConfig(PreTrainedConfig):
    """Settings of an RSSM. Those that are None are the preset's; sizes are small ones (the papers': D 200 to 8192)."""

    model_type = "seqrl_rssm"

    ports: dict | None = None
    """What the data look like (core.contracts.Ports as plain JSON)."""
    context_length: int = 50
    """Environment steps in a window."""
    losses: list | tuple | None = None
    """Slots that are shown, outcomes and divergences that are trained; None means all there are."""
    preset: Literal["planet", "v1", "v2", "v3"] = "v3"
    """The paper whose form is taken where nothing else is set."""
    latent: Literal["gaussian", "categorical", None] = None
    """What the latent is drawn from."""
    size: int = 30
    """Numbers of a Gaussian latent."""
    groups: int = 32
    """Categoricals of a latent."""
    classes: int = 16
    """Classes of each categorical."""
    unimix: float | None = None
    """Share of the uniform in each categorical."""
    deter: int = 256
    """Numbers of memory (D)."""
    hidden: int = 128
    """Units of every hidden layer."""
    layers: int = 2
    """Hidden layers of encoder, decoder and heads."""
    embed: int | None = None
    """Numbers of an embedded observation (E); None means as many as hidden."""
    channels: int = 32
    """Channels of the first convolution over pictures."""
    gru: Literal["plain", "layer_norm", "block", None] = None
    """How the memory moves."""
    blocks: int = 8
    """Blocks of a block GRU."""
    prior_layers: int | None = None
    """Hidden layers of the prior; the posterior has one."""
    kl_form: Literal["plain", "joint", "each", None] = None
    """Divergence as one term kl (plain, or joint: balanced), or as two, dyn and rep (each)."""
    balance: float | None = None
    """Share of a joint divergence that moves the prior."""
    free: float | None = None
    """Nats of a step's divergence that are free."""
    activation: Literal["relu", "elu", "silu", "gelu", None] = None
    """Activation of hidden layers."""
    norm: Literal["none", "layer", "rms", None] = None
    """Norm in front of each activation."""
    squash: bool | None = None
    """Whether numbers are seen and shown through symlog."""
    reward: Literal["mse", "twohot", None] = None
    """How a reward that is a number is learned."""
    ensemble: int = 0
    """Members that foretell the next embedded observation; how they differ is the disagreement of a prediction. 0 for none."""

    def __post_init__(self, **kwargs: Any) -> None:
        self.losses = None if self.losses is None else list(self.losses)
        super().__post_init__(**kwargs)

    @classmethod
    def for_ports(cls, ports: Ports, context: int, **settings: Any) -> "RSSMConfig":
        """The config for some data; raises RecipeError on an unknown setting or one that does not fit the layout."""
        config = config_for(cls, ports, context, settings)
        config.plan()
        return config

    @classmethod
    def tiny(cls, ports: Ports, **settings: Any) -> "RSSMConfig":
        """The smallest sensible one, for tests."""
        sizes = {"deter": 16, "hidden": 16, "groups": 4, "classes": 4, "size": 4, "layers": 1, "blocks": 2, "channels": 4}
        return cls.for_ports(ports, 6, **{**sizes, **settings})

    def plan(self) -> tuple[Ports, list[str], list[str], SimpleNamespace]:
        """Ports, observed slots, losses and all settings; raises RecipeError where settings and layout clash."""
        ports, layout = ports_of(self)
        seen = observed(ports, [slot.name for slot in layout.step])
        own = SimpleNamespace(**{n: v if (v := getattr(self, n)) is not None else d for n, d in PRESETS[self.preset].items()})
        check_ranges(self, {"unimix": (0, 1), "balance": (0, 1.0001), "free": (0, None)})
        check_ranges(self, dict.fromkeys(("size", "groups", "deter", "hidden", "layers", "embed", "channels"), (1, None)))
        check_ranges(self, {"classes": (2, None), "prior_layers": (1, None), "blocks": (1, None)})
        if self.ensemble:
            # One alone never disagrees.
            check_ranges(self, {"ensemble": (2, None)})
        divergences = ["dyn", "rep"] if own.kl_form == "each" else ["kl"]
        losses = check_losses(self.losses, layout, seen, [*divergences, *["ensemble"][: self.ensemble]])
        return ports, seen, losses, own


class Carry(NamedTuple):
    """What is known of B rows.

    Args:
        h: ``[B, D]``. s: ``[B, S]``. begun: ``[B]`` bool, whether anything was seen or imagined yet.
    """

    h: Tensor
    s: Tensor
    begun: Tensor


class RSSM(PreTrainedModel):
    """``forward`` for training; ``encode``, ``init``, ``observe``, ``step``, ``share`` and ``decode`` for living in it."""

    config_class = RSSMConfig
    base_model_prefix = "core"
    main_input_name = "batch"
    ANSWERS = ("screens.outs.", "outcomes.")
    JOINED = {
        "sensors.numbers.layers.0.": ("numbers",),
        "sensors.out.": ("pictures",),
        "core.cell.action.": ("action",),
        "members.inner.": ("action",),
    }
    differentiable = True

    def __init__(self, config: RSSMConfig) -> None:
        super().__init__(config)
        ports, seen, losses, self.own = config.plan()
        own, hidden, c = self.own, config.hidden, config
        self.losses, self.shown, embed = tuple(losses), [n for n in losses if n in seen], config.embed or hidden
        gaussian = own.latent == "gaussian"
        self.latents = Gaussians(c.size) if gaussian else Categoricals(c.groups, c.classes, own.unimix)
        form = (own.activation, own.norm)
        sizes = (hidden, c.layers, c.channels, *form, own.squash)
        self.action = ActionIn(ports)
        self.sensors = Sensors(ports, seen, embed, *sizes)
        recurrent = (own.gru, c.blocks, own.prior_layers, *form)
        self.core = Recurrence(self.latents, self.action.width, embed, c.deter, hidden, *recurrent)
        self.feat_width = c.deter + self.latents.width
        self.screens = Screens(ports, self.shown, self.feat_width, *sizes)
        heads = {n: FromFeat(self.latents, c.deter, hidden, c.layers, *form) for n in ("reward", "done") if n in losses}
        self.bodies = nn.ModuleDict(heads)
        made = {"reward": lambda w: Reward(ports, w, own.reward), "done": Continue}
        self.outcomes = nn.ModuleDict({n: made[n](body.width) for n, body in heads.items()})
        inputs = self.feat_width + self.action.width
        self.members = Members(c.ensemble, inputs, hidden, embed, own.activation) if c.ensemble else None
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        # Half of the layers have no norm, so the deviation follows their width to keep signals alive (LeCun et al. 1998).
        init_weights(module, getattr(module, "in_features", 1) ** -0.5)
        if isinstance(module, BlockLinear | FromLatent):
            init.normal_(module.weight, mean=0.0, std=module.weight.shape[-2] ** -0.5)
            if isinstance(module, BlockLinear):
                init.zeros_(module.bias)

    # ---- training ---------------------------------------------------------------------------------------------------

    def forward(self, batch: StreamBatch) -> Losses:
        """One term for each of ``losses``: ``[B, T + 1]`` of what is seen, ``[B, T]`` of what follows an action."""
        values, seen, acted = batch.values, batch.seen, batch.mask[:, :-1]
        embed, feat, raw_q = self._read(values)
        raw_p = self.core.prior(feat[..., : self.config.deter])
        terms = {n: (self.screens.loss(n, feat, batch.wanted(n)), seen) for n in self.shown}
        for name, head in self.outcomes.items():
            # What an action came to is told from where it led.
            terms[name] = (head.loss(self.bodies[name](feat[:, 1:]), batch.wanted(name)[:, :-1]), acted)
        parts = balanced(self.latents, raw_q, raw_p, self.own.free, self.own.kl_form, self.own.balance)
        terms |= {n: (value, seen) for n, value in parts.items()}
        if self.members is not None:
            inputs = torch.cat((feat[:, :-1], self.action(values["action"][:, :-1])), -1).detach()
            terms["ensemble"] = (self.members.loss(inputs, embed[:, 1:].detach()), acted)
        return Losses({n: terms[n] for n in self.losses})

    def counts(self, batch: StreamBatch) -> dict[str, Tensor]:
        """How many elements each term counts in ``batch``, scalars, without computing the terms."""
        seen, acted = batch.seen.sum(), batch.mask[:, :-1].sum()
        return {n: acted if n in ("reward", "done", "ensemble") else seen for n in self.losses}

    def predictions(self, batch: StreamBatch) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
        """What the likeliest latent of the prior shows of each next step: slot of numbers -> prediction and truth
        ``[B, T, A]``, and whether it counts ``[B, T]``."""
        h = self._read(batch.values)[1][:, 1:, : self.config.deter]
        feat = torch.cat((h, self.latents.draw(self.core.prior(h), sample=False)), -1)
        shown, acted = self.screens.show(feat), batch.mask[:, :-1]
        out = {n: (shown[n], batch.wanted(n)[:, 1:], acted) for n in self.shown if shown[n].dtype == torch.float32}
        if "reward" in self.outcomes and not (head := self.outcomes["reward"]).codes:
            zero, one = head.levels
            truth = zero + (one - zero) * batch.wanted("reward")[:, :-1]
            out["reward"] = (head.mean(self.bodies["reward"](feat))[..., None], truth, acted)
        return out

    def _read(self, values: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Windows to embeddings ``[B, T + 1, E]``, features ``[B, T + 1, F]`` and the posteriors' parameters."""
        embed = self.encode(values)
        before = F.pad(self.action(values["action"])[:, :-1], (0, 0, 1, 0))
        start = self.init(len(embed), 0)
        h, s, raw_q = self.core.scan(start.h, start.s, embed, before)
        return embed, torch.cat((h, s), -1), raw_q

    # ---- living in it -----------------------------------------------------------------------------------------------

    def encode(self, obs: dict[str, Tensor], sample: bool = True) -> Tensor:
        """Observed slots to embeddings ``[B, T, E]``; nothing is drawn here: the latent needs the memory too."""
        return self.sensors(obs)

    def init(self, rows: int, steps: int, front: dict[str, Tensor] | None = None) -> Carry:
        """The carry of ``rows`` episodes that have not begun: zeros. ``steps`` does not matter, for it never grows."""
        h = self.core.prior_out.weight.new_zeros(rows, self.config.deter)
        return Carry(h, h.new_zeros(rows, self.latents.width), torch.zeros(rows, dtype=torch.bool, device=h.device))

    def observe(self, carry: Carry, z: Tensor, prev_action: Tensor, sample: bool = True) -> tuple[Carry, Tensor]:
        """Takes in T real steps: embeddings ``[B, T, E]`` and the actions that led to each, to ``feat [B, T, F]``; without
        ``sample`` every latent is the posterior's likeliest, so that a policy answers the same twice."""
        action = self.action(heed(prev_action, carry.begun))
        first = action[:, :1] * carry.begun[:, None, None]
        h, s, _ = self.core.scan(carry.h, carry.s, z, torch.cat((first, action[:, 1:]), 1), sample)
        return Carry(h[:, -1], s[:, -1], torch.ones_like(carry.begun)), torch.cat((h, s), -1)

    def step(self, carry: Carry, action: Tensor, sample: bool = True, temperature: float = 1.0) -> tuple[Carry, Pred]:
        """Imagines one step; ``aux["disagreement"] [B]`` where there is an ensemble."""
        action = self.action(action)
        h, s = self.core.ahead(carry.h, carry.s, action, sample, temperature)
        feat = torch.cat((h, s), -1)
        aux = {}
        if self.members is not None:
            aux["disagreement"] = self.members.disagreement(torch.cat((carry.h, carry.s, action), -1))
        reward = self.outcomes["reward"].mean(self.bodies["reward"](feat))
        cont = torch.ones_like(reward)
        if "done" in self.outcomes:
            cont = self.outcomes["done"].probability(self.bodies["done"](feat))
        return Carry(h, s, torch.ones_like(carry.begun)), Pred(feat, feat, reward, cont, aux)

    def share(self, carry: Carry, candidates: int, steps: int) -> Carry:
        """Copies of each row, side by side: the past is in the memory, which is small."""
        return tree.repeat(carry, candidates)

    def decode(self, latent: Tensor) -> dict[str, Tensor]:
        """Features ``[..., F]`` to encoded values of the slots that are shown, slot -> ``[..., width]``."""
        return self.screens.show(latent)


Model = RSSM
Config = RSSMConfig
