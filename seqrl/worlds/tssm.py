"""The transformer state-space model of TransDreamer: a memory that looks back at everything, and a latent that is drawn.

The posterior sees one step alone, ``z_t ~ q(z_t | o_t)``, so that all latents of a window are drawn at once. A causal
transformer reads tokens of latent and action, ``h_{t+1} = f(z_{<=t}, a_{<=t})``, in one pass; the prior ``p(z_{t+1} |
h_{t+1})`` learns to foresee the next latent, and everything else reads both, ``feat = z + h`` side by side: the decoder, and
the outcome of an action, which is told from where the action led (Chen et al. 2022, arXiv 2202.09481). ``decoder: latent``
shows what is in the latent alone, as STORM does (Zhang et al. 2023, arXiv 2310.09615).

Otherwise than the authors' program: positions are rotary, so that keys in a cache stay true for ever and a full cache slides by
forgetting its oldest steps; imagining appends one token a step, and never computes the past again; dreams that begin at every
step of a window share its keys and values, and so do a planner's candidates. Memory is the last block's output, not that of all
blocks.

Letters: B rows, T environment steps, D width of memory, Z numbers of a latent, F = Z + D, S candidates.
"""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from seqrl.core.contracts import Losses, Ports, Pred
from seqrl.core.settings import check_ranges, config_for, ports_of
from seqrl.core.stream import StreamBatch
from seqrl.nn import shared
from seqrl.nn.init import init_weights
from seqrl.nn.kv import KVCache, slide
from seqrl.nn.latents import Categoricals, balanced
from seqrl.nn.linear import Linear
from seqrl.nn.mlp import Dense
from seqrl.nn.outcomes import Continue, Reward
from seqrl.nn.sensors import ActionIn, Screens, Sensors, heed, observed
from seqrl.nn.transformer import Transformer, TrunkConfig, family_config
from seqrl.worlds._losses import check_losses

AHEAD = True
LOSSES = ("kl", "dyn", "rep")


class TSSMConfig(PreTrainedConfig):
    """Settings of a TSSM; sizes are small ones (the paper: width 600, 6 layers, 8 heads of 64 numbers, hidden 600)."""

    model_type = "seqrl_tssm"
    attribute_map = {"hidden_size": "width", "num_hidden_layers": "layers", "num_attention_heads": "heads"}

    ports: dict | None = None
    """What the data look like (core.contracts.Ports as plain JSON)."""
    context_length: int = 50
    """Environment steps in a window; also the most that are remembered."""
    losses: list | tuple | None = None
    """Slots that are shown, outcomes and divergences that are trained; None means all there are."""
    body: Literal["gpt2", "llama", "qwen2", "qwen3"] = "llama"
    """Family of the trunk; positions are rotary in all of them."""
    width: int = 128
    """Numbers of a token and of memory (D)."""
    layers: int = 3
    """Blocks of the trunk."""
    heads: int = 4
    """Attention heads."""
    kv_heads: int | None = None
    """Heads of keys and values; None means as many as heads."""
    head_dim: int | None = None
    """Numbers in a head; None means width over heads."""
    inner: int | None = None
    """Hidden units of the feed-forward layer; None means 4 times the width, or 8/3 where it is gated."""
    dropout: float = 0.1
    """On tokens and residual branches."""
    attention_dropout: float = 0.0
    """On attention weights."""
    groups: int = 32
    """Categoricals of a latent."""
    classes: int = 32
    """Classes of each."""
    unimix: float = 0.01
    """Share of the uniform in each categorical."""
    hidden: int = 128
    """Units of every hidden layer outside the trunk."""
    head_layers: int = 2
    """Hidden layers of encoder, decoder and heads; the prior has one."""
    channels: int = 32
    """Channels of the first convolution over pictures."""
    decoder: Literal["feat", "latent"] = "feat"
    """What the decoder reads: latent and memory, or the latent alone, which must then hold all there is to see."""
    kl_form: Literal["joint", "each"] = "joint"
    """Divergence as one term kl, balanced, or as two, dyn and rep, which the recipe weighs."""
    balance: float = 0.8
    """Share of a joint divergence that moves the prior."""
    free: float = 1.0
    """Nats of a step's divergence that are free."""
    activation: Literal["relu", "elu", "silu", "gelu"] = "silu"
    """Activation of hidden layers outside the trunk."""
    norm: Literal["none", "layer", "rms"] = "rms"
    """Norm in front of each."""
    squash: bool = False
    """Whether numbers are seen and shown through symlog."""
    reward: Literal["mse", "twohot"] = "twohot"
    """How a reward that is a number is learned."""

    def __post_init__(self, **kwargs: Any) -> None:
        self.losses = None if self.losses is None else list(self.losses)
        super().__post_init__(**kwargs)

    @classmethod
    def for_ports(cls, ports: Ports, context: int, **settings: Any) -> "TSSMConfig":
        """The config for some data; raises RecipeError on an unknown setting or one that does not fit the layout."""
        config = config_for(cls, ports, context, settings)
        config.plan()
        return config

    @classmethod
    def tiny(cls, ports: Ports, **settings: Any) -> "TSSMConfig":
        """The smallest sensible one, for tests."""
        sizes = {"width": 16, "layers": 2, "heads": 2, "groups": 4, "classes": 4, "hidden": 16, "head_layers": 1, "channels": 4}
        return cls.for_ports(ports, 6, **{**sizes, "dropout": 0.0, **settings})

    def plan(self) -> tuple[Ports, list[str], list[str], TrunkConfig]:
        """Ports, observed slots, losses and the trunk; raises RecipeError where settings and layout clash."""
        ports, layout = ports_of(self)
        seen = observed(ports, [slot.name for slot in layout.step])
        check_ranges(self, dict.fromkeys(("dropout", "attention_dropout", "unimix"), (0, 1)))
        check_ranges(self, {"balance": (0, 1.0001), "free": (0, None), "head_layers": (0, None)})
        check_ranges(self, dict.fromkeys(("groups", "hidden", "channels"), (1, None)) | {"classes": (2, None)})
        divergences = ["dyn", "rep"] if self.kl_form == "each" else ["kl"]
        losses = check_losses(self.losses, layout, seen, divergences)
        sizes = {n: getattr(self, n) for n in ("width", "layers", "heads", "kv_heads", "head_dim", "inner")}
        drop = {"dropout": self.dropout, "attention_dropout": self.attention_dropout}
        return ports, seen, losses, family_config(self.body, positions="rotary", **sizes, **drop)


class Carry(NamedTuple):
    """What is known of B rows.

    Args:
        memory: the cache of tokens, each a latent and the action taken there; or, behind ``share`` and ``starts``, what each
            row holds beside a past that is kept once.
        z: ``[B, Z]`` the latent whose action is not known yet. begun: ``[B]`` bool, whether there is one.
    """

    memory: KVCache | shared.Shared
    z: Tensor
    begun: Tensor


class TSSM(PreTrainedModel):
    """``forward`` for training; ``encode``, ``init``, ``observe``, ``step``, ``share`` and ``decode`` for living in it.

    Nothing that is imagined has a gradient (``differentiable`` is false): caches are changed in place.
    """

    config_class = TSSMConfig
    base_model_prefix = "trunk"
    main_input_name = "batch"
    ANSWERS = ("screens.outs.", "outcomes.")
    JOINED = {"sensors.numbers.layers.0.": ("numbers",), "sensors.out.": ("pictures",), "token.layers.0.": ("action",)}
    _no_split_modules = ["Block"]
    differentiable = False

    def __init__(self, config: TSSMConfig) -> None:
        super().__init__(config)
        ports, seen, losses, trunk = config.plan()
        c, hidden, form = config, config.hidden, (config.activation, config.norm)
        self.losses, self.shown = tuple(losses), [n for n in losses if n in seen]
        self.latents = Categoricals(c.groups, c.classes, c.unimix)
        sizes = (hidden, c.head_layers, c.channels, *form, c.squash)
        self.action = ActionIn(ports)
        self.sensors = Sensors(ports, seen, self.latents.parameters, *sizes)
        self.token = Dense(self.latents.width + self.action.width, c.width, 1, *form)
        self.trunk = Transformer(trunk)
        self.start = nn.Parameter(torch.zeros(c.width))
        self.prior = nn.Sequential(Dense(c.width, hidden, 1, *form), Linear(hidden, self.latents.parameters))
        self.feat_width = self.latents.width + c.width
        self.screens = Screens(ports, self.shown, self.feat_width if c.decoder == "feat" else self.latents.width, *sizes)
        bodies = {n: Dense(self.feat_width, hidden, c.head_layers, *form) for n in ("reward", "done") if n in losses}
        self.bodies = nn.ModuleDict(bodies)
        made = {"reward": lambda w: Reward(ports, w, c.reward), "done": Continue}
        self.outcomes = nn.ModuleDict({n: made[n](body.width) for n, body in bodies.items()})
        # Forgetting several steps at a time turns each key fewer times.
        self.chunk = max(1, c.context_length // 8)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        # Not all layers stand in front of a norm, so the deviation follows their width to keep signals alive.
        init_weights(module, getattr(module, "in_features", 1) ** -0.5)

    # ---- training ---------------------------------------------------------------------------------------------------

    def _read(self, values: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Windows to features ``[B, T + 1, F]`` and the posteriors' parameters ``[B, T + 1, G * C]``."""
        raw_q = self.sensors(values)
        z = self.latents.draw(raw_q)
        y = self.trunk(self._tokens(z[:, :-1], values["action"][:, :-1]))
        return torch.cat((z, torch.cat((self._start(len(z))[:, None].to(y.dtype), y), 1)), -1), raw_q

    def _tokens(self, z: Tensor, action: Tensor) -> Tensor:
        return self.token(torch.cat((z, self.action(action)), -1))

    def _start(self, rows: int) -> Tensor:
        return self.start.expand(rows, -1)

    def forward(self, batch: StreamBatch) -> Losses:
        """One term for each of ``losses``: ``[B, T + 1]`` of what is seen, ``[B, T]`` of what follows an action, divergences
        included: the first latent of a window has no prior."""
        values, acted = batch.values, batch.mask[:, :-1]
        feat, raw_q = self._read(values)
        shown = self._shown(feat)
        terms = {n: (self.screens.loss(n, shown, batch.wanted(n)), batch.seen) for n in self.shown}
        for name, head in self.outcomes.items():
            terms[name] = (head.loss(self.bodies[name](feat[:, 1:]), batch.wanted(name)[:, :-1]), acted)
        raw_p = self.prior(feat[:, 1:, self.latents.width :])
        parts = balanced(self.latents, raw_q[:, 1:], raw_p, self.config.free, self.config.kl_form, self.config.balance)
        terms |= {n: (value, acted) for n, value in parts.items()}
        return Losses({n: terms[n] for n in self.losses})

    def counts(self, batch: StreamBatch) -> dict[str, Tensor]:
        """How many elements each term counts in ``batch``, scalars, without computing the terms."""
        seen, acted = batch.seen.sum(), batch.mask[:, :-1].sum()
        return {n: seen if n in self.shown else acted for n in self.losses}

    def predictions(self, batch: StreamBatch) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
        """What the likeliest latent of the prior shows of each next step: slot of numbers -> prediction and truth
        ``[B, T, A]``, and whether it counts ``[B, T]``; of the reward in its own units."""
        h = self._read(batch.values)[0][:, 1:, self.latents.width :]
        feat = torch.cat((self.latents.draw(self.prior(h), sample=False), h), -1)
        shown, acted = self.decode(feat), batch.mask[:, :-1]
        out = {n: (shown[n], batch.wanted(n)[:, 1:], acted) for n in self.shown if shown[n].dtype == torch.float32}
        head = self.outcomes["reward"]
        if not head.codes:
            zero, one = head.levels
            truth = zero + (one - zero) * batch.wanted("reward")[:, :-1]
            out["reward"] = (head.mean(self.bodies["reward"](feat))[..., None], truth, acted)
        return out

    # ---- living in it -----------------------------------------------------------------------------------------------

    def encode(self, obs: Mapping[str, Tensor], sample: bool = True) -> Tensor:
        """Observed slots to latents ``[B, T, Z]``: one-hot vectors, drawn (or the likeliest) from what each step shows."""
        return self.latents.draw(self.sensors(obs), sample)

    def init(self, rows: int, steps: int, front: Mapping[str, Tensor] | None = None) -> Carry:
        """The carry of ``rows`` episodes that have not begun; of more ``steps`` than a window has, the oldest are forgotten."""
        memory = self.trunk.init_cache(rows, min(max(steps - 1, 1), self.config.context_length))
        z = self.start.new_zeros(rows, self.latents.width)
        return Carry(memory, z, torch.zeros(rows, dtype=torch.bool, device=z.device))

    @torch.no_grad()
    def observe(self, carry: Carry, z: Tensor, prev_action: Tensor) -> tuple[Carry, Tensor]:
        """Takes in T real steps, latents ``[B, T, Z]`` and the actions that led to each, all at once if the cache has room."""
        before = torch.cat((carry.z[:, None], z[:, :-1]), 1)
        done = heed(prev_action, carry.begun)
        h = self._remember(carry.memory, self._tokens(before, done), carry.begun)
        h[:, 0] = torch.where(carry.begun[:, None], h[:, 0], self._start(len(z)))
        # A copy: later steps of the caller's must not keep all of these alive, nor be changed with them.
        return Carry(carry.memory, z[:, -1].clone(), torch.ones_like(carry.begun)), torch.cat((z, h), -1)

    def _remember(self, memory: KVCache | shared.Shared, x: Tensor, begun: Tensor) -> Tensor:
        """Feeds tokens ``[B, T, D]``, of rows that have not begun all but the first, and forgets the oldest where there is no
        room; what each gives, ``[B, T, D]``."""
        C, out = self.config.context_length, []
        apart = isinstance(memory, shared.Shared)
        while x.shape[1]:
            many = x.shape[1]
            # A memory that has less room than a window holds has it for a number of steps, and never forgets.
            if apart or memory.capacity == C:
                held = memory.held if apart else memory.length
                gone = (held >= C) * self.chunk
                many = min(many, C - int((held - gone).max()))
                if apart:
                    memory.forget(gone)
                else:
                    slide(memory, gone, self.trunk.config.rope_theta, self.trunk.config.head_dim)
            if apart:
                out.append(shared.extend(self.trunk, x[:, :many], memory))
            else:
                # The first token of a row that has not begun goes to position -1, where nobody sees it.
                places = memory.length[:, None] + torch.arange(many, device=x.device) - (~begun).long()[:, None]
                out.append(self.trunk.extend(x[:, :many], memory, places=places))
            x, begun = x[:, many:], torch.ones_like(begun)
        return out[0] if len(out) == 1 else torch.cat(out, 1)

    @torch.no_grad()
    def step(self, carry: Carry, action: Tensor, sample: bool = True, temperature: float = 1.0) -> tuple[Carry, Pred]:
        """Imagines one step: one token more in the memory."""
        x = self._tokens(carry.z[:, None], action[:, None])
        h = self._remember(carry.memory, x, torch.ones_like(carry.begun))[:, 0]
        z = self.latents.draw(self.prior(h), sample, temperature)
        feat = torch.cat((z, h), -1)
        reward = self.outcomes["reward"].mean(self.bodies["reward"](feat))
        cont = torch.ones_like(reward)
        if "done" in self.outcomes:
            cont = self.outcomes["done"].probability(self.bodies["done"](feat))
        return Carry(carry.memory, z, torch.ones_like(carry.begun)), Pred(feat, feat, reward, cont)

    @torch.no_grad()
    def share(self, carry: Carry, candidates: int, steps: int) -> Carry:
        """S continuations of each row over one copy of its past (nn/shared.py)."""
        memory = carry.memory
        if isinstance(memory, KVCache):
            memory = shared.go_on(memory, 0, torch.arange(len(memory.length), device=memory.length.device))
        z, begun = (t.repeat_interleave(candidates, 0) for t in carry[1:])
        return Carry(shared.spread(memory, candidates, steps), z, begun)

    @torch.no_grad()
    def starts(self, z: Tensor, actions: Tensor, lengths: Tensor, steps: int) -> tuple[Carry, Tensor]:
        """A dream from every step of some windows at once, each knowing what came before it in its window; keys and values of
        a window are kept once.

        Args:
            z: ``[B, T, Z]`` of ``encode``. actions: ``[B, T, A]``, taken at each step (the last is not looked at).
            lengths: ``[B]`` observations of each row; what begins behind them is finite and means nothing.
            steps: the most steps each will be imagined on.

        Returns:
            the carry of ``B * T`` rows, those of a window side by side, and ``feat [B * T, F]``.
        """
        B, T = z.shape[:2]
        cache = self.trunk.init_cache(B, max(T - 1, 1))
        h = self._start(B)[:, None]
        if T > 1:
            h = torch.cat((h, self.trunk.extend(self._tokens(z[:, :-1], actions[:, :-1]), cache)), 1)
        step = torch.arange(T, device=z.device).expand(B, T)
        known = torch.where(step < lengths[:, None], step, 0).flatten()
        owner = torch.arange(B, device=z.device).repeat_interleave(T)
        memory = shared.go_on(cache, steps, owner, known)
        begun = torch.ones(B * T, dtype=torch.bool, device=z.device)
        return Carry(memory, z.flatten(0, 1).clone(), begun), torch.cat((z, h), -1).flatten(0, 1)

    def _shown(self, feat: Tensor) -> Tensor:
        return feat if self.config.decoder == "feat" else feat[..., : self.latents.width]

    def decode(self, latent: Tensor) -> dict[str, Tensor]:
        """Features ``[..., F]`` to encoded values of the slots that are shown, slot -> ``[..., width]``."""
        return self.screens.show(self._shown(latent))


Model = TSSM
Config = TSSMConfig
