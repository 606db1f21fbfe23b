"""Manifests: which repository is published from which recipe, and the least it must have reached.

A manifest is a YAML file that a team keeps beside its recipes. ``push_manifest`` looks whether each run is of the recipe that
is named, as it stands now, and whether its bundle's own numbers reach what is asked; only when all of them do is anything
sent. So a repository never falls behind what its page promises, and nobody has to remember which run it was.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from seqrl import bundle
from seqrl.core import shelf
from seqrl.core.config import Frozen, parse_yaml, read_text, validate
from seqrl.core.errors import BundleError, HubError, RecipeError, UserError, did_you_mean
from seqrl.report import overview, words
from seqrl.report.folder import as_dict, read_json, read_yaml
from seqrl.report.plots import finite

# What may differ between the recipe and the run: how it is told of, saved and played, and where it ran.
_FREE = ("evaluate", "engine", "name")
_FREE_TRAIN = ("log_every", "validate_every", "validate_windows", "save_every", "keep", "trackers", "device", "seed")


class Entry(Frozen):
    """One repository."""

    repo: str = Field(pattern=r"^[\w.-]+/[\w.-]+$")
    """Where it is published, org/name."""
    recipe: str
    """A name of the shelf, or a file: what it is trained by."""
    run: str | None = None
    """The run's folder; null means runs/ and the recipe's name."""
    least: dict[str, float] = Field(min_length=1)
    """What it must have reached: normalized, mean, iqm or solved of the target that got most (of a domain hopper/normalized),
    or any number of its metrics.json."""
    most: dict[str, float] = {}
    """The same for numbers that must be small, such as val/loss."""
    episodes: int = Field(20, ge=1)
    """How many episodes such a score must be of at least."""
    private: bool = False
    """Whether only its owners see it."""
    license: str | None = None
    """An identifier of the Hub's, such as apache-2.0."""


class Manifest(Frozen):
    """What a team publishes."""

    models: list[Entry] = Field(min_length=1)
    """Each repository with what it must have reached."""


@dataclass(frozen=True)
class Verdict:
    """What was found of one entry: its run, the lines that say so, and why it may not be published (nothing: it may)."""

    entry: Entry
    run: Path
    told: tuple[str, ...]
    why_not: tuple[str, ...]


def read_manifest(name: str) -> Manifest:
    """A manifest by file or by its name on the shelf ``hub/manifests``; raises RecipeError with every mistake at its line."""
    path = shelf.find("hub/manifests", name)
    raw, where = parse_yaml(read_text(path), str(path))
    return validate(Manifest, raw, where, str(path))


def check_entry(entry: Entry) -> Verdict:
    """Holds a run against its entry; nothing is sent."""
    recipe = shelf.find("recipes", entry.recipe)
    wanted, _ = parse_yaml(read_text(recipe), str(recipe))
    run = Path(entry.run or f"runs/{as_dict(wanted).get('name') or recipe.stem}")
    if not run.exists():
        return Verdict(entry, run, (), (f"there is no run {run}; seqrl train {entry.recipe} --out {run}",))
    try:
        folder = bundle.find(run)
    except BundleError as e:
        return Verdict(entry, run, (), (str(e),))
    had = read_yaml(folder / "recipe.yaml")
    why_not = [
        f"{run} was trained with {place}={old!r}, and {entry.recipe} says {new!r}"
        for place, old, new in _differences(_told(had), _told(as_dict(wanted)))
    ]
    numbers, counts = _numbers(read_json(folder / "metrics.json"))
    told = []
    for asked, enough in ((entry.least, lambda got, at: got >= at), (entry.most, lambda got, at: got <= at)):
        word = "at least" if asked is entry.least else "at most"
        for name, at in asked.items():
            got = numbers.get(name)
            if got is None:
                why_not.append(f"{run} has no number '{name}'{did_you_mean(name, numbers)}; seqrl eval {run} measures scores")
                continue
            told.append(f"{name} {got:.4g} ({word} {at:g})")
            if not enough(got, at):
                why_not.append(f"{run}: {name} is {got:.4g}, and {word} {at:g} was asked for")
            elif (n := counts.get(name)) is not None and n < entry.episodes:
                why_not.append(f"{run}: {name} is of {n} episodes, and {entry.episodes} were asked for")
    return Verdict(entry, run, tuple(told), tuple(why_not))


def push_manifest(name: str, dry_run: bool = False, only: str | None = None, **settings: Any) -> list[tuple[Verdict, Any]]:
    """Publishes what a manifest names, once all of it reaches what it must.

    Args:
        name: a file, or a name on the shelf ``hub/manifests``.
        dry_run: look and compare alone.
        only: one repository of it.
        settings: of ``push`` (message, force, show).

    Returns:
        each verdict, with what ``push`` answered.

    Raises:
        RecipeError: the manifest has mistakes.
        HubError: a run is missing, is of another recipe, or has not reached what it must; then nothing was sent.
    """
    from seqrl.hub.push import push

    entries = read_manifest(name).models
    if only is not None:
        known = [e.repo for e in entries]
        entries = [e for e in entries if e.repo == only]
        if not entries:
            raise HubError(f"{name}: names no repository {only}{did_you_mean(only, known)} (it has {', '.join(known)})")
    verdicts = [_checked(e) for e in entries]
    if wrong := [f"{v.entry.repo}: {why}" for v in verdicts for why in v.why_not]:
        raise HubError("\n".join([*wrong, "nothing was published"]))
    done = []
    for v in verdicts:
        made = push(v.run, v.entry.repo, private=v.entry.private, dry_run=dry_run, license=v.entry.license, **settings)
        done.append((v, made))
    return done


def _checked(entry: Entry) -> Verdict:
    try:
        return check_entry(entry)
    except RecipeError:
        raise
    except (UserError, OSError) as e:
        return Verdict(entry, Path(entry.run or ""), (), (str(e)[:2000],))


def _differences(had: Mapping[str, Any], wanted: Mapping[str, Any], at: str = "") -> list[tuple[str, Any, Any]]:
    """Settings that the recipe says and the run has otherwise; what the recipe leaves out is whatever the run made of it."""
    found = []
    for key, new in wanted.items():
        place = f"{at}.{key}" if at else str(key)
        if place in _FREE or (at == "train" and key in _FREE_TRAIN):
            continue
        old = had.get(key)
        if isinstance(new, dict) and isinstance(old, dict):
            found += _differences(old, new, place)
        elif not _same(old, new):
            found.append((place, old, new))
    return found


def _same(old: Any, new: Any) -> bool:
    if isinstance(old, list) and isinstance(new, list):
        return len(old) == len(new) and all(_same(a, b) for a, b in zip(old, new, strict=True))
    if isinstance(old, dict) and isinstance(new, dict):
        return not _differences(old, new)
    return old == new


def _told(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe with what it begins with in one spelling, and with the settings that change what is learned, said or not."""
    init = recipe.get("init")
    train = {"freeze": [], "lr_scale": {}, "lora": None, "ema": None} | as_dict(recipe.get("train"))
    return {**recipe, "init": {"from": init} if isinstance(init, str) else init, "train": train}


def _numbers(metrics: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, int]]:
    """Every number a bundle says of itself, and of how many episodes its scores are."""
    found = {str(k): float(v) for k, v in metrics.items() if finite(v)}
    counts: dict[str, int] = {}
    report = as_dict(metrics.get("report"))
    several = overview.reports_of(report)
    for domain, one in ({"": report} if several is None else several).items():
        targets = words.targets_of(one)
        for key in ("normalized", "mean", "iqm", "solved"):
            values = [(float(t[key]), t.get("episodes")) for t in targets if finite(t.get(key))]
            if values:
                name = f"{domain}/{key}" if domain else key
                best, n = max(values, key=lambda v: v[0])
                found[name] = best
                if isinstance(n, int):
                    counts[name] = n
    return {k: v for k, v in found.items() if math.isfinite(v)}, counts
