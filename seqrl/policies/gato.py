"""Gato: one model, one stream of tokens, many tasks (Reed et al. 2022, arXiv 2205.06175).

A row is packed with spans of episodes from any number of domains, each with a layout of its own: ``task | image state action``
for one, ``state separator action`` for another. Every code, every image patch and every word is a token; a token is predicted
from the one in front of it, over the range of ids of its own slot. The paper trains action and text tokens; which slots are
trained is the recipe's choice, and with observations among them the same model is a world model of its data.

As in the paper: a shared vocabulary, patches through one residual block, places numbered within the step, prompts. Otherwise by
default: each domain has place vectors of its own (``places: own``), which tell the domain without a prompt. Continuous actions
may be codes (``bins``, ``mulaw``) or numbers with a head of their own.

Letters: B rows, L tokens in a row, D width.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Literal

from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from seqrl.core.contracts import Losses, Ports
from seqrl.core.errors import RecipeError
from seqrl.core.packed import PackedBatch
from seqrl.core.settings import check_ranges, check_settings
from seqrl.nn.init import init_weights
from seqrl.nn.ranges import RangeHead
from seqrl.nn.streamheads import StreamHeads, stream_losses
from seqrl.nn.streams import Domain, StreamEmbedding
from seqrl.nn.transformer import Transformer, TrunkConfig, family_config
from seqrl.policies._player import Player
from seqrl.policies._ports import check_domains

PACKED = True


class GatoConfig(PreTrainedConfig):
    """Settings of Gato; the defaults are a small one's (the paper's smallest has 8 layers of 768)."""

    model_type = "seqrl_gato"
    attribute_map = {"hidden_size": "width", "num_hidden_layers": "layers", "num_attention_heads": "heads"}

    ports: dict | None = None
    """What the data of each domain look like (domain -> core.contracts.Ports as plain JSON)."""
    length: int = 1024
    """Tokens in a row (L)."""
    body: Literal["gpt2", "llama", "qwen2", "qwen3"] = "llama"
    """Family of the trunk; gpt2 has learned positions, the others rotary ones."""
    width: int = 128
    """Numbers in a token's vector."""
    layers: int = 3
    """Blocks of the trunk."""
    heads: int = 4
    """Attention heads."""
    kv_heads: int | None = None
    """Heads of keys and values; None means as many as heads."""
    inner: int | None = None
    """Hidden units of the feed-forward layer; None means 4 times the width, or 8/3 where it is gated."""
    activation: str | None = None
    """Activation of the feed-forward layer; None means the family's."""
    rope_base: float | None = None
    """Base of the rotary angles, where the body has them; None means 10,000. Stages of longer rows raise it."""
    dropout: float = 0.1
    """On embeddings and residual branches."""
    attention_dropout: float = 0.0
    """On attention weights; above 0 the fused kernels cannot be used on a CPU."""
    vocabulary: Literal["shared", "own"] = "shared"
    """Whether slots that speak the same codes share ids and vectors (the paper), or every token of a slot has its own."""
    places: Literal["own", "shared"] = "own"
    """Vectors for the places within a step: each domain's own, or one list for all (the paper)."""
    head: Literal["tanh_mse", "gaussian"] = "tanh_mse"
    """How continuous actions are learned; actions made of codes always take cross-entropy."""
    squash: Literal["tanh", "clip"] = "tanh"
    """How a Gaussian head keeps to bounds; clip suits data with many actions exactly on them."""
    entropy: float = 0.0
    """Weight of the entropy bonus of a Gaussian head."""
    losses: list | tuple = ("action",)
    """Slots that are trained, in the domains that have them."""
    init_std: float = 0.02
    """Standard deviation of the initial weights of matrices."""
    embed_std: float = 0.02
    """Standard deviation of the initial vectors of codes, places and cells; larger ones are told apart sooner."""

    def __post_init__(self, **kwargs: Any) -> None:
        self.losses = list(self.losses)
        super().__post_init__(**kwargs)

    @classmethod
    def for_domains(cls, ports: Mapping[str, Ports], length: int, **settings: Any) -> "GatoConfig":
        """The config for some domains and rows of ``length`` tokens; raises RecipeError where settings do not fit."""
        check_settings(cls, settings)
        config = cls(ports={n: asdict(p) for n, p in ports.items()}, length=length, **settings)
        config.plan()
        return config

    @classmethod
    def tiny(cls, ports: Mapping[str, Ports], length: int = 96, **settings: Any) -> "GatoConfig":
        """The smallest sensible one, for tests."""
        return cls.for_domains(ports, length, **{"width": 32, "layers": 2, "heads": 2, **settings})

    def plan(self) -> tuple[dict[str, Domain], TrunkConfig]:
        """What the model is built from; raises RecipeError where settings and layouts clash."""
        domains = check_domains(self)
        chance = (0, 1)
        check_ranges(
            self,
            {
                "dropout": chance,
                "attention_dropout": chance,
                "entropy": (0, None),
                "rope_base": (1, None),
                "init_std": (0, None),
                "embed_std": (0, None),
            },
        )
        trunk = family_config(
            self.body,
            width=self.width,
            layers=self.layers,
            heads=self.heads,
            kv_heads=self.kv_heads,
            inner=self.inner,
            activation=self.activation,
            max_positions=self.length,
            rope_theta=self.rope_base,
            dropout=self.dropout,
            attention_dropout=self.attention_dropout,
        )
        return domains, trunk


class Gato(PreTrainedModel):
    """``forward`` for training; ``player(domain)`` is the policy of one domain."""

    config_class = GatoConfig
    base_model_prefix = "trunk"
    main_input_name = "batch"
    _no_split_modules = ["Block"]

    def __init__(self, config: GatoConfig) -> None:
        super().__init__(config)
        self.domains, trunk = config.plan()
        self.losses = tuple(config.losses)
        self.embed = StreamEmbedding(self.domains, config.width, config.vocabulary == "shared", config.places)
        self.trunk = Transformer(trunk)
        codes = RangeHead(self.embed.total, config.width)
        own = {"kind": config.head, "squash": config.squash, "entropy": config.entropy}
        self.heads = StreamHeads(self.domains, self.losses, self.embed.ranges, codes, config.width, **own)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        init_weights(module, self.config.embed_std if isinstance(module, nn.Embedding) else self.config.init_std)

    def forward(self, batch: PackedBatch) -> Losses:
        """One flat term for each slot of ``losses``, over all domains that have it; weights as the batch says."""
        return stream_losses(self, batch)

    def counts(self, batch: PackedBatch) -> dict[str, Tensor]:
        """What each term of ``forward`` counts in ``batch``, scalars, without computing the terms."""
        return self.heads.counts(batch)

    def player(self, domain: str) -> Player:
        """The policy of one domain; raises RecipeError where there is none of that name."""
        if domain not in self.domains:
            raise RecipeError(f"this model has no domain '{domain}' (it has {', '.join(self.domains)})")
        return Player(self, domain)


Model = Gato
Config = GatoConfig
