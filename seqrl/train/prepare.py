"""What a recipe learns from, ready to be drawn from: datasets, their tokenizer, and the loader of the kind its model reads.

A recipe with ``tokens.pack`` has a dataset and a tokenizer for each domain and a packer for all; one without has one of each
and draws windows; one of token documents (``tokens.documents``) has examples. Nothing else in the house needs to know which.
"""

import os
from pathlib import Path
from typing import Any

from seqrl import bundle
from seqrl.core import kinds, shelf
from seqrl.core.episode import EpisodeSpec
from seqrl.core.errors import BundleError, RecipeError
from seqrl.data.dataset import Dataset, clash, open_dataset, open_domains
from seqrl.data.documents import DocumentData, DocumentLoader
from seqrl.data.documents_tokenizer import DocumentTokenizer
from seqrl.data.loader import Loader, fit
from seqrl.data.mixture import Mixture, read_tokenizer
from seqrl.data.packing import Packer
from seqrl.data.slots import TokensConfig
from seqrl.data.store import Progress
from seqrl.data.tokenizer import Tokenizer
from seqrl.train import begin
from seqrl.train.inherit import inherit, lend
from seqrl.train.progress import bar
from seqrl.train.recipe import Recipe

Data = Dataset | dict[str, Dataset] | DocumentData
"""One dataset, one a domain, or sources of examples."""


def settled(recipe: Recipe) -> Recipe:
    """The recipe as it is run: what lives in a world takes the tokens that its world was trained on, and what begins with a
    bundle its settings.

    Raises:
        UserError: there is no such world or bundle, or the recipe asks for other tokens or settings.
    """
    if recipe.init is not None:
        recipe = begin.settle(recipe)
    if recipe.world is None:
        return recipe
    theirs = _worlds_tokens(recipe).config
    if recipe.tokens not in (TokensConfig(), theirs):
        raise RecipeError(f"tokens: leave them out; what lives in {recipe.world} is told what that world is told")
    return recipe.model_copy(update={"tokens": theirs})


def _worlds_tokens(recipe: Recipe) -> Tokenizer:
    """The tokenizer of the world a recipe's model lives in; of a world of packed rows that of one domain, for windows."""
    name = str(recipe.world)
    try:
        folder = bundle.find(name)
    except BundleError as e:
        known = Path(name).name in shelf.names("recipes")
        how = (
            f"seqrl train {Path(name).name} makes it" if known else f"train one first, such as: seqrl train RECIPE --out {name}"
        )
        raise RecipeError(f"world: {e}\n({how}; or name another with world=PATH)") from e
    found = read_tokenizer(folder / "tokenizer.json")
    if not isinstance(found, Mixture):
        return found
    own = found.domains[_domain(recipe, found)]
    raw = own.to_json()
    raw["config"] |= {"pack": None, "context": own.context, "prompts": None, "domains": {}}
    return Tokenizer.from_json(raw, name, tensors=own.tensors())


def _domain(recipe: Recipe, world: Mixture) -> str:
    """The domain of a world of several that is lived in."""
    named = recipe.model.get("domain") or (next(iter(world.domains)) if len(world.domains) == 1 else "")
    if named not in world.domains:
        known = ", ".join(world.domains)
        raise RecipeError(f"model.domain: {recipe.world} has several domains; name the one to live in ({known})")
    return named


def open_world(recipe: Recipe) -> tuple[dict[str, Any], Any]:
    """The world that a recipe's model will live in, as settings of the model (``world``: its kind, and its config as plain
    JSON; ``domain``), and its weights.

    Raises:
        UserError: there is none, or it is no world.
    """
    found = bundle.load(str(recipe.world))
    kind = str(found.recipe["model"]["kind"])
    if not kind.startswith("worlds."):
        raise RecipeError(f"world: {recipe.world} is no world but {kind}; name a run of worlds.*")
    world = {"kind": kind, "config": {n: getattr(found.model.config, n) for n in kinds.settings(kind)}}
    domain = _domain(recipe, found.tokenizer) if isinstance(found.tokenizer, Mixture) else ""
    return {"world": world, "domain": domain}, found.model.state_dict()


def open_data(recipe: Recipe, progress: Progress | None = None) -> Data:
    """The datasets of a recipe."""
    if recipe.tokens.documents is not None:
        return DocumentData(recipe.data, recipe.tokens, progress)
    if recipe.tokens.pack is None:
        return open_dataset(recipe.data, progress)
    return open_domains(recipe.data, progress)


def inherited(recipe: Recipe, data: Data, before: Any = None) -> tuple[Tokenizer | Mixture | DocumentTokenizer, dict[str, str]]:
    """``tokenizer_for`` with the statistics of the bundle that a run begins with, where it keeps them, and what became of those
    of each slot (train/inherit.py).

    Args:
        before: an earlier tokenizer of the run itself, whose statistics are kept instead.
    """
    init = recipe.init
    if init is None or recipe.tokens.fitted or recipe.world is not None:
        return tokenizer_for(recipe, data), {}
    known = before or read_tokenizer(begin.find(recipe) / "tokenizer.json")
    made = tokenizer_for(recipe, data, known)
    return (made, {}) if init.statistics == "fit" and before is None else inherit(made, known)


def tokenizer_for(recipe: Recipe, data: Data, known: Any = None) -> Tokenizer | Mixture | DocumentTokenizer:
    """The tokenizer of a recipe: the fitted one it names, or one fitted on its data now.

    Args:
        known: another one, whose trained encoders are taken where slots are the same: their folders may be gone.

    Raises:
        RecipeError: recipe and data do not fit, or the named one was fitted on other spaces.
    """
    if recipe.world is not None:
        found = _worlds_tokens(recipe)
        if wrong := difference(found, data.spec):
            raise RecipeError(f"world: {recipe.world} knows {found.spec.id}, and {wrong} differs from {data.spec.id}'s")
        for key in ("delayed", "termination_penalty"):
            if getattr(found, key) != getattr(recipe.data, key):
                raise RecipeError(f"world: {recipe.world} was trained with another data.{key}; make them agree")
        return found
    if isinstance(data, DocumentData):
        return _of_documents(recipe, data)
    if recipe.tokens.fitted:
        return _fitted(recipe, data)
    if isinstance(data, dict):
        made = Mixture.build(recipe.tokens, data)
        lend(made, known)
        made.fit(data)
        return made
    made = Tokenizer(recipe.tokens, data.spec)
    lend(made, known)
    fit(made, data)
    return made


def _of_documents(recipe: Recipe, data: DocumentData) -> DocumentTokenizer:
    name, modality = recipe.tokens.fitted, data.modality()
    if name is None:
        made = DocumentTokenizer(recipe.tokens, modality)
        made.fit(data.frames())
        return made
    found = read_tokenizer(Path(shelf.find("tokenizers", name, ".json")), trust=True)
    if not isinstance(found, DocumentTokenizer):
        raise RecipeError(f"tokens.fitted: '{name}' was fitted for trajectories; fit one with this recipe")
    if found.documents != recipe.tokens.documents:
        raise RecipeError(
            f"tokens.fitted: '{name}' was fitted with other tokens.documents; make them agree, or leave 'fitted' out"
        )
    if modality is not None and (found.modality is None or found.modality.shape != modality.shape):
        raise RecipeError(f"tokens.fitted: '{name}' was fitted on pictures of another shape; fit one with this recipe")
    # Rows of any length hold the same ids.
    raw = found.to_json()
    raw["documents"]["config"]["pack"] = recipe.tokens.pack
    return DocumentTokenizer.from_json(raw, name, True, found.tensors())


def _fitted(recipe: Recipe, data: Data) -> Tokenizer | Mixture:
    name = str(recipe.tokens.fitted)
    # Your own recipe: whatever codecs it names, you named.
    found = read_tokenizer(Path(shelf.find("tokenizers", name, ".json")), trust=True)
    if isinstance(found, Mixture) != isinstance(data, dict):
        raise RecipeError(
            f"tokens.fitted: '{name}' was fitted for {'packed rows' if found.packed else 'windows'}; fit one with this recipe"
        )
    ours = data if isinstance(data, dict) else {"": data}
    theirs = found.domains if isinstance(found, Mixture) else {"": found}
    if missing := [d for d in ours if d not in theirs]:
        raise RecipeError(
            f"tokens.fitted: '{name}' has no domain '{missing[0]}' (it has {', '.join(theirs)}); fit one with this recipe"
        )
    for domain, dataset in ours.items():
        tokenizer = theirs[domain]
        if wrong := difference(tokenizer, dataset.spec):
            raise RecipeError(
                f"tokens.fitted: '{name}' was fitted on {tokenizer.spec.id}, and {wrong} differs from {dataset.spec.id}'s"
            )
        wanted = recipe.tokens.of_domain(domain) if domain else recipe.tokens
        for key in ("layout", "slots", "pack", "context"):
            if getattr(tokenizer.config, key) != getattr(wanted, key):
                raise RecipeError(
                    f"tokens.fitted: '{name}' was fitted with another tokens.{key}; make them agree, or leave 'fitted' out"
                )
        for key in ("discount", "delayed", "termination_penalty"):
            if getattr(tokenizer, key) != getattr(recipe.data, key):
                raise RecipeError(
                    f"tokens.fitted: '{name}' was fitted with another data.{key}; make them agree, or leave 'fitted' out"
                )
    return Mixture({d: theirs[d] for d in ours}) if isinstance(found, Mixture) else found


def difference(tokenizer: Tokenizer, spec: EpisodeSpec) -> str | None:
    """The first field a tokenizer reads whose space is another in ``spec``, in words; None where all agree."""
    fields = {f for s in tokenizer.slots.values() for f in s.fields}
    for what in ("obs", "act"):
        ours, theirs = getattr(tokenizer.spec, what), getattr(spec, what)
        for name in sorted(fields & set(ours)):
            if name not in theirs:
                return f"{what}.{name} (which is missing)"
            if wrong := clash(ours[name], theirs[name], what == "act"):
                return f"the {wrong} of {what}.{name}"
    return None


def loader_for(recipe: Recipe, data: Data, tokenizer: Any, device: Any) -> Loader | Packer | DocumentLoader:
    """What the loop draws batches from. Examples of token documents are prepared now, where they were not before."""
    if isinstance(data, DocumentData):
        quiet = os.environ.get("RANK", "0") != "0"
        with bar("preparing", "example", quiet=quiet) as report:
            return DocumentLoader(data, tokenizer, device, report, recipe.tokens.pack)
    if isinstance(data, dict):
        return Packer(data, tokenizer, recipe.data.sources, device, recipe.tokens.prompts, weigh=recipe.tokens.weigh)
    return Loader(data, tokenizer, device, ahead=kinds.looks_ahead(str(recipe.model["kind"])))


def fingerprints(data: Data) -> list[str]:
    """What is learned from, exactly: the content hash of every store."""
    return [f for d in data.values() for f in d.fingerprints()] if isinstance(data, dict) else data.fingerprints()


def names(data: Data) -> str:
    """What is learned from, in words."""
    if isinstance(data, DocumentData):
        return ", ".join(data.names)
    return ", ".join(d.spec.id for d in data.values()) if isinstance(data, dict) else data.spec.id
