"""A vision-language-action model: a pretrained language model that also speaks actions, in the manner of RT-2.

RT-2 (Brohan et al. 2023, arXiv 2307.15818) writes an action as a few tokens of a language model's vocabulary and fine-tunes
the model to say them, so that what it knows of words helps it to act; OpenVLA (Kim et al. 2024, arXiv 2406.09246) does the
same with open weights and LoRA. Here any decoder of transformers is the body: texts are fed as its own ids, pictures and
vectors through a small module each, and actions, binned states and choices as tokens behind its vocabulary. What is said of a
slot is chosen among that slot's tokens alone (RT-2, section 3.2, "output constraint"), so every action is a valid one.

Differences from RT-2: its pictures come through a pretrained vision transformer, ours are learned here; and where it
overwrites the 256 least used words, ours begin as copies of the last words and stand beside them, so no word is lost and a
frozen body can learn them too.

Letters: B rows, L tokens in a row, D width.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Literal

from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init

from seqrl.core.contracts import Losses, Ports
from seqrl.core.errors import RecipeError
from seqrl.core.packed import PackedBatch
from seqrl.core.settings import check_ranges, check_settings
from seqrl.nn import bodies
from seqrl.nn.init import init_weights
from seqrl.nn.pretrained import Pretrained, add_lora
from seqrl.nn.streamheads import StreamHeads, stream_losses
from seqrl.nn.streams import Domain, StreamEmbedding
from seqrl.policies import _words
from seqrl.policies._player import Player
from seqrl.policies._ports import check_domains

PACKED = True


class VLAConfig(PreTrainedConfig):
    """Settings of a vision-language-action model. Its size is the body's."""

    model_type = "seqrl_vla"

    ports: dict | None = None
    """What the data of each domain look like (domain -> core.contracts.Ports as plain JSON)."""
    length: int = 1024
    """Tokens in a row (L)."""
    base: str | None = None
    """The pretrained language model a run begins with: a folder with config.json and safetensors, or an id on the Hub. Only
    read when a run starts; what is saved needs it no more."""
    body: dict | None = None
    """The body's config, in transformers' words; taken from ``base``. Given without ``base``, the body begins at random."""
    actions: Literal["least_used", "new"] = "least_used"
    """How the tokens of actions and other codes begin: as copies of the last words of the body's vocabulary (they are the
    least used ones, or used by nobody), or near the mean of all words."""
    vocabulary: Literal["shared", "own"] = "shared"
    """Whether slots that speak the same codes share tokens (as an action's dimensions do in RT-2), or every token of a slot
    has its own."""
    places: Literal["own", "shared"] = "own"
    """Vectors for the places within a step: each domain's own, or one list for all. They begin at nought."""
    lora: dict | None = None
    """``{rank: 8, alpha: 16, dropout: 0, targets: all-linear}``, any of them: small matrices learn, the body's stay as they
    are. Tokens and modules of ours are trained all the same."""
    freeze: bool = False
    """Train nothing of the body."""
    head: Literal["tanh_mse", "gaussian"] = "tanh_mse"
    """How continuous actions are learned; actions made of codes always take cross-entropy."""
    squash: Literal["tanh", "clip"] = "tanh"
    """How a Gaussian head keeps to bounds; clip suits data with many actions exactly on them."""
    entropy: float = 0.0
    """Weight of the entropy bonus of a Gaussian head."""
    losses: list | tuple = ("action",)
    """Slots that are trained, in the domains that have them; with a text among them it learns to say it (co-training)."""
    init_std: float = 0.02
    """Standard deviation of the initial weights of what is ours."""

    def __post_init__(self, **kwargs: Any) -> None:
        self.losses = list(self.losses)
        super().__post_init__(**kwargs)

    @classmethod
    def for_domains(cls, ports: Mapping[str, Ports], length: int, **settings: Any) -> "VLAConfig":
        """The config for some domains and rows of ``length`` tokens; reads the config of ``base``, and whose words it speaks.

        Raises:
            RecipeError: settings that do not fit, no body or two, or a tokenizer that is not the base's.
        """
        check_settings(cls, settings)
        base, body = settings.get("base"), settings.get("body")
        settings["body"] = body = bodies.choose_body(base, body)
        config = cls(ports={n: asdict(p) for n, p in ports.items()}, length=length, **settings)
        domains, _ = config.plan()
        if base is not None:
            _words.check_words(domains, bodies.read_config(body).vocab_size, base)
        return config

    @classmethod
    def tiny(cls, ports: Mapping[str, Ports], length: int = 96, **settings: Any) -> "VLAConfig":
        """The smallest sensible one, for tests: a llama of 256 words with random weights."""
        size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
        body = {"model_type": "llama", **size, "vocab_size": 256, "max_position_embeddings": max(length, 1)}
        return cls.for_domains(ports, length, **({} if settings.get("base") else {"body": body}) | settings)

    def plan(self) -> tuple[dict[str, Domain], dict[str, Any]]:
        """Domains and the body's config; nothing outside this config is looked at.

        Raises:
            RecipeError: settings, layouts and body clash.
        """
        domains = check_domains(self)
        check_ranges(self, {"entropy": (0, None), "init_std": (0, None)})
        if not isinstance(self.body, Mapping):
            raise RecipeError("model.body: there is none; make this config with VLAConfig.for_domains(ports, length, base=...)")
        body = bodies.plain_config(self.body)
        bodies.check_room(body, self.length)
        _words.check_words(domains, bodies.read_config(body).vocab_size)
        bodies.check_lora(self.lora, self.freeze)
        return domains, body


class VLA(PreTrainedModel):
    """``forward`` for training; ``player(domain)`` is the policy of one domain. ``begin`` makes one with a base's weights."""

    config_class = VLAConfig
    base_model_prefix = "trunk"
    main_input_name = "batch"

    def __init__(self, config: VLAConfig, body: Pretrained | None = None) -> None:
        """With a random body, where none is given."""
        super().__init__(config)
        self.domains, self._body_config = config.plan()
        self.losses = tuple(config.losses)
        self.trunk = Pretrained(self._body_config) if body is None else body
        self.trunk.register_load_state_dict_post_hook(bodies.wake)
        if config.lora is not None:
            add_lora(self.trunk, **config.lora)
        for module in self.trunk.modules():
            # The body's weights are drawn or loaded by now, and finishing the policy must leave them alone. What has none but
            # angles of positions, which no file holds, is filled anew.
            module._is_hf_initialized = any(True for _ in module.parameters(recurse=False))
        words = self.trunk.embedding.weight.shape[0]
        total, ranges = _words.deal(self.domains, words, config.vocabulary == "shared")
        if config.actions == "least_used":
            _words.quiet_ids(self._body_config, words, total - words)
        table = _words.Words(self.trunk, total, config.actions)
        self.embed = StreamEmbedding(self.domains, self.trunk.width, places=config.places, table=table, dealt=(total, ranges))
        own = {"kind": config.head, "squash": config.squash, "entropy": config.entropy}
        self.heads = StreamHeads(self.domains, self.losses, ranges, _words.WordHead(table), self.trunk.width, **own)
        texts = {s for d in self.domains.values() for s in d.slots if _words.is_text(d.ports, s)}
        bodies.train_only(self.trunk, config.freeze, bool(texts), bool(texts & set(self.losses)))
        self.post_init()

    @classmethod
    def begin(cls, config: VLAConfig) -> "VLA":
        """A model to train, with the weights of ``config.base`` if it names one; raises RecipeError if it is not there."""
        return cls(config, Pretrained.load(bodies.place(config.base)) if config.base else None)

    def _init_weights(self, module: nn.Module) -> None:
        table, codes = self.embed.table, self.heads.codes
        if module is table.own:
            table.draw(self._body_config, module.weight, self.trunk.embedding.weight)
        elif module is codes:
            table.draw(self._body_config, codes.own, self.trunk.head_weight)
        elif module is self.embed.places:
            # At first a word looks to the body as it always did.
            init.zeros_(module.weight)
        else:
            init_weights(module, self.config.init_std)

    def forward(self, batch: PackedBatch) -> Losses:
        """One flat term for each slot of ``losses``, over all domains that have it; weights as the batch says."""
        return stream_losses(self, batch)

    def counts(self, batch: PackedBatch) -> dict[str, Tensor]:
        """What each term of ``forward`` counts in ``batch``, scalars, without computing the terms."""
        return self.heads.counts(batch)

    def stretch(self, length: int | None, rope_base: float | None = None) -> None:
        """Room for rows of ``length`` tokens and another base of the body's rotary angles (core/contracts.py, LongBody)."""
        self.trunk.stretch(length, rope_base)
        self.config.length = length or self.config.length
        self.config.body = self._body_config = bodies.plain_config(self.trunk.config)

    def player(self, domain: str) -> Player:
        """The policy of one domain; raises RecipeError where there is none of that name."""
        if domain not in self.domains:
            raise RecipeError(f"this model has no domain '{domain}' (it has {', '.join(self.domains)})")
        return Player(self, domain)


Model = VLA
Config = VLAConfig
