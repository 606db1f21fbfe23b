"""One command starts its own processes, one Ctrl-C stops them all, and who dies is named."""

import os
import signal
import subprocess
import sys
import time

import pytest

from seqrl.core.errors import RecipeError
from seqrl.train import around, checkpoint, launch, metrics
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


def wait_for(found, seconds=240):
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


def told(monkeypatch, said):
    """How many processes there are, and what torch reads then, where the environment says this."""
    words = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    for name in words:
        # Set first, so that it is taken back afterwards.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    return around.started(), [os.environ.get(n) for n in words]


def test_what_slurm_says_is_understood(monkeypatch):
    said = {"STEP_NUM_TASKS": "4", "PROCID": "3", "LOCALID": "1", "STEP_NODELIST": "node[07-08]", "JOB_ID": "123456"}
    said = {f"SLURM_{n}": v for n, v in said.items()}
    assert told(monkeypatch, said) == (4, ["3", "4", "1", "node07", "23456"])
    # Another step of the job meets at another port; who names the first machine is believed.
    assert told(monkeypatch, said | {"SLURM_STEP_ID": "2"})[1][4] == "25450"
    assert told(monkeypatch, said | {"MASTER_ADDR": "10.0.0.1"})[1][3] == "10.0.0.1"
    with pytest.raises(RecipeError, match=r"SLURM_STEP_NODELIST=\[ names no machine; set MASTER_ADDR"):
        told(monkeypatch, said | {"SLURM_STEP_NODELIST": "["})


@pytest.mark.parametrize(
    ("machines", "first"),
    [
        ("node[01-04,07]", "node01"),
        ("node[7]-ib0,node9", "node7-ib0"),
        ("login,node[1-2]", "login"),
        ("gpu-[1-2]-[03-4],x", "gpu-1-03"),
        ("rack1-n[001,005-006].cluster,b", "rack1-n001.cluster"),
        ("alone", "alone"),
    ],
)
def test_the_first_machine_of_a_list(machines, first):
    assert around.first_of(machines) == first


def test_what_mpi_says_is_understood(monkeypatch):
    for name in ("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST"):
        monkeypatch.delenv(name, raising=False)
    said = {"SIZE": "4", "RANK": "3", "LOCAL_RANK": "3", "LOCAL_SIZE": "4"}
    said = {f"OMPI_COMM_WORLD_{n}": v for n, v in said.items()}
    assert told(monkeypatch, said) == (4, ["3", "4", "3", "127.0.0.1", "20000"])
    apart = said | {"OMPI_COMM_WORLD_LOCAL_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "1"}
    with pytest.raises(RecipeError, match="stand on several machines; set MASTER_ADDR to the name of the one with process 0"):
        told(monkeypatch, apart)
    assert told(monkeypatch, apart | {"MASTER_ADDR": "one"})[1][:4] == ["3", "4", "1", "one"]


def test_srun_starts_it_as_well(cartpole, tmp_path):
    (tmp_path / "r.yaml").write_text(TEXT.replace("steps: 100000", "steps: 3"))
    known = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", launch.PARENT)}
    said = {"STEP_NUM_TASKS": "2", "STEP_NODELIST": "localhost", "JOB_ID": str(os.getpid())}
    known |= {"OMP_NUM_THREADS": "1", **{f"SLURM_{n}": v for n, v in said.items()}}
    # What srun does: the same command twice, and to each its number.
    command = [sys.executable, "-m", "seqrl", "train", "r.yaml"]
    files = [(tmp_path / f"said{r}").open("w+") for r in range(2)]
    both = [
        subprocess.Popen(
            command, cwd=tmp_path, stdout=f, stderr=f, env={**known, "SLURM_PROCID": str(r), "SLURM_LOCALID": str(r)}
        )
        for r, f in enumerate(files)
    ]
    try:
        codes = [p.wait(280) for p in both]
    finally:
        for p in both:
            p.kill()
    said = [(tmp_path / f"said{r}").read_text() for r in range(2)]
    assert codes == [0, 0], said
    assert [s.count("run     runs/spread") for s in said] == [1, 0]
    assert checkpoint.load(checkpoint.last(tmp_path / "runs" / "spread")).facts["world"] == 2


def test_accelerate_launch_starts_it_as_well(cartpole, tmp_path):
    (tmp_path / "r.yaml").write_text(TEXT.replace("steps: 100000", "steps: 3"))
    known = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", launch.PARENT)}
    how = "--cpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no --main_process_port 0"
    command = [sys.executable, "-m", "accelerate.commands.launch", *how.split(), "-m", "seqrl", "train", "r.yaml"]
    env = {**known, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("run     runs/spread") == 1
    assert checkpoint.load(checkpoint.last(tmp_path / "runs" / "spread")).facts["world"] == 2


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
