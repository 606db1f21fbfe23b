"""The whole road through the command line: train, look, play, go on; and the mistakes people make on it."""

import json
import signal
import subprocess
import sys
import time

import pytest

from seqrl.cli import app

RECIPE = """
name: tiny
data: {sources: [{kind: minari, id: tests/cartpole-v0}]}
tokens: {context: 4}
model: {kind: policies.decision, width: 16, layers: 1, heads: 1}
train: {steps: 4, batch: 4, save_every: 2, validate_windows: 8, device: cpu}
evaluate: {episodes: 2, envs: 2, targets: [20, 100]}
"""

REPORT = {"targets", "env_steps_per_second", "mode", "seed", "env", "versions", "commit"}
TARGET = {"target", "mean", "std", "iqm", "ci95", "normalized", "reference", "comparable", "episodes"}


@pytest.fixture
def seqrl(cartpole, tmp_path, monkeypatch, capsys):
    """``seqrl("train", …)`` in a folder of its own: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(RECIPE)

    def call(*words):
        code = 0
        try:
            app.main([str(w) for w in words])
        except SystemExit as e:
            code = e.code or 0
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return code, said.out, said.err

    return call


def test_train_look_play_and_go_on(seqrl, tmp_path):
    code, out, err = seqrl("train", "tiny.yaml", "train.lr=1e-3", "--out", "r")
    assert code == 0, err
    assert "report  r/report.html" in out
    left = {p.name for p in (tmp_path / "r").iterdir()}
    assert {"recipe.yaml", "metrics.jsonl", "checkpoints", "eval.json", "clip.gif", "stream.html", "report.html"} <= left
    assert "lr: 0.001" in (tmp_path / "r" / "recipe.yaml").read_text()

    code, out, err = seqrl(
        "eval", "r", "--episodes", 3, "--envs", 2, "--seed", 5, "--mode", "exact", "--json", "x.json", "--gif", "x.gif"
    )
    assert code == 0, err
    report = json.loads((tmp_path / "x.json").read_text())
    assert set(report) == REPORT
    assert all(set(t) >= TARGET for t in report["targets"])
    assert [(t["target"], t["episodes"]) for t in report["targets"]] == [(20, 3), (100, 3)]
    assert (report["mode"], report["seed"], report["env"]) == ("exact", 5, "CartPole-v1")
    assert (tmp_path / "x.gif").read_bytes()[:4] == b"GIF8"

    code, out, err = seqrl("tokens", "show", "r", "--steps", 2)
    assert code == 0, err
    assert "[return]" in out
    assert "action*" in out
    code, out, err = seqrl("train", "--resume", "r")
    assert code == 0, err


def test_check_says_fine_or_everything_that_is_not(seqrl, tmp_path):
    code, out, _ = seqrl("check", "tiny.yaml")
    assert code == 0
    assert "tiny.yaml: fine" in out
    (tmp_path / "tiny.yaml").write_text(RECIPE.replace("width", "widht").replace("steps: 4", "stepz: 4"))
    code, _, err = seqrl("check", "tiny.yaml")
    assert code == 2
    assert "tiny.yaml:5: model.widht: unknown key; did you mean 'width'?" in err
    assert "tiny.yaml:6: train.stepz: unknown key; did you mean 'steps'?" in err


def test_ctrl_c_saves_and_says_how_to_go_on(seqrl, tmp_path):
    words = [sys.executable, "-m", "seqrl", "train", "tiny.yaml", "train.steps=100000", "train.log_every=1", "--out", "r"]
    process = subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    metrics = tmp_path / "r" / "metrics.jsonl"
    while process.poll() is None and not (metrics.is_file() and metrics.stat().st_size):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "everything is saved. Go on with: seqrl train --resume r" in err
    assert "Traceback" not in err
    reached = json.loads((tmp_path / "r/checkpoints/last/trainer/state.json").read_text())["step"]
    text = (tmp_path / "r" / "recipe.yaml").read_text()
    (tmp_path / "r" / "recipe.yaml").write_text(text.replace("steps: 100000", f"steps: {reached + 2}"))
    # Fewer steps than were planned would be another run; say so rather than end it in silence.
    code, _, err = seqrl("train", "--resume", "r")
    assert code == 2
    assert "train.steps: was 100000" in err


MISTAKES = {
    "an unknown dataset": (
        ["train", "tiny.yaml", "data.sources.0.id=tests/cartpoel-v0", "--out", "r"],
        "did you mean 'tests/cartpole-v0'",
    ),
    "an unknown recipe": (["train", "dt_cartpol"], "did you mean 'dt_cartpole'"),
    "no recipe": (["train"], "name a recipe"),
    "a recipe and --resume": (["train", "tiny.yaml", "--resume", "r"], "leave out tiny.yaml"),
    "nothing to resume": (["train", "--resume", "nowhere"], "no run to go on with"),
    "a wrong environment": (["train", "tiny.yaml", "evaluate.env=CartPool-v1", "--out", "r"], "did you mean 'CartPole-v1'"),
    "another environment's shape": (
        ["train", "tiny.yaml", "evaluate.env=MountainCar-v0", "--out", "r"],
        "does not fit the data",
    ),
    "a layout that cannot act": (["train", "tiny.yaml", "tokens.layout=action return", "--out", "r"], "must end in 'action'"),
    "no bundle": (["eval", "nowhere"], "no such folder"),
    "targets that are no numbers": (["eval", "nowhere", "--targets", "a"], "numbers with commas"),
    "a mode there is not": (["eval", "nowhere", "--mode", "fast"], "exact or cached"),
    "a folder that is not there": (["eval", "nowhere", "--json", "no/where.json"], "there is no folder"),
    "an episode too far": (["tokens", "show", "tiny.yaml", "--episode", "99"], "has episodes 0 to 23"),
    "a step too far": (["tokens", "show", "tiny.yaml", "--start", "999"], "this episode has steps 0 to"),
    "a device there is not": (["train", "tiny.yaml", "train.device=cuda:7", "--out", "r"], "'auto', 'cpu', 'cuda' or 'mps'"),
    "a seed below zero": (["train", "tiny.yaml", "train.seed=-1", "--out", "r"], "train.seed"),
    "betas that are none": (["train", "tiny.yaml", "train.betas=[2,3]", "--out", "r"], "train.betas.0"),
    "a module that is no source": (["check", "tiny.yaml", "data.sources.0.kind=json.tool"], "offers no Config"),
    "a file for a folder": (["train", "tiny.yaml", "--out", "tiny.yaml"], "is a file"),
    "a folder for a file": (["eval", "nowhere", "--json", "."], "is a folder"),
    "a batch that does not divide": (["train", "tiny.yaml", "train.accumulate=3", "--out", "r"], "multiple of"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_gets_one_message_and_leaves_nothing_behind(seqrl, tmp_path, mistake):
    words, said = MISTAKES[mistake]
    code, _, err = seqrl(*words)
    assert code == 2
    assert said in err
    assert not (tmp_path / "r").exists()
