"""Slots: which raw values stand in which slot of the layout, and which codec serves each.

A slot is made of one or more fields, flattened and joined in order. The fields ``return``, ``reward`` and ``done`` are
computed, as is ``separator``, a constant; all others are observations or actions of the data. What a recipe leaves out is
chosen by what the data are: states are standardised vectors, bounded actions are stretched to [-1, 1], choices stay choices,
returns are scaled, pictures are cut into patches, texts are read by the tokenizer on the shelf.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pydantic import Field, model_validator

from seqrl.core import kinds
from seqrl.core.config import Frozen, validate
from seqrl.core.contracts import Codec
from seqrl.core.episode import EpisodeSpec, Modality
from seqrl.core.errors import RecipeError, did_you_mean
from seqrl.core.layout import Layout
from seqrl.data.documents_config import DocumentsConfig

_NUMBER = Modality("vector", (), "float32", (-np.inf,), (np.inf,))
COMPUTED = {
    "return": _NUMBER,
    "reward": _NUMBER,
    "done": Modality("discrete", (), "int64", n=(2,)),
    "separator": Modality("discrete", (), "int64", n=(1,)),
}
# A codec for numbers would take pixels, or the numbers of texts, for some; so a codec gets none of them that does not name
# them in ``reads``.
_NUMBERS = ("vector", "discrete")
WINDOW = 20
"""Steps of a window where the recipe gives none (Chen et al. 2021)."""


class DomainTokens(Frozen):
    """What one domain has otherwise than the recipe says for all."""

    layout: str | None = None
    """Order of the slots of a step."""
    context: int | None = Field(None, ge=1)
    """Most environment steps of an episode in one document."""
    slots: dict[str, dict[str, Any]] = {}
    """Codecs of this domain's slots; they take the place of those given for all."""


class Prompts(Frozen):
    """Demonstrations put in front of a document, from another episode of the same source (Reed et al. 2022, section 2.3)."""

    share: float = Field(0.25, ge=0, le=1)
    """Share of the documents that get one."""
    end: float = Field(0.5, ge=0, le=1)
    """Share of the prompts that are the end of their episode; the others come from anywhere in it."""
    steps: int = Field(8, ge=1)
    """Environment steps of a prompt."""


class TokensConfig(Frozen):
    """How trajectories become streams."""

    layout: str = "return state action"
    """Order of the slots of a step, such as ``return state action > reward``."""
    context: int | None = Field(None, ge=1)
    """Environment steps in a window (K in the Decision Transformer paper), 20 where null; in packed rows the most steps of an
    episode in one document, as many as a row holds where null."""
    slots: dict[str, dict[str, Any]] = {}
    """Per slot: ``kind`` of codec, its settings, and ``from``, the fields it is made of. Slots not named take the default."""
    pack: int | None = Field(None, ge=2)
    """Tokens in a packed row (L): every code and every patch is a token of its own, and documents stand one behind the other.
    Null trains on windows, one token a slot."""
    domains: dict[str, DomainTokens] = {}
    """What single domains (see data.sources.domain) have otherwise; for packed rows."""
    windows: Literal["cut", "full"] = "cut"
    """``cut`` windows begin at any step and end with the episode, as a policy needs them that may be anywhere in an episode;
    ``full`` ones are as long as the context and the episode allow, for what is learned is memory."""
    prompts: Prompts | None = None
    """Demonstrations in front of some documents; for packed rows."""
    weigh: Literal["tokens", "rows", "documents"] = "tokens"
    """What counts the same in each slot's loss: every trained token; every place of the packed rows, so that a step counts by
    the tokens it takes and a source's weight is its share of the loss too; or every document, as if each were a row alone."""
    documents: DocumentsConfig | None = None
    """Examples of texts, videos and actions in packed rows, for a model of token documents; the layout means nothing then."""
    fitted: str | None = None
    """A fitted tokenizer to take instead of fitting one: a name on the shelf, or a file of ``seqrl tokens fit``."""

    @model_validator(mode="after")
    def _packed(self) -> "TokensConfig":
        for name in ("domains", "prompts"):
            if getattr(self, name) and self.pack is None:
                raise ValueError(f"{name}: are for packed rows; give tokens.pack, the tokens in a row (such as 512)")
        if self.windows != "cut" and self.pack is not None:
            raise ValueError("windows: packed rows have none; leave it out")
        if self.documents is not None:
            if self.pack is None:
                raise ValueError("documents: stand in packed rows; give tokens.pack, the tokens in a row (such as 4096)")
            for name in ("context", "slots", "domains", "prompts"):
                if getattr(self, name):
                    raise ValueError(f"{name}: token documents have none; leave it out")
        return self

    def of_domain(self, name: str) -> "TokensConfig":
        """These settings as they hold for one domain."""
        own = self.domains.get(name, DomainTokens())
        layout, context = own.layout or self.layout, own.context or self.context
        known = Layout.parse(layout).names
        slots = {n: s for n, s in self.slots.items() if n in known} | own.slots
        return self.model_copy(update={"layout": layout, "context": context, "slots": slots, "domains": {}, "fitted": None})


@dataclass(frozen=True)
class SlotCodec:
    """A slot's fields, their joint modality, and the codec that serves them."""

    fields: tuple[str, ...]
    modality: Modality
    config: Frozen
    codec: Codec


def _join(fields: Iterable[str], spec: EpisodeSpec) -> Modality:
    """The modality of several fields flattened and joined; raises RecipeError where they do not go together."""
    known = {**COMPUTED, **spec.obs, **spec.act}
    parts = []
    for name in fields:
        if name not in known:
            raise RecipeError(
                f"tokens.slots: {spec.id} has no field '{name}'{did_you_mean(name, known)}; it has {', '.join(known)}"
            )
        if (name in COMPUTED) + (name in spec.obs) + (name in spec.act) > 1:
            raise RecipeError(
                f"tokens.slots: '{name}' means two things in {spec.id} (return, reward and done are computed fields); rename "
                "it in the data, or choose other fields with 'from'"
            )
        parts.append(known[name])
    found = {m.kind for m in parts}
    if len(parts) == 1 and not found <= set(_NUMBERS):
        return parts[0]
    if found & {"image", "text"}:
        raise RecipeError(
            f"tokens.slots: {', '.join(fields)}: a slot of pictures or texts is made of one field; choose with 'from'"
        )
    if len(found) > 1:
        raise RecipeError(
            f"tokens.slots: fields {', '.join(fields)} are of different kinds ({', '.join(sorted(found))}); choose with 'from'"
        )
    if found == {"discrete"}:
        n = tuple(k for m in parts for k in m.n)
        start = tuple(k for m in parts for k in (m.start or (0,) * len(m.n)))
        return Modality("discrete", (len(n),), "int64", n=n, start=start)
    size = sum(m.size for m in parts)
    low = tuple(x for m in parts for x in (m.low or (-np.inf,) * m.size))
    high = tuple(x for m in parts for x in (m.high or (np.inf,) * m.size))
    return Modality(parts[0].kind, (size,), parts[0].dtype, low, high)


def _default_fields(slot: str, spec: EpisodeSpec) -> tuple[str, ...]:
    if slot in COMPUTED or slot in spec.obs:
        return (slot,)
    if slot == "action":
        return tuple(spec.act)
    if slot == "state":
        return tuple(name for name, m in spec.obs.items() if m.kind == "vector") or tuple(
            name for name, m in spec.obs.items() if m.kind == "discrete"
        )
    if slot in ("task", "image"):
        kind = "text" if slot == "task" else "image"
        return tuple(name for name, m in spec.obs.items() if m.kind == kind)[:1] or (slot,)
    return (slot,)


def _default_codec(slot: str, modality: Modality) -> dict[str, Any]:
    if modality.kind == "discrete":
        return {"kind": "discrete"}
    if modality.kind in ("text", "image"):
        return {"kind": "text" if modality.kind == "text" else "patches"}
    if slot in ("return", "reward"):
        return {"kind": "scale"}
    if slot == "action":
        closed = np.isfinite([*modality.low, *modality.high]).all()
        return {"kind": "vector", "scale": "bounds" if closed else "standard"}
    return {"kind": "vector"}


def build_slots(config: TokensConfig, spec: EpisodeSpec) -> dict[str, SlotCodec]:
    """Every slot of the layout with its (unfitted) codec; raises RecipeError where recipe and data do not fit."""
    names = Layout.parse(config.layout).names
    for name in config.slots:
        if name not in names:
            raise RecipeError(f"tokens.slots.{name}: the layout has no such slot{did_you_mean(name, names)}")
    return {name: _build(name, dict(config.slots.get(name, {})), spec) for name in names}


def _build(name: str, raw: dict[str, Any], spec: EpisodeSpec) -> SlotCodec:
    chosen = raw.pop("from", None) or _default_fields(name, spec)
    fields = (chosen,) if isinstance(chosen, str) else tuple(chosen) if isinstance(chosen, list | tuple) else (chosen,)
    if not all(isinstance(f, str) for f in fields):
        raise RecipeError(f"tokens.slots.{name}.from: the name of a field, or a list of names (got {chosen!r})")
    if not fields:
        raise RecipeError(
            f"tokens.slots.{name}: {spec.id} has nothing that fits; name the fields with 'from' ({', '.join(spec.obs)})"
        )
    modality = _join(fields, spec)
    raw = raw if "kind" in raw else _default_codec(name, modality) | raw
    module = kinds.load(str(raw["kind"]), "tokens")
    if modality.kind not in getattr(module.Codec, "reads", _NUMBERS):
        others = [n for n, m in {**spec.obs, **spec.act}.items() if m.kind in _NUMBERS]
        raise RecipeError(
            f"tokens.slots.{name}: '{', '.join(fields)}' is {modality.kind}, which the codec '{raw['kind']}' does not read; "
            f"choose another codec, or other fields with 'from' (there are: {', '.join(others) or 'none'})"
        )
    settings = validate(module.Config, raw, {}, f"tokens.slots.{name}")
    return SlotCodec(fields, modality, settings, module.Codec(settings, modality))
