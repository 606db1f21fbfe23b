"""One model, several domains, through the command line: trained, evaluated with one command, shown on one page."""

import json

import numpy as np
import pytest

import seqrl as house
from seqrl.cli import app
from seqrl.cli._scores import print_reports
from seqrl.rollout.result import Report, summary
from seqrl.rollout.scores import Score
from seqrl.sources import collected

RECIPE = """
name: both
data:
  sources:
  - {kind: minari, id: tests/cartpole-v0, domain: pole}
  - {kind: minari, id: tests/object-v0, domain: grid}
tokens:
  pack: 64
  layout: return state action
  domains:
    pole: {layout: return state action}
    grid: {layout: task | image direction action, context: 4, slots: {image: {kind: patches, size: 7}}}
model: {kind: policies.gato, width: 32, layers: 1, heads: 2}
train: {steps: 4, batch: 4, save_every: 2, validate_windows: 8, device: cpu}
evaluate: {every: 2, episodes: 2, envs: 2, domains: {pole: {targets: [20, 100]}}}
"""


@pytest.fixture(scope="module")
def objects(_own_folders):
    """A small BabyAI dataset: texts, pictures, choices."""
    collected.collect("BabyAI-GoToObj-v0", 6, "tests/object-v0", "random")


@pytest.fixture
def seqrl(cartpole, objects, tmp_path, monkeypatch, capsys):
    """``seqrl("train", …)`` in a folder of its own: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "both.yaml").write_text(RECIPE)

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


def test_one_command_plays_all_domains(seqrl, tmp_path):
    run = tmp_path / "r"
    code, out, err = seqrl("train", "both.yaml", "--out", "r")
    assert code == 0, err
    (head,) = [line for line in out.splitlines() if "domain" in line]
    assert [w.strip() for w in head.strip("┃").split("┃")][:4] == ["domain", "environment", "target", "episodes"]
    assert "solved" in head
    assert [line.split("│")[1].strip() for line in out.splitlines() if line.startswith("│")] == ["pole", "", "grid"]
    assert "Sampling rejected" not in out
    left = {p.name for p in run.iterdir()}
    assert {"clip-pole.gif", "clip-grid.gif", "stream-pole.html", "stream-grid.html", "report.html", "eval.json"} <= left
    keys = {k for line in (run / "metrics.jsonl").read_text().splitlines() for k in json.loads(line)}
    assert {"eval/pole/20/mean", "eval/pole/100/mean", "eval/grid/all/mean", "eval/grid/all/solved"} <= keys
    page = (run / "report.html").read_text()
    for said in ("gato model of 2 domains: pole and grid", "BabyAI-GoToObj-v0", "<th>solved</th>", "What the model reads"):
        assert said in page, said
    assert page.count("data:image/gif;base64,") == 2
    published = json.loads((run / "checkpoints/last/bundle/metrics.json").read_text())["report"]
    assert list(published["domains"]) == ["pole", "grid"]

    code, out, err = seqrl("eval", "r", "--episodes", 3, "--json", "x.json", "--gif", "x.gif")
    assert code == 0, err
    found = json.loads((tmp_path / "x.json").read_text())
    assert list(found) == ["domains"]
    assert [(t["target"], t["episodes"]) for t in found["domains"]["pole"]["targets"]] == [(20, 3), (100, 3)]
    assert found["domains"]["grid"]["targets"][0]["solved"] is not None
    assert {p.name for p in tmp_path.glob("*.gif")} == {"x-pole.gif", "x-grid.gif"}

    code, out, err = seqrl("eval", "r", "--episodes", 1, "--domain", "grid", "--json", "y.json", "--gif", "y.gif")
    assert code == 0, err
    assert list(json.loads((tmp_path / "y.json").read_text())["domains"]) == ["grid"]
    assert (tmp_path / "y.gif").is_file()
    kept = json.loads((run / "eval.json").read_text())["domains"]
    assert {n: r["targets"][0]["episodes"] for n, r in kept.items()} == {"pole": 3, "grid": 1}
    reports = house.evaluate(run, episodes=1, domains={"pole": {"play": False}})
    assert list(reports) == ["grid"]


MISTAKES = {
    "no such domain": (["check", "both.yaml", "evaluate.domains.gird.play=false"], "did you mean 'grid'"),
    "no such setting": (["check", "both.yaml", "evaluate.domains.grid.episode=3"], "did you mean 'episodes'"),
    "nothing left to play": (
        ["train", "both.yaml", "evaluate.domains.grid.play=false", "evaluate.domains.pole.play=false", "--out", "r"],
        "every domain has play: false",
    ),
    "another domain's environment": (
        ["train", "both.yaml", "evaluate.domains.grid.env=CartPole-v1", "--out", "r"],
        "(to train without playing it: evaluate.domains.grid.play=false)",
    ),
    "targets for who takes none": (
        ["train", "both.yaml", "evaluate.domains.grid.targets=[3]", "--out", "r"],
        "domain 'grid': layout 'task | image direction action' has no return to ask for",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_gets_one_message_and_leaves_nothing_behind(seqrl, tmp_path, mistake):
    words, said = MISTAKES[mistake]
    code, _, err = seqrl(*words)
    assert code == 2
    assert said in err
    assert not (tmp_path / "r").exists()


def made(env, **more):
    scored = Score(1.5, "mine (random 0, expert 1)", False, "it is mine")
    one = summary(None, np.arange(4.0), np.arange(4), scored, more.pop("solved", None))
    return Report((one,), 100.0, "cached", 0, env, {}, None, why="it is mine", **more)


def test_a_table_says_what_could_not_be_played(capsys, monkeypatch):
    failed = Report(
        (), 0.0, "cached", 0, "ALE/Pong-v5", {}, None, failed='ALE/Pong-v5 needs ale_py: pip install "seqrl[atari]"'
    )
    print_reports({"grid": made("BabyAI-GoToObj-v0", solved=0.5), "pong": failed})
    said = capsys.readouterr().out
    assert 'pong was not played: ALE/Pong-v5 needs ale_py: pip install "seqrl[atari]"' in said
    assert "not played" in said
    assert "50%" in said
    assert "grid: not to be compared with D4RL papers' tables: it is mine" in said


def test_a_plain_table_has_no_domain(capsys):
    print_reports({"": made("CartPole-v1")})
    said = capsys.readouterr().out
    assert said.startswith("CartPole-v1, seed 0, cached")
    assert "domain" not in said
    assert "solved" not in said
    assert "target" in said
