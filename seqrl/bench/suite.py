"""A suite: one YAML file that says which methods are trained on which datasets, with how many seeds.

A method is a recipe and what to set in it; a dataset is an id and what holds on it. Every combination with every seed is a cell
(``plan.py``). A suite is read as recipes are: frozen, unknown keys refused, every mistake at once with its place.
"""

from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, field_validator, model_validator

from seqrl.core import shelf
from seqrl.core.config import Frozen, Path_, explain, parse_yaml, read_text
from seqrl.core.errors import RecipeError, did_you_mean

SHELF = "recipes/suites"
CELLS = "cells"
"""The folder of all suites' runs, beside those of the suites."""
_OURS = ("name", "train.seed", "data.sources.0.id")
"""What a suite says itself of every run."""
_MOST = 10_000


class MethodConfig(Frozen):
    """One row of the table: a recipe, and what is set in it."""

    recipe: str
    """A recipe of the shelf, or a file."""
    about: str = ""
    """A sentence for the table."""
    set: dict[str, Any] = {}
    """Settings by their dotted keys, such as ``train.steps: 1500``."""


class DatasetConfig(Frozen):
    """One column of the table: a dataset, and what holds on it."""

    id: str = Field(min_length=1)
    """Its id; goes into ``data.sources.0.id`` of every recipe."""
    source: dict[str, Any] | None = None
    """In place of the recipes' own, such as ``{kind: d4rl, path: hopper.hdf5}``; ``id`` is then only what it is called."""
    targets: list[float] | None = Field(None, min_length=1)
    """Returns asked of methods that read one; the first is what counts."""
    set: dict[str, Any] = {}
    """Settings of all methods on this dataset."""
    methods: dict[str, dict[str, Any]] = {}
    """Settings of single methods on this dataset."""


class PublishedConfig(Frozen):
    """Somebody's figures, to stand beside ours."""

    name: str = Field(min_length=1)
    """What they are called in the table, such as ``Chen 2021``."""
    source: str = Field(min_length=1)
    """Where they are from, exactly."""
    comparable: bool
    """Whether they may be compared with ours: the same data, environment, reference scores and protocol."""
    why: str = ""
    """Why not."""
    scores: dict[str, dict[str, list[float]]]
    """Method -> dataset -> normalised score, or ``[score, sd]``."""

    @field_validator("scores", mode="before")
    @classmethod
    def _single_numbers(cls, raw: Any) -> Any:
        def one(x: Any) -> Any:
            return [x] if isinstance(x, int | float) else x

        if not isinstance(raw, dict):
            return raw
        return {m: {d: one(x) for d, x in row.items()} if isinstance(row, dict) else row for m, row in raw.items()}

    @model_validator(mode="after")
    def _says_why(self) -> "PublishedConfig":
        if not self.comparable and not self.why:
            raise ValueError("say why they may not be compared (why: ...)")
        for row in self.scores.values():
            for dataset, found in row.items():
                if len(found) not in (1, 2):
                    raise ValueError(f"scores of {dataset}: a number, or [number, sd] (got {found})")
        return self


class SuiteConfig(Frozen):
    """One benchmark."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")
    """What it is called; its results lie in a folder of this name."""
    about: str = ""
    """One sentence."""
    methods: dict[str, MethodConfig] = Field(min_length=1)
    """Name -> what it is."""
    datasets: list[DatasetConfig] = Field(min_length=1)
    """On what."""
    seeds: list[int] = Field([0, 1, 2], min_length=1)
    """Which, or how many."""
    evaluate: dict[str, Any] = {}
    """``evaluate`` of every recipe, such as ``{episodes: 50}``."""
    published: list[PublishedConfig] = []
    """Figures of papers."""

    @field_validator("name")
    @classmethod
    def _is_free(cls, name: str) -> str:
        if name == CELLS:
            raise ValueError(f"'{CELLS}' is where the runs of all suites lie; take another")
        return name

    @field_validator("seeds", mode="before")
    @classmethod
    def _so_many(cls, raw: Any) -> Any:
        if not isinstance(raw, int) or isinstance(raw, bool):
            return raw
        if not 1 <= raw <= _MOST:
            raise ValueError(f"a number of seeds from 1 to {_MOST:,}, or a list of them (got {raw})")
        return list(range(raw))

    @field_validator("seeds")
    @classmethod
    def _are_seeds(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) < len(seeds) or not all(0 <= s < 2**31 for s in seeds):
            raise ValueError(f"different whole numbers from 0 on (got {seeds[:20]})")
        return seeds


Where = dict[Path_, str]


def find(name: str) -> Path:
    """The file of a suite, by its name on the shelf or its path; raises RecipeError where there is none."""
    return shelf.find(SHELF, name)


def read(path: Path) -> tuple[SuiteConfig, Where, str]:
    """A suite, where each of its settings stands, and what the file is called in messages.

    Raises:
        RecipeError: every mistake at once, each with its file:line.
    """
    label = path.name if path.parent == shelf.folder(SHELF) else str(path)
    raw, where = parse_yaml(read_text(path), label)
    if not isinstance(raw, dict):
        raise RecipeError(f"{label}: a suite is a mapping of name, methods, datasets, seeds and published")
    try:
        suite = SuiteConfig.model_validate(raw)
    except ValidationError as e:
        raise RecipeError("\n".join(explain(e, SuiteConfig, where, label))) from e
    if wrong := [f"{place(path, where, label)}: {said}" for path, said in _clashes(suite)]:
        raise RecipeError("\n".join(wrong))
    return suite, where, label


def place(path: Path_, where: Where, label: str) -> str:
    """Where a setting stands, or the nearest thing around it that stands somewhere."""
    spots = (path[:n] for n in range(len(path), 0, -1))
    return next((where[s] for s in spots if s in where), label)


def _clashes(suite: SuiteConfig) -> list[tuple[Path_, str]]:
    """What parts of a suite that are fine by themselves say against each other, with its place."""
    wrong: list[tuple[Path_, str]] = []
    ids = [d.id for d in suite.datasets]
    for i, dataset in enumerate(suite.datasets):
        if dataset.id in ids[:i]:
            wrong.append((("datasets", i, "id"), f"datasets.{i}.id: '{dataset.id}' stands there twice"))
        for name in dataset.methods:
            if name not in suite.methods:
                told = f"there is no method '{name}'{did_you_mean(name, suite.methods)}"
                wrong.append((("datasets", i, "methods", name), f"datasets.{i}.methods: {told}"))
    for at, settings in settings_of(suite):
        dotted = ".".join(map(str, at))
        for key in settings:
            if key.strip() in _OURS:
                wrong.append(((*at, key), f"{dotted}.{key}: a suite sets this itself; leave it out"))
            elif "=" in key or not key.strip():
                wrong.append(((*at, key), f"{dotted}: '{key}' is no key of a recipe"))
    for i, entry in enumerate(suite.published):
        for method, row in entry.scores.items():
            at: Path_ = ("published", i, "scores", method)
            if method not in suite.methods:
                told = f"there is no method '{method}'{did_you_mean(method, suite.methods)}"
                wrong.append((at, f"published.{i}.scores: {told}"))
            wrong += [
                ((*at, d), f"published.{i}.scores.{method}: there is no dataset '{d}'{did_you_mean(d, ids)}")
                for d in row
                if d not in ids
            ]
    return wrong


def settings_of(suite: SuiteConfig) -> list[tuple[Path_, dict[str, Any]]]:
    """Every mapping of dotted keys in a suite, with its place."""
    found: list[tuple[Path_, dict[str, Any]]] = [(("methods", n, "set"), m.set) for n, m in suite.methods.items()]
    for i, dataset in enumerate(suite.datasets):
        found.append((("datasets", i, "set"), dataset.set))
        found += [(("datasets", i, "methods", n), more) for n, more in dataset.methods.items()]
    return found
