"""Trajectory Transformer: a model of all that happens, planned with by beam search (Janner et al. 2021, arXiv 2106.02039).

Every number of a transition is a token, ``state action reward``, in bins that hold equally many values (``{kind: bins,
bins: 100, spacing: quantile}``), and each is learned from all in front of it. The return-to-go is read out at the end of the
step, ``> return``, and never fed; in the paper it is a token that no other may look at, which is the same thing. Acting is
planning: see policies/_beam.py for the search. With ``horizon: 0`` the model acts by what it learned of actions alone, which
is cloning.

A packed row holds documents of at most ``tokens.context`` transitions (10 in the paper), and a plan has to end within as many,
for the places beyond were never trained. The paper instead forgets the oldest transitions as it imagines new ones, which would
move all others to new places, so that nothing could be remembered: about forty times the work.

Letters: L tokens in a row, V codes, D width.
"""

from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from typing import Any, Literal

import torch
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
from seqrl.policies._beam import Plan
from seqrl.policies._planner import Planner, check_plan, unplannable
from seqrl.policies._ports import check_domains

PACKED = True


class TrajectoryConfig(PreTrainedConfig):
    """Settings of the Trajectory Transformer; sizes are the paper's (appendix A), plans those of its cheapest tasks."""

    model_type = "seqrl_trajectory"
    attribute_map = {"hidden_size": "width", "num_hidden_layers": "layers", "num_attention_heads": "heads"}

    ports: dict | None = None
    """What the data of each domain look like (domain -> core.contracts.Ports as plain JSON)."""
    length: int = 512
    """Tokens in a row (L)."""
    body: Literal["gpt2", "llama", "qwen2", "qwen3"] = "gpt2"
    """Family of the trunk; gpt2 has learned positions, the others rotary ones."""
    width: int = 128
    """Numbers in a token's vector."""
    layers: int = 4
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
    attention_dropout: float | None = None
    """On attention weights; None means the same as dropout."""
    losses: list | tuple = ("state", "action", "reward", "return")
    """Slots that are trained; planning needs all of them."""
    init_std: float = 0.02
    """Standard deviation of the initial weights of matrices."""
    embed_std: float = 0.02
    """Standard deviation of the initial vectors of codes and places; larger ones are told apart sooner."""
    look_back: int = 5
    """Transitions a plan begins from, the present one among them."""
    horizon: int = 5
    """Transitions a plan holds; 0 does not plan, but does what the data did."""
    beam: int = 32
    """Candidates that are kept after each imagined transition."""
    expand: int = 2
    """Ways in which each of them is continued."""
    cdf_action: float = 0.6
    """Share of the probability, held by the least likely codes, that is never drawn while planning."""
    top_action: int | None = None
    """Only so many of the likeliest codes of an action are drawn while planning; None for all."""
    states: Literal["likeliest", "drawn"] = "likeliest"
    """How the codes of imagined states are chosen."""
    values: Literal["mean", "likeliest"] = "mean"
    """What rewards and returns of a plan count: the mean of what their bins mean, or the likeliest bin."""

    def __post_init__(self, **kwargs: Any) -> None:
        self.losses = list(self.losses)
        super().__post_init__(**kwargs)

    @classmethod
    def for_domains(cls, ports: Mapping[str, Ports], length: int, **settings: Any) -> "TrajectoryConfig":
        """The config for some domains and rows of ``length`` tokens; raises RecipeError where settings do not fit."""
        check_settings(cls, settings)
        config = cls(ports={n: asdict(p) for n, p in ports.items()}, length=length, **settings)
        config.plan()
        return config

    @classmethod
    def tiny(cls, ports: Mapping[str, Ports], length: int = 96, **settings: Any) -> "TrajectoryConfig":
        """The smallest sensible one, for tests; it plans where the layouts allow it."""
        domains = {n: Domain(n, p) for n, p in ports.items()}
        losses = [n for n in ("state", "action", "reward", "return") if any(n in d.slots for d in domains.values())]
        plans = not any(unplannable(d, losses) for d in domains.values())
        sizes = {"width": 32, "layers": 2, "heads": 2, "beam": 4, "look_back": 2, "horizon": 2 if plans else 0}
        return cls.for_domains(ports, length, **{**sizes, "losses": losses, **settings})

    def search(self) -> Plan:
        """How it plans; raises RecipeError on numbers that cannot be."""
        counts = {"look_back": (1, None), "horizon": (0, None), "beam": (1, None), "expand": (1, None), "top_action": (1, None)}
        check_ranges(self, {**counts, "cdf_action": (0, 1)})
        for name in counts:
            if (value := getattr(self, name)) is not None and value != int(value):
                raise RecipeError(f"model.{name}: a whole number (got {value!r})")
        return Plan(**{f.name: getattr(self, f.name) for f in fields(Plan)})

    def plan(self) -> tuple[dict[str, Domain], TrunkConfig]:
        """What the model is built from; raises RecipeError where settings and layouts clash."""
        domains, plan = check_domains(self), self.search()
        chances = {"dropout": (0, 1), "attention_dropout": (0, 1)}
        check_ranges(self, {**chances, "rope_base": (1, None), "init_std": (0, None), "embed_std": (0, None)})
        for domain in domains.values():
            check_plan(plan, domain, self.losses, self.length)
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
            attention_dropout=self.dropout if self.attention_dropout is None else self.attention_dropout,
        )
        return domains, trunk


class TrajectoryTransformer(PreTrainedModel):
    """``forward`` for training; ``player(domain)`` plans in one domain."""

    config_class = TrajectoryConfig
    base_model_prefix = "trunk"
    main_input_name = "batch"
    _no_split_modules = ["Block"]

    def __init__(self, config: TrajectoryConfig) -> None:
        super().__init__(config)
        self.domains, trunk = config.plan()
        self.losses = tuple(config.losses)
        self.embed = StreamEmbedding(self.domains, config.width, shared=False)
        self.trunk = Transformer(trunk)
        self.heads = StreamHeads(
            self.domains, self.losses, self.embed.ranges, RangeHead(self.embed.total, config.width), config.width
        )
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        init_weights(module, self.config.embed_std if isinstance(module, nn.Embedding) else self.config.init_std)

    def forward(self, batch: PackedBatch) -> Losses:
        """One flat term for each slot of ``losses``, over all domains that have it; weights as the batch says."""
        return stream_losses(self, batch)

    def counts(self, batch: PackedBatch) -> dict[str, Tensor]:
        """What each term of ``forward`` counts in ``batch``, scalars, without computing the terms."""
        return self.heads.counts(batch)

    def levels(self, domain: str, slot: str) -> Tensor:
        """``[V]`` float32: what the codes of ``reward`` or ``return`` mean, in units of the reward."""
        return torch.tensor(self.domains[domain].ports.levels[slot], dtype=torch.float32, device=self.device)

    def player(self, domain: str, **settings: Any) -> "Planner":
        """The policy of one domain.

        Args:
            domain: its name.
            settings: of the plan, where it is to be made otherwise than the config says.

        Raises:
            RecipeError: there is no such domain, or no such plan can be made in it.
        """
        if domain not in self.domains:
            raise RecipeError(f"this model has no domain '{domain}' (it has {', '.join(self.domains)})")
        return Planner(self, domain, replace(self.config.search(), **settings))


Model = TrajectoryTransformer
Config = TrajectoryConfig
