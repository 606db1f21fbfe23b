"""A published model in the process of a stranger, who has torch and transformers and no seqrl, does the same, bit for bit."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("stranger.py")
NAMES = (
    "decision", "decision_codes", "decision_mulaw", "clone", "gato", "trajectory", "vla", "actor_critic",
    "tssm", "rssm", "ensemble", "autoregressive",
)  # fmt: skip


def run(how, home, folders, **env):
    """What the script found, folder -> name -> hash, in a process of its own that stands somewhere else."""
    home.mkdir()
    said = subprocess.run(
        [sys.executable, SCRIPT, how, home / "out.json", *folders],
        cwd=home,
        env={**os.environ, "HF_HOME": str(home / "hf"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **env},
        capture_output=True,
        text=True,
    )
    assert said.returncode == 0, said.stderr[-3000:]
    return json.loads((home / "out.json").read_text()), said.stderr


@pytest.fixture(scope="module")
def both(portables, tmp_path_factory):
    home = tmp_path_factory.mktemp("strangers")
    ours, _ = run("with", home / "with", portables.values())
    theirs, warned = run("without", home / "without", portables.values())
    return ours, theirs, warned


@pytest.mark.parametrize("name", NAMES)
def test_a_stranger_gets_the_same_bits(both, portables, name):
    ours, theirs = (said[str(portables[name])] for said in both[:2])
    assert len(ours) >= 4
    assert {k: v for k, v in theirs.items() if ours.get(k) != v} == {}
    assert list(ours) == list(theirs)


def test_every_bundle_is_tried(portables):
    assert sorted(NAMES) == sorted(portables)


def test_what_is_hidden_was_not_imported(both):
    assert both[0]["modules"], "the process with seqrl says what it imported"
    assert both[1]["modules"] == []


def test_acting_depends_on_what_is_asked(both, portables):
    said = both[0][str(portables["decision_codes"])]
    assert said["None exact False"] != said["None exact True"]
    assert not said["training"]
    assert len({json.dumps(s) for s in both[0].values()}) == len(NAMES) + 1


def test_by_its_name_on_a_hub_it_is_the_same(practice, both, portables, tmp_path):
    from seqrl.hub.push import push

    push(portables["actor_critic"], "me/actor")
    theirs, _ = run("without", tmp_path / "stranger", ["me/actor"], HF_HUB_OFFLINE="0")
    assert theirs["modules"] == []
    assert theirs["me/actor"] == both[0][str(portables["actor_critic"])]


def test_nothing_is_warned_of(both):
    assert "not used" not in both[2]
    assert "newly initialized" not in both[2]
    assert "Traceback" not in both[2]
