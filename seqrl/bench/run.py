"""A suite from its file to its table: look what is there, run what is missing, write down what came out.

``DIR/cells`` holds the runs of all suites, ``DIR/<suite>`` the table, the pictures and the page of one, and the recipe of each
of its cells. The table is written from whatever is finished, also where cells failed or somebody stopped in between.
"""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from seqrl.bench import folder as folders
from seqrl.bench import pictures, table
from seqrl.bench.cost import Costs
from seqrl.bench.data import Contents, learned_from, stores
from seqrl.bench.jobs import Job, Round, run_all
from seqrl.bench.page import page
from seqrl.bench.plan import Suite, same
from seqrl.bench.protocol import protocol
from seqrl.bench.results import Results, gather, read_run
from seqrl.bench.show import board
from seqrl.bench.suite import CELLS
from seqrl.core.errors import UserError
from seqrl.report.ink import png
from seqrl.sources._files import why

WRITTEN = ("results.json", "table.md", "table.csv", "report.html", "table.png", "profile.png")


@dataclass
class Survey:
    """The cells of a suite as they are: those with a folder, and why others have none."""

    jobs: list[Job] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    """Label of the cell -> why its data are not to be had."""


def survey(suite: Suite, out: Path, fetch: bool = True) -> Survey:
    """Which folder belongs to which cell.

    Args:
        fetch: whether data that are not on this machine may be downloaded or collected now; a folder's name depends on them.
    """
    found, contents = Survey(), Contents(fetch)
    there = {p.name.rpartition("-")[2]: p for p in sorted((out / CELLS).glob("*-*")) if p.is_dir()}
    for cell in suite.cells:
        try:
            name = cell.name(contents.of(cell))
        except UserError as e:
            found.missing[cell.label] = str(e)
            continue
        # Another suite may call the same method otherwise.
        folder = there.get(name.rpartition("-")[2], out / CELLS / name)
        found.jobs.append(Job(cell, folder, out / suite.config.name / "recipes" / f"{name}.yaml"))
    return found


def bench(suite: Suite, out: Path, at_once: int, again: str) -> tuple[Results, dict[str, str]]:
    """Runs what is missing of a suite and writes its table.

    Args:
        out: the folder of all benchmarks. at_once: runs at a time. again: the command that goes on, for messages.

    Returns:
        what there is, and label -> why for each cell that failed.

    Raises:
        Interrupted: somebody asked to stop; all runs have saved, and the table of what is finished is written.
    """
    found = survey(suite, out)
    for job in found.jobs:
        _write(job.recipe, f"# A cell of the suite {suite.config.name}: {job.cell.label}\n{job.cell.recipe.dump()}")
    costs = Costs(suite.config)
    costs.look((j.cell, j.folder) for j in found.jobs)
    with board(suite.config.name) as told:
        for label, said in found.missing.items():
            told.say(f"FAILED  {label}: {said}")
        came = Round()
        try:
            run_all(found.jobs, at_once, costs, told, again, came)
        finally:
            failed = found.missing | came.failed
            results = write(suite, out, found.jobs, failed, at_once)
    return results, failed


def write(suite: Suite, out: Path, jobs: Sequence[Job], failed: dict[str, str], at_once: int) -> Results:
    """The table, the pictures and the page of what is finished, each file whole or not at all; nothing where nothing is."""
    done = [job for job in jobs if folders.state_of(job.cell, job.folder).kind == "finished"]
    runs = [run for job in done if (run := read_run(job.cell, job.folder))]
    results = gather(suite.config, runs)
    if not runs:
        return results
    home, said = out / suite.config.name, protocol(results, at_once)
    _write(home / "results.json", table.as_json(suite, results, said, failed))
    _write(home / "table.md", table.markdown(suite, results, said, failed))
    _write(home / "table.csv", table.as_csv(results))
    _write(home / "report.html", page(suite, results, said, failed))
    for name, figure in (("table.png", pictures.scores(results)), ("profile.png", pictures.profiles(results))):
        if figure is not None:
            _write(home / name, png(figure))
    return results


def _write(path: Path, content: str | bytes) -> None:
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            aside.write_bytes(content.encode() if isinstance(content, str) else content)
            os.replace(aside, path)
        finally:
            aside.unlink(missing_ok=True)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Raises UserError, naming ``path``, where the disk refuses what is written in the block."""
    try:
        yield
    except OSError as e:
        raise UserError(f"{path}: cannot be written ({why(e)}); make room, or name another folder with --out") from e


def take(suite: Suite, out: Path, home: Path) -> list[str]:
    """Moves finished runs that were trained otherwise into the folder of cells, where they are cells of this suite.

    Args:
        home: a run folder, or a folder of them. A run is taken where its recipe, whatever it is called, and the content of its
            data are a cell's, and it is finished; all others stay where they are.

    Returns:
        a line for each run.

    Raises:
        UserError: there is no such folder, or the runs cannot be moved.
    """
    said, contents = [], Contents()
    runs = [home] if (home / "recipe.yaml").is_file() else sorted(p.parent for p in home.glob("*/recipe.yaml"))
    if not home.is_dir():
        raise UserError(f"{home}: there is no such folder; --take names a run, or a folder of runs")
    if not runs:
        # The same command, typed again, has taken them all.
        return [f"nothing {home}: there is no run in it (no recipe.yaml)"]
    jobs = survey(suite, out).jobs
    for run in runs:
        alike = list(folders.recipes_of(run))
        job = next((j for j in jobs if any(same(a, j.cell.recipe.model_dump(mode="json")) for a in alike)), None)
        obstacle = "no cell of this suite" if job is None else _obstacle(job, run, contents)
        if not obstacle:
            with _writing(job.folder):
                obstacle = _move(job, run)
        said.append(f"left    {run}: {obstacle}" if obstacle else f"taken   {run} as {job.folder.name}")
    return said


def _move(job: Job, run: Path) -> str:
    """Puts a finished run in the place of a cell; says why it is not done where another process is at work there."""
    job.folder.mkdir(parents=True, exist_ok=True)
    fd = folders.lock(job.folder)
    if fd is None:
        return f"another process is at work in {job.folder}"
    try:
        seconds = (run / "eval.json").stat().st_mtime - (run / "recipe.yaml").stat().st_mtime
        shutil.rmtree(job.folder)
        shutil.move(run, job.folder)
        # Between the first file of a run and its last one; of a run that was stopped in between it is too little.
        if not folders.costs_of(job.folder) and seconds > 0:
            folders.add_cost(job.folder, seconds, None, job.cell.recipe.train.steps, 0, taken=True)
    finally:
        os.close(fd)
    return ""


def _obstacle(job: Job, run: Path, contents: Contents) -> str:
    """Why a run of a cell's recipe is not taken; "" where it is."""
    if folders.state_of(job.cell, run).kind != "finished":
        return "it is not finished"
    if folders.state_of(job.cell, job.folder).kind == "finished":
        return f"{job.folder.name} is finished already"
    learned = set(learned_from(run, job.cell.recipe.train.steps))
    if not learned:
        return "its checkpoint does not say what it was trained on"
    if not learned <= stores(contents.of(job.cell)):
        return f"it was trained on other data than {job.cell.dataset} is now"
    return ""
