"""One model of several domains, played: who plays what, texts and pictures while acting, scores that depend on nobody else."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from seqrl.core.episode import EpisodeSpec, Modality
from seqrl.core.errors import EnvError, RecipeError, UserError
from seqrl.data.mixture import Mixture
from seqrl.data.slots import TokensConfig
from seqrl.data.tokenizer import Tokenizer
from seqrl.policies import gato
from seqrl.rollout import result, scores
from seqrl.rollout.agent import Agent
from seqrl.rollout.collect_policy import bundle_policy
from seqrl.rollout.evaluate import EvalConfig, Report, config_for, evaluate, evaluate_all, rehearse
from seqrl.rollout.inputs import Inputs
from seqrl.rollout.players import check_domains, only, plan, players

INF = float("inf")
POLE = EpisodeSpec(
    "tests/pole-v0",
    {"observation": Modality("vector", (4,), "float32", (-INF,) * 4, (INF,) * 4)},
    {"action": Modality("discrete", (), "int64", n=(2,))},
    env={"id": "CartPole-v1", "max_episode_steps": 30},
)
GRID = EpisodeSpec(
    "tests/grid-v0",
    {
        "direction": Modality("discrete", (), "int64", n=(4,)),
        "image": Modality("image", (7, 7, 3), "uint8"),
        "mission": Modality("text", (), "str"),
    },
    {"action": Modality("discrete", (), "int64", n=(7,))},
    env={"id": "BabyAI-GoToObj-v0", "max_episode_steps": 12},
)
MISSIONS = ["go to the red ball", "go to the blue key", "go to the big yellow box", "go"]


def fitted(spec, layout, slots, N=40, **more):
    tokenizer = Tokenizer(TokensConfig(layout=layout, slots=slots, pack=64, **more), spec)
    rng = np.random.default_rng(0)
    columns = {
        "observation": rng.normal(size=(N, 4)).astype(np.float32),
        "direction": rng.integers(0, 4, N),
        "image": rng.integers(0, 11, (N, 7, 7, 3)).astype(np.uint8),
        "mission": np.array(MISSIONS * (N // 4)),
        "action": rng.integers(0, spec.act["action"].n[0], N),
        "return": rng.uniform(0, 30, N),
        "reward": rng.uniform(0, 1, N),
        "separator": np.zeros(N, np.int64),
    }
    tokenizer.fit({n: {f: columns[f] for f in s.fields} for n, s in tokenizer.slots.items()}, np.array([1.0, 9.0, 30.0]))
    return tokenizer


@pytest.fixture(scope="module")
def mixture():
    pole = fitted(POLE, "return state separator action", {"state": {"kind": "mulaw"}})
    grid = fitted(GRID, "task | image direction action", {"image": {"kind": "patches", "size": 7}}, context=6)
    return Mixture({"pole": pole, "grid": grid})


@pytest.fixture(scope="module")
def model(mixture):
    torch.manual_seed(0)
    settings = {"width": 32, "layers": 2, "heads": 2, "init_std": 0.3}
    return gato.Model(gato.Config.for_domains(mixture.ports(), 64, **settings)).eval()


SMALL = EvalConfig(episodes=5, envs=3, targets=[20.0])


def test_one_entry_a_domain_or_one_without_a_name(model, mixture):
    found = players(model, mixture)
    assert list(found) == ["pole", "grid"]
    assert found["grid"][0].name == "grid"
    assert found["grid"][1] is mixture.domains["grid"]
    assert players(1, mixture.domains["pole"]) == {"": (1, mixture.domains["pole"])}


def test_all_domains_are_played_and_come_back_from_json(model, mixture):
    told = []
    reports = evaluate_all(model, mixture, SMALL, lambda done, total, note: told.append((done, total, note)))
    assert list(reports) == ["pole", "grid"]
    assert [t.target for t in reports["pole"].targets] == [20.0]
    assert [t.target for t in reports["grid"].targets] == [None]
    assert reports["pole"].solved is None
    assert reports["grid"].solved == np.mean(reports["grid"].returns[0] > 0)
    assert told[-1][:2] == (10, 10)
    assert told[-1][2].startswith("grid: ")
    raw = json.loads(json.dumps(result.to_json(reports)))
    assert list(raw) == ["domains"]
    assert Report.from_json(raw["domains"]["grid"]).to_json() == raw["domains"]["grid"]
    del raw["domains"]["grid"]["targets"][0]["solved"]
    assert Report.from_json(raw["domains"]["grid"]).targets[0].solved is None, "what an older seqrl wrote is still read"


def test_a_domain_gets_what_it_gets_alone(model, mixture):
    together = evaluate_all(model, mixture, SMALL)
    for name, (policy, tokenizer) in players(model, mixture).items():
        alone = evaluate(policy, tokenizer, plan(mixture, SMALL)[name])
        assert alone.targets == together[name].targets


@pytest.mark.parametrize("domain", ["pole", "grid"])
def test_a_row_does_not_depend_on_its_neighbours(model, mixture, domain):
    policy, tokenizer = players(model, mixture)[domain]
    config = plan(mixture, EvalConfig(episodes=7, envs=1, targets=[20.0]))[domain]
    alone = evaluate(policy, tokenizer, config)
    many = evaluate(policy, tokenizer, config.model_copy(update={"envs": 5}))
    np.testing.assert_array_equal(alone.returns[0], many.returns[0])
    assert alone.targets[0].length == many.targets[0].length


@pytest.mark.parametrize("domain", ["pole", "grid"])
def test_both_modes_are_one_function_until_the_window_is_full(model, mixture, domain):
    policy, tokenizer = players(model, mixture)[domain]
    spec = tokenizer.spec
    # As long as a cache forgets nothing.
    short = EpisodeSpec(spec.id, spec.obs, spec.act, env={**spec.env, "max_episode_steps": tokenizer.context})
    told = SimpleNamespace(spec=short, **{n: getattr(tokenizer, n) for n in dir(tokenizer) if n[0] != "_" and n != "spec"})
    config = plan(mixture, EvalConfig(episodes=12, envs=5, targets=[20.0]))[domain]
    exact, cached = (evaluate(policy, told, config.model_copy(update={"mode": m})) for m in ("exact", "cached"))
    assert (exact.mode, cached.mode) == ("exact", "cached")
    np.testing.assert_array_equal(exact.returns[0], cached.returns[0])
    assert exact.targets[0].length == cached.targets[0].length


def sight(rng, missions):
    B = len(missions)
    return {
        "direction": rng.integers(0, 4, B),
        "image": rng.integers(0, 11, (B, 7, 7, 3)).astype(np.uint8),
        "mission": np.array(missions, object),
    }


@pytest.mark.parametrize("mode", ["exact", "cached"])
def test_a_mission_is_read_when_its_episode_begins(model, mixture, mode, monkeypatch):
    policy, tokenizer = players(model, mixture)["grid"]
    task, read = tokenizer.slots["task"].codec, []
    encode = task.encode
    monkeypatch.setattr(task, "encode", lambda texts: read.append(np.ravel(texts).tolist()) or encode(texts))
    agent, rng = Agent(policy, tokenizer, 3, mode=mode), np.random.default_rng(0)
    assert agent.history["image"].dtype == torch.uint8
    agent.reset([0, 1, 2], None, [0, 1, 2])
    now, alone, did = [0, 1, 2], None, []
    for t in range(17):
        if t == 4:
            agent.reset([1], None, [7])
            now = [0, 3, 2]
            alone = Agent(policy, tokenizer, 1, mode=mode)
            alone.reset([0], None, [7])
        seen = sight(rng, [MISSIONS[i] for i in now])
        did.append(agent.act(seen)["action"])
        agent.receive(np.zeros(3))
        if alone:
            count = len(read)
            assert alone.act({n: v[1:2] for n, v in seen.items()})["action"][0] == did[-1][1]
            del read[count:]
    assert read == [MISSIONS[:3], [MISSIONS[3]]]
    held = agent.history["task"][:, 0].numpy()
    np.testing.assert_array_equal(held, encode(np.array([MISSIONS[i] for i in now])))


def test_rewards_behind_the_action_and_a_return_in_front():
    tokenizer = fitted(POLE, "return | state action reward separator", {}, context=5)
    torch.manual_seed(0)
    mixture = Mixture({"pole": tokenizer})
    made = gato.Model(gato.Config.for_domains(mixture.ports(), 64, width=32, layers=2, heads=2, init_std=0.3)).eval()
    policy, did = made.player("pole"), {}
    for mode in ("exact", "cached"):
        agent, rng, did[mode] = Agent(policy, tokenizer, 2, mode=mode), np.random.default_rng(0), []
        agent.reset([0, 1], [10.0, 20.0], [0, 1])
        for t in range(5):
            did[mode].append(agent.act({"observation": rng.normal(size=(2, 4)).astype(np.float32)})["action"])
            agent.receive(np.array([t + 0.5, 1.0]))
        wanted = tokenizer.encode_rewards(np.arange(5) + 0.5)["reward"]
        np.testing.assert_array_equal(agent.history["reward"][0].numpy(), wanted)
        np.testing.assert_array_equal(agent.history["return"][:, 0].numpy(), tokenizer.encode_return(np.array([10.0, 20.0])))
    np.testing.assert_array_equal(did["exact"], did["cached"])
    with pytest.raises(UserError, match="nothing to fill reward"):
        Inputs(fitted(POLE, "reward state action", {}))


def test_what_single_domains_have_otherwise(mixture):
    config = config_for(
        {"evaluate": {"episodes": 9, "domains": {"pole": {"episodes": 3, "targets": [5]}, "grid": {"seed": 4}}}}, {"seed": 2}
    )
    told = plan(mixture, config)
    assert (told["pole"].episodes, told["pole"].targets, told["pole"].seed) == (3, [5.0], 2)
    assert (told["grid"].episodes, told["grid"].targets, told["grid"].seed) == (9, None, 2), "what is wanted holds for all"
    own = config_for(
        {"evaluate": {"domains": {"pole": {"episodes": 3}}}}, {"episodes": 5, "domains": {"pole": {"episodes": 8}}}
    )
    assert plan(mixture, own)["pole"].episodes == 8
    left = config_for({}, {"domains": {"grid": {"play": False}}})
    assert list(plan(mixture, left)) == ["pole"]
    assert list(plan(mixture, only(left, mixture, ["grid"]))) == ["grid"], "who names a domain wants it played"


def test_wrong_settings_are_named(model, mixture):
    with pytest.raises(RecipeError, match=r"evaluate\.domains\.gird: there is no such domain; did you mean 'grid'"):
        plan(mixture, EvalConfig(domains={"gird": {}}))
    with pytest.raises(RecipeError, match="did you mean 'episodes'"):
        config_for({}, {"domains": {"grid": {"episode": 3}}})
    with pytest.raises(RecipeError, match="no domains"):
        check_domains(EvalConfig(domains={"grid": {}}), ())
    with pytest.raises(RecipeError, match="every domain has play: false"):
        plan(mixture, EvalConfig(domains={"grid": {"play": False}, "pole": {"play": False}}))
    with pytest.raises(UserError, match="did you mean 'pole'"):
        only(EvalConfig(), mixture, ["pol"])
    with pytest.raises(UserError, match="no domains"):
        only(EvalConfig(), mixture.domains["pole"], ["pole"])
    with pytest.raises(UserError, match=r"targets: none of these domains takes a return \(grid\)"):
        plan(mixture, only(SMALL, mixture, ["grid"]))
    with pytest.raises(UserError, match=r"env: can be given for one domain.*evaluate\.domains\.NAME\.env"):
        plan(mixture, EvalConfig(env="CartPole-v1"))
    two = Mixture({"a": mixture.domains["pole"], "b": mixture.domains["pole"]})
    with pytest.raises(UserError, match="targets: can be given for one domain, and these are a, b"):
        plan(two, SMALL)
    with pytest.raises(UserError, match="no return to ask for"):
        evaluate_all(model, mixture, EvalConfig(domains={"grid": {"targets": [1.0]}, "pole": {"play": False}}))


def test_a_domain_that_cannot_be_played_costs_the_others_nothing(model, mixture):
    config = EvalConfig(episodes=2, targets=[20.0], domains={"grid": {"env": "CartPole-v1"}})
    found = evaluate_all(model, mixture, config)
    assert found["pole"].targets
    assert found["grid"].targets == ()
    assert "does not fit the data" in found["grid"].failed
    assert found["grid"].env == "CartPole-v1"
    raw = json.loads(json.dumps(result.to_json(found)))["domains"]
    assert "failed" not in raw["pole"]
    assert Report.from_json(raw["grid"]).failed == found["grid"].failed
    with pytest.raises(UserError, match="domain 'grid': CartPole-v1 does not fit"):
        evaluate_all(model, mixture, only(config.model_copy(update={"targets": None}), mixture, ["grid"]))
    nameless = fitted(EpisodeSpec("tests/nameless-v0", POLE.obs, POLE.act), "state action", {})
    with pytest.raises(EnvError, match="names no environment"):
        rehearse(nameless, EvalConfig())


def test_a_goal_is_reached_where_the_reward_says_so():
    assert scores.solved(np.array([0.0, 0.3, 1.0, 0.9]), "BabyAI-GoToObj-v0") == 0.75
    assert scores.solved(np.array([0.0]), "MiniGrid-FourRooms-v0") == 0.0
    assert scores.solved(np.ones(3), "Hopper-v5") is None


def test_one_of_several_domains_collects(model, mixture, monkeypatch):
    import seqrl.bundle

    asked = []
    found = SimpleNamespace(model=model, tokenizer=mixture, recipe={})
    monkeypatch.setattr(seqrl.bundle, "load", lambda path: asked.append(path) or found)
    with pytest.raises(UserError, match=r"several domains \(pole, grid\); name one: runs/x:pole"):
        bundle_policy("runs/x", 2)
    collect = bundle_policy("runs/x:grid", 2)
    seen = sight(np.random.default_rng(0), MISSIONS[:2])
    assert collect(seen, np.ones(2, bool), np.zeros(2))["action"].shape == (2,)
    assert asked == ["runs/x", "runs/x"]
