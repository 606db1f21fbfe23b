"""Checks of the parts of a recipe whose settings depend on their kind: sources, codecs, models.

The recipe's own schema leaves these open, because each kind brings its own settings. Here they are held against the kind's
``Config``, with file and line, and without loading torch: a model's settings are read from its source text.
"""

from typing import Any

from pydantic import ValidationError, create_model

from seqrl.core import kinds
from seqrl.core.config import Frozen, Path_, explain
from seqrl.core.errors import RecipeError, did_you_mean
from seqrl.core.layout import Layout
from seqrl.data.slots import TokensConfig

# Settings of a model that come from the data or from another part of the recipe (train.losses), never from model.*.
_FROM_DATA = {"ports", "context_length", "losses"}


def strange_kinds(raw: dict[str, Any]) -> list[str]:
    """The kinds in an unchecked recipe that are not files of this house; to import them is to run another package's code."""

    def entries(*path: str) -> Any:
        spot: Any = raw
        for key in path:
            spot = spot.get(key) if isinstance(spot, dict) else None
        return spot

    slots, sources = entries("tokens", "slots"), entries("data", "sources")
    named = [(entries("model"), None)]
    named += [(s, "tokens") for s in (slots.values() if isinstance(slots, dict) else ())]
    named += [(s, "sources") for s in (sources if isinstance(sources, list) else ())]
    kinds_named = [(str(e["kind"]), room) for e, room in named if isinstance(e, dict) and "kind" in e]
    return [kind for kind, room in kinds_named if not kinds.is_own(kind, room)]


def settings_model(kind: str) -> type[Frozen]:
    """A pydantic model of a model kind's settings, read from its source without importing it."""
    known = {n: t for n, t in kinds.settings(kind).items() if n not in _FROM_DATA}
    return create_model(f"{kind} settings", __base__=Frozen, kind=(str, kind), **known)


def check_model(raw: Any, where: dict[Path_, str], source: str) -> list[str]:
    """One line for each mistake in ``model``."""
    if not isinstance(raw, dict) or "kind" not in raw:
        return [f"{where.get(('model',), source)}: model: name its kind, such as 'kind: policies.decision'"]
    try:
        settings_model(str(raw["kind"])).model_validate(raw)
    except RecipeError as e:
        return [f"{where.get(('model', 'kind'), source)}: model.kind: {e}"]
    except ValidationError as e:
        return explain(e, settings_model(str(raw["kind"])), where, source, ("model",))
    return []


def check_sources(raw: Any, where: dict[Path_, str], source: str) -> list[str]:
    """One line for each mistake in ``data.sources``."""
    wrong = []
    for i, entry in enumerate(raw if isinstance(raw, list) else []):
        place: Path_ = ("data", "sources", i)
        line = where.get(place, source)
        if not isinstance(entry, dict) or "kind" not in entry:
            wrong.append(f"{line}: data.sources.{i}: name its kind ({', '.join(kinds.names('sources'))})")
            continue
        try:
            config = kinds.load(str(entry["kind"]), "sources").Config
            config.model_validate({k: v for k, v in entry.items() if k not in ("weight", "top")})
        except RecipeError as e:
            wrong.append(f"{where.get((*place, 'kind'), line)}: data.sources.{i}.kind: {e}")
        except ValidationError as e:
            wrong += explain(e, config, where, source, place)
        for key, most in (("weight", None), ("top", 1)):
            value = entry.get(key)
            if value is not None and not (isinstance(value, int | float) and value > 0 and (most is None or value <= most)):
                said = "a positive number" + (f" up to {most}" if most else "")
                wrong.append(f"{where.get((*place, key), line)}: data.sources.{i}.{key}: {said} is wanted (got {value!r})")
    return wrong


def check_tokens(raw: Any, where: dict[Path_, str], source: str) -> list[str]:
    """One line for each mistake in ``tokens``."""
    wrong = []
    place: Path_ = ("tokens", "layout")
    try:
        layout = Layout.parse(str(raw.get("layout", TokensConfig().layout)))
    except RecipeError as e:
        return [f"{where.get(place, source)}: tokens.layout: {e}"]
    slots = raw.get("slots") or {}
    for name, entry in slots.items() if isinstance(slots, dict) else ():
        at: Path_ = ("tokens", "slots", name)
        line = where.get(at, source)
        if name not in layout.names:
            wrong.append(f"{line}: tokens.slots.{name}: the layout has no such slot{did_you_mean(name, layout.names)}")
        if isinstance(entry, dict) and "kind" in entry:
            try:
                config = kinds.load(str(entry["kind"]), "tokens").Config
                config.model_validate({k: v for k, v in entry.items() if k != "from"})
            except RecipeError as e:
                wrong.append(f"{where.get((*at, 'kind'), line)}: tokens.slots.{name}.kind: {e}")
            except ValidationError as e:
                wrong += explain(e, config, where, source, at)
    return wrong
