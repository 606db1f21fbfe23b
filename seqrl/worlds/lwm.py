"""A language model that reads and says video: texts and frames of codes in one row, in the manner of LWM.

Large World Model (Liu et al. 2024, arXiv 2402.08268) goes on training a language model on documents in which texts and videos
stand one behind the other; a frame is K codes of a codebook and the mark of its end. Next tokens are all it learns: text to
video, video to text and video after video are prompts of one model. Here any decoder of transformers is the body, begun at
random or with its own weights; codes have a table and a matrix of their own beside its words (``worlds._lwm_tables``).

The loss of each modality is a sum of weighted cross-entropies over the count that the batch states (data/documents.py), so that
packed rows are worth what their examples are worth in rows of their own, and pieces of a row on several devices add up to the
whole. Saying things, from prompts and from its own codes, is ``worlds._lwm_says``.

Letters: B rows, L tokens in a row, N tokens of a piece of them, D width.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init

from seqrl.core.contracts import Losses
from seqrl.core.documents import MODALITIES, DocumentBatch, DocumentPorts
from seqrl.core.errors import RecipeError, did_you_mean
from seqrl.core.settings import check_ranges, check_settings
from seqrl.nn import bodies
from seqrl.nn.init import init_weights
from seqrl.nn.pretrained import Pretrained, add_lora
from seqrl.worlds._lwm_says import Saying
from seqrl.worlds._lwm_tables import Tables

DOCUMENTS = True


class LWMConfig(PreTrainedConfig):
    """Settings of a model of texts and videos. Its size is the body's."""

    model_type = "seqrl_lwm"

    ports: dict | None = None
    """What the documents are made of (core.documents.DocumentPorts as plain JSON)."""
    length: int = 1024
    """Tokens in a row (L), and the most that a prompt and its answer may have."""
    base: str | None = None
    """The pretrained language model a run begins with: a folder with config.json and safetensors, or an id on the Hub. Only
    read when a run starts; what is saved needs it no more."""
    body: dict | None = None
    """The body's config, in transformers' words; taken from ``base``. Given without ``base``, the body begins at random, and
    what is left out of ``vocab_size`` and ``max_position_embeddings`` is as large as the documents need."""
    lora: dict | None = None
    """``{rank: 8, alpha: 16, dropout: 0, targets: all-linear}``, any of them: small matrices learn, the body's stay as they
    are. The codes' table and matrix are trained all the same."""
    freeze: bool = False
    """Train nothing of the body."""
    losses: list | tuple = ("text", "vision")
    """Modalities that are trained."""
    frame_places: bool = False
    """Whether a code's vector tells its place within the frame and the next one, which LWM leaves to the body's positions; for
    small models that begin at random."""
    chunk: int = 1024
    """Places whose scores are held at once."""
    init_std: float = 0.02
    """Standard deviation of the initial weights of the codes."""

    def __post_init__(self, **kwargs: Any) -> None:
        self.losses = list(self.losses)
        super().__post_init__(**kwargs)

    @classmethod
    def for_documents(cls, ports: DocumentPorts, length: int, **settings: Any) -> "LWMConfig":
        """The config for documents in rows of ``length`` tokens; reads the config of ``base``, and whose words it speaks.

        Raises:
            RecipeError: settings that do not fit, no body or two, or a tokenizer that is not the base's.
        """
        check_settings(cls, settings)
        base, body = settings.get("base"), settings.get("body")
        body = bodies.choose_body(base, body)
        if base is None and isinstance(body, Mapping):
            body = {"vocab_size": ports.text, "max_position_embeddings": length} | body
        config = cls(ports=ports.to_json(), length=length, **settings | {"body": body})
        config.plan()
        found = bodies.words_of(base) if base is not None else None
        if found is not None and found != ports.text:
            raise RecipeError(
                f"the tokenizer of the documents' texts has {ports.text} ids, and that of '{base}' {found}: words would be "
                f"taken for others; set tokens.documents.text.tokenizer={base}"
            )
        return config

    @classmethod
    def tiny(cls, ports: DocumentPorts, length: int = 96, **settings: Any) -> "LWMConfig":
        """The smallest sensible one, for tests: a llama with random weights."""
        size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
        body = {"model_type": "llama", **size}
        return cls.for_documents(ports, length, **({} if settings.get("base") else {"body": body}) | settings)

    def plan(self) -> tuple[DocumentPorts, dict[str, Any]]:
        """Ports and the body's config; nothing outside this config is looked at.

        Raises:
            RecipeError: settings, documents and body clash.
        """
        if not self.ports:
            raise RecipeError("LWMConfig has no ports: make it with LWMConfig.for_documents(ports, length, base=...)")
        if not isinstance(self.body, Mapping):
            raise RecipeError("model.body: there is none; make this config with LWMConfig.for_documents(ports, length, ...)")
        ports = DocumentPorts.from_json(self.ports)
        check_ranges(self, {"init_std": (0, None), "chunk": (1, None)})
        known = MODALITIES if ports.frame else MODALITIES[:1]
        for name in self.losses:
            if name not in known:
                raise RecipeError(
                    f"train.losses: these documents have no '{name}'{did_you_mean(name, known)} (there are: {', '.join(known)})"
                )
        if not self.losses:
            raise RecipeError(f"train.losses: give at least one of {', '.join(known)} a weight")
        body = bodies.plain_config(self.body)
        bodies.check_room(body, self.length)
        bodies.check_lora(self.lora, self.freeze)
        words = bodies.read_config(body).vocab_size
        if ports.text > words:
            raise RecipeError(
                f"the tokenizer of the documents' texts has {ports.text} ids, and the body {words} words: they are not each "
                f"other's; set tokens.documents.text.tokenizer={self.base or 'that of the body, or leave out body.vocab_size'}"
            )
        return ports, body


class LWM(PreTrainedModel):
    """``forward`` for training; ``say`` begins to say something. ``begin`` makes one with a base's weights."""

    config_class = LWMConfig
    base_model_prefix = "trunk"
    main_input_name = "batch"

    def __init__(self, config: LWMConfig, body: Pretrained | None = None) -> None:
        """With a random body, where none is given."""
        super().__init__(config)
        self.ports, self._body_config = config.plan()
        self.losses = tuple(config.losses)
        self.trunk = Pretrained(self._body_config) if body is None else body
        self.trunk.register_load_state_dict_post_hook(bodies.wake)
        if config.lora is not None:
            add_lora(self.trunk, **config.lora)
        for module in self.trunk.modules():
            # The body's weights are drawn or loaded by now, and finishing the model must leave them alone. What has none but
            # angles of positions, which no file holds, is filled anew.
            module._is_hf_initialized = any(True for _ in module.parameters(recurse=False))
        self.tables = Tables(self.trunk, self.ports, config.frame_places)
        bodies.train_only(self.trunk, config.freeze, True, "text" in self.losses)
        self.tables.head.requires_grad_("vision" in self.losses)
        self.post_init()

    @classmethod
    def begin(cls, config: LWMConfig) -> "LWM":
        """A model to train, with the weights of ``config.base`` if it names one; raises RecipeError if it is not there."""
        return cls(config, Pretrained.load(bodies.place(config.base)) if config.base else None)

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, Tables):
            init.normal_(module.head, mean=0.0, std=self.config.init_std)
        else:
            init_weights(module, self.config.init_std)

    def forward(self, batch: DocumentBatch) -> Losses:
        """One flat term for each modality of ``losses``: cross-entropy ``[N]`` of the places that count, and their weights."""
        cut, ids, pos, target, weight = batch.cut, batch.ids, batch.pos, batch.target, batch.weight
        place = self.tables.place(ids)
        if cut is None:
            y = self.trunk(self.tables(ids, place), pack=batch.pack, pos=pos)
        else:
            ids, pos, target, weight = (cut.take(t) for t in (ids, pos, target, weight))
            y = self.trunk(self.tables(ids, None if place is None else cut.take(place)), pos=pos, cut=cut)
        y, target, weight = y.flatten(0, 1), target.flatten(), weight.flatten()
        terms = {}
        for modality in self.losses:
            at, counts = self.tables.asked(target, weight, modality)
            terms[modality] = (self.tables.loss(y[at], target[at], modality, self.config.chunk), counts)
        return Losses(terms, self.counts(batch))

    def counts(self, batch: DocumentBatch) -> dict[str, Tensor]:
        """What the sum of each term is divided by, scalars, without computing the terms; of a cut row those of its piece."""
        take = (lambda t: t) if batch.cut is None else batch.cut.take
        none = batch.weight.new_zeros(())
        return {m: take(batch.counts[m]).sum() if m in batch.counts else none for m in self.losses}

    def stretch(self, length: int | None, rope_base: float | None = None) -> None:
        """Rows of ``length`` tokens (None leaves them), and another base of the rotary angles; ``config`` says so, too.

        Raises:
            RecipeError: a body whose positions cannot grow.
        """
        length = self.config.length if length is None else length
        self.trunk.stretch(length, rope_base)
        self.config.length, self.config.body = length, bodies.plain_config(self.trunk.config)

    def say(self, rows: int, tokens: int) -> Saying:
        """Begins to say ``rows`` rows of at most ``tokens`` tokens each, prompts included.

        Raises:
            RecipeError: more tokens than the body has positions for.
        """
        return Saying(self, rows, tokens)


Model = LWM
Config = LWMConfig
