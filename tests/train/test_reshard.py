"""A run saved under any engine goes on under any other, and ends as the undisturbed one: moments are dealt out anew.

All engines are tried in two processes started once, which is most of what such a test costs.
"""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from seqrl.core.errors import BundleError, RecipeError, UserError
from seqrl.train import checkpoint, metrics, run
from seqrl.train import recipe as recipes
from seqrl.train.moments import Moments
from seqrl.train.saved import Kept, of_all

# Saved between two lines of metrics, so that the sums since the last one go over as well.
TEXT = """
name: reshard
data: {sources: [{kind: minari, id: tests/cartpole-v0}], held_out: 0.1}
tokens: {pack: 48, layout: state separator action, slots: {state: {kind: bins, bins: 8}}}
model: {kind: policies.gato, width: 20, layers: 2, heads: 2, kv_heads: 1, dropout: 0.0}
train: {steps: 6, batch: 4, lr: 1e-3, weight_decay: 0.1, device: cpu, log_every: 3, validate_windows: 8, save_every: 2, keep: 9}
evaluate: {at_end: false}
"""
# A job is `NAME WORD ...`, a run of its own, or `NAME from OTHER at STEP WORD ...`, which goes on with a copy of another.
CODE = """
import os, sys, traceback
from pathlib import Path
import torch.distributed as dist
from seqrl.train import recipe, run
from tests.train.test_reshard import copy_of
text, out = open(sys.argv[1]).read(), Path(sys.argv[2])
code = 0
try:
    for line in open(sys.argv[3]):
        name, *words = line.split()
        if words[:1] == ["from"]:
            if os.environ["RANK"] == "0":
                copy_of(out / words[1], out / name, int(words[3]))
            if dist.is_initialized():
                dist.barrier()
            run.resume(out / name, words[4:])
        else:
            run.start(recipe.parse(text, "r.yaml", words), out / name)
        dist.barrier()
except BaseException:
    traceback.print_exc()
    code = 1
sys.stdout.flush(); sys.stderr.flush()
os._exit(code)
"""
KINDS = ("ddp", "fsdp", "zero2", "zero3")
WORDS = ("step", "loss", "loss/action", "val/loss", "grad_norm")


def copy_of(out, to, step):
    """A run as it was when it had just saved ``step``."""
    shutil.copytree(out, to, symlinks=True)
    for later in (to / "checkpoints").glob("step-*"):
        if later.name > checkpoint.name_of(step):
            shutil.rmtree(later)


def several(folder, processes, jobs, timeout=500):
    """Runs jobs one behind the other in the same processes; what they said."""
    (folder / "r.yaml").write_text(TEXT)
    (folder / "go.py").write_text(CODE)
    (folder / "jobs").write_text("".join(f"{job}\n" for job in jobs))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command = [*launch, *(str(folder / f) for f in ("go.py", "r.yaml", ".", "jobs"))]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()}
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=timeout)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stderr


def told(out):
    return [{k: v for k, v in r.items() if k in WORDS} for r in metrics.read(out / "metrics.jsonl")]


def assert_like(one, other):
    """Losses to 1e-5 of their size, weights to 2e-6."""
    assert len(told(one)) == len(told(other))
    for a, b in zip(told(one), told(other), strict=True):
        assert b == {k: pytest.approx(v, rel=1e-5 if "loss" in k else 1e-4) for k, v in a.items()}
    a, b = (load_file(checkpoint.last(p) / "bundle" / "model.safetensors") for p in (one, other))
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=0, atol=2e-6, msg=name)


@pytest.fixture(scope="module")
def one(cartpole, tmp_path_factory):
    return run.start(recipes.parse(TEXT, "r"), tmp_path_factory.mktemp("one") / "r").run


def moments(out):
    """All moments of the last checkpoint, whole and flat, by name."""
    folder = checkpoint.last(out) / "trainer"
    files = [Kept({f: None}) for f in sorted(folder.glob("*.safetensors"), key=lambda f: (len(f.name), f.name))]
    sizes = {n.removeprefix("model/"): files[0][n].numel() for n in files[0] if n.startswith("model/")}
    found = Moments(files, sizes)
    return {(n, m): found.step(n) if m == "step" else found.whole(n, m) for n in sizes for m in found.of(n)}


def assert_same_moments(one, other):
    a, b = moments(one), moments(other)
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-4, atol=1e-7, msg=str(name))


@pytest.mark.timeout(600)
def test_a_run_goes_on_under_any_engine(one, tmp_path, capsys):
    shutil.copytree(one, tmp_path / "one", symlinks=True)
    two = "engine.processes=2"
    jobs = [f"{k} engine={k}" for k in KINDS]
    jobs += [f"one-{k} from one at 4 engine={k} {two}" for k in KINDS]
    jobs += [f"{a}-{b} from {a} at 2 engine={b} {two}" for a, b in (("fsdp", "zero3"), ("zero3", "zero2"), ("zero2", "fsdp"))]
    # Another one behind it, and rows that are shared.
    jobs += [f"ring from fsdp-zero3 at 4 engine=ring {two}"]
    said = several(tmp_path, 2, jobs)
    assert f"{tmp_path}/one-fsdp was saved by one process and goes on under fsdp over 2 processes: the same rows" in said
    assert said.count("dropout and other noise are drawn anew") == len(jobs) - len(KINDS)
    for job in jobs:
        assert_like(one, tmp_path / job.split()[0])
        assert_same_moments(one, tmp_path / job.split()[0])
    capsys.readouterr()
    for kind in KINDS:
        copy_of(tmp_path / kind, tmp_path / f"{kind}-one", 4)
        run.resume(tmp_path / f"{kind}-one", ["engine=ddp"])
        assert_like(one, tmp_path / f"{kind}-one")
        told_ = f"was saved by {kind} over 2 processes and goes on under one process"
        assert capsys.readouterr().err.count(told_) == 1
    # What it went on under is what it will go on under.
    assert recipes.load(str(tmp_path / "one-zero3" / "recipe.yaml")).engine.kind == "zero3"
    (checkpoint.last(tmp_path / "zero3") / "trainer" / "state-00001.safetensors").unlink()
    with pytest.raises(BundleError, match=r"cannot be read .* delete step-00000006 to go on from the one before"):
        of_all(tmp_path / "zero3" / "checkpoints" / "step-00000006")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_four_processes_go_on_as_two_and_as_one(one, tmp_path):
    several(tmp_path, 4, [f"{k} engine={k}" for k in KINDS], timeout=800)
    jobs = [f"{a}-{b} from {a} at 2 engine={b} engine.processes=2" for a in KINDS for b in KINDS]
    several(tmp_path, 2, ["begin train.steps=1", *jobs], timeout=800)
    for kind in KINDS:
        copy_of(tmp_path / kind, tmp_path / f"{kind}-one", 2)
        run.resume(tmp_path / f"{kind}-one", ["engine=ddp"])
    for name in [*(j.split()[0] for j in jobs), *(f"{k}-one" for k in KINDS)]:
        assert_like(one, tmp_path / name)


def test_what_may_not_change_on_the_way_is_named(one, tmp_path):
    copy_of(one, tmp_path / "r", 4)
    with pytest.raises(RecipeError, match=r"another run:\n  train\.lr: was 0\.001, is 0\.5"):
        run.resume(tmp_path / "r", ["train.lr=0.5"])
    with pytest.raises(RecipeError, match=r"train\.ema: no process has whole weights to average under fsdp"):
        run.resume(tmp_path / "r", ["engine=fsdp", "train.ema=0.9"])
    with pytest.raises(RecipeError, match=r"tokens\.pack=48: cannot be cut over engine\.sequence=5"):
        run.resume(tmp_path / "r", ["engine=ring", "engine.sequence=5", "train.accumulate=4"])
    with pytest.raises(RecipeError, match="engine: 2 processes are asked for, and 1 is running"):
        run.resume(tmp_path / "r", ["engine=fsdp", "processes=2"])
    # In pieces the same batch is learned from; more steps are those of a longer run.
    run.resume(tmp_path / "r", ["train.accumulate=2"])
    assert_like(one, tmp_path / "r")


def pieces(folder, *files):
    """What processes left, as files."""
    for i, tensors in enumerate(files):
        save_file(tensors, folder / f"{i}.safetensors")
    return [Kept({folder / f"{i}.safetensors": None}) for i in range(len(files))]


def test_any_piece_is_put_together_from_any_others(tmp_path):
    whole = torch.arange(15.0)
    names = "shard/exp_avg/w"
    # The third had nothing of it.
    files = pieces(tmp_path, {names: whole[:7], "optimizer/step/w": torch.tensor(3.0)}, {names: whole[7:15]}, {"x": whole})
    found = Moments(files, {"w": 15, "frozen": 3})
    assert found.of("frozen") == []
    assert found.step("w") == 3
    for start in range(16):
        for stop in range(start, 16):
            assert torch.equal(found.piece("w", "exp_avg", start, stop), whole[start:stop])
    with pytest.raises(BundleError, match="lacks pieces, or is of a parameter of another size"):
        Moments(files, {"w": 16})
    with pytest.raises(BundleError, match="has moments of w, and the model has no such parameter"):
        Moments(files, {"v": 15})


def test_checkpoints_of_before_pieces_had_names(one, tmp_path):
    a, b = torch.arange(6.0).view(3, 2), torch.arange(10.0, 14.0)
    step = torch.tensor(2.0)
    files = pieces(
        tmp_path,
        {"shard/0/exp_avg": a[:2], "shard/1/exp_avg": b[:2], "shard/0/step": step, "shard/1/step": step.clone()},
        {"shard/0/exp_avg": a[2:], "shard/1/exp_avg": b[2:], "shard/0/step": step, "shard/1/step": step.clone()},
    )
    # FSDP numbered parameters, each by itself, so nothing is missing.
    found = Moments(files, {"b": 4, "a": 6}, order=["a", "b"])
    assert torch.equal(found.whole("a", "exp_avg"), a.flatten())
    assert torch.equal(found.whole("b", "exp_avg"), b)
    assert found.step("b") == 2
    # DeepSpeed's flat groups are of many.
    found = Moments(files, {"b": 4, "a": 6})
    assert found.of("a") == []
    assert torch.equal(found.by_number(1)[0, "exp_avg"], a[2:])
    copy_of(one, tmp_path / "r", 4)
    trainer = checkpoint.last(tmp_path / "r") / "trainer"
    left = {n: t for n, t in load_file(trainer / "state.safetensors").items() if not n.startswith("optimizer/")}
    save_file(left | {"shard/0/exp_avg": torch.zeros(3)}, trainer / "state.safetensors")
    save_file({"shard/0/exp_avg": torch.zeros(3)}, trainer / "state-00001.safetensors")
    facts = json.loads((trainer / "state.json").read_text()) | {"engine": "zero3", "world": 2}
    # Nor were there seals.
    facts.pop("sealed")
    (trainer / "seal.json").unlink()
    (trainer / "state.json").write_text(json.dumps(facts))
    with pytest.raises(UserError, match="go on with engine=zero3 engine.processes=2 until its next checkpoint"):
        run.resume(tmp_path / "r")
