"""A world of tokens: pictures, actions and what comes of them as one stream, foreseen token after token.

IRIS (Micheli et al. 2023, arXiv 2209.00588) and GAIA-1 (Hu et al. 2023, arXiv 2309.17080): ``task | image action > reward
done``. What is observed stands in the stream as codes (a picture as the K tokens of a ``vq`` codec, numbers as bins, choices as
they are), each code is learned from all in front of it, and reward and termination are read at the action. The next picture is
then said code after code, as a language model says words; a text in front, if the layout has one, says which world it is.

Otherwise than in IRIS: positions are rotary, so a dream may go on for ever by forgetting its oldest steps instead of all of
them; a frame takes K passes instead of K + 1, for the last code of a frame is fed together with the action after it; and actors
read what the trunk says of a frame (see ``worlds._tokens``), so no frame is decoded but those somebody wants to look at.

Letters: L tokens in a row, K tokens of what is observed in a step, V codes, D width.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Literal

from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from seqrl.core.contracts import Losses, Ports
from seqrl.core.errors import RecipeError, did_you_mean
from seqrl.core.packed import PackedBatch
from seqrl.core.settings import check_ranges, check_settings
from seqrl.nn.init import init_weights
from seqrl.nn.ranges import RangeHead
from seqrl.nn.streamheads import StreamHeads, stream_losses
from seqrl.nn.streams import Domain, StreamEmbedding
from seqrl.nn.transformer import Transformer, TrunkConfig, family_config
from seqrl.worlds._token_ports import Amount, check_worlds
from seqrl.worlds._tokens import TokenWorld

PACKED = True


class AutoregressiveConfig(PreTrainedConfig):
    """Settings of the token world; the defaults suit a game on one core (IRIS has 10 layers of 256)."""

    model_type = "seqrl_autoregressive"
    attribute_map = {"hidden_size": "width", "num_hidden_layers": "layers", "num_attention_heads": "heads"}

    ports: dict | None = None
    """What the data of each domain look like (domain -> core.contracts.Ports as plain JSON)."""
    length: int = 512
    """Tokens in a row (L)."""
    body: Literal["gpt2", "llama", "qwen2", "qwen3"] = "llama"
    """Family of the trunk; gpt2 has learned positions, with which a full context cannot slide, the others rotary ones."""
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
    """Whether a slot's tokens have one list of vectors, as patches of one codebook want it, or every token its own."""
    reward: Literal["twohot", "mse"] = "twohot"
    """How rewards that are numbers are learned; those of codes (codec levels) take cross-entropy."""
    losses: list | tuple = ("image", "reward", "done")
    """Slots that are trained: all that is observed, and reward and done."""
    remember: int | None = None
    """Steps a dream looks back on before it forgets the oldest; None means as many as the documents of training hold."""
    forget: int | None = None
    """Steps forgotten at once when as many are held as are remembered; None means an eighth of them."""
    top_k: int | None = None
    """In dreams only so many of the likeliest codes are drawn; None for all."""
    guess: int = 1
    """Dreams of at most so many rows say a frame in few passes by guessing it is the last one again; 0 for none."""
    init_std: float = 0.02
    """Standard deviation of the initial weights of matrices."""
    embed_std: float = 0.02
    """Standard deviation of the initial vectors of codes and places; larger ones are told apart sooner."""

    def __post_init__(self, **kwargs: Any) -> None:
        self.losses = list(self.losses)
        super().__post_init__(**kwargs)

    @classmethod
    def for_domains(cls, ports: Mapping[str, Ports], length: int, **settings: Any) -> "AutoregressiveConfig":
        """The config for some domains and rows of ``length`` tokens; raises RecipeError where settings do not fit."""
        check_settings(cls, settings)
        config = cls(ports={n: asdict(p) for n, p in ports.items()}, length=length, **settings)
        config.plan()
        return config

    @classmethod
    def tiny(cls, ports: Mapping[str, Ports], length: int = 96, **settings: Any) -> "AutoregressiveConfig":
        """The smallest sensible one, for tests; it is trained on all that its layouts have behind the prefix, but actions."""
        domains = [Domain(n, p) for n, p in ports.items()]
        losses = dict.fromkeys(s for d in domains for s in (*d.step, *d.readout) if s != "action")
        sizes = {"width": 32, "layers": 2, "heads": 2, "dropout": 0.0, "remember": 32, "losses": list(losses)}
        return cls.for_domains(ports, length, **{**sizes, **settings})

    def plan(self) -> tuple[dict[str, Domain], TrunkConfig]:
        """What the model is built from; raises RecipeError where settings and layouts clash."""
        domains = check_worlds(self)
        chance, count = (0, 1), (1, None)
        check_ranges(
            self,
            {
                "dropout": chance,
                "attention_dropout": chance,
                "remember": count,
                "forget": count,
                "top_k": count,
                "guess": (0, None),
            },
        )
        check_ranges(self, {"rope_base": (1, None), "init_std": (0, None), "embed_std": (0, None)})
        if self.remember and self.forget and self.forget >= self.remember:
            raise RecipeError(
                f"model.forget={self.forget}: fewer steps than model.remember={self.remember}, or nothing is left"
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


class Autoregressive(PreTrainedModel):
    """``forward`` for training; ``world(domain)`` is what one dreams in."""

    config_class = AutoregressiveConfig
    base_model_prefix = "trunk"
    main_input_name = "batch"
    _no_split_modules = ["Block"]

    def __init__(self, config: AutoregressiveConfig) -> None:
        super().__init__(config)
        self.domains, trunk = config.plan()
        self.losses = tuple(config.losses)
        self.embed = StreamEmbedding(self.domains, config.width, config.vocabulary == "shared")
        self.trunk = Transformer(trunk)
        codes = RangeHead(self.embed.total, config.width)
        self.heads = StreamHeads(self.domains, self.losses, self.embed.ranges, codes, config.width)
        for name, domain in self.domains.items():
            if not domain.ports.vocabs["reward"]:
                self.heads.numbers[f"{name}-reward"] = Amount(config.width, config.reward)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        init_weights(module, self.config.embed_std if isinstance(module, nn.Embedding) else self.config.init_std)

    def forward(self, batch: PackedBatch) -> Losses:
        """One flat term for each slot of ``losses``, over all domains that have it; weights as the batch says."""
        return stream_losses(self, batch)

    def counts(self, batch: PackedBatch) -> dict[str, Tensor]:
        """What each term of ``forward`` counts in ``batch``, scalars, without computing the terms."""
        return self.heads.counts(batch)

    def world(self, domain: str, **settings: Any) -> TokenWorld:
        """The world model of one domain.

        Args:
            domain: its name.
            settings: ``remember``, ``forget``, ``top_k``, ``guess``, where they are to be otherwise than the config says.

        Raises:
            RecipeError: there is no such domain.
        """
        if domain not in self.domains:
            known = ", ".join(self.domains)
            raise RecipeError(f"this model has no domain '{domain}'{did_you_mean(domain, self.domains)} (it has {known})")
        return TokenWorld(self, domain, **settings)


Model = Autoregressive
Config = AutoregressiveConfig
