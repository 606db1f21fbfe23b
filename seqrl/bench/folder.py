"""The folder of a cell: how far its run has come, what it cost, and who is at work in it.

Nothing is believed that is not there: a cell is finished where its last checkpoint is of the last step, and ``eval.json`` is of
that checkpoint. A lock, which the process that trains holds for as long as it lives, keeps two from working in one folder;
it needs nobody to give it back.
"""

import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from seqrl.bench.plan import Cell, same
from seqrl.core.errors import RecipeError
from seqrl.report.folder import as_dict, as_list, read_json, read_yaml
from seqrl.report.plots import finite
from seqrl.train import recipe as recipes
from seqrl.train.disk import locked

COSTS, LOG = "bench.jsonl", "bench.log"
_TAIL = 1 << 16


@dataclass(frozen=True)
class State:
    """How far a cell is.

    Args:
        kind: ``other`` is a folder whose recipe is not what its name says. step: optimiser steps done.
    """

    kind: Literal["new", "begun", "finished", "other"]
    step: int


def state_of(cell: Cell, folder: Path) -> State:
    """What a cell's folder says; reads and never writes, so that another process may be training in it."""
    if not (folder / "recipe.yaml").is_file():
        return State("new", 0)
    if not _is_of(cell, folder):
        return State("other", 0)
    steps, saved = cell.recipe.train.steps, saved_step(folder)
    if saved == steps and report_of(folder, saved):
        return State("finished", steps)
    return State("begun", min(max(saved, logged_step(folder)), steps))


def _is_of(cell: Cell, folder: Path) -> bool:
    """Whether the run in a folder is of the cell's recipe; what an earlier seqrl wrote is read as it is meant today."""
    wanted = cell.recipe.model_dump(mode="json")
    return any(same(recipe, wanted) for recipe in recipes_of(folder))


def recipes_of(folder: Path) -> Iterator[dict[str, Any]]:
    """The recipe of the run in a folder, as plain values: as it stands there, then as it is read today."""
    raw = read_yaml(folder / "recipe.yaml")
    yield raw
    with suppress(RecipeError):
        yield recipes.parse(json.dumps(raw, default=str), "recipe.yaml").model_dump(mode="json")


def saved_step(folder: Path) -> int:
    """The step of the newest whole checkpoint, 0 where there is none."""
    whole = [p.parent.parent.name for p in (folder / "checkpoints").glob("step-*/trainer/state.json")]
    return max((int(n) for name in whole if (n := name.removeprefix("step-")).isdecimal()), default=0)


def logged_step(folder: Path) -> int:
    """The last step that ``metrics.jsonl`` tells of, 0 where it tells of none; reads its end alone."""
    try:
        with (folder / "metrics.jsonl").open("rb") as f:
            f.seek(max(0, f.seek(0, os.SEEK_END) - _TAIL))
            found = re.findall(rb'"step": (\d{1,12})\b', f.read())
    except OSError:
        return 0
    return int(found[-1]) if found else 0


def report_of(folder: Path, step: int) -> dict[str, Any]:
    """What the evaluation of the checkpoint of ``step`` found, as ``eval.json`` has it: the report of a plain model, or that of
    the one domain of a model of packed rows. Empty where there is none, or it is another evaluation."""
    found = read_json(folder / "eval.json")
    kept = as_dict(read_json(folder / "checkpoints" / f"step-{step:08d}" / "bundle" / "metrics.json").get("report"))
    found, kept = (_plain(r) for r in (found, kept))
    # eval.json is written before the checkpoint learns of it, and seqrl eval may have written another since.
    alike = all(found.get(k) == kept.get(k) for k in ("targets", "seed", "mode", "env"))
    targets = as_list(found.get("targets"))
    first = as_dict(targets[0]) if targets else {}
    return found if alike and finite(first.get("mean")) else {}


def _plain(report: dict[str, Any]) -> dict[str, Any]:
    domains = as_dict(report.get("domains"))
    return as_dict(next(iter(domains.values()))) if len(domains) == 1 else report


def add_cost(folder: Path, seconds: float, cpu: float | None, steps: int, code: int, **more: Any) -> None:
    """One more line of what a cell has cost: wall and processor seconds of one process, and the steps it did."""
    cost = {"seconds": round(seconds, 1), "cpu": cpu and round(cpu, 1)}
    line = {"ended": round(time.time()), **cost, "steps": steps, "code": code, **more}
    with (folder / COSTS).open("a", encoding="utf-8") as f:
        f.write(json.dumps(line) + "\n")


def costs_of(folder: Path) -> list[dict[str, Any]]:
    """Those lines; none of a run that was begun otherwise."""
    try:
        lines = (folder / COSTS).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        try:
            found.append(as_dict(json.loads(line)))
        except (ValueError, RecursionError):
            continue
    return [f for f in found if finite(f.get("seconds")) and finite(f.get("steps"))]


def lock(folder: Path) -> int | None:
    """An open file that locks a cell until every process that has it is gone; None where another has it.

    Hand it to the process that trains (``pass_fds``) and close it here: the lock then lives exactly as long as that process.
    """
    return locked(folder / ".lock")


def tail(folder: Path, lines: int = 5) -> list[str]:
    """The last words of a cell's log, without what a terminal would obey."""
    try:
        with (folder / LOG).open("rb") as f:
            f.seek(max(0, f.seek(0, os.SEEK_END) - _TAIL))
            said = f.read().decode(errors="replace").splitlines()
    except OSError:
        return []
    clean = ["".join(c if c.isprintable() else " " for c in line).rstrip() for line in said]
    return [line for line in clean if line][-lines:]
