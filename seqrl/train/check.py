"""Checks of the parts of a recipe whose settings depend on their kind: sources, codecs, models.

The recipe's own schema leaves these open, because each kind brings its own settings. Here they are held against the kind's
``Config``, with file and line, and without loading torch: a model's settings are read from its source text.
"""

import re
from collections.abc import Callable
from typing import Any

from pydantic import ValidationError, create_model

from seqrl.core import kinds
from seqrl.core.config import Frozen, Path_, explain
from seqrl.core.documents import MODALITIES
from seqrl.core.errors import RecipeError, did_you_mean
from seqrl.core.layout import Layout
from seqrl.data.dataset import OWN, domains_of
from seqrl.data.documents_config import choices_of
from seqrl.data.slots import TokensConfig

# Settings of a model that come from the data or from another part of the recipe (train.losses), never from model.*.
_DOMAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*$")
FROM_DATA = {"ports", "context_length", "length", "losses", "world"}


def strange_kinds(raw: dict[str, Any]) -> list[str]:
    """The kinds in an unchecked recipe that are not files of this house; to import them is to run another package's code."""

    def entries(*path: str) -> Any:
        spot: Any = raw
        for key in path:
            spot = spot.get(key) if isinstance(spot, dict) else None
        return spot

    domains, sources = entries("tokens", "domains"), entries("data", "sources")
    named = [(entries("model"), None)]
    of_domains = [d.get("slots") for d in (domains.values() if isinstance(domains, dict) else ()) if isinstance(d, dict)]
    for slots in (entries("tokens", "slots"), *of_domains):
        named += [(s, "tokens") for s in (slots.values() if isinstance(slots, dict) else ())]
    named += [(s, "sources") for s in (sources if isinstance(sources, list) else ())]
    named.append((entries("tokens", "documents", "frames"), "tokens"))
    kinds_named = [(str(e["kind"]), room) for e, room in named if isinstance(e, dict) and "kind" in e]
    return [kind for kind, room in kinds_named if not kinds.is_own(kind, room)]


def settings_model(kind: str) -> type[Frozen]:
    """A pydantic model of a model kind's settings, read from its source without importing it."""
    known = {n: t for n, t in kinds.settings(kind).items() if n not in FROM_DATA}
    return create_model(f"{kind} settings", __base__=Frozen, kind=(str, kind), **known)


def inhabits(kind: str) -> bool:
    """Whether a model kind learns in the dreams of a world: its config holds one."""
    return "world" in kinds.settings(kind)


def _check_dreams(raw: dict[str, Any], said: Callable[[Path_, str], None]) -> None:
    kind, losses = str(raw["model"]["kind"]), (raw.get("train") or {}).get("losses") or {}
    if not inhabits(kind):
        for key in ("world", "imagination"):
            if raw.get(key) is not None:
                said((key,), f"{key}: {kind} learns from data alone; leave it out, or take a model that dreams")
        return
    if not raw.get("world"):
        said(
            ("model", "kind"),
            f"{kind} learns in the dreams of a world: name its run, as in world=runs/rssm_cartpole "
            "(which 'seqrl train rssm_cartpole' makes)",
        )
    missing, more = {"actor", "critic"} - set(losses), set(losses) - set(kinds.own_losses(kind))
    if missing or more:
        told = "give actor and critic a weight, as in {actor: 1, critic: 1}; anchor and replay may have one too"
        said(("train", "losses"), f"train.losses: {told} (these are: {', '.join(losses)})")
    for key, wanted in (("accumulate", 1), ("precision", "fp32")):
        if (value := (raw.get("train") or {}).get(key, wanted)) != wanted:
            said(("train", key), f"train.{key}: dreams are made whole and in fp32; leave it {wanted} (got {value!r})")


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
            config.model_validate({k: v for k, v in entry.items() if k not in OWN})
        except RecipeError as e:
            wrong.append(f"{where.get((*place, 'kind'), line)}: data.sources.{i}.kind: {e}")
        except ValidationError as e:
            wrong += explain(e, config, where, source, place)
        domain = entry.get("domain")
        if domain is not None and not (isinstance(domain, str) and _DOMAIN.match(domain)):
            said = f"a name of letters, digits, _ and - is wanted (got {domain!r})"
            wrong.append(f"{where.get((*place, 'domain'), line)}: data.sources.{i}.domain: {said}")
        wrong += _check_examples(entry, place, where, line)
        for key, most in (("weight", None), ("top", 1), ("tokens", None)):
            value = entry.get(key)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if value is not None and not (number and value > 0 and (most is None or value <= most)):
                said = "a positive number" + (f" up to {most}" if most else "")
                wrong.append(f"{where.get((*place, key), line)}: data.sources.{i}.{key}: {said} is wanted (got {value!r})")
    return wrong


def _check_examples(entry: dict[str, Any], place: Path_, where: dict[Path_, str], line: str) -> list[str]:
    """What a source says for token documents alone: its group, and fields of its own."""
    wrong, at = [], ".".join(map(str, place))
    if (group := entry.get("group")) is not None and not (isinstance(group, str) and _DOMAIN.match(group)):
        said = f"a name of letters, digits, _ and - is wanted (got {group!r})"
        wrong.append(f"{where.get((*place, 'group'), line)}: {at}.group: {said}")
    if (fields := entry.get("fields")) is not None:
        try:
            choices_of(fields if isinstance(fields, str | list) else str(fields))
        except (ValueError, TypeError, AttributeError) as e:
            wrong.append(f"{where.get((*place, 'fields'), line)}: {at}.fields: {e}")
    return wrong


def check_tokens(raw: Any, where: dict[Path_, str], source: str) -> list[str]:
    """One line for each mistake in ``tokens``, those of single domains included."""
    domains = raw.get("domains") if isinstance(raw.get("domains"), dict) else {}
    layout = raw.get("layout", TokensConfig().layout)
    wrong, known = _check_layout(layout, ("tokens",), where, source)
    for name, own in domains.items():
        place: Path_ = ("tokens", "domains", name)
        own = own if isinstance(own, dict) else {}
        more, names = _check_layout(own["layout"], place, where, source) if own.get("layout") else ([], known)
        # What is given for all may be meant for the slots of some.
        wrong, known = wrong + more, (*known, *names)
        wrong += [] if more else _check_slots(own.get("slots"), names, (*place, "slots"), where, source)
    documents = raw.get("documents") if isinstance(raw.get("documents"), dict) else {}
    wrong += _check_codec(documents.get("frames"), ("tokens", "documents", "frames"), where, source)
    return wrong or _check_slots(raw.get("slots"), known, ("tokens", "slots"), where, source)


def _check_layout(text: Any, place: Path_, where: dict[Path_, str], source: str) -> tuple[list[str], tuple[str, ...]]:
    try:
        return [], Layout.parse(str(text)).names
    except RecipeError as e:
        spot: Path_ = (*place, "layout")
        return [f"{where.get(spot, source)}: {'.'.join(map(str, spot))}: {e}"], ()


def _check_slots(slots: Any, known: tuple[str, ...], place: Path_, where: dict[Path_, str], source: str) -> list[str]:
    wrong, said = [], ".".join(map(str, place))
    for name, entry in slots.items() if isinstance(slots, dict) else ():
        at: Path_ = (*place, name)
        line = where.get(at, source)
        if name not in known:
            wrong.append(f"{line}: {said}.{name}: the layout has no such slot{did_you_mean(name, known)}")
        wrong += _check_codec(entry, at, where, source)
    return wrong


def _check_codec(entry: Any, at: Path_, where: dict[Path_, str], source: str) -> list[str]:
    """Mistakes in the settings of a codec, where it names its kind."""
    if not isinstance(entry, dict) or "kind" not in entry:
        return []
    try:
        config = kinds.load(str(entry["kind"]), "tokens").Config
        config.model_validate({k: v for k, v in entry.items() if k != "from"})
    except RecipeError as e:
        spot = (*at, "kind")
        return [f"{where.get(spot, where.get(at, source))}: {'.'.join(map(str, spot))}: {e}"]
    except ValidationError as e:
        return explain(e, config, where, source, at)
    return []


def _check_documents(raw: dict[str, Any], said: Callable[[Path_, str], None]) -> None:
    """What token documents ask of the other parts of a recipe, and those of them."""
    kind, asked, sources = str(raw["model"]["kind"]), (raw.get("tokens") or {}).get("documents"), raw["data"]["sources"]
    reads = kinds.reads_documents(kind)
    if reads and not asked:
        said(("model", "kind"), f"{kind} reads token documents: give tokens.documents, and tokens.pack, the tokens in a row")
    if asked and not reads:
        rooms = ((room, n) for room in ("worlds", "policies") for n in kinds.names(room))
        others = ", ".join(f"{room}.{n}" for room, n in rooms if kinds.reads_documents(f"{room}.{n}"))
        said(("tokens", "documents"), f"{kind} reads no token documents: leave tokens.documents out, or take one of {others}")
    if not asked:
        for i, entry in enumerate(sources):
            if kinds.gives_examples(str(entry["kind"])):
                message = f"'{entry['kind']}' holds no episodes but examples, for tokens.documents alone"
                said(("data", "sources", i, "kind"), f"data.sources.{i}.kind: {message}")
            for key in ("group", "fields"):
                if entry.get(key) is not None:
                    said(("data", "sources", i, key), f"data.sources.{i}.{key}: is for tokens.documents; leave it out")
        return
    for i, entry in enumerate(sources):
        for key in ("top", "tokens", "domain"):
            if entry.get(key) is not None:
                said(("data", "sources", i, key), f"data.sources.{i}.{key}: token documents have none; leave it out")
    for key, usual in (("top", None), ("discount", 1.0), ("termination_penalty", 0.0), ("delayed", False)):
        if raw["data"].get(key, usual) != usual:
            said(("data", key), f"data.{key}: token documents hold no returns; leave it out")
    evaluate = raw.get("evaluate") or {}
    if evaluate.get("at_end") or evaluate.get("every"):
        message = "what reads token documents is played nowhere; leave at_end and every out, and see with seqrl generate"
        said(("evaluate",), f"evaluate: {message}")
    for name in (raw.get("train") or {}).get("losses") or {}:
        if name not in MODALITIES:
            known = f"{did_you_mean(name, MODALITIES)} (there are: {', '.join(MODALITIES)})"
            message = f"token documents have no '{name}'{known}; say losses: {{text: 0.5, vision: 0.5}}"
            said(("train", "losses", name), f"train.losses: {message}")


def check_together(raw: dict[str, Any], where: dict[Path_, str], source: str, told: bool = True) -> list[str]:
    """One line for each clash between parts of a recipe that are fine by themselves; needs no data.

    Args:
        told: whether the recipe's tokens are known already; without, only what has nothing to do with them is looked at.
    """
    wrong: list[str] = []
    kind, tokens = str(raw["model"]["kind"]), raw.get("tokens") or {}
    sources, domains = raw["data"]["sources"], tokens.get("domains") or {}
    packed, pack = kinds.reads_packed(kind), tokens.get("pack")

    def said(place: Path_, message: str) -> None:
        spots = (place[:n] for n in range(len(place), 0, -1))
        wrong.append(f"{next((where[s] for s in spots if s in where), source)}: {message}")

    _check_dreams(raw, said)
    weights = [entry.get("weight") is not None for entry in sources]
    if any(weights) and not all(weights):
        said(("data", "sources", weights.index(False)), "data.sources: give every source a weight, or none")
    if not told:
        return wrong
    _check_documents(raw, said)
    if packed and pack is None:
        said(("model", "kind"), f"{kind} reads packed rows: give tokens.pack, the tokens in a row (such as 512)")
    if not packed and pack is not None and not tokens.get("documents"):
        others = ", ".join(f"policies.{n}" for n in kinds.names("policies") if kinds.reads_packed(f"policies.{n}"))
        said(("tokens", "pack"), f"{kind} reads windows: leave tokens.pack out, or take a model of packed rows ({others})")
    known = domains_of(sources)
    if pack is None:
        for i, entry in enumerate(sources):
            if entry.get("domain"):
                said(("data", "sources", i, "domain"), "domains are for packed rows; give tokens.pack, or leave them out")
    else:
        for name in domains:
            if name not in known:
                near = did_you_mean(name, known)
                said(
                    ("tokens", "domains", name),
                    f"tokens.domains.{name}: no source has this domain{near} (there are: {', '.join(known)})",
                )
    if tokens.get("documents"):
        # A layout says nothing of them.
        return wrong
    own = {n: (d or {}).get("layout") for n, d in domains.items()}
    default = tokens.get("layout") or TokensConfig().layout
    layouts = {n: Layout.parse(str(own.get(n) or default)) for n in (known if pack is not None else [""])}
    slots = dict.fromkeys(n for layout in layouts.values() for n in layout.names)
    losses = {**slots, **dict.fromkeys(kinds.own_losses(kind))}
    for name in (raw.get("train") or {}).get("losses") or {}:
        if name not in losses:
            known = f"{did_you_mean(name, losses)} (there are: {', '.join(losses)})"
            said(("train", "losses", name), f"train.losses: no layout has a slot '{name}', nor {kind} such a loss{known}")
    asked = (raw.get("evaluate") or {}).get("targets")
    if asked and pack is None and not raw.get("world") and "return" not in layouts[""].names:
        said(("evaluate", "targets"), f"evaluate.targets: layout '{layouts['']}' has no return to ask for; leave them out")
    for name, layout in layouts.items():
        if kind.startswith("policies.") and "action" not in layout.names:
            place: Path_ = ("tokens", "domains", name, "layout") if own.get(name) else ("tokens", "layout")
            said(place, f"layout '{layout}'{f' (domain {name})' if name else ''}: a policy's step must have an 'action'")
    return wrong
