"""Cells in processes: run, not run again, stopped and gone on with, failed and told, never two in one folder."""

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from seqrl.bench import folder as folders
from seqrl.bench import jobs, run, show
from seqrl.bench.cost import Costs
from seqrl.cli import app
from seqrl.cli import bench as command
from seqrl.train.signals import Interrupted, Stop

DYING = "import time\ntry: time.sleep(60)\nfinally: raise SystemExit(1)"


class Quiet:
    def __init__(self):
        self.lines, self.seen = [], []

    def say(self, line):
        self.lines.append(line)

    def at(self, *told):
        self.seen.append(told)


@pytest.fixture
def bench(suite, tmp_path, monkeypatch):
    """``bench(at_once, stop)`` runs the suite with a trainer that is no trainer; its folder, what was called and said."""
    monkeypatch.setattr(jobs, "COMMAND", (sys.executable, str(Path(__file__).with_name("_trainer.py"))))
    monkeypatch.setattr(jobs, "_LOOK", 0.05)
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)

    class Bench:
        out, board = tmp_path / "bench", Quiet()

        def __call__(self, at_once=2, stop=None, only=slice(None)):
            self.jobs = run.survey(suite, self.out).jobs[only]
            for job in self.jobs:
                run._write(job.recipe, job.cell.recipe.dump())
            self.runner = jobs.Runner(self.jobs, at_once, Costs(suite.config), self.board)
            return self.runner.go(Stop() if stop is None else stop)

        @property
        def calls(self):
            return (tmp_path / "calls").read_text().splitlines() if (tmp_path / "calls").is_file() else []

    return Bench()


def test_all_cells_are_run_once(bench, suite):
    result = bench(at_once=3)
    assert len(result.finished) == 8
    assert not result.failed
    assert len(bench.calls) == 8
    assert all(c.endswith(" start 1") for c in bench.calls), "one thread each"
    (line,) = [x for x in bench.board.lines if x.startswith("DT · tests/cartpole-v0 · seed 1")]
    assert "51.0 (return), asked 100" in line
    assert bench.board.seen[-1][1:4:2] == (8, 32)
    (cost,) = folders.costs_of(bench.jobs[0].folder)
    assert cost["steps"] == 4
    assert cost["cpu"] > 0
    assert len(bench().finished) == 8
    assert len(bench.calls) == 8, "nothing is run twice"
    assert bench.board.lines[-1] == "all 8 cells are finished already, so nothing is run"


def test_a_cell_that_fails_is_told_and_the_others_go_on(bench, monkeypatch):
    monkeypatch.setenv("BROKEN", "1")
    result = bench()
    assert len(result.finished) == 4
    assert len(result.failed) == 4
    why = result.failed["DT · tests/cartpole-v0 · seed 1"]
    assert why.startswith("ended with code 2: the data are broken\n")
    assert "bench.log" in why
    monkeypatch.delenv("BROKEN")
    assert not bench().failed, "the same command tries them again"


def test_stopped_children_save_and_are_gone_on_with(bench, monkeypatch):
    monkeypatch.setenv("PACE", "0.4")
    stop = Stop()

    class Stopping(Quiet):
        def at(self, *told):
            # Once a child is in the middle of it.
            if told[2] >= 1:
                stop.signal = signal.SIGINT

    bench.board = Stopping()
    result = bench(at_once=2, stop=stop)
    assert not result.finished
    assert not result.failed
    monkeypatch.setenv("PACE", "0")
    before = len(bench.calls)
    assert before == 2, "none is begun after somebody asked to stop"
    assert len(bench(only=slice(0, 2)).finished) == 2
    assert all(" resume " in c for c in bench.calls[before:])


def test_a_killed_child_is_told_and_run_again(bench, monkeypatch):
    monkeypatch.setenv("PACE", "0.4")

    class Killing(Quiet):
        def at(self, *told):
            for child in bench.runner.running:
                child.process.kill()

    bench.board = Killing()
    result = bench(only=slice(0, 1))
    assert "was ended by SIGKILL" in next(iter(result.failed.values()))
    bench.board = Quiet()
    monkeypatch.setenv("PACE", "0")
    assert len(bench(only=slice(0, 1)).finished) == 1


def test_the_lock_lives_as_long_as_the_process_that_has_it(tmp_path):
    fd = folders.lock(tmp_path)
    assert folders.lock(tmp_path) is None
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], pass_fds=(fd,))
    os.close(fd)
    assert folders.lock(tmp_path) is None, "the child has it still"
    child.kill()
    child.wait()
    again = folders.lock(tmp_path)
    assert again is not None
    os.close(again)


def test_a_cell_that_somebody_else_is_at_comes_later(bench, suite):
    jobs_of = run.survey(suite, bench.out).jobs
    taken = jobs_of[0].folder
    taken.mkdir(parents=True)
    fd = folders.lock(taken)

    class Releasing(Quiet):
        def say(self, line):
            super().say(line)
            if len(self.lines) == 2:
                os.close(fd)

    bench.board = Releasing()
    assert len(bench(at_once=1, only=slice(0, 3)).finished) == 3
    assert bench.calls[-1].startswith(taken.name)


def test_data_that_are_not_to_be_had_cost_their_own_cells_alone(bench, file, monkeypatch, tmp_path):
    from seqrl.bench import plan

    file.write_text(
        file.read_text().replace("source: {kind: minari, id: tests/other-v0}", "source: {kind: minari, id: tests/othr-v0}")
    )
    broken = plan.load(str(file), ("train.steps=4",))
    results, failed = run.bench(broken, tmp_path / "b", 2, "seqrl bench tiny")
    assert len(results.runs) == 4
    assert len(failed) == 4
    assert all("did you mean 'tests/other-v0'" in why for why in failed.values())
    assert (tmp_path / "b/tiny/table.md").is_file()


def test_asked_to_stop_says_the_command_that_goes_on(bench, suite, monkeypatch):
    bench(only=slice(0, 0))
    monkeypatch.setenv("PACE", "0.3")
    made = run.survey(suite, bench.out).jobs
    for job in made:
        run._write(job.recipe, job.cell.recipe.dump())

    class Signalling(Quiet):
        def at(self, *told):
            if told[2] >= 1 and not self.seen:
                os.kill(os.getpid(), signal.SIGINT)
                super().at(*told)

    with pytest.raises(Interrupted, match="Go on with: seqrl bench tiny") as e:
        jobs.run_all(made, 1, Costs(suite.config), Signalling(), "seqrl bench tiny", jobs.Round())
    assert e.value.exit_code == 130


def test_the_command(bench, file, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "140")

    def seqrl(*words):
        with pytest.raises(SystemExit) as left:
            app.main(["bench", *map(str, words)])
        said = capsys.readouterr()
        return left.value.code or 0, said.out, said.err

    code, out, _ = seqrl(file, "--dry-run", "train.steps=4")
    assert code == 0
    assert "0 of 8 cells are finished; 8 are left" in out
    assert not bench.calls
    code, out, err = seqrl(file, "--jobs", 3, "train.steps=4")
    assert code == 0, err
    assert "table   runs/bench/tiny/table.md" in out
    assert "(8/8)" in err
    code, out, _ = seqrl(file, "--dry-run", "train.steps=4")
    assert "8 of 8 cells are finished; none is left" in out
    code, out, _ = seqrl(file, "--seeds", 3, "--dry-run", "train.steps=4")
    assert "8 of 12 cells are finished" in out
    monkeypatch.setenv("BROKEN", "2")
    code, out, err = seqrl(file, "--seeds", 3, "train.steps=4")
    assert code == 1
    assert "4 of 12 cells failed; the same command tries them again" in err
    assert "2 of 3" in out
    code, _, err = seqrl()
    assert code == 2
    assert "name a suite" in err
    code, _, err = seqrl(file, "--out", file)
    assert code == 2
    assert "is a file" in err


def test_a_child_that_dies_of_being_asked_has_not_failed(bench, monkeypatch):
    # As one does that has not come to its own handler yet.
    monkeypatch.setattr(
        jobs, "COMMAND", (sys.executable, "-c", "import time\ntry: time.sleep(60)\nfinally: raise SystemExit(1)")
    )
    stop = Stop()

    class Stopping(Quiet):
        def at(self, *told):
            stop.signal = signal.SIGINT

    bench.board = Stopping()
    result = bench(at_once=1, stop=stop)
    assert not result.failed
    assert not result.finished


def test_how_a_process_ended():
    assert jobs._ending(-signal.SIGSEGV) == "was ended by SIGSEGV"
    assert jobs._ending(-signal.SIGRTMIN - 3) == f"was ended by signal {signal.SIGRTMIN + 3}"
    assert jobs._ending(2) == "ended with code 2"


def test_a_disk_that_refuses_ends_one_cell_and_not_the_others(bench, suite, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(folders, "add_cost", full)
    folder = run.survey(suite, bench.out).jobs[0].folder
    folder.parent.mkdir(parents=True)
    folder.write_text("a file")
    result = bench(only=slice(0, 2))
    assert len(result.finished) == 1
    (why,) = result.failed.values()
    assert "File exists" in why
    assert "--out" in why


def test_a_disk_without_locks_is_worked_on(tmp_path, monkeypatch):
    def unknown(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unknown)
    fd = folders.lock(tmp_path)
    assert fd is not None
    os.close(fd)


def test_a_table_made_on_being_stopped_tells_what_failed_before(suite, written, tmp_path, monkeypatch):
    job = run.survey(suite, tmp_path).jobs[0]
    written(job.cell, job.folder, [1, 2])

    def stopped(jobs, at_once, costs, board, again, result):
        result.failed["DT on Mars"] = "no air"
        raise Interrupted("stopped", signal.SIGINT)

    monkeypatch.setattr(run, "run_all", stopped)
    with pytest.raises(Interrupted):
        run.bench(suite, tmp_path, 1, "seqrl bench tiny")
    assert "- DT on Mars: no air" in (tmp_path / "tiny/table.md").read_text()


def test_the_command_that_goes_on_takes_nothing():
    said = "seqrl bench smoke --jobs 2"
    for words in (["--take", "a b"], ["--take=a"], []):
        assert command._again(["bench", "smoke", *words, "--jobs", "2"]) == said


def test_a_dry_run_moves_nothing_and_steers_no_terminal(file, tmp_path, capsys):
    file.write_text(file.read_text().replace("B|C", r'"B\e[2JC"'))
    with pytest.raises(SystemExit):
        app.main(["bench", str(file), "--dry-run", "--out", str(tmp_path)])
    said = capsys.readouterr().out
    assert "B�[2JC" in said
    assert "\033" not in said
    with pytest.raises(SystemExit) as left:
        app.main(["bench", str(file), "--dry-run", "--take", str(tmp_path), "--out", str(tmp_path)])
    assert left.value.code == 2
    assert "leave one of them out" in capsys.readouterr().err
    with show.board("x") as told:
        told.say("B\033[2JC")
    assert capsys.readouterr().err == "B�[2JC\n"


def test_a_real_cell_ends_as_a_run(tmp_path, data):
    """One run by ``seqrl train`` itself: the only one here, because each takes seconds to start."""
    suite = tmp_path / "one.yaml"
    suite.write_text(
        "name: one\nmethods: {B: {recipe: bc_cartpole, set: {train.steps: 4, model.widths: [8], train.validate_windows: 4}}}\n"
        "datasets: [{id: tests/cartpole-v0, source: {kind: minari, id: tests/cartpole-v0}}]\n"
        "seeds: 1\nevaluate: {episodes: 2, envs: 2}\n"
    )
    words = [sys.executable, "-m", "seqrl", "bench", str(suite), "--out", str(tmp_path / "out")]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    said = subprocess.run(words, capture_output=True, text=True, env=env, timeout=250)
    assert said.returncode == 0, said.stderr
    found = json.loads((tmp_path / "out/one/results.json").read_text())
    (row,) = found["rows"]
    assert row["normalised"]
    assert row["runs"][0]["episodes"] == 2
    cell = tmp_path / "out/cells" / row["runs"][0]["cell"]
    assert (cell / "report.html").is_file()


@pytest.mark.slow
def test_the_smoke_suite_runs_offline(tmp_path, monkeypatch):
    env = {**os.environ, "MINARI_DATASETS_PATH": str(tmp_path / "data"), "SEQRL_CACHE": str(tmp_path / "cache")}
    words = [sys.executable, "-m", "seqrl", "bench", "smoke", "--out", str(tmp_path / "out")]
    said = subprocess.run(words, capture_output=True, text=True, env=env)
    assert said.returncode == 0, said.stderr
    found = json.loads((tmp_path / "out/smoke/results.json").read_text())
    assert len(found["rows"]) == 4
    assert [w["method"] for w in found["together"]] == ["BC", "DT"]
    assert all(r["mean"] > 0 for r in found["rows"])
