"""Stopping and going on must leave no trace: the same weights, moments and metrics, bit for bit, with dropout on."""

import fcntl
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from seqrl.core.errors import DataError, RecipeError, UserError
from seqrl.train import checkpoint, disk, metrics, run, seals
from seqrl.train.signals import Interrupted


def tensors(out):
    return load_file(checkpoint.last(out) / "trainer" / "state.safetensors")


def rows(out):
    dropped = ("steps_per_second", "seconds")
    return [{k: v for k, v in r.items() if k not in dropped} for r in metrics.read(out / "metrics.jsonl")]


def assert_same_run(a, b):
    one, two = tensors(a), tensors(b)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert rows(a) == rows(b)


def go_on(out, stop_at):
    """Trains until a signal arrives after step ``stop_at``, then resumes to the end."""
    before = run.Trainer.step

    def step(self, number):
        before(self, number)
        if number + 1 == stop_at:
            os.kill(os.getpid(), signal.SIGINT)

    return step


@pytest.mark.parametrize(
    "overrides", [(), ("train.accumulate=2", "train.ema=0.9"), ("train.decay=cosine", "train.warmup=3", "train.precision=bf16")]
)
@pytest.mark.parametrize("stop_at", [3, 8])
def test_resumed_equals_uninterrupted(small, tmp_path, monkeypatch, overrides, stop_at):
    straight = run.start(small(*overrides), tmp_path / "straight").run
    broken = tmp_path / "broken"
    with monkeypatch.context() as m:
        m.setattr(run.Trainer, "step", go_on(broken, stop_at))
        with pytest.raises(Interrupted, match=f"seqrl train --resume {broken}") as stopped:
            run.start(small(*overrides), broken)
    assert stopped.value.exit_code == 130
    assert checkpoint.last(broken).name == checkpoint.name_of(stop_at)
    run.resume(broken)
    assert_same_run(straight, broken)


KILLED = """
import os, signal, sys
from seqrl.train import checkpoint, recipe, run
name, before, when = sys.argv[3], getattr(os, sys.argv[3]), int(sys.argv[4])
calls = []
def dies(*a, **k):
    if run_step[0] == 8:
        calls.append(1)
        if len(calls) == when:
            os.kill(os.getpid(), signal.SIGKILL)
    return before(*a, **k)
run_step = [0]
save = checkpoint.save
def noted(out, state, *a):
    run_step[0] = state.step
    return save(out, state, *a)
checkpoint.save = noted
setattr(os, name, dies)
run.start(recipe.parse(open(sys.argv[1]).read(), "small.yaml"), run.Path(sys.argv[2]))
"""


@pytest.mark.parametrize(("call", "when"), [("fsync", 1), ("fsync", 4), ("rename", 1), ("replace", 1), ("fsync", 11)])
def test_killed_in_the_middle_of_a_save(small, tmp_path, call, when):
    recipe, broken = small(), tmp_path / "broken"
    (tmp_path / "r.yaml").write_text(recipe.dump())
    died = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "r.yaml"), str(broken), call, str(when)], capture_output=True, text=True
    )
    assert died.returncode == -signal.SIGKILL, died.stderr
    run.resume(broken)
    assert not list((broken / "checkpoints").glob(".part*"))
    assert_same_run(run.start(recipe, tmp_path / "straight").run, broken)


def test_a_finished_run_resumes_to_itself(small, tmp_path):
    out = run.start(small(), tmp_path / "r").run
    before = tensors(out)
    run.resume(out)
    assert all(torch.equal(before[k], v) for k, v in tensors(out).items())


def test_more_steps_may_be_asked_of_a_run_without_decay(small, tmp_path):
    short = run.start(small(), tmp_path / "short").run
    (short / "recipe.yaml").write_text(small("train.steps=16").dump())
    run.resume(short)
    assert_same_run(run.start(small("train.steps=16"), tmp_path / "long").run, short)


def test_a_changed_recipe_is_refused_by_key(small, tmp_path):
    out = run.start(small(), tmp_path / "r").run
    (out / "recipe.yaml").write_text(small("train.lr=0.5", "model.layers=3").dump())
    with pytest.raises(RecipeError, match="another run") as e:
        run.resume(out)
    assert "model.layers: was 2, is 3" in str(e.value)
    assert "train.lr: was 0.001, is 0.5" in str(e.value)


def test_changed_data_are_refused(small, tmp_path):
    out = run.start(small(), tmp_path / "r").run
    state = checkpoint.last(out) / "trainer" / "state.json"
    state.write_text(json.dumps(json.loads(state.read_text()) | {"data": ["another"]}))
    seals.seal(state.parent.parent)
    with pytest.raises(DataError, match="the data are not those"):
        run.resume(out)


def test_a_folder_with_a_run_in_it_is_not_overwritten(small, tmp_path):
    run.start(small(), tmp_path / "r")
    with pytest.raises(UserError, match="--resume"):
        run.start(small(), tmp_path / "r")
    with pytest.raises(UserError, match="no run to go on with"):
        run.resume(tmp_path / "nothing")


def test_two_processes_do_not_train_in_one_folder(small, tmp_path):
    out = run.start(small(), tmp_path / "r").run
    assert not (out / disk.LOCK).exists()
    with (out / disk.LOCK).open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another process is training in this folder"):
            run.resume(out)
    # A lock file that nobody holds, as a killed process leaves it, is no obstacle.
    run.resume(out)
    assert not (out / disk.LOCK).exists()


def test_a_run_that_cannot_begin_leaves_no_folder(small, tmp_path):
    with pytest.raises(UserError):
        run.start(small("evaluate.at_end=true", "evaluate.env=NoSuch-v9"), tmp_path / "a" / "b")
    assert not (tmp_path / "a").exists()


def test_a_full_disk_leaves_the_checkpoint_before(small, tmp_path, monkeypatch):
    save = checkpoint.save_file

    def full(tensors_, path):
        if "step-00000008" in str(path):
            Path(path).write_bytes(b"half")
            raise OSError(28, "No space left on device")
        save(tensors_, path)

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(UserError, match="no space left .* the checkpoint step-00000004 stays"):
        run.start(small(), tmp_path / "r")
    home = tmp_path / "r" / "checkpoints"
    assert sorted(p.name for p in home.iterdir()) == ["last", "step-00000004"]
    monkeypatch.undo()
    run.resume(tmp_path / "r")
    assert_same_run(run.start(small(), tmp_path / "straight").run, tmp_path / "r")


def test_only_the_newest_are_kept(small, tmp_path):
    out = run.start(small("train.save_every=2", "train.keep=3"), tmp_path / "r").run
    names = sorted(p.name for p in (out / "checkpoints").glob("step-*"))
    assert names == [checkpoint.name_of(s) for s in (8, 10, 12)]
    assert (out / "checkpoints" / "last").resolve().name == checkpoint.name_of(12)


def test_state_goes_through_a_file_unchanged(tmp_path):
    state = checkpoint.TrainerState(3, {"a": torch.randn(4), "b": torch.arange(3)}, {"data": ["x"]})
    where = checkpoint.save(tmp_path, state, lambda folder: folder.mkdir(parents=True), keep=1)
    again = checkpoint.load(where)
    assert again.step == 3
    assert again.facts == {"data": ["x"], "sealed": True}
    assert all(torch.equal(again.tensors[k], v) for k, v in state.tensors.items())
