"""One command starts its own processes, one Ctrl-C stops them all, and who dies is named."""

import os
import signal
import subprocess
import sys
import time

import pytest

from seqrl.core.errors import RecipeError
from seqrl.train import checkpoint, launch, metrics, processes
from seqrl.train.settings import EngineConfig

TEXT = """
name: spread
data: {sources: [{kind: minari, id: tests/cartpole-v0}], held_out: 0.1}
tokens: {pack: 48, layout: state separator action, slots: {state: {kind: bins, bins: 8}}}
model: {kind: policies.gato, width: 16, layers: 1, heads: 2, dropout: 0.1}
train: {steps: 100000, batch: 4, lr: 1e-3, device: cpu, log_every: 1, validate_every: 1000000, save_every: 1000000}
engine: {processes: 2, sequence: 2}
evaluate: {at_end: false}
"""


def wait_for(found, seconds=150):
    until = time.monotonic() + seconds
    while not (answer := found()):
        assert time.monotonic() < until, "nothing happened"
        time.sleep(0.2)
    return answer


def children(pid):
    """The processes that a process started, in the order of their numbers."""
    with open(f"/proc/{pid}/task/{pid}/children") as f:
        return [int(c) for c in f.read().split()]


@pytest.fixture
def spread(cartpole, tmp_path):
    """``spread(word, ...)``: ``seqrl train`` under way, past its first steps; what it says lies in ``said``."""
    started = []

    def begin(*words):
        (tmp_path / "r.yaml").write_text(TEXT)
        known = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", launch.PARENT)}
        command = [sys.executable, "-m", "seqrl", "train", *words]
        with (tmp_path / "said").open("w") as file:
            one = subprocess.Popen(command, cwd=tmp_path, stdout=file, stderr=file, env={**known, "OMP_NUM_THREADS": "1"})
        started.append(one)
        lines = tmp_path / "runs" / "spread" / "metrics.jsonl"
        before = len(metrics.read(lines))
        wait_for(lambda: one.poll() is not None or len(metrics.read(lines)) > before + 2)
        return one

    yield begin
    for one in started:
        if one.poll() is None:
            one.kill()
            one.wait()


def test_one_ctrl_c_stops_all_and_a_dead_process_is_named(spread, tmp_path):
    run, said = tmp_path / "runs" / "spread", tmp_path / "said"
    one = spread("r.yaml")
    assert one.poll() is None, said.read_text()
    assert len(children(one.pid)) == 2
    one.send_signal(signal.SIGINT)
    assert one.wait(120) == 128 + signal.SIGINT, said.read_text()
    told = said.read_text()
    assert told.count("everything is saved. Go on with: seqrl train --resume") == 1
    assert told.count("stopping after this step") == 1
    assert "Traceback" not in told
    step = checkpoint.load(checkpoint.last(run)).step
    # It goes on by its folder's name alone, in as many processes.
    one = spread("--resume", "runs/spread")
    assert one.poll() is None, said.read_text()
    os.kill(children(one.pid)[1], signal.SIGKILL)
    assert one.wait(120) == 1
    told = said.read_text()
    assert "process 1 of 2" in told
    assert "Traceback" not in told
    assert metrics.read(run / "metrics.jsonl")[0]["step"] == 1
    assert checkpoint.load(checkpoint.last(run)).step == step


def test_who_starts_processes():
    two = EngineConfig(processes=2)
    assert launch.needed(two, {}) == 2
    assert launch.needed(EngineConfig(sequence=4), {}) == 4
    assert launch.needed(EngineConfig(), {}) is None
    for there in (
        {"RANK": "0", "WORLD_SIZE": "2"},
        {"OMPI_COMM_WORLD_SIZE": "2"},
        {"SLURM_STEP_NUM_TASKS": "8"},
        {launch.PARENT: "3"},
    ):
        assert launch.needed(two, there) is None
    # A batch script is one process, whatever its job was given.
    assert launch.needed(two, {"SLURM_NTASKS": "8", "SLURM_PROCID": "0"}) == 2
    with pytest.raises(RecipeError, match=r"say how many: engine.processes=2"):
        launch.needed(EngineConfig(kind="fsdp"), {})


def test_what_slurm_says_is_understood(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    said = {"STEP_NUM_TASKS": "4", "PROCID": "3", "LOCALID": "1", "STEP_NODELIST": "node[07-08]", "JOB_ID": "123456"}
    for name, value in said.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert processes.started() == 4
    found = [os.environ[n] for n in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")]
    assert found == ["3", "4", "1", "node07", "23456"]


def test_the_first_to_die_is_named(capsys):
    def ends(first, second):
        code = "import os, sys, signal; r = os.environ['RANK']; eval(sys.argv[1 + int(r)])"
        with pytest.raises(launch.Ended) as e:
            launch.together([sys.executable, "-c", code, first, second], 2)
        return str(e.value), e.value.exit_code

    assert ends("0", "os.kill(os.getpid(), signal.SIGKILL)")[0].startswith("process 1 of 2 was ended by SIGKILL; all others")
    assert ends("os.kill(os.getpid(), signal.SIGKILL)", "sys.exit(1)")[0].startswith("process 0 of 2 was ended by SIGKILL")
    assert ends("0", "sys.exit('seqrl: no such thing')")[0].startswith("process 1 of 2 ended with code 1: no such thing")
    # What the first said was seen already.
    assert ends("sys.exit(2)", "sys.exit(2)") == ("", 2)
