"""From a suite to its cells: a recipe for each method, dataset and seed, all of them checked before the first is run.

A cell is named by what decides its result, so that a suite that was edited runs only what changed, and another suite with the
same cell takes it. What does not decide it is left out of the name: what the run is called, how often it speaks and saves, over
how many processes it is spread.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from seqrl.bench.suite import DatasetConfig, SuiteConfig, Where, find, read
from seqrl.bench.suite import place as _place
from seqrl.core import kinds, shelf
from seqrl.core.config import Path_, parse_value
from seqrl.core.errors import RecipeError, all_of
from seqrl.core.layout import Layout
from seqrl.data.dataset import domains_of
from seqrl.rollout.players import check_domains
from seqrl.train import recipe as recipes
from seqrl.train.recipe import Recipe

Setting = tuple[Path_, str, Any]
"""Place in the suite, dotted key of the recipe, value."""
_LOOP = ("log_every", "validate_every", "validate_windows", "save_every", "keep", "trackers", "device")
_SILENT = ("name", "engine", *(f"train.{n}" for n in _LOOP))
"""Settings that do not change what a run ends with, as ``seqrl train --resume`` has it (train/run.py), and its name."""


@dataclass(frozen=True)
class Cell:
    """One run of a suite.

    Args:
        method, dataset, seed: which. recipe: resolved, with the seed.
    """

    method: str
    dataset: str
    seed: int
    recipe: Recipe

    @property
    def label(self) -> str:
        return f"{self.method} · {self.dataset} · seed {self.seed}"

    def name(self, data: str) -> str:
        """The name of its folder: what it is in words, and the hash of its recipe and of ``data``, the content of its data."""
        return f"{_slug(self.method)}-{_slug(self.dataset)}-{self.seed}-{digest(self.recipe.model_dump(mode='json'), data)}"


@dataclass(frozen=True)
class Suite:
    """A suite that was read, with all of its cells, seed by seed, so that a whole table is there early."""

    config: SuiteConfig
    path: Path
    cells: tuple[Cell, ...]


def digest(recipe: dict[str, Any], data: str) -> str:
    """12 hex digits of what decides a run's result: its recipe, as plain values, and the content of what it learns from."""
    said = json.dumps([_told(_without(recipe)), data], sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()[:12]


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two recipes, as plain values, are those of one cell."""
    return digest(one, "") == digest(other, "")


def _without(recipe: dict[str, Any]) -> dict[str, Any]:
    out = {k: dict(v) if isinstance(v, dict) else v for k, v in recipe.items()}
    for dotted in _SILENT:
        *rooms, leaf = dotted.split(".")
        spot = out.get(rooms[0], {}) if rooms else out
        if isinstance(spot, dict):
            spot.pop(leaf, None)
    return out


def _told(value: Any) -> Any:
    """A value without what says nothing: a setting that came to be since, and is off, makes no other run."""
    if isinstance(value, dict):
        return {k: kept for k, v in value.items() if (kept := _told(v)) not in (None, {}, [])}
    return [_told(v) for v in value] if isinstance(value, list | tuple) else value


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-.")[:60] or "x"


def load(name: str, overrides: Sequence[str] = (), seeds: int | None = None) -> Suite:
    """A suite by shelf name or file, with its cells.

    Args:
        overrides: ``key=value`` each, for every recipe of the suite.
        seeds: how many, in place of the suite's.

    Raises:
        RecipeError: every mistake of the suite, or every mistake in the recipes of its cells.
    """
    path = find(name)
    config, where, label = read(path)
    if seeds is not None:
        if not 1 <= seeds <= 10_000:
            raise RecipeError(f"--seeds {seeds}: from 1 to 10,000 are wanted")
        config = config.model_copy(update={"seeds": list(range(seeds))})
    wrong: list[str] = []
    made: list[Cell] = []
    for method in config.methods:
        for number, dataset in enumerate(config.datasets):
            try:
                recipe = _recipe(config, method, number, overrides, where, label, path.parent)
            except RecipeError as e:
                wrong += str(e).splitlines()
                continue
            made.append(Cell(method, dataset.id, 0, recipe))
    wrong += _twice(made)
    if wrong:
        raise RecipeError(all_of(wrong))
    return Suite(config, path, tuple(_seeded(made, config.seeds)))


def _seeded(cells: Sequence[Cell], seeds: Iterable[int]) -> Iterator[Cell]:
    for seed in seeds:
        for cell in cells:
            train = cell.recipe.train.model_copy(update={"seed": seed})
            name = f"{_slug(cell.method)}-{_slug(cell.dataset)}-{seed}"
            yield replace(cell, seed=seed, recipe=cell.recipe.model_copy(update={"name": name, "train": train}))


def _twice(cells: Sequence[Cell]) -> list[str]:
    """Methods, or datasets, that would be the same run under two names."""
    seen: dict[str, Cell] = {}
    wrong = []
    for cell in cells:
        first = seen.setdefault(digest(cell.recipe.model_dump(mode="json"), ""), cell)
        if first is cell:
            continue
        if first.dataset == cell.dataset:
            names = f"methods {first.method} and {cell.method} are one and the same run on {cell.dataset}"
        else:
            names = f"{first.method} on {first.dataset} and {cell.method} on {cell.dataset} are one and the same run"
        wrong.append(f"{names}; leave one out")
    return wrong


def _recipe(
    config: SuiteConfig, method: str, number: int, overrides: Sequence[str], where: Where, label: str, home: Path
) -> Recipe:
    """The recipe of a method on a dataset; raises RecipeError with places in the suite, its recipe file or the command line."""
    dataset, file = config.datasets[number], config.methods[method].recipe
    here = _place(("methods", method, "recipe"), where, label)
    try:
        # A suite of one's own names recipes that lie beside it.
        file = str(home / file) if "." in file and (home / file).is_file() else str(shelf.find("recipes", file))
    except RecipeError as e:
        raise RecipeError(f"{here}: methods.{method}.recipe: {e}") from e
    recipe = _parsed(file, _settings(config, method, number, False), overrides, where, label)
    if dataset.targets is not None and _reads_return(recipe):
        recipe = _parsed(file, _settings(config, method, number, True), overrides, where, label)
    wrong = [f"{_place(('methods', method, *place), where, label)}: {said}" for place, said in _unfit(recipe, method, dataset)]
    if wrong:
        raise RecipeError("\n".join(wrong))
    return recipe


def _parsed(file: str, settings: Sequence[Setting], overrides: Sequence[str], where: Where, label: str) -> Recipe:
    # A list and not a mapping: of what stands in two places, the last one wins.
    texts = [(f"{key}={_spelled(value)}", place) for place, key, value in settings]
    try:
        return recipes.load(file, [*(text for text, _ in texts), *overrides])
    except RecipeError as e:
        # Recipes know overrides from the command line alone; here most of them stand in a file.
        told = str(e)
        for text, place in reversed(texts):
            told = told.replace(f"command line '{text}'", _place(place, where, label))
        raise RecipeError(told) from e


def _settings(config: SuiteConfig, method: str, number: int, asked: bool) -> list[Setting]:
    """What a suite sets of one method on one dataset, in the order in which later ones win; ``asked``: also the targets."""
    dataset = config.datasets[number]
    at: Path_ = ("datasets", number)
    own = ("data.sources.0", dataset.source) if dataset.source is not None else ("data.sources.0.id", dataset.id)
    found: list[Setting] = [(("methods", method, "set", k), k, v) for k, v in config.methods[method].set.items()]
    found.append(((*at, "id" if dataset.source is None else "source"), *own))
    found += [(("evaluate", k), f"evaluate.{k}", v) for k, v in config.evaluate.items()]
    found += [((*at, "targets"), "evaluate.targets", dataset.targets)] if asked else []
    found += [((*at, "set", k), k, v) for k, v in dataset.set.items()]
    found += [((*at, "methods", method, k), k, v) for k, v in dataset.methods.get(method, {}).items()]
    # Whatever is set of the sources, what is read is what the table says.
    return found + ([((*at, "id"), "data.sources.0.id", dataset.id)] if dataset.source is None else [])


def _spelled(value: Any) -> str:
    """A value as an override has it; a plain word stays one, because ``engine`` and ``init`` read it so."""
    if isinstance(value, str) and value.strip() == value:
        try:
            if parse_value(value) == value:
                return value
        except RecipeError:
            pass
    return json.dumps(value, default=str)


def _reads_return(recipe: Recipe) -> bool:
    layout = Layout.parse(str(recipe.tokens.layout))
    return "return" in {s.name for s in (*layout.prefix, *layout.step)}


def _unfit(recipe: Recipe, method: str, dataset: DatasetConfig) -> Iterator[tuple[Path_, str]]:
    """What keeps the runs of a recipe from being scored by one number each, with its place in the method."""
    kind, on = str(recipe.model["kind"]), f"methods.{method} on {dataset.id}"
    if kinds.is_own(kind) and not kind.startswith("policies."):
        yield ("recipe",), f"methods.{method}: {kind} does not act, so it has no score; name a recipe of policies.*"
        return
    if len(recipe.data.sources) != 1:
        number = len(recipe.data.sources)
        yield ("recipe",), f"methods.{method}: its recipe has {number} sources, and a suite names one; take a recipe of one"
    if not recipe.evaluate.at_end:
        yield ("set",), f"{on}: evaluate.at_end is false, so there would be no score; leave it true"
    if recipes.waits(recipe):
        return
    if _reads_return(recipe) and not recipe.evaluate.targets:
        yield (
            ("recipe",),
            f"{on}: it reads a return; say which is asked: datasets: [{{id: {dataset.id}, targets: [3600]}}]",
        )
    if not _reads_return(recipe) and recipe.evaluate.targets:
        yield (
            ("recipe",),
            f"{on}: it reads no return, so leave evaluate.targets out; targets of a dataset do not touch it",
        )
    try:
        check_domains(recipe.evaluate, domains_of(recipe.data.sources) if recipe.tokens.pack else ())
    except RecipeError as e:
        yield ("recipe",), f"{on}: {e}"
