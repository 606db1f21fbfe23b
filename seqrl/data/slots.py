"""Slots: which raw values stand in which slot of the layout, and which codec serves each.

A slot is made of one or more fields, flattened and joined in order. The fields ``return``, ``reward`` and ``done`` are
computed; all others are observations or actions of the data. What a recipe leaves out is chosen by what the data are: states
are standardised vectors, bounded actions are stretched to [-1, 1], choices stay choices, returns are scaled.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import Field

from seqrl.core import kinds
from seqrl.core.config import Frozen, validate
from seqrl.core.contracts import Codec
from seqrl.core.episode import EpisodeSpec, Modality
from seqrl.core.errors import RecipeError, did_you_mean
from seqrl.core.layout import Layout

_NUMBER = Modality("vector", (), "float32", (-np.inf,), (np.inf,))
COMPUTED = {"return": _NUMBER, "reward": _NUMBER, "done": Modality("discrete", (), "int64", n=(2,))}
# Stores keep images and texts too, but a codec for numbers would take pixels, or the numbers of texts, for some; so a codec
# gets none of them that does not name them in ``reads``.
_NUMBERS = ("vector", "discrete")


class TokensConfig(Frozen):
    """How trajectories become streams."""

    layout: str = "return state action"
    """Order of the slots of a step, such as ``return state action > reward``."""
    context: int = Field(20, ge=1)
    """Environment steps in a window (K in the Decision Transformer paper)."""
    slots: dict[str, dict[str, Any]] = {}
    """Per slot: ``kind`` of codec, its settings, and ``from``, the fields it is made of. Slots not named take the default."""


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
    if slot in COMPUTED:
        return (slot,)
    if slot == "action":
        return tuple(spec.act)
    if slot == "state":
        return tuple(name for name, m in spec.obs.items() if m.kind == "vector") or tuple(
            name for name, m in spec.obs.items() if m.kind == "discrete"
        )
    return (slot,)


def _default_codec(slot: str, modality: Modality) -> dict[str, Any]:
    if modality.kind == "discrete":
        return {"kind": "discrete"}
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
            f"tokens.slots.{name}: '{', '.join(fields)}' is {modality.kind}, and no codec here reads {modality.kind} yet; "
            f"choose other fields with 'from' (there are: {', '.join(others) or 'none'})"
        )
    settings = validate(module.Config, raw, {}, f"tokens.slots.{name}")
    return SlotCodec(fields, modality, settings, module.Codec(settings, modality))
