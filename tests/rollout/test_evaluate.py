import json
import subprocess
import sys
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from seqrl.core.errors import EnvError, RecipeError, UserError
from seqrl.rollout import clip, result
from seqrl.rollout.collect_policy import bundle_policy
from seqrl.rollout.evaluate import EvalConfig, Report, config_for, evaluate

TOP = {"targets", "env_steps_per_second", "mode", "seed", "env", "versions", "commit"}
ASKED = {"target", "mean", "std", "iqm", "ci95", "normalized", "reference", "comparable", "episodes"}
SHORT = {"id": "CartPole-v1", "max_episode_steps": 40}


def played(fakes, config, layout="return state action", **spec):
    tokenizer = fakes.Tokenizer(fakes.cartpole_spec(**{"env": SHORT, **spec}), layout=layout)
    return evaluate(fakes.Policy(tokenizer), tokenizer, config)


def test_a_report_is_plain_json_and_comes_back(fakes):
    report = played(fakes, EvalConfig(episodes=6, envs=4, targets=[20, 400], seed=3))
    raw = json.loads(json.dumps(report.to_json()))
    assert set(raw) == TOP
    assert len(raw["targets"]) == 2
    for t in raw["targets"]:
        assert set(t) >= ASKED
        assert t["episodes"] == 6
        assert t["ci95"][0] <= t["mean"] <= t["ci95"][1]
        assert t["min"] <= t["iqm"] <= t["max"] <= 40
    assert (raw["mode"], raw["seed"], raw["env"]) == ("cached", 3, "CartPole-v1")
    assert {"python", "torch", "gymnasium", "numpy", "seqrl", "transformers"} <= set(raw["versions"])
    again = Report.from_json(raw)
    assert again.to_json() == raw
    assert again.best.mean == max(t.mean for t in report.targets)
    assert [len(r) for r in report.returns] == [6, 6]
    assert report.targets[1].mean == pytest.approx(report.returns[1].mean())


def test_a_target_gets_the_same_whoever_stands_beside_it(fakes):
    both = played(fakes, EvalConfig(episodes=5, envs=3, targets=[20, 400]))
    alone = played(fakes, EvalConfig(episodes=5, envs=16, targets=[400]))
    assert both.targets[1] == alone.targets[0]
    other = played(fakes, EvalConfig(episodes=5, targets=[400], seed=1))
    assert not np.array_equal(other.returns[0], alone.returns[0])


def test_default_targets_come_from_the_data(fakes):
    report = played(fakes, EvalConfig(episodes=1))
    # q90 (495) asks for the same as the best return (500) and is left out.
    assert [t.target for t in report.targets] == [20.0, 90.0, 500.0]
    assert -1 <= report.rank_correlation <= 1


def test_policies_without_a_return(fakes):
    report = played(fakes, EvalConfig(episodes=3, mode="exact"), layout="state action")
    assert [t.target for t in report.targets] == [None]
    assert np.isnan(report.rank_correlation)
    with pytest.raises(UserError, match="no return"):
        played(fakes, EvalConfig(episodes=3, targets=[3.0]), layout="state action")


def test_scores_stand_beside_raw_returns(fakes):
    (t,) = played(fakes, EvalConfig(episodes=3, targets=[40]), references=(22.0, 500.0)).targets
    assert t.normalized == pytest.approx(100 * (t.mean - 22) / 478)
    assert not t.comparable


def test_wrong_environment_and_unknown_returns(fakes):
    with pytest.raises(EnvError, match="Acrobot"):
        played(fakes, EvalConfig(env="Acrobot-v1", episodes=1))
    tokenizer = fakes.Tokenizer(fakes.cartpole_spec())
    tokenizer.returns = {}
    with pytest.raises(UserError, match="--targets"):
        evaluate(fakes.Policy(tokenizer), tokenizer, EvalConfig())


def test_only_what_a_slot_reads_is_read(fakes):
    tokenizer = fakes.Tokenizer(fakes.cartpole_spec(env=SHORT))
    extra = {**tokenizer.spec.obs, "not_in_the_environment": tokenizer.spec.obs["observation"]}
    tokenizer.spec = fakes.cartpole_spec(env=SHORT, obs=extra)
    tokenizer.slots["state"].fields = ("observation", "not_in_the_environment")
    with pytest.raises(EnvError, match="not_in_the_environment"):
        evaluate(fakes.Policy(tokenizer), tokenizer, EvalConfig(episodes=1))
    tokenizer.slots["state"].fields = ("observation",)
    assert evaluate(fakes.Policy(tokenizer), tokenizer, EvalConfig(episodes=1)).targets


def test_the_model_is_left_as_it_was(fakes):
    tokenizer = fakes.Tokenizer(fakes.cartpole_spec(env=SHORT))
    policy = fakes.Policy(tokenizer).train()
    evaluate(policy, tokenizer, EvalConfig(episodes=1))
    assert policy.training


def test_config_of_a_bundle():
    recipe = {"evaluate": {"episodes": 7, "every": 100, "at_end": True, "mode": "exact"}}
    config = config_for(recipe, {"episodes": 9, "targets": [1.0]})
    assert (config.episodes, config.mode, config.targets) == (9, "exact", [1.0])
    with pytest.raises(RecipeError, match="envs"):
        config_for({}, {"envs": 0})
    with pytest.raises(ValidationError):
        EvalConfig(episode=3)


def test_a_clip_is_a_gif_of_one_episode(fakes, tmp_path):
    tokenizer = fakes.Tokenizer(fakes.cartpole_spec(env=SHORT))
    policy = fakes.Policy(tokenizer)
    config = EvalConfig(episodes=2, targets=[10, 300])
    total = clip.record(policy, tokenizer, config, tmp_path / "clip.gif", frames=12)
    report = evaluate(policy, tokenizer, config)
    assert total == report.returns[1][0], "the clip shows the first episode of the highest target"
    with Image.open(tmp_path / "clip.gif") as gif:
        assert gif.format == "GIF"
        assert max(gif.size) <= 340
        assert 5 <= gif.n_frames <= 12
    assert [p.name for p in tmp_path.iterdir()] == ["clip.gif"]


def test_what_cannot_be_drawn_says_why(fakes, tmp_path, monkeypatch):
    tokenizer = fakes.Tokenizer(fakes.cartpole_spec(env=SHORT))

    def broken(self):
        raise RuntimeError("no display\nanywhere")

    monkeypatch.setattr(gymnasium.envs.classic_control.CartPoleEnv, "render", broken)
    with pytest.raises(EnvError, match="CartPole-v1 cannot be drawn here: no display anywhere"):
        clip.record(fakes.Policy(tokenizer), tokenizer, EvalConfig(), tmp_path / "clip.gif")
    assert not list(tmp_path.iterdir())


def test_egl_is_chosen_only_without_a_screen(monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "MUJOCO_GL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DISPLAY", ":0")
    clip.use_egl_if_headless()
    assert "MUJOCO_GL" not in clip.os.environ
    monkeypatch.delenv("DISPLAY")
    monkeypatch.setattr(clip.sys, "platform", "linux")
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    clip.use_egl_if_headless()
    assert clip.os.environ["MUJOCO_GL"] == "osmesa"


def test_a_bundle_collects(fakes, monkeypatch):
    tokenizer = fakes.Tokenizer(fakes.cartpole_spec())
    policy = fakes.Policy(tokenizer)
    import seqrl.bundle

    bundle = SimpleNamespace(model=policy, tokenizer=tokenizer, recipe={})
    monkeypatch.setattr(seqrl.bundle, "load", lambda path: bundle)
    collect = bundle_policy("runs/x", rows=3)
    rng = np.random.default_rng(0)
    for t in range(12):
        first = np.array([t == 0, t in (0, 4), t == 0])
        actions = collect({"observation": rng.normal(size=(3, 4)).astype(np.float32)}, first, np.full(3, 10.0))
        assert actions["action"].shape == (3,)
    asks = np.array([[row["ask"] for row in page] for page in policy.diary])
    assert asks[:, 0] == pytest.approx(5 - 0.1 * np.arange(12))
    assert asks[:, 1] == pytest.approx(np.r_[5 - 0.1 * np.arange(4), 5 - 0.1 * np.arange(8)])
    assert policy.diary[4][1]["times"] == [0]


def test_a_bundle_collects_as_its_recipe_says(fakes, monkeypatch):
    import seqrl.bundle

    def asks(target=None, **evaluate):
        tokenizer = fakes.Tokenizer(fakes.cartpole_spec())
        policy = fakes.Policy(tokenizer)
        bundle = SimpleNamespace(model=policy, tokenizer=tokenizer, recipe={"evaluate": evaluate | {"every": 3}})
        monkeypatch.setattr(seqrl.bundle, "load", lambda path: bundle)
        collect = bundle_policy("runs/x", rows=1, target=target)
        for t in range(4):
            collect({"observation": np.zeros((1, 4), np.float32)}, np.array([t == 0]), np.full(1, 10.0))
        return [page[0]["ask"] for page in policy.diary]

    assert asks(targets=[30.0, 20.0], return_floor=15.0) == pytest.approx([0.3, 0.2, 0.15, 0.15])
    assert asks(target=50.0, targets=[30.0]) == pytest.approx([0.5, 0.4, 0.3, 0.2])


def test_a_commit_says_whether_files_differ_from_it(tmp_path, monkeypatch):
    def git(*words):
        who = ("-c", "user.name=x", "-c", "user.email=x@example.com")
        return subprocess.run(["git", "-C", str(tmp_path), *who, *words], capture_output=True, text=True, check=True).stdout

    monkeypatch.setattr(result, "__file__", str(tmp_path / "seqrl" / "rollout" / "result.py"))
    read = result.commit.__wrapped__
    assert read() is None
    git("init")
    (tmp_path / "a.txt").write_text("a")
    git("add", ".")
    git("commit", "-m", "first")
    head = git("rev-parse", "HEAD").strip()
    assert read() == head
    (tmp_path / "a.txt").write_text("b")
    assert read() == f"{head}+dirty"


def test_versions_name_the_packages_of_environments():
    from importlib.util import find_spec

    for module, name in (("gymnasium_robotics", "gymnasium-robotics"), ("minigrid", "minigrid"), ("ale_py", "ale-py")):
        assert (name in result.versions()) == (find_spec(module) is not None)


def test_light_parts_need_no_torch():
    names = ", ".join(
        f"seqrl.rollout.{n}" for n in ("envs", "face", "scores", "stats", "result", "evaluate", "noise", "runner")
    )
    code = f"import sys, {names}; assert not {{'torch', 'gymnasium'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
