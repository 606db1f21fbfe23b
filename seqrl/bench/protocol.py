"""How the figures of a table came about, in a few sentences that are written from what the runs themselves say."""

import platform
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import numpy as np

from seqrl.bench.results import Results, Run
from seqrl.train.progress import spell

_TOLD = ("seqrl", "torch", "gymnasium", "mujoco", "minari", "numpy", "python")
_DECIDE = _TOLD[:4]
"""Packages whose versions may change a score; a cell's name knows nothing of them."""


def protocol(results: Results, jobs: int) -> list[str]:
    """Paragraphs: what counts, what was run, and on what."""
    runs = results.runs
    if not runs:
        return []
    return [_counts(results), _numbers(), " ".join([_made(runs, jobs), *mixed(results)])]


def mixed(results: Results) -> list[str]:
    """A sentence for each mixture of versions within a row, whose ± is then not that of seeds alone."""
    found: dict[str, list[str]] = {}
    for row in results.rows:
        versions = {name: sorted({r.versions[name] for r in row.runs if name in r.versions}) for name in _DECIDE}
        if told := ", ".join(f"{name} {' and '.join(v)}" for name, v in versions.items() if len(v) > 1):
            found.setdefault(told, []).append(f"{row.method} on {row.dataset}")
    return [f"Runs of one row were played with several versions, {told}: {'; '.join(rows)}." for told, rows in found.items()]


def _counts(results: Results) -> str:
    runs = results.runs
    what = "the weights of the last step"
    if any(r.target is not None for r in runs):
        what += " and the first return asked for, both fixed beforehand"
    episodes = _range(len(r.returns) for r in runs)
    played = _range(r.evaluation for r in runs)
    said = f"A run's score is the mean of {episodes} episodes with {what}; never the best of several. "
    said += f"Episodes begin with seed {played}. "
    if any(r.normalised for r in runs):
        references = sorted({r.reference for r in runs if r.normalised})
        said += "Scores are normalised, 100 (R − random) / (expert − random)"
        said += f": {'; '.join(references)}. " if len(references) <= 4 else ", with the references in results.json. "
    others = sorted({r.dataset for r in runs if not r.normalised})
    said += f"There are no references for {', '.join(others)}, whose returns stand as they are. " if others else ""
    return said.rstrip()


def _numbers() -> str:
    return (
        "± is the standard deviation of runs with different seeds (N − 1). IQM is the mean of the middle half of all episodes "
        "of a row; its interval draws runs anew, and episodes within them. Over datasets it is the mean of the middle half of "
        "all runs, and the interval draws runs anew within each dataset (stratified bootstrap, 2,000 draws; Agarwal et al. "
        "2021, arXiv 2108.13264). With few seeds intervals are rough, and with one they know of its episodes alone."
    )


def _made(runs: Iterable[Run], jobs: int) -> str:
    runs = list(runs)
    versions = {name: sorted({r.versions[name] for r in runs if name in r.versions}) for name in _TOLD}
    told = ", ".join(f"{n} {' and '.join(v)}" for n, v in versions.items() if v)
    commits = [c[:12] + ("+dirty" if c.endswith("+dirty") else "") for c in sorted({r.commit for r in runs if r.commit})]
    at = f"; commit {' and '.join(commits)}" if commits else ""
    cpu, wall = ([x for x in found if x is not None] for found in ((r.cpu for r in runs), (r.seconds for r in runs)))
    cost = f" {spell(float(np.sum(cpu)))} of processor time," if cpu else ""
    took = f"{cost} {spell(float(np.sum(wall)))} of runs' wall time" if wall else ""
    left = f" (not known of {len(runs) - len(wall)})" if wall and len(wall) < len(runs) else ""
    cost = f"{took}{left}." if took else ""
    machine = f"{machine_name()}, {jobs} run{'s' if jobs != 1 else ''} at a time"
    return f"{len(runs)} runs.{cost} The table was made on: {machine}. Versions: {told}{at}."


def _range(values: Iterable[int]) -> str:
    every = sorted(set(values))
    return f"{every[0]:,}" if len(every) == 1 else f"{every[0]:,} to {every[-1]:,}"


@lru_cache
def machine_name() -> str:
    """The processor, as its system calls it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
