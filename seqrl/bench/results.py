"""What the cells of a suite got, as plain numbers: a score a run, a row a method and dataset, and all datasets together.

A run's score is fixed beforehand: that of the first target asked, with the weights of the last step, never the best of
several. It is the normalised score where the dataset has references, else the return.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from seqrl.bench import folder as folders
from seqrl.bench import numbers
from seqrl.bench.plan import Cell
from seqrl.bench.suite import SuiteConfig
from seqrl.core.episode import EpisodeSpec
from seqrl.core.errors import UserError
from seqrl.report.folder import as_dict, as_list, read_json
from seqrl.report.plots import finite
from seqrl.rollout import scores


@dataclass(frozen=True)
class Run:
    """What one finished cell got.

    Args:
        cell: its name. target: the return asked for, None where none is.
        scores: ``(N,)`` of its episodes, normalised where ``normalised``. returns: ``(N,)`` undiscounted.
        reference, comparable, why: of the normalisation, as ``seqrl eval`` says them.
        seconds, cpu: wall and processor time of all its processes; None where they are not known.
        env, versions, commit, evaluation: where, with what, and with which seed it was played.
    """

    method: str
    dataset: str
    seed: int
    cell: str
    target: float | None
    scores: np.ndarray
    returns: np.ndarray
    normalised: bool
    reference: str
    comparable: bool
    why: str
    seconds: float | None
    cpu: float | None
    env: str
    versions: Mapping[str, str]
    commit: str | None
    evaluation: int

    @property
    def score(self) -> float:
        return float(self.scores.mean())


def read_run(cell: Cell, folder: Path) -> Run | None:
    """What the run in a folder got; None where it is not finished, or does not say it."""
    report = folders.report_of(folder, cell.recipe.train.steps)
    if not report:
        return None
    first = as_dict(as_list(report.get("targets"))[0])
    kept = as_list(report.get("returns"))
    returns = np.array([x for x in as_list(kept[0]) if finite(x)] if kept else [], np.float64)
    if not len(returns):
        # A report of somebody's own making may tell the mean alone.
        returns = np.array([float(first["mean"])])
    env = str(report.get("env") or "")
    line = _line(folder, cell, env) if finite(first.get("normalized")) else None
    costs = folders.costs_of(folder)
    cpu = [c["cpu"] for c in costs if finite(c.get("cpu"))]
    return Run(
        cell.method,
        cell.dataset,
        cell.seed,
        folder.name,
        float(first["target"]) if finite(first.get("target")) else None,
        line[0] + line[1] * returns if line else returns,
        returns,
        line is not None,
        str(first.get("reference") or "none"),
        bool(first.get("comparable")),
        str(report.get("why") or ""),
        sum(float(c["seconds"]) for c in costs) if costs else None,
        float(sum(cpu)) if cpu else None,
        env,
        {str(k): str(v) for k, v in as_dict(report.get("versions")).items()},
        str(report["commit"]) if report.get("commit") else None,
        int(report["seed"]) if finite(report.get("seed")) else 0,
    )


def _line(folder: Path, cell: Cell, env: str) -> tuple[float, float] | None:
    """A normalised score is a line in the return: its height at 0 and its slope; None where the tokenizer tells no spec."""
    name = f"step-{cell.recipe.train.steps:08d}"
    raw = read_json(folder / "checkpoints" / name / "bundle" / "tokenizer.json")
    raw = as_dict(next(iter(as_dict(raw.get("domains")).values()), raw))
    try:
        spec = EpisodeSpec.from_json(raw["spec"])
        at = [scores.normalise(r, spec, env).normalised for r in (0.0, 1000.0)]
    except (UserError, KeyError, TypeError, ValueError, AttributeError):
        return None
    return None if None in at else (float(at[0]), float(at[1] - at[0]) / 1000)


@dataclass(frozen=True)
class Row:
    """A method on a dataset.

    Args:
        runs: one a seed. mean, sd: over the runs' scores (``sd`` with N - 1; None with one run).
        iqm, ci: of all episodes, and the interval that draws runs and episodes anew.
    """

    method: str
    dataset: str
    runs: tuple[Run, ...]
    mean: float
    sd: float | None
    iqm: float
    ci: tuple[float, float]

    @property
    def normalised(self) -> bool:
        return all(r.normalised for r in self.runs)

    @property
    def comparable(self) -> bool:
        return all(r.comparable for r in self.runs)


@dataclass(frozen=True)
class Whole:
    """A method over the datasets that all methods have normalised scores on.

    Args:
        tasks: dataset -> ``(N,)`` run scores. mean: of the datasets' means. iqm, ci: over runs, stratified by dataset.
        missing: datasets of the suite that are not among them. ``ci`` is None where
            a dataset has a single run, which cannot be drawn anew.
    """

    method: str
    tasks: Mapping[str, np.ndarray]
    mean: float
    iqm: float
    ci: tuple[float, float] | None
    missing: tuple[str, ...]


@dataclass(frozen=True)
class Results:
    """All that a suite's finished cells say."""

    suite: SuiteConfig
    runs: tuple[Run, ...]
    rows: tuple[Row, ...]
    wholes: tuple[Whole, ...]

    def row(self, method: str, dataset: str) -> Row | None:
        return next((r for r in self.rows if (r.method, r.dataset) == (method, dataset)), None)


def gather(suite: SuiteConfig, runs: Sequence[Run]) -> Results:
    """Rows and wholes of the runs there are; in the suite's order."""
    rows = []
    for dataset in (d.id for d in suite.datasets):
        for method in suite.methods:
            mine = tuple(r for r in runs if (r.method, r.dataset) == (method, dataset))
            if mine:
                each = [r.score for r in mine]
                middle, ci = numbers.of_episodes([r.scores for r in mine])
                rows.append(Row(method, dataset, mine, float(np.mean(each)), numbers.spread(each), middle, ci))
    return Results(suite, tuple(runs), tuple(rows), tuple(_wholes(suite, rows)))


def _wholes(suite: SuiteConfig, rows: Sequence[Row]) -> list[Whole]:
    """Over the datasets on which every method has something: a mean over other datasets would compare these and not methods."""
    present = [m for m in suite.methods if any(r.method == m for r in rows)]
    on = {d.id: [r for r in rows if r.dataset == d.id and r.normalised] for d in suite.datasets}
    common = [d for d, mine in on.items() if mine and {r.method for r in mine} >= set(present)]
    if len(common) < 2:
        return []
    made = []
    for method in present:
        tasks = {d: np.array([r.score for row in on[d] if row.method == method for r in row.runs]) for d in common}
        middle, ci = numbers.of_runs(list(tasks.values()))
        mean = float(np.mean([t.mean() for t in tasks.values()]))
        drawn = ci if min(map(len, tasks.values())) > 1 else None
        made.append(Whole(method, tasks, mean, middle, drawn, tuple(d for d in on if d not in common)))
    return made
