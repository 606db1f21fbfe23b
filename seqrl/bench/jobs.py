"""Runs cells, several at a time, each in a process of its own: ``seqrl train``, as anybody would type it.

A cell that was begun is gone on with. One that fails is told with its last words and the others go on. Ctrl-C reaches this
process alone, which asks every child to stop: each saves, and the same command goes on later. Nothing is kept here that the
folders do not say, so this process may be killed at any moment; children of a killed one finish their cell, and hold its lock.
"""

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from seqrl.bench import folder as folders
from seqrl.bench.cost import Costs
from seqrl.bench.plan import Cell
from seqrl.bench.results import read_run
from seqrl.bench.show import Board
from seqrl.sources._files import why
from seqrl.train.progress import spell
from seqrl.train.signals import Interrupted, Stop, politely

COMMAND = (sys.executable, "-m", "seqrl", "train")
_LOOK, _POLL = 1.0, 0.1
"""Seconds between looks at how far the runs are, and at whether they have ended."""


@dataclass(frozen=True)
class Job:
    """A cell that is to be run.

    Args:
        folder: of its run. recipe: the file that its run begins with.
    """

    cell: Cell
    folder: Path
    recipe: Path


@dataclass
class Round:
    """What came of running cells."""

    finished: list[Job] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    """Label of the cell -> why."""


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads() -> int:
    """How many each run uses: as OMP_NUM_THREADS says, else one."""
    word = os.environ.get("OMP_NUM_THREADS", "1")
    return max(1, int(word)) if word.isdecimal() else 1


class _Child:
    """A run under way."""

    def __init__(self, job: Job, fd: int) -> None:
        self.job, self.began, self.asked = job, time.monotonic(), False
        self.first = folders.saved_step(job.folder)
        begun = (job.folder / "recipe.yaml").is_file()
        words = ["--resume", str(job.folder)] if begun else [str(job.recipe), "--out", str(job.folder)]
        env = {**os.environ, "OMP_NUM_THREADS": str(threads())}
        try:
            with (job.folder / folders.LOG).open("ab") as log:
                # A group of its own: Ctrl-C in the terminal is for the parent, which asks each child once.
                self.process = subprocess.Popen(
                    [*COMMAND, *words],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=env,
                    process_group=0,
                    pass_fds=(fd,),
                )
        finally:
            # From here on the child's copy is the lock.
            os.close(fd)

    @property
    def step(self) -> int:
        return max(folders.logged_step(self.job.folder), self.first)

    def ended(self) -> int | None:
        """The exit code of a run that has ended, which is then written down with what it cost."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        code = self.process.poll()
        if code is None:
            return None
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        seconds, steps = time.monotonic() - self.began, max(self.step - self.first, 0)
        # On a full disk the cost is lost and the other runs are not.
        with suppress(OSError):
            folders.add_cost(self.job.folder, seconds, cpu, steps, code)
        return code


class Runner:
    """The cells of a suite under way."""

    def __init__(self, jobs: Sequence[Job], at_once: int, costs: Costs, board: Board, result: Round | None = None) -> None:
        """``jobs``: all cells of the suite; those that are finished are only counted. ``result``: what is filled."""
        self.every, self.at_once, self.costs, self.board = list(jobs), at_once, costs, board
        self.waiting: list[Job] = []
        self.running: list[_Child] = []
        self.result = Round() if result is None else result
        self.all_steps = sum(j.cell.recipe.train.steps for j in jobs)

    def go(self, stop: Stop) -> Round:
        """Runs until nothing is left to run, or somebody asks to stop: then every child has saved when this returns."""
        for job in self.every:
            self._sort(job)
        if self.every and len(self.result.finished) == len(self.every):
            self.board.say(f"all {len(self.every):,} cells are finished already, so nothing is run")
        looked = 0.0
        try:
            while self.waiting or self.running:
                if stop:
                    self._ask(signal.SIGINT)
                else:
                    self._fill()
                self.running = [c for c in self.running if not self._has_ended(c)]
                if stop and not self.running:
                    break
                if time.monotonic() - looked > _LOOK:
                    looked = time.monotonic()
                    self._tell()
                time.sleep(_POLL)
        finally:
            # Left early only by a second Ctrl-C, or by a defect of ours: nobody is left behind.
            for child in self.running:
                child.process.kill()
                child.process.wait()
        return self.result

    def _sort(self, job: Job) -> bool:
        """Counts a finished cell, and puts any other in line; whether it is finished."""
        state = folders.state_of(job.cell, job.folder)
        if state.kind == "finished":
            self.result.finished.append(job)
            return True
        if state.kind == "other":
            self._fail(job, f"{job.folder}/recipe.yaml is not the recipe its name says; delete or move that folder")
        else:
            self.waiting.append(job)
        return False

    def _fill(self) -> None:
        """Starts cells while there is room; one that somebody else is at is passed over until the next time."""
        for job in list(self.waiting):
            if len(self.running) >= self.at_once:
                return
            try:
                begun = self._begin(job)
            except OSError as e:
                begun = True
                self._fail(job, f"{job.folder}: cannot be written ({why(e)}); make room, or name another folder with --out")
            if begun:
                self.waiting.remove(job)

    def _begin(self, job: Job) -> bool:
        """Starts a cell, or counts one that is finished by now; False where somebody else is at it."""
        job.folder.mkdir(parents=True, exist_ok=True)
        fd = folders.lock(job.folder)
        if fd is None:
            return False
        # Whoever had the lock before may have finished it.
        if folders.state_of(job.cell, job.folder).kind == "finished":
            os.close(fd)
            self._done(job)
        else:
            self.running.append(_Child(job, fd))
        return True

    def _has_ended(self, child: _Child) -> bool:
        code = child.ended()
        if code is None:
            return False
        job = child.job
        if folders.state_of(job.cell, job.folder).kind == "finished":
            self.costs.look([(job.cell, job.folder)])
            self._done(job)
        elif code not in (128 + signal.SIGINT, -signal.SIGINT) and not child.asked:
            # What it said last comes first, for whoever shows a single line.
            *before, last = folders.tail(job.folder) or ["it said nothing"]
            words = "\n".join(f"    {line}" for line in (*before, last))
            words += f"\n    (all of it: {job.folder / folders.LOG})"
            self._fail(job, f"{_ending(code)}: {last.removeprefix('seqrl: ')}\n{words}")
        else:
            self.waiting.append(job)
        return True

    def _done(self, job: Job) -> None:
        self.result.finished.append(job)
        run = read_run(job.cell, job.folder)
        asked = "" if run is None or run.target is None else f", asked {run.target:g}"
        score = "" if run is None else f"  {run.score:.1f}{'' if run.normalised else ' (return)'}{asked}"
        took = "" if run is None or run.seconds is None else f"  {spell(run.seconds)}"
        self.board.say(f"{job.cell.label}{score}{took}  ({len(self.result.finished)}/{len(self.every)})")

    def _fail(self, job: Job, why: str) -> None:
        self.result.failed[job.cell.label] = why
        self.board.say(f"FAILED  {job.cell.label}: {why}")

    def _ask(self, number: int) -> None:
        for child in self.running:
            if not child.asked and child.process.poll() is None:
                child.asked = True
                child.process.send_signal(number)

    def _tell(self) -> None:
        at = {c.job.cell.label: c.step for c in self.running}
        left = [(j.cell, folders.logged_step(j.folder)) for j in self.waiting]
        left += [(c.job.cell, c.step) for c in self.running]
        done = sum(j.cell.recipe.train.steps for j in self.result.finished) + sum(step for _, step in left)
        running = ", ".join(f"{label} {step:,}" for label, step in at.items()) or "waiting for another seqrl bench"
        eta = self.costs.left(left, self.at_once)
        self.board.at(len(self.result.finished), len(self.every), min(done, self.all_steps), self.all_steps, eta, running)


def _ending(code: int) -> str:
    """How a process ended, by its exit code; real-time signals have no names."""
    names = {s.value: s.name for s in signal.Signals}
    return f"was ended by {names.get(-code, f'signal {-code}')}" if code < 0 else f"ended with code {code}"


def run_all(jobs: Sequence[Job], at_once: int, costs: Costs, board: Board, again: str, result: Round) -> None:
    """Runs every cell that is not finished.

    Args:
        at_once: how many at a time. again: the command that goes on, for the message.
        result: gets what comes of them, one by one, so that it is known also where this is left early.

    Raises:
        Interrupted: asked to stop; every run has saved.
    """
    with politely() as stop:
        Runner(jobs, at_once, costs, board, result).go(stop)
    if stop and len(result.finished) + len(result.failed) < len(jobs):
        done = f"{len(result.finished):,} of {len(jobs):,} cells are finished, and those that were running have saved"
        raise Interrupted(f"stopped; {done}. Go on with: {again}", stop.signal)
