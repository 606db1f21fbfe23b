"""What a recipe learns from, ready to be drawn from: datasets, their tokenizer, and the loader of the kind its model reads.

A recipe with ``tokens.pack`` has a dataset and a tokenizer for each domain and a packer for all; one without has one of each
and draws windows. Nothing else in the house needs to know which.
"""

from pathlib import Path
from typing import Any

from seqrl.core import shelf
from seqrl.core.episode import EpisodeSpec
from seqrl.core.errors import RecipeError
from seqrl.data.dataset import Dataset, clash, open_dataset, open_domains
from seqrl.data.loader import Loader, fit
from seqrl.data.mixture import Mixture, read_tokenizer
from seqrl.data.packing import Packer
from seqrl.data.store import Progress
from seqrl.data.tokenizer import Tokenizer
from seqrl.train.recipe import Recipe

Data = Dataset | dict[str, Dataset]
"""One dataset, or one a domain."""


def open_data(recipe: Recipe, progress: Progress | None = None) -> Data:
    """The datasets of a recipe."""
    if recipe.tokens.pack is None:
        return open_dataset(recipe.data, progress)
    return open_domains(recipe.data, progress)


def tokenizer_for(recipe: Recipe, data: Data) -> Tokenizer | Mixture:
    """The tokenizer of a recipe: the fitted one it names, or one fitted on its data now.

    Raises:
        RecipeError: recipe and data do not fit, or the named one was fitted on other spaces.
    """
    if recipe.tokens.fitted:
        return _fitted(recipe, data)
    if isinstance(data, dict):
        made = Mixture.build(recipe.tokens, data)
        made.fit(data)
        return made
    made = Tokenizer(recipe.tokens, data.spec)
    fit(made, data)
    return made


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


def loader_for(recipe: Recipe, data: Data, tokenizer: Any, device: Any) -> Loader | Packer:
    """What the loop draws batches from."""
    if isinstance(data, dict):
        return Packer(data, tokenizer, recipe.data.sources, device, recipe.tokens.prompts, weigh=recipe.tokens.weigh)
    return Loader(data, tokenizer, device)


def fingerprints(data: Data) -> list[str]:
    """What is learned from, exactly: the content hash of every store."""
    return [f for d in data.values() for f in d.fingerprints()] if isinstance(data, dict) else data.fingerprints()


def names(data: Data) -> str:
    """What is learned from, in words."""
    return ", ".join(d.spec.id for d in data.values()) if isinstance(data, dict) else data.spec.id
