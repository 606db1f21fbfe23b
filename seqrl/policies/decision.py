"""Decision Transformer: acting as sequence modelling (Chen et al. 2021, arXiv 2106.01345).

A row is ``R_0 s_0 a_0 R_1 s_1 a_1 ...``, one token for each slot of a step; the action is read at the token in front of it,
the state. Ask for a large return in the first token and the model answers the actions of those who got it. Any layout whose
steps end in the action will do: without ``return`` it is behaviour cloning as a sequence. Actions are learned by squared
error (the paper), as a Gaussian (Online Decision Transformer, Zheng et al. 2022, arXiv 2202.05607), or, where they are
codes, by cross-entropy.

Letters: B rows, T environment steps, W tokens in a step, D width, A numbers (or codes) of an action.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from seqrl.core.contracts import Losses, Ports
from seqrl.core.errors import RecipeError
from seqrl.core.layout import Layout
from seqrl.core.settings import check_ranges, config_for, ports_of
from seqrl.core.stream import StreamBatch
from seqrl.nn.embed import SlotEmbedding
from seqrl.nn.heads import Point, make_head
from seqrl.nn.init import init_weights
from seqrl.nn.transformer import Transformer, TrunkConfig, family_config
from seqrl.policies._cache import StepCache
from seqrl.policies._ports import check_losses


class DecisionTransformerConfig(PreTrainedConfig):
    """Settings of a Decision Transformer; the defaults are the paper's for locomotion."""

    model_type = "seqrl_decision"
    attribute_map = {"hidden_size": "width", "num_hidden_layers": "layers", "num_attention_heads": "heads"}

    ports: dict | None = None
    """What the data look like (core.contracts.Ports as plain JSON)."""
    context_length: int = 20
    """Environment steps in a window (K in the paper)."""
    body: Literal["gpt2", "llama", "qwen2", "qwen3"] = "gpt2"
    """Family of the trunk."""
    width: int = 128
    """Numbers in a token's vector."""
    layers: int = 3
    """Blocks of the trunk."""
    heads: int = 1
    """Attention heads."""
    kv_heads: int | None = None
    """Heads of keys and values; None means as many as heads."""
    inner: int | None = None
    """Hidden units of the feed-forward layer; None means 4 times the width, or 8/3 where it is gated."""
    activation: str | None = None
    """Activation of the feed-forward layer; None means relu for gpt2 (as in the paper) and silu for the others."""
    time: Literal["learned", "rotary"] = "learned"
    """How time is told: a learned vector for each step of the episode, or only distances, by rotary positions."""
    max_time: int = 4096
    """Steps the learned table of time has; later steps share its last entry."""
    dropout: float = 0.1
    """On embeddings and residual branches."""
    attention_dropout: float | None = None
    """On attention weights; None means the same as dropout."""
    head: Literal["tanh_mse", "gaussian"] = "tanh_mse"
    """How continuous actions are learned; actions made of codes always take cross-entropy."""
    squash: Literal["tanh", "clip"] = "tanh"
    """How a Gaussian head keeps to bounds; clip suits data with many actions exactly on them."""
    entropy: float = 0.0
    """Weight of the entropy bonus of a Gaussian head."""
    losses: list | tuple = ("action",)
    """Slots that are trained; each gets a head, which reads the token in front of the slot."""
    init_std: float = 0.02
    """Standard deviation of the initial weights."""

    def __post_init__(self, **kwargs: Any) -> None:
        self.losses = list(self.losses)
        super().__post_init__(**kwargs)

    @classmethod
    def for_ports(cls, ports: Ports, context: int, **settings: Any) -> "DecisionTransformerConfig":
        """The config for some data; raises RecipeError on an unknown setting or one that does not fit the layout."""
        config = config_for(cls, ports, context, settings)
        config.plan()
        return config

    @classmethod
    def tiny(cls, ports: Ports) -> "DecisionTransformerConfig":
        """The smallest sensible one, for tests."""
        return cls.for_ports(ports, 4, width=16, layers=2, heads=2, max_time=64)

    def plan(self) -> tuple[Ports, Layout, TrunkConfig]:
        """What the model is built from; raises RecipeError where settings and layout clash."""
        ports, layout = ports_of(self)
        fed = [slot.name for slot in layout.step]
        if fed[-1] != "action" or len(fed) < 2:
            raise RecipeError(f"layout '{layout}': a step must end in 'action', with something to read it from in front")
        check_losses(self.losses, layout)
        chance = (0, 1)
        check_ranges(self, {"dropout": chance, "attention_dropout": chance, "entropy": (0, None), "init_std": (0, None)})
        check_ranges(self, {"max_time": (1, None)})
        gpt2 = self.body == "gpt2"
        trunk = family_config(
            self.body,
            width=self.width,
            layers=self.layers,
            heads=self.heads,
            kv_heads=self.kv_heads,
            inner=self.inner,
            activation=self.activation or ("relu" if gpt2 else None),
            positions=("none" if self.time == "learned" else "rotary") if gpt2 else None,
            dropout=self.dropout,
            attention_dropout=self.dropout if self.attention_dropout is None else self.attention_dropout,
        )
        return ports, layout, trunk


class DecisionTransformer(PreTrainedModel):
    """``forward`` for training, ``act`` for playing."""

    config_class = DecisionTransformerConfig
    base_model_prefix = "trunk"
    main_input_name = "batch"
    _no_split_modules = ["Block"]

    def __init__(self, config: DecisionTransformerConfig) -> None:
        super().__init__(config)
        ports, self.layout, trunk = config.plan()
        self.fed = [slot.name for slot in self.layout.step]
        self.losses = tuple(config.losses)
        self.embed = SlotEmbedding(ports, self.fed, config.width)
        self.embed_time = nn.Embedding(config.max_time, config.width) if config.time == "learned" else None
        self.embed_norm = nn.LayerNorm(config.width)
        self.trunk = Transformer(trunk)
        own = {"kind": config.head, "squash": config.squash, "entropy": config.entropy}
        self.heads = nn.ModuleDict(
            {name: make_head(ports, name, config.width, **(own if name == "action" else {})) for name in self.losses}
        )
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        init_weights(module, self.config.init_std)

    def _tokens(self, batch: StreamBatch, order: Sequence[str], time: Tensor) -> Tensor:
        """``[B, T*W, D]``; ``time`` is ``[B, T, 1]``, or ``[B, T, W]`` where tokens of one block differ in it."""
        x = torch.stack(self.embed(batch.values, order), 2)
        if self.embed_time is not None:
            x = x + self.embed_time(time.clamp(0, self.config.max_time - 1))
        return self.embed_norm(x).flatten(1, 2)

    def _read(self, batch: StreamBatch) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
        """For each slot of ``losses``: what its head reads ``[B, T, D]``, what it should say, which steps are real ``[B, T]``.

        A slot that stands first in its step is predicted at the end of the step before, so there T is one less.
        """
        T, W = batch.time.shape[1], len(self.fed)
        x = self._tokens(batch, self.fed, batch.time[..., None])
        at = {name: self.layout.reader(name) for name in self.losses}
        if list(at) == ["action"]:
            # One token a step is read, and nothing reads the action that ends the row.
            y = {"action": self.trunk(x[:, : T * W - 1], read=slice(at["action"], None, W))}
        else:
            y = self.trunk(x).unflatten(1, (T, W))
            y = {name: y[:, :, i] if i >= 0 else y[:, :-1, W + i] for name, i in at.items()}
        skip = {name: 1 if i < 0 else 0 for name, i in at.items()}
        return {n: (y[n], batch.wanted(n)[:, skip[n] :], batch.mask[:, skip[n] :]) for n in self.losses}

    def forward(self, batch: StreamBatch) -> Losses:
        """One term for each slot of ``losses``, over real steps only; the action's is ``[B, T, A]`` (or ``[B, T, 1]``)."""
        terms = {}
        for name, (y, wanted, mask) in self._read(batch).items():
            value = self.heads[name].loss(y, wanted)
            terms[name] = (value, mask[..., None].expand_as(value))
        return Losses(terms)

    @torch.no_grad()
    def predictions(self, batch: StreamBatch) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
        """What the heads of continuous slots other than the action foresee, one step ahead, in encoded units.

        Returns:
            slot -> prediction ``[B, T, A]``, truth ``[B, T, A]``, real steps ``[B, T]`` bool; T as in the loss.
        """
        seen = {n for n in self.losses if n != "action" and isinstance(self.heads[n], Point)}
        read = self._read(batch) if seen else {}
        return {n: (self.heads[n](y).float(), w, m) for n, (y, w, m) in read.items() if n in seen}

    def counts(self, batch: StreamBatch) -> dict[str, Tensor]:
        """How many elements each term of ``forward`` counts in ``batch``, scalars, without computing the terms."""
        skip = {name: 1 if self.layout.reader(name) < 0 else 0 for name in self.losses}
        return {name: batch.mask[:, skip[name] :].sum() * self.heads[name].terms for name in self.losses}

    def init_cache(self, rows: int, steps: int) -> StepCache:
        """An empty cache with room for ``steps`` steps of ``rows`` environments."""
        kv = self.trunk.init_cache(rows, steps * len(self.fed) - 1)
        return StepCache(kv, torch.zeros_like(kv.length), torch.zeros_like(kv.length))

    @torch.inference_mode()
    def act(
        self,
        batch: StreamBatch,
        cache: StepCache | None = None,
        sample: bool = False,
        uniform: Tensor | None = None,
        temperature: float = 1.0,
    ) -> dict[str, Tensor]:
        """The action of the last real step of each row.

        Args:
            batch: without a cache the whole window ``[B, T, ...]``, whose last real action is not looked at. With one, a
                single step ``[B, 1, ...]`` in which ``action`` is that of the step *before*; it is not looked at in rows
                whose cache is empty.
            cache: of B rows; it moves on by one step.
            sample, uniform, temperature: as in ``nn.heads``; ``uniform`` is ``[B, A]``.

        Returns:
            ``{"action": [B, A]}``, float32 or codes.

        Raises:
            ValueError: the cache is full (on CPU), or ``uniform`` is missing.
        """
        W = len(self.fed)
        if cache is None:
            x = self._tokens(batch, self.fed, batch.time[..., None])
            y = self.trunk(x[:, :-1], read=batch.length[:, None] * W - 2)
        else:
            known = (cache.steps > 0)[:, None, None]
            before = batch.values["action"].where(known, batch.values["action"].new_zeros(()))
            time = batch.time[..., None] - (torch.arange(W, device=batch.time.device) == 0).long()
            step = StreamBatch({**batch.values, "action": before}, batch.time, batch.length)
            x = self._tokens(step, [*self.fed[-1:], *self.fed[:-1]], time)
            y = self.trunk.extend(x, cache.kv, cache.steps * W - 1, read=slice(-1, None))
            cache.steps.add_(1)
        return {"action": self.heads["action"].answer(y[:, 0], sample, uniform, temperature)}

    @torch.inference_mode()
    def refill(self, batch: StreamBatch, cache: StepCache, rows: Tensor) -> None:
        """Forgets what the cache holds of ``rows`` and reads steps anew; an ``act`` with the last action goes on from them.

        Args:
            batch: ``[R, T, ...]``; the action of each row's last real step is not looked at.
            cache: of B rows. rows: ``[R]`` indices, each at most once.
        """
        x = self._tokens(batch, self.fed, batch.time[..., None])[:, :-1]
        self.trunk.fill(x, cache.kv, rows, batch.length * len(self.fed) - 1)
        cache.steps[rows] = batch.length


Model = DecisionTransformer
Config = DecisionTransformerConfig
