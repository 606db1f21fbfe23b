"""`seqrl data`: what it prints, what it makes, and its answers to wrong input."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from seqrl.sources import _remote, d4rl, minari


def test_nothing_there_yet(home, seqrl):
    code, out, _ = seqrl("data", "ls")
    assert code == 0
    assert f"no datasets in {home / 'datasets'}" in out.replace("\n", "")
    assert "seqrl data collect" in out


def test_collect_list_show(home, seqrl):
    words = "data collect CartPole-v1 --episodes 8 --policy scripted --as local/pole-v0 --seed 5"
    code, out, err = seqrl(*words.split())
    assert (code, err.strip()) == (0, "")
    assert "local/pole-v0: 8 episodes" in out
    assert "next: seqrl data show local/pole-v0" in out
    code, out, _ = seqrl("data", "ls")
    assert "local/pole-v0" in out
    assert "CartPole-v1" in out
    code, out, _ = seqrl("data", "show", "local/pole-v0")
    assert code == 0
    for words in (
        "8 episodes",
        "CartPole-v1",
        "obs.observation",
        "vector",
        "float32",
        "0 to 1",
        "median",
        "█",
        "seeds recorded",
    ):
        assert words in out
    assert "local/pole-v0" in out.splitlines()[0]


def test_a_broken_dataset_does_not_hide_the_others(home, seqrl):
    minari.tiny(home)
    folder = home / "datasets" / "bad/one-v0" / "data"
    folder.mkdir(parents=True)
    (folder / "metadata.json").write_text("{")
    code, out, _ = seqrl("data", "ls")
    assert code == 0
    assert "broken: its metadata.json cannot be read" in out
    assert "tiny/pushes-v0" in out


def test_import_and_show_a_d4rl_file(home, seqrl):
    path = d4rl.tiny(home).path
    code, out, _ = seqrl("data", "import", path, "--as", "mine/hopper-v0")
    assert code == 0
    assert "mine/hopper-v0: 3 episodes, 12 steps" in out
    assert "environment: Hopper-v5" in out
    code, out, _ = seqrl("data", "show", path)
    assert code == 0
    assert "hopper_tiny-v2" in out
    assert "was not recorded" in out
    code, out, _ = seqrl("data", "import", path, "--as", "mine/other-v0", "--env", "Walker2d-v5")
    assert "environment: Walker2d-v5" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("data show tiny/pusshes-v0", "did you mean 'tiny/pushes-v0'?"),
        ("data show ../x-v0", "'../x-v0' is no dataset id"),
        ("data show nothing.hdf5", "nothing.hdf5: there is no such file"),
        ("data collect CartPole-v1 --episodes 2 --as tiny/pushes-v0", "there is a dataset 'tiny/pushes-v0' already"),
        ("data collect CartPole-v7 --episodes 2 --as my/b-v0", "there is no environment 'CartPole-v7'"),
        ("data collect Acrobat-v1 --episodes 2 --as my/b-v0 --policy scripted", "did you mean 'Acrobot-v1'"),
        ("data import nothing.hdf5 --as my/b-v0", "nothing.hdf5: there is no such file"),
        ("data ls --remote", "server of Minari's public datasets cannot be asked: offline mode is on"),
        ("data collect CartPole-v1 --as my/b-v0", "--episodes"),
    ],
)
def test_wrong_input(home, seqrl, words, said):
    minari.tiny(home)
    code, _, err = seqrl(*words.split())
    assert code == 2
    assert said in err.replace("│", "")
    assert "Traceback" not in err
    assert not (home / "datasets" / "my").exists()


def test_remote(home, seqrl, monkeypatch):
    about = {"env_spec": '{"id": "Hopper-v5"}', "total_episodes": 7, "total_steps": 1234}
    monkeypatch.setattr(_remote, "offers", lambda: {"mujoco/hopper/medium-v0": about})
    code, out, _ = seqrl("data", "ls", "--remote")
    assert code == 0
    assert "mujoco/hopper/medium-v0" in out
    assert "1,234" in out


def test_words_of_a_stranger_cannot_steer_the_terminal(home, seqrl):
    config = minari.tiny(home)
    path = home / "datasets" / config.id / "data" / "metadata.json"
    about = json.loads(path.read_text())
    path.write_text(json.dumps(about | {"env_spec": json.dumps({"id": "\x1b[2J[red]Env-v0"})}))
    for words in (("data", "ls"), ("data", "show", config.id)):
        code, out, _ = seqrl(*words)
        assert code == 0
        assert "\x1b[2J" not in out
        assert "[red]Env-v0" in out


def test_a_bundle_plays(home, seqrl, monkeypatch):
    asked = []

    def bundle_policy(path, rows, seed):
        asked.append((path, rows, seed))
        return lambda obs, first, last_reward: {"action": np.zeros(rows)}

    monkeypatch.setitem(sys.modules, "seqrl.rollout.collect_policy", SimpleNamespace(bundle_policy=bundle_policy))
    words = "data collect CartPole-v1 --episodes 3 --policy runs/x --as local/played-v0"
    code, _, _ = seqrl(*words.split())
    assert code == 0
    assert asked == [("runs/x", 3, 0)]
    assert minari.metadata("local/played-v0")["algorithm_name"] == "runs/x"
