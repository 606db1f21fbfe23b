"""What a run begins with: a bundle's settings, its tokenizer's statistics, and every weight of it that fits.

``init`` in a recipe names the bundle. Settings of the model that the recipe does not give are the bundle's, and so are tokens
where it gives none. A weight is taken whole where name and meaning are the same; where spaces differ, the rows and columns that
mean the same are taken and the others begin at random (train/align.py). What became of every tensor is told, and written into
each bundle of the run as its ``lineage``. A run that goes on reads its own checkpoint and not the bundle again.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from seqrl import bundle
from seqrl.core import kinds
from seqrl.core.errors import BundleError, RecipeError
from seqrl.data.slots import TokensConfig
from seqrl.report.folder import as_dict, read_json, read_yaml
from seqrl.train.align import Names, domains_of
from seqrl.train.check import FROM_DATA, strange_kinds
from seqrl.train.recipe import Recipe, check_whole, waits

Lineage = dict[str, Any]
"""``base_model``, ``revision``, ``step``, ``kind`` (full, frozen or lora), and the names of tensors by their fate: ``loaded``,
``resized``, ``new``; ``left`` are the bundle's own that were not taken."""

# Settings that change what the same weights compute, or what they mean, and not their shapes.
_OF_LAYERS = ("body", "heads", "activation", "norm", "time", "gru", "squash", "decoder", "preset")
_MEANING = (*_OF_LAYERS, "groups", "classes", "latent", "cosine")
# Read only when weights are drawn, which they are not here.
_SOURCES = ("base", "world", "domain")


def find(recipe: Recipe) -> Path:
    """The bundle folder behind a recipe's ``init``; raises BundleError or HubError where there is none."""
    return bundle.find(recipe.init.name, recipe.init.revision)


def settle(recipe: Recipe) -> Recipe:
    """The recipe with everything it takes from the bundle written out: its commit, settings of the model, tokens.

    Raises:
        UserError: there is no such bundle, its model is of another kind, or the recipe gives other settings, or what does not
            go with the bundle's tokens.
    """
    folder, init = find(recipe), recipe.init
    raw = read_yaml(folder / "recipe.yaml")
    if strange := strange_kinds(raw):
        raise BundleError(f"init: {init.name} asks for code of other packages ({', '.join(strange)}), which a bundle may not")
    kind, ours = str((raw.get("model") or {}).get("kind")), str(recipe.model["kind"])
    if kind != ours:
        raise RecipeError(
            f"init: {init.name} is {kind}, and this recipe trains {ours}; set model.kind={kind} and leave out the other "
            "settings of the model, or begin with another"
        )
    update: dict[str, Any] = {"model": _model(recipe, folder)}
    if waits(recipe):
        update["tokens"] = _tokens(raw, init.name)
    if folder.parent.name == "snapshots" and not Path(init.name).exists():
        pinned = {"name": init.name.partition("@")[0], "revision": folder.name}
        update["init"] = init.model_copy(update=pinned)
    settled = Recipe.model_validate(dict(recipe.model_copy(update=update)))
    if waits(recipe):
        check_whole(settled, f"init: with the tokens of {init.name}")
    return settled


def _tokens(raw: Mapping[str, Any], name: str) -> TokensConfig:
    try:
        return TokensConfig(**{**(raw.get("tokens") or {}), "fitted": None})
    except (ValidationError, TypeError) as e:
        raise BundleError(f"init: {name}: the tokens of its recipe cannot be read; give tokens in this one ({e})") from e


def _model(recipe: Recipe, folder: Path) -> dict[str, Any]:
    """The recipe's settings of the model over the bundle's; raises RecipeError where they are of another model."""
    kind, name = str(recipe.model["kind"]), recipe.init.name
    config, known = bundle.read_config(folder, kind), kinds.settings(kind)
    theirs = {n: getattr(config, n) for n in known if n not in FROM_DATA and n not in _SOURCES}
    theirs = json.loads(json.dumps(theirs))
    given = {n: v for n, v in recipe.model.items() if n != "kind" and v is not None}
    other = {n: v for n, v in given.items() if n in theirs and v != theirs[n] and _list(v) != theirs[n]}
    clashing = [n for n in other if n in _MEANING]
    if other and not clashing and _shapes(kind, folder, {}) != _shapes(kind, folder, other):
        clashing = [n for n in other if _shapes(kind, folder, {}) != _shapes(kind, folder, {n: other[n]})] or list(other)
    if clashing:
        told = ", ".join(f"model.{n}={theirs[n]!r} (here {other[n]!r})" for n in clashing)
        hint = " (adapters for a bundle without: train.lora)" if "lora" in clashing else ""
        raise RecipeError(f"init: {name} has {told}; leave them out to take the bundle's{hint}, or begin without init")
    # What is the kind's default anyway stays unsaid.
    said = {n: v for n, v in theirs.items() if n not in given and v != _list(known[n][1])}
    return recipe.model | said


def _list(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _shapes(kind: str, folder: Path, more: Mapping[str, Any]) -> dict[str, Any]:
    """Shapes of the weights of the bundle's model with some other settings, but for what answers: heads may be others."""
    module, config = kinds.load(kind), bundle.read_config(folder, kind)
    settings = {n: getattr(config, n) for n in kinds.settings(kind)} | dict(more)
    with torch.device("meta"):
        model = module.Model(module.Config(**settings))
    return {n: t.shape for n, t in model.state_dict().items() if not n.startswith(_answers(model))}


def _answers(model: Any) -> tuple[str, ...]:
    """Prefixes of the weights that a model answers with: those its class names, or what is called a head."""
    return getattr(type(model), "ANSWERS", ("heads.", "head."))


def lineage_of(checkpoint: Path) -> Lineage | None:
    """What a run that goes on began with, as its checkpoint says; None where that was nothing."""
    return as_dict(read_json(checkpoint / "bundle" / "metrics.json").get("lineage")) or None


@torch.no_grad()
def fill(model: Any, tokenizer: Any, recipe: Recipe) -> Lineage:
    """Puts the weights of the bundle that a settled recipe names into a fresh model.

    Args:
        model: of the recipe's data; changed. tokenizer: what it reads through.

    Returns:
        what became of every tensor.

    Raises:
        UserError: the bundle is not whole, or nothing of it fits.
    """
    base, weights = bundle.load(find(recipe)), model.state_dict()
    old = base.model
    alone = len(domains_of(tokenizer)) == len(domains_of(base.tokenizer)) == 1
    ours, theirs = Names(model, tokenizer, alone), Names(old, base.tokenizer, alone)
    there = {theirs.common(n): (n, t) for n, t in old.state_dict().items()}
    kept: dict[str, list[str]] = {"loaded": [], "resized": [], "new": []}
    used, anew = set(), _answers(model) if recipe.init.heads == "new" else ()
    if recipe.init.heads == "new" and not any(n.startswith(anew) for n in weights):
        raise RecipeError(f"init.heads: {type(model).__name__} has no heads to begin anew; leave it out")
    for name, tensor in weights.items():
        source = there.get(ours.common(name))
        lived_in = recipe.world is not None and name.startswith("world.")
        if source is None or name.startswith(anew) or lived_in or ours.joined(name) != theirs.joined(source[0]):
            kept["new"].append(name)
            continue
        fate = _take(tensor, source[1], ours.axes(name, tensor.shape), theirs.axes(source[0], source[1].shape))
        kept[fate].append(name)
        if fate != "new":
            used.add(source[0])
    if recipe.world is not None:
        kept["new"] = [n for n in kept["new"] if not n.startswith("world.")]
    if not kept["loaded"] and not kept["resized"]:
        what = f"{type(old).__name__} of {len(there)} tensors"
        mine = f"{type(model).__name__} of {len(weights)}"
        raise RecipeError(f"init: nothing of {recipe.init.name} ({what}) fits this recipe's {mine}; begin without init")
    train = recipe.train
    return {
        "base_model": _public(recipe.init.name),
        "revision": recipe.init.revision,
        "step": base.metrics.get("step"),
        "kind": "lora" if train.lora else "frozen" if train.freeze else "full",
        **kept,
        "left": [n for n in old.state_dict() if n not in used],
    }


def _public(name: str) -> str:
    """What a bundle may say of where it comes from: of a place on this machine its last word alone."""
    path = Path(name)
    return path.name if path.is_absolute() or name.startswith("~") else name.removeprefix("hf://")


def _take(new: Tensor, old: Tensor, ours: list[dict], theirs: list[dict]) -> str:
    """Copies what of ``old`` means the same; says whether that was all of ``new``, some of it, or none."""
    for mine in ours:
        axis = next(iter(mine))
        other = next((t[axis] for t in theirs if axis in t), None)
        rest = [[n for i, n in enumerate(t.shape) if i != axis] for t in (new, old)]
        if other is None or rest[0] != rest[1]:
            continue
        if list(mine[axis]) == list(other):
            break
        where = {label: j for j, label in enumerate(other)}
        pairs = [(i, where[label]) for i, label in enumerate(mine[axis]) if label in where]
        if not pairs:
            return "new"
        here, from_ = (torch.tensor(index, device=new.device) for index in zip(*pairs, strict=True))
        new.index_copy_(axis, here, old.to(new).index_select(axis, from_))
        return "resized" if len(pairs) < new.shape[axis] else "loaded"
    if new.shape != old.shape:
        return "new"
    new.copy_(old)
    return "loaded"


def tell(lineage: Lineage, model: Any, statistics: Mapping[str, str]) -> None:
    """Says on stderr what a run begins with: counts, and the tensors that were not simply loaded."""
    shapes = {n: list(t.shape) for n, t in model.state_dict().items()}
    at = f"@{lineage['revision'][:12]}" if lineage["revision"] else ""
    step = f", step {lineage['step']:,}" if isinstance(lineage["step"], int) else ""
    counts = ", ".join(f"{len(lineage[fate])} {fate}" for fate in ("loaded", "resized", "new", "left"))
    lines = [f"init      {lineage['base_model']}{at}{step}: tensors {counts}"]
    for fate in ("resized", "new", "left"):
        names = lineage[fate]
        lines += [f"  {fate:<8}{n} {shapes.get(n, '') if fate != 'left' else ''}".rstrip() for n in names[:_MOST]]
        if len(names) > _MOST:
            lines.append(f"  {fate:<8}and {len(names) - _MOST} more; metrics.json of the bundle names all")
    if statistics:
        told = {slot: f"fitted anew ({said})" if said.startswith("other") else said for slot, said in statistics.items()}
        lines.append("  statistics: " + "; ".join(f"{slot} {said}" for slot, said in told.items()))
    print("\n".join(lines), file=sys.stderr, flush=True)


_MOST = 12
"""Tensors of one fate that are told by name."""
