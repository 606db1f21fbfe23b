"""``seqrl plan`` from end to end, with a world of a few steps of training, and the mistakes people make with it."""

import json

import pytest

from seqrl.cli import app

WORLD = """
name: world
data: {sources: [{kind: minari, id: tests/cartpole-v0}]}
tokens: {layout: state action > reward done, context: 1}
model: {kind: worlds.ensemble, members: 2, width: 16, layers: 1}
train: {steps: 30, batch: 32, lr: 0.003, losses: {state: 1, reward: 1, done: 1}, device: cpu}
evaluate: {at_end: false}
"""
POLICY = """
name: policy
data: {sources: [{kind: minari, id: tests/cartpole-v0}]}
tokens: {context: 4}
model: {kind: policies.decision, width: 16, layers: 1, heads: 1}
train: {steps: 2, batch: 4, validate_windows: 8, device: cpu}
evaluate: {at_end: false}
"""
SMALL = ("--episodes", 2, "--envs", 2, "--horizon", 4, "--candidates", 8, "--iterations", 2, "--elites", 2)


@pytest.fixture(scope="module")
def folder(cartpole, tmp_path_factory):
    """A folder with a trained world ``w`` and a policy ``p``."""
    made = tmp_path_factory.mktemp("plan")
    for name, recipe in (("w", WORLD), ("p", POLICY)):
        (made / f"{name}.yaml").write_text(recipe)
        with pytest.raises(SystemExit) as left:
            app.main(["train", str(made / f"{name}.yaml"), "--out", str(made / name)])
        assert not left.value.code
    return made


@pytest.fixture
def plan(folder, seqrl, monkeypatch):
    """``plan("w", …)`` in that folder: (exit code, stdout, stderr)."""
    monkeypatch.chdir(folder)
    return lambda *words: seqrl("plan", *map(str, words))


def test_a_plan_is_played_and_scored(plan, folder):
    code, out, err = plan("w", "--planner", "icem", *SMALL, "--pessimism", 0.5, "beta=1", "--json", "x.json", "--gif", "x.gif")
    assert code == 0, err
    assert "CartPole-v1" in out
    assert "ms a decision" in out
    assert (folder / "x.gif").read_bytes()[:4] == b"GIF8"
    report = json.loads((folder / "x.json").read_text())
    assert report["mode"] == "icem"
    assert report["targets"][0]["episodes"] == 2
    assert (report["plan"]["beta"], report["plan"]["horizon"], report["plan"]["pessimism"]) == (1, 4, 0.5)
    assert report["plan"]["seconds_per_decision"] > 0
    again = plan("w", "--planner", "icem", *SMALL, "--pessimism", 0.5, "beta=1", "--json", "y.json")
    assert again[0] == 0
    assert json.loads((folder / "y.json").read_text())["targets"] == report["targets"]


@pytest.mark.parametrize("planner", ["cem", "mppi", "random"])
def test_a_policy_may_propose(plan, planner):
    code, out, err = plan("w", "--planner", planner, *SMALL, "--prior", "p", "--target", 30)
    assert code == 0, err
    assert "30" in out


def test_a_goal_may_be_wanted(plan):
    code, _, err = plan("w", "--objective", "goal", "--goal", "0,_,0,_", *SMALL)
    assert code == 0, err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("p",), "this is a policy"),
        (("w", "--planner", "cme"), "did you mean 'cem'"),
        (("w", "--objective", "gaol"), "did you mean 'goal'"),
        (("w", "--env", "Pendulum-v1"), "does not fit"),
        (("w", "--elites", "9", "--candidates", "8"), "elites"),
        (("w", "replan=99"), "replan"),
        (("w", "horizn=3"), "horizon"),
        (("w", "--goal", "0,0,0,0"), "--objective goal"),
        (("w", "--objective", "goal"), "--goal observation="),
        (("w", "--objective", "goal", "--goal", "1,2"), "these are 2 numbers"),
        (("w", "--objective", "goal", "--goal", "place=1,2,3,4"), "shows no 'place'"),
        (("w", "--objective", "goal", "--goal", "a,b"), "numbers with commas"),
        (("w", "--objective", "goal", "--goal", "_,_,_,_"), "must matter"),
        (("w", "--target", "3"), "--prior"),
        (("w", "--prior", "w"), "--prior w"),
        (("w", "--json", "nowhere/x.json"), "nowhere"),
        (("nothing",), "no such folder"),
    ],
)
def test_mistakes_are_named(plan, words, said):
    code, out, err = plan(*words)
    assert code == 2, (out, err)
    assert said in err
    assert "Traceback" not in err
