"""A world model through the command line: trained, looked at, dreamt in and played; and the mistakes people make with it."""

import json
import os
import pty
import sys

import numpy as np
import pytest

from seqrl.cli import _screen, app
from seqrl.core.errors import UserError

RECIPE = """
name: world
data: {sources: [{kind: minari, id: tests/cartpole-v0}], held_out: 0.2}
tokens: {layout: state action > reward done, context: 8}
model: {kind: worlds.rssm, deter: 16, hidden: 16, groups: 2, classes: 4, blocks: 1}
train: {steps: 15, batch: 4, lr: 1e-2, validate_windows: 8, device: cpu, clip: 100, losses: {LOSSES}}
evaluate: {every: 10, dream: {starts: 6, horizon: 4}}
"""
LOSSES = "state: 1, reward: 1, done: 1, dyn: 1, rep: 0.1"
POLICY = """
name: acts
data: {sources: [{kind: minari, id: tests/cartpole-v0}]}
tokens: {context: 4}
model: {kind: policies.decision, width: 16, layers: 1, heads: 1}
train: {steps: 2, batch: 4, save_every: 2, validate_windows: 8, device: cpu}
evaluate: {at_end: false, targets: [50]}
"""


@pytest.fixture(scope="module")
def shelf(cartpole, tmp_path_factory):
    """A folder with a recipe of a world and one of a policy, and a run of each."""
    folder = tmp_path_factory.mktemp("dreams")
    (folder / "world.yaml").write_text(RECIPE.replace("LOSSES", LOSSES))
    (folder / "acts.yaml").write_text(POLICY)
    before = os.getcwd()
    os.chdir(folder)
    try:
        for name in ("world", "acts"):
            with pytest.raises(SystemExit) as left:
                app.main(["train", f"{name}.yaml", "--out", name])
            assert not left.value.code
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def call(shelf, monkeypatch, capsys, tmp_path):
    """``call("dream", "world", …)`` in the folder of the runs: (exit code, stdout, stderr)."""
    monkeypatch.chdir(shelf)
    monkeypatch.setenv("COLUMNS", "160")

    def run(*words):
        with pytest.raises(SystemExit) as left:
            app.main([str(w) for w in words])
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return left.value.code or 0, said.out, said.err

    return run


def test_training_ends_in_a_fidelity_and_a_page(shelf):
    run = shelf / "world"
    left = {p.name for p in run.iterdir()}
    assert {"dream.json", "dream.gif", "report.html", "metrics.jsonl"} <= left
    assert not {"eval.json", "clip.gif"} & left
    found = json.loads((run / "dream.json").read_text())
    assert (found["horizon"], found["starts"], found["horizons"]) == (4, 6, [1, 2])
    told = [json.loads(row) for row in (run / "metrics.jsonl").read_text().splitlines()]
    assert "dream/state/r2/1" in told[-1]
    kept = json.loads((run / "checkpoints" / "last" / "bundle" / "metrics.json").read_text())
    assert kept["dream"] == found
    page = (run / "report.html").read_text()
    for said in (
        "How long the dream stays true",
        "rssm world model on tests/cartpole-v0",
        "data:image/gif",
        "seqrl dream runs/world",
    ):
        assert said in page, said
    assert "seqrl eval" not in page


def test_dream_prints_a_table_and_writes_what_was_asked_for(call, tmp_path):
    files = [tmp_path / n for n in ("a.json", "a.gif", "a.png")]
    code, out, err = call(
        "dream", "world", "--horizon", 3, "--context", 2, "--json", files[0], "--gif", files[1], "--png", files[2]
    )
    assert code == 0, err
    for said in ("copy last", "marginal", "state", "r2", "2 steps observed, 3 imagined", "under others'", "imagined steps per"):
        assert said in out, said
    found = json.loads(files[0].read_text())
    assert (found["context"], found["horizon"]) == (2, 3)
    assert set(found["errors"]["state"]) == {"r2", "rmse"}
    assert files[1].read_bytes()[:4] == b"GIF8"
    assert files[2].read_bytes()[1:4] == b"PNG"


def test_somebody_acts_in_a_dream(call, tmp_path):
    gif, kept = tmp_path / "a.gif", tmp_path / "a.json"
    code, out, err = call("dream", "world", "--actions", "random", "--horizon", 5, "--gif", gif, "--json", kept)
    assert code == 0, err
    assert "random actions in 6 dreams" in out
    assert json.loads(kept.read_text())["starts"] == 6
    assert gif.read_bytes()[:4] == b"GIF8"
    code, out, err = call("dream", "world", "--actions", "policy", "--policy", "acts", "--horizon", 3, "--starts", 2)
    assert code == 0, err
    assert "acts in 2 dreams" in out


def test_play_with_keys_and_from_a_pipe(call, monkeypatch):
    code, out, err = call("play", "world", "--likeliest", "--keys", "0 1 right left r space q 1")
    assert code == 0, err
    lines = out.splitlines()
    assert [line.split("   ")[0] for line in lines] == [f"step {i}" for i in (0, 1, 2, 3, 4, 0, 1)]
    assert "action 1" in lines[2]
    read, write = os.pipe()
    os.write(write, b"1 1\nq\n")
    os.close(write)
    with os.fdopen(read) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        code, out, err = call("play", "world", "--likeliest")
    assert code == 0, err
    assert out.count("step ") == 3
    again = call("play", "world", "--likeliest", "--keys", "1 1", "--policy", "acts")[1]
    assert again == out, "the same seed is the same dream"
    code, out, err = call("play", "world", "--likeliest", "--keys", "space space", "--policy", "acts")
    assert (code, out.count("action")) == (0, 2), err


@pytest.mark.timeout(100)
def test_play_in_a_terminal(call, monkeypatch):
    master, slave = pty.openpty()
    os.write(master, b"1\x1b[Dx q")
    with os.fdopen(slave) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
        code, out, err = call("play", "world", "--horizon", 9, "--likeliest")
    os.close(master)
    assert code == 0, err
    assert out.startswith("\x1b[?1049h")
    assert out.endswith("\x1b[?1049l")
    for said in ("observation 3", "│", "step 1   action 1", "step 2   action 0", "the actions are 0 to 1", "step 3   action 0"):
        assert said in out, said


def test_a_window_answers_to_keys(call, monkeypatch):
    import matplotlib

    from seqrl.cli import _screen

    matplotlib.use("Agg")
    monkeypatch.setenv("DISPLAY", ":0")
    pressed = []

    def show(self):
        for key in ("1", "left", "x", "q"):
            self.key(key)
            pressed.append(self.axes.get_title())

    monkeypatch.setattr(_screen.Window, "show", show, raising=False)
    init = _screen.Window.__init__

    def begin(self, game):
        init(self, game)
        self.show = lambda: show(self)

    monkeypatch.setattr(_screen.Window, "__init__", begin)
    before = dict(matplotlib.rcParams)
    try:
        code, _, err = call("play", "world", "--window", "--likeliest")
    finally:
        matplotlib.rcParams.update(before)
    assert code == 0, err
    assert "step 2   action 0" in pressed[1]
    assert "the actions are 0 to 1" in pressed[2]


PACKED = """
name: packed
data: {sources: [{kind: minari, id: tests/cartpole-v0, domain: pole}], held_out: 0.2}
tokens: {layout: state action > reward done, pack: 60, slots: {state: {kind: bins, bins: 8}, reward: {kind: levels}}}
model: {kind: worlds.autoregressive, width: 16, layers: 1, heads: 1}
train: {steps: 2, batch: 4, validate_windows: 4, device: cpu, losses: {state: 1, reward: 1, done: 1}}
evaluate: {dream: {starts: 4, horizon: 3}}
"""


def test_a_world_of_packed_rows_is_measured_by_domain(call, shelf):
    (shelf / "packed.yaml").write_text(PACKED)
    code, out, err = call("train", "packed.yaml", "--out", "packed")
    assert code == 0, err
    assert "pole: tests/cartpole-v0" in out
    assert (shelf / "packed" / "dream-pole.gif").read_bytes()[:4] == b"GIF8"
    found = json.loads((shelf / "packed" / "dream.json").read_text())["domains"]["pole"]
    assert set(found["errors"]["state"]) == {"accuracy", "changed", "r2", "rmse"}
    assert found["errors"]["state"]["changed"]["copy"][0] == 0, "what stands still is never right about what changed"
    assert "How long the dream stays true: pole" in (shelf / "packed" / "report.html").read_text()
    code, out, err = call("dream", "packed", "--domain", "pole", "--starts", 2)
    assert code == 0, err
    code, _, err = call("dream", "packed", "--domain", "pool")
    assert (code, "pole" in err) == (2, True)
    code, out, err = call("play", "packed", "--keys", "0 1 q", "--likeliest")
    assert (code, out.count("step ")) == (0, 3), err


def test_a_world_that_remembers_little_dreams_as_far_as_it_can(call, shelf):
    """Its positions are learned, so that it cannot forget the oldest of its twelve steps."""
    (shelf / "short.yaml").write_text(
        PACKED.replace("width: 16", "body: gpt2, width: 16").replace(", horizon: 3", ", context: 6")
    )
    code, _, err = call("train", "short.yaml", "evaluate.dream.horizon=7", "--out", "short")
    assert (code, "at most 12" in err) == (2, True)
    assert not (shelf / "short").exists(), "said before anything was trained"
    code, _, err = call("train", "short.yaml", "--out", "short")
    assert code == 0, err
    found = json.loads((shelf / "short" / "dream.json").read_text())["domains"]["pole"]
    assert (found["context"], found["horizon"]) == (6, 5)
    code, _, err = call("dream", "short", "--horizon", 7)
    assert (code, "at most 12" in err) == (2, True)


MISTAKES = {
    "a policy given to dream": (["dream", "acts"], "this is a policy (policies.decision): it has no world model"),
    "a world given to eval": (["eval", "world"], "use seqrl dream"),
    "an unknown word for actions": (
        ["dream", "world", "--actions", "rnadom"],
        "one of data, policy, random; did you mean 'random'",
    ),
    "a policy without a policy": (["dream", "world", "--actions", "policy"], "--policy BUNDLE"),
    "a policy for nothing": (["dream", "world", "--policy", "acts"], "--actions policy"),
    "a world as the policy": (["dream", "world", "--actions", "policy", "--policy", "world"], "does not act"),
    "a horizon beyond the data": (["dream", "world", "--horizon", "9999"], "lower the horizon to"),
    "a context beyond the data": (["dream", "world", "--context", "9999"], "lower the context"),
    "a folder that is not there": (["dream", "world", "--gif", "no/where.gif"], "there is no folder"),
    "a folder for a file": (["dream", "world", "--png", "."], "is a folder"),
    "a curve of nothing": (["dream", "world", "--actions", "random", "--png", "a.png"], "no errors to draw"),
    "domains there are none of": (["dream", "world", "--domain", "x"], "has no domains"),
    "no bundle": (["dream", "nowhere"], "no such folder"),
    "a key there is not": (["play", "world", "--keys", "7"], "the actions are 0 to 1"),
    "no display": (["play", "world", "--window"], "there is no display"),
    "a policy given to play": (["play", "acts", "--keys", "q"], "this is a policy"),
    "nothing held out": (["train", "world.yaml", "data.held_out=0", "--out", "r"], "data.held_out=0.1"),
    "a context no episode has": (["train", "world.yaml", "evaluate.dream.context=999", "--out", "r"], "lower it"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_gets_one_message(call, shelf, monkeypatch, mistake):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    words, said = MISTAKES[mistake]
    code, _, err = call(*words)
    assert code == 2
    assert said in err
    assert not (shelf / "r").exists()
    assert not (shelf / "a.png").exists()


def test_half_blocks_show_every_pixel():
    picture = np.zeros((4, 6, 3), np.uint8)
    picture[1, 2] = (255, 0, 0)
    drawn = _screen.blocks(picture, 80, 20)
    assert drawn.count("▀") == 2 * 6
    assert "\x1b[48;2;255;0;0m" in drawn
    small = _screen.blocks(picture.repeat(50, 0).repeat(50, 1), 30, 10)
    assert small.splitlines()[0].count("▀") <= 30
    assert len(small.splitlines()) <= 10


def test_bars_grow_both_ways():
    drawn = _screen.bars(np.array([1.0, -2.0, 0.0]), ("a", "bb", "c"), np.array([2.0, 2.0, 0.0]), 9).splitlines()
    assert [line.count("█") for line in drawn] == [8, 16, 0]
    assert drawn[0].index("│") < drawn[0].index("█")
    assert drawn[1].index("│") > drawn[1].index("█")


def test_continuous_actions_are_nudged_and_typed():
    from types import SimpleNamespace

    from seqrl.cli._game import Game
    from seqrl.core.episode import Modality

    done = []
    spec = SimpleNamespace(act={"action": Modality("vector", (2,), "float32", (-2.0, 0.0), (2.0, 1.0))})
    tokenizer = SimpleNamespace(spec=spec, slots={"action": SimpleNamespace(fields=("action",))})
    answer = (None, np.ones(1), np.zeros(1, bool), np.zeros(1, bool), {})
    env = SimpleNamespace(bridge=SimpleNamespace(tokenizer=tokenizer), cont=np.ones(1), reset=lambda seed: None)
    env.step = lambda action: done.append(action[0].tolist()) or answer
    game = Game(env)
    for key in ("right", "down", "right", "left", "left", "0.5,-9", "space"):
        assert game.press(key)
    assert done == [[0.5, 0.0], [0.5, 0.125], [0.5, 0.0], [0.5, 0.0], [0.5, 0.0], [0.0, 0.0]]
    assert game.total == 6
    for key in ("nan,1", "inf,0"):
        with pytest.raises(UserError, match="2 numbers"):
            game.press(key)
    with pytest.raises(UserError, match="2 numbers"):
        game.press("1,2,3")
    assert not game.press("q")
