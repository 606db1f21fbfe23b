"""Writing while training goes on, damaged checkpoints, and disks that refuse."""

import errno
import json
import os
import random
import re
import resource
import shutil
import threading
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from seqrl.core.errors import BundleError, UserError
from seqrl.train import checkpoint, metrics, run, seals
from seqrl.train.disk import write_whole
from seqrl.train.processes import LostProcess
from seqrl.train.writer import Posts, Writer, copies


def bundle_of(folder):
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text('{"step": 1}')
    (folder / "weights").write_bytes(bytes(range(256)) * 8)


def save(home, step, keep=3, posts=None):
    state = checkpoint.TrainerState(step, {"model/a": torch.full((50,), float(step)), "optimizer/b/a": torch.arange(9)}, {})
    return checkpoint.save(home, state, bundle_of, keep, posts)


# ---- the thread -----------------------------------------------------------------------------------------------------


def test_one_write_at_a_time_and_its_error_comes_to_who_asks_next():
    writer, gate, order = Writer(), threading.Event(), []

    def slow():
        gate.wait(30)
        order.append("first")

    writer.begin(slow)
    assert not writer.failed
    assert order == []
    gate.set()
    writer.begin(lambda: order.append("second"))
    writer.wait()
    assert order == ["first", "second"]

    def fails():
        raise UserError("no space")

    writer.begin(fails)
    writer.let_finish()
    assert writer.failed
    with pytest.raises(UserError, match="no space"):
        writer.begin(lambda: order.append("third"))
    assert not writer.failed
    writer.wait()
    assert order == ["first", "second"]


def test_what_is_written_is_of_the_step_it_was_taken_at(small, tmp_path, monkeypatch):
    """Training goes on while the disk is slow, and what lands there is not touched by it."""
    gate, bundles, taken = threading.Event(), checkpoint.save, []

    def slow(*a, **k):
        gate.wait(60)
        return bundles(*a, **k)

    def step(self, number, before=run.Trainer.step):
        before(self, number)
        if number + 1 == 4:
            taken.append({n: t.clone() for n, t in self.bare.state_dict().items()})
        if number + 1 == 7:
            # Three steps later nothing is on the disk yet, and nobody waited.
            assert checkpoint.last(tmp_path / "r") is None
            gate.set()

    monkeypatch.setattr(checkpoint, "save", slow)
    monkeypatch.setattr(run.Trainer, "step", step)
    out = run.start(small("train.keep=9"), tmp_path / "r").run
    found = load_file(out / "checkpoints" / "step-00000004" / "bundle" / "model.safetensors")
    assert found.keys() == taken[0].keys()
    assert all(torch.equal(found[n], t) for n, t in taken[0].items())
    raw = checkpoint.load(out / "checkpoints" / "step-00000004").tensors
    assert all(torch.equal(raw[f"model/{n}"], t) for n, t in taken[0].items())
    config = json.loads((out / "checkpoints" / "last" / "bundle" / "config.json").read_text())
    assert config["architectures"] == ["DecisionTransformer"]


def test_copies_share_nothing():
    a = torch.arange(6.0).reshape(2, 3)
    made = copies({"a": a.T})
    a.zero_()
    assert made["a"].is_contiguous()
    assert made["a"].tolist() == [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]


class Store:
    """What of torch's store ``Posts`` needs."""

    def __init__(self):
        self.said = {}

    def set(self, key, value):
        self.said[key] = value.encode()

    def get(self, key):
        return self.said[key]

    def check(self, keys):
        return all(k in self.said for k in keys)


class Three:
    def __init__(self, store, rank):
        self._store, self.rank, self.world = store, rank, 3


def together(home, spoil=None):
    """One checkpoint of three processes, each a thread here; what each of them met."""
    store, met = Store(), {}

    def one(rank):
        posts = Posts(Three(store, rank), "0/1")
        try:
            if rank == 0:
                save(home, 5, posts=posts)
            else:
                checkpoint.add(home, checkpoint.TrainerState(5, {"shard/0": torch.full((4,), rank)}, {}), rank, posts)
            met[rank] = None
        except Exception as e:
            met[rank] = e

    threads = [threading.Thread(target=one, args=(r,)) for r in range(3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    return met


def test_processes_meet_without_the_process_group(tmp_path, monkeypatch):
    assert together(tmp_path) == {0: None, 1: None, 2: None}
    there = checkpoint.last(tmp_path)
    assert sorted(p.name for p in (there / "trainer").glob("*.safetensors")) == [
        "state-00001.safetensors",
        "state-00002.safetensors",
        "state.safetensors",
    ]
    # It is there already: nobody writes, and all know.
    assert together(tmp_path) == {0: None, 1: None, 2: None}
    write = checkpoint.save_file

    def full(tensors, path):
        if "state-00002" in str(path):
            raise OSError(errno.ENOSPC, "No space left on device")
        write(tensors, path)

    shutil.rmtree(there)
    monkeypatch.setattr(checkpoint, "save_file", full)
    met = together(tmp_path)
    assert {str(e) for e in met.values()} == {str(met[0])}
    assert all(type(e) is UserError for e in met.values())
    assert "no space left on the disk" in str(met[0])
    assert not list((tmp_path / "checkpoints").glob("*step*"))


def test_who_waits_for_a_process_that_is_gone_is_told(monkeypatch):
    store = Store()
    monkeypatch.setattr("seqrl.train.writer._PATIENCE", 1.1)
    with pytest.raises(LostProcess, match="process 1 of 3 is gone"):
        Posts(Three(store, 0), "1").hear("added", 1)
    store.set("said/1", "out of memory")
    with pytest.raises(LostProcess, match="process 1 of 3 stopped: out of memory"):
        Posts(Three(store, 0), "1").hear("added", 1)


# ---- damage ---------------------------------------------------------------------------------------------------------


def spoil(path, how, chance):
    content = bytearray(path.read_bytes())
    if how == "gone":
        path.unlink()
        return
    if how == "flip":
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    elif how == "cut":
        del content[chance.randrange(len(content)) :]
    else:
        content += b"\0"
    path.write_bytes(content)


def test_every_damage_of_every_file_is_noticed(tmp_path, capsys):
    chance = random.Random(0)
    for step in (1, 2):
        save(tmp_path, step)
    newest, kept = checkpoint.last(tmp_path), tmp_path / "kept"
    shutil.copytree(newest, kept)
    files = [p.relative_to(newest) for p in newest.rglob("*") if p.is_file()]
    assert len(files) == 5
    for name in files:
        for how in ("flip",) * 40 + ("cut",) * 10 + ("longer", "gone"):
            spoil(newest / name, how, chance)
            assert checkpoint.last(tmp_path).name == checkpoint.name_of(1), (name, how)
            shutil.copy(kept / name, newest / name)
    assert checkpoint.last(tmp_path) == newest
    assert "damaged; going on from step-00000001" in capsys.readouterr().err


def test_a_damaged_checkpoint_is_told_and_the_one_before_gone_on_from(small, tmp_path, capsys):
    straight = run.start(small(), tmp_path / "straight").run
    broken = run.start(small(), tmp_path / "broken").run
    spoil(checkpoint.last(broken) / "bundle" / "model.safetensors", "flip", random.Random(1))
    run.resume(broken)
    said = capsys.readouterr().err
    assert said.count("bundle/model.safetensors is damaged; going on from step-00000008") == 1
    a, b = (dict(checkpoint.load(checkpoint.last(r)).tensors) for r in (straight, broken))
    assert checkpoint.last(broken).name == checkpoint.name_of(12)
    assert all(torch.equal(a[n], b[n]) for n in a)
    assert seals.wrong(broken / "checkpoints" / "step-00000012") is None
    for one in (broken / "checkpoints").glob("step-*"):
        spoil(one / "trainer" / "state.safetensors", "cut", random.Random(2))
    with pytest.raises(BundleError, match="no checkpoint is what was written .* to begin anew delete .*checkpoints"):
        run.resume(broken)


def test_metrics_added_later_fit_the_seal_whenever_it_ends(tmp_path, monkeypatch):
    there = save(tmp_path, 1)
    checkpoint.add_metrics(tmp_path, {"eval/mean": 3.0})
    assert json.loads((there / "bundle" / "metrics.json").read_text()) == {"step": 1, "eval/mean": 3.0}
    assert seals.wrong(there) is None
    calls = []

    def dies(path, text):
        calls.append(path.name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        write_whole(path, text)

    monkeypatch.setattr(seals, "write_whole", dies)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.add_metrics(tmp_path, {"eval/mean": 4.0})
    assert calls == ["seal.json", "metrics.json"]
    assert seals.wrong(there) is None


def test_checkpoints_of_before_there_were_seals_are_taken_as_they_are(tmp_path):
    there = save(tmp_path, 1)
    (there / seals.SEAL).unlink()
    assert seals.wrong(there) == "trainer/seal.json is damaged or gone"
    (there / "trainer" / "state.json").write_text('{"step": 1}')
    assert checkpoint.last(tmp_path) == there


def test_who_only_looks_sweeps_nothing_away(tmp_path):
    save(tmp_path, 1)
    part = tmp_path / "checkpoints" / ".part-step-00000002"
    part.mkdir()
    assert checkpoint.last(tmp_path).name == checkpoint.name_of(1)
    assert part.is_dir()
    (tmp_path / "checkpoints" / "last").unlink()
    checkpoint.settle(tmp_path)
    assert not part.exists()
    assert (tmp_path / "checkpoints" / "last").resolve().name == checkpoint.name_of(1)


# ---- disks that refuse ----------------------------------------------------------------------------------------------


@pytest.fixture
def narrow():
    """``narrow(bytes)``: no file may be longer from now on; the kernel refuses the write, as a quota does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_limit_for_files_stops_the_run_with_one_message(small, tmp_path, monkeypatch, narrow):
    steps = []

    def step(self, number, before=run.Trainer.step):
        before(self, number)
        steps.append(number + 1)
        if number + 1 == 5:
            # What is being written beside the training must be there first.
            while checkpoint.last(tmp_path / "r") is None:
                time.sleep(0.05)
            narrow(3000)
        time.sleep(0.05)

    with monkeypatch.context() as m:
        m.setattr(run.Trainer, "step", step)
        with pytest.raises(UserError, match=r"step-00000008: cannot be written .*the checkpoint step-00000004 stays.*--resume"):
            run.start(small("train.steps=200", "train.save_every=4"), tmp_path / "r")
    # It is stopped at one of the next steps, not at the next checkpoint's turn or at the end.
    assert 8 <= steps[-1] < 200
    narrow(resource.RLIM_INFINITY)
    assert checkpoint.last(tmp_path / "r").name == checkpoint.name_of(4)
    assert not list((tmp_path / "r" / "checkpoints").glob(".part*"))


def test_a_full_disk_in_the_middle_of_a_line_of_metrics(tmp_path):
    os.symlink("/dev/full", tmp_path / "full")
    lines = metrics.Metrics(tmp_path)
    lines.write(1, {"loss": 1.0})
    lines._file = (tmp_path / "full").open("w")
    with pytest.raises(UserError, match=r"metrics.jsonl: cannot be written \(no space left on the disk\).*--resume"):
        lines.write(2, {"loss": 1.0})
    lines.close()
    assert lines.lines == 1
    assert [r["step"] for r in metrics.read(lines.path)] == [1]


def test_lines_after_the_checkpoint_are_dropped_though_they_have_its_step(tmp_path):
    lines = metrics.Metrics(tmp_path)
    for step in (1, 2, 2):
        lines.write(step, {"loss": 1.0})
    lines.close()
    with lines.path.open("ab") as file:
        file.write(b'{"step": 2, "lo\xff')
    again = metrics.Metrics(tmp_path, resume_at=2, lines=2)
    again.close()
    assert [r["step"] for r in metrics.read(again.path)] == [1, 2]


def test_a_file_that_cannot_be_written_leaves_the_one_before(tmp_path, narrow):
    write_whole(tmp_path / "recipe.yaml", "name: a\n")
    narrow(100)
    with pytest.raises(UserError, match=r"recipe.yaml: cannot be written \(File too large\)"):
        write_whole(tmp_path / "recipe.yaml", "x" * 5000)
    assert [p.name for p in tmp_path.iterdir()] == ["recipe.yaml"]
    assert (tmp_path / "recipe.yaml").read_text() == "name: a\n"


def test_each_row_of_the_page_is_a_test():
    root = Path(__file__).resolve().parents[2]
    rows = set(re.findall(r"`(test_\w+)` *\|", (root / "docs" / "survival.md").read_text(encoding="utf-8")))
    files = ("train/test_resume.py", "train/test_writer.py", "soak/test_soak.py")
    tests = re.findall(r"^def (test_\w+)", "".join((root / "tests" / f).read_text(encoding="utf-8") for f in files), re.M)
    assert rows
    assert rows <= set(tests)


def test_a_seal_may_name_what_no_file_can_be_called(tmp_path):
    (tmp_path / "trainer").mkdir()
    (tmp_path / "trainer" / "state.json").write_text("{}")
    seals.seal(tmp_path)
    told = json.loads((tmp_path / seals.SEAL).read_text())
    (tmp_path / seals.SEAL).write_text(json.dumps({"sha256": told["sha256"] | {"\0": ["x"]}}))
    assert "cannot be read" in seals.wrong(tmp_path)
