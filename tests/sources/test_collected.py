"""Collecting: the same data for the same settings, whole episodes only, and a dataset that Minari can use."""

import filecmp
import json

import gymnasium
import minari as library
import numpy as np
import pytest

from seqrl.core.errors import DataError, EnvError
from seqrl.data.store import prepare
from seqrl.sources import _catalog, collected
from seqrl.sources._laws import LAWS, law_of
from seqrl.sources.collected import Config, Source, collect
from seqrl.sources.minari import Config as Local
from seqrl.sources.minari import Source as LocalSource

pytestmark = pytest.mark.filterwarnings("ignore")


def contents(home, id):
    return home / "datasets" / id / "data" / "main_data.hdf5"


def test_it_is_a_function_of_its_settings(home):
    for rows, id in ((1, "my/one-v0"), (4, "my/four-v0"), (16, "my/all-v0")):
        collect("CartPole-v1", 9, id, "scripted", rows=rows)
    assert filecmp.cmp(contents(home, "my/one-v0"), contents(home, "my/four-v0"), shallow=False)
    assert filecmp.cmp(contents(home, "my/one-v0"), contents(home, "my/all-v0"), shallow=False)
    collect("CartPole-v1", 9, "my/other-v0", "scripted", seed=1)
    assert not filecmp.cmp(contents(home, "my/one-v0"), contents(home, "my/other-v0"), shallow=False)


def test_replaying_seeds_and_actions_gives_the_same_again(home):
    collect("Pendulum-v1", 2, "my/pendulum-v0", "scripted", seed=7)
    source = LocalSource(Local(id="my/pendulum-v0"))
    env = gymnasium.make("Pendulum-v1")
    for i in range(2):
        episode = source.episode(i)
        obs, _ = env.reset(seed=episode.info["seed"])
        assert episode.info["seed"] == 7 + i
        seen, rewards = [obs], []
        for action in episode.act["action"]:
            obs, reward, *_ = env.step(action)
            seen.append(obs)
            rewards.append(reward)
        np.testing.assert_array_equal(episode.obs["observation"], seen)
        np.testing.assert_array_equal(episode.rew, np.float32(rewards))


def test_minari_can_use_it(home):
    collect("CartPole-v1", 6, "ns/deep/pole-v2", "random", references=(22.0, 500.0))
    theirs = library.load_dataset("ns/deep/pole-v2")
    assert theirs.total_episodes == 6
    assert theirs.recover_environment().spec.id == "CartPole-v1"
    assert theirs.spec.total_steps == sum(len(e.rewards) for e in theirs)
    assert [m["seed"] for m in theirs.storage.get_episode_metadata(range(6))] == list(range(6))
    assert "ns/deep/pole-v2" in library.list_local_datasets()
    assert "ns/deep" in library.namespace.list_local_namespaces()
    assert library.get_normalized_score(theirs, np.array([500.0])) == 1.0
    about = _catalog.metadata("ns/deep/pole-v2")
    assert about["jpeg_encoding"] is False
    assert about["seqrl"] == {"env": "CartPole-v1", "episodes": 6, "policy": "random", "seed": 0}


def test_levels_cycle_and_show(home):
    collect("CartPole-v1", 12, "my/levels-v0", "scripted", levels=(0.0, 1.0))
    totals = np.array([len(LocalSource(Local(id="my/levels-v0")).episode(i)) for i in range(12)])
    assert totals[1::2].min() >= 490
    assert totals[::2].mean() < 60


@pytest.mark.parametrize(("env", "least"), [("CartPole-v1", 490), ("MountainCar-v0", -130), ("MountainCarContinuous-v0", 85)])
def test_laws_know_their_trade(home, env, least):
    collect(env, 4, "my/good-v0", "scripted", levels=(1.0,))
    source = LocalSource(Local(id="my/good-v0"))
    assert np.mean([source.episode(i).total for i in range(4)]) >= least


@pytest.mark.parametrize(("env", "least"), [("Pendulum-v1", -300), ("Acrobot-v1", -150)])
def test_laws_know_their_trade_too(home, env, least):
    collect(env, 8, "my/good-v0", "scripted", levels=(1.0,))
    source = LocalSource(Local(id="my/good-v0"))
    assert np.mean([source.episode(i).total for i in range(8)]) >= least


def test_there_are_laws_for_these():
    assert set(LAWS) == {"CartPole-v1", "MountainCar-v0", "MountainCarContinuous-v0", "Pendulum-v1", "Acrobot-v1"}
    with pytest.raises(
        DataError, match=r"no scripted policy for 'CartPole-v0'; did you mean 'CartPole-v1'\?; there is one for"
    ):
        law_of("CartPole-v0")


# ---- policies of other people ---------------------------------------------------------------------------------------


def test_a_batched_policy_is_told_what_it_must_know(home):
    calls = []

    def policy(obs, first, last_reward):
        calls.append((obs["observation"].copy(), first.copy(), last_reward.copy()))
        return {"action": (obs["observation"][:, 2] > 0).astype(np.float32)}

    collect("CartPole-v1", 5, "my/mine-v0", policy, rows=2, name="leaning")
    assert all(obs.shape == (2, 4) and first.shape == reward.shape == (2,) for obs, first, reward in calls)
    assert calls[0][1].all()
    assert calls[1][2].tolist() == [1.0, 1.0]
    assert not any(reward[first].any() for _, first, reward in calls)
    source = LocalSource(Local(id="my/mine-v0"))
    assert len(source) == 5
    for i in range(5):
        episode = source.episode(i)
        np.testing.assert_array_equal(episode.act["action"], episode.obs["observation"][:-1, 2] > 0)
        assert episode.act["action"].dtype == np.int64
    assert _catalog.metadata("my/mine-v0")["algorithm_name"] == "leaning"
    # A row begins as often as it was given an episode, before it falls idle.
    assert sum(first.sum() for _, first, _ in calls) >= 5


PICTURE = gymnasium.spaces.Box(0, 255, (32, 32, 3), np.uint8)


def test_dictionaries_tuples_and_texts(home):
    class Odd(gymnasium.Env):
        observation_space = gymnasium.spaces.Dict(
            {
                "said": gymnasium.spaces.Text(8),
                "parts": gymnasium.spaces.Tuple((gymnasium.spaces.Discrete(3), PICTURE)),
            }
        )
        action_space = gymnasium.spaces.Dict({"b": gymnasium.spaces.Discrete(2), "a": gymnasium.spaces.MultiBinary(2)})
        picture = np.zeros((32, 32, 3), np.uint8)

        def reset(self, seed=None, options=None):
            super().reset(seed=seed)
            self.t = 0
            return self._see(), {}

        def _see(self):
            # The same array every time, as some environments do.
            self.picture[:] = self.t
            return {"said": f"step {self.t}", "parts": (self.t % 3, self.picture)}

        def step(self, action):
            assert self.action_space.contains(action)
            self.t += 1
            return self._see(), float(action["b"]), self.t == 4, False, {}

    gymnasium.register("OddTest-v0", Odd)
    try:
        collect("OddTest-v0", 3, "odd/things-v0", "random", rows=2)
    finally:
        del gymnasium.registry["OddTest-v0"]
    episode = LocalSource(Local(id="odd/things-v0")).episode(2)
    assert episode.obs["said"].tolist() == [f"step {t}" for t in range(5)]
    assert episode.obs["parts/0"].tolist() == [0, 1, 2, 0, 1]
    assert episode.obs["parts/1"][:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4]
    assert list(episode.act) == ["a", "b"]
    theirs = library.load_dataset("odd/things-v0")[2]
    np.testing.assert_array_equal(theirs.observations["parts"][1], episode.obs["parts/1"])


# ---- as a source ----------------------------------------------------------------------------------------------------


def test_the_source_collects_once(home, monkeypatch):
    config = Config(id="my/pole-v0", env="CartPole-v1", episodes=4)
    first = Source(config)
    monkeypatch.setattr(collected, "collect", lambda **_: pytest.fail("collected twice"))
    assert Source(config).fingerprint() == first.fingerprint()


def test_other_settings_are_other_data(home):
    Source(Config(id="my/pole-v0", env="CartPole-v1", episodes=4))
    with pytest.raises(
        DataError, match=r"'my/pole-v0' is there, but .* \(episodes 4, here 5; seed 0, here 3\); choose another id"
    ):
        Source(Config(id="my/pole-v0", env="CartPole-v1", episodes=5, seed=3))


def test_a_strangers_data_are_taken_at_their_word(home):
    collect("CartPole-v1", 4, "my/pole-v0")
    path = home / "datasets" / "my/pole-v0" / "data" / "metadata.json"
    about = json.loads(path.read_text())
    del about["seqrl"]
    path.write_text(json.dumps(about))
    assert len(Source(Config(id="my/pole-v0", env="CartPole-v1", episodes=99))) == 4
    with pytest.raises(DataError, match="env CartPole-v1, here Pendulum-v1"):
        Source(Config(id="my/pole-v0", env="Pendulum-v1", episodes=99))


def test_references_of_the_recipe_win(home):
    def source(**more):
        return Source(Config(id="my/pole-v0", env="CartPole-v1", episodes=4, **more))

    # As ``seqrl data collect`` does it: without references.
    collect("CartPole-v1", 4, "my/pole-v0", "scripted")
    plain, worth = source(), source(references=(22.0, 500.0))
    assert plain.spec.references is None
    assert worth.spec.references == (22.0, 500.0)
    # The store keeps the spec, so it must not be shared with the other's.
    assert prepare(plain).spec == plain.spec
    assert prepare(worth).spec == worth.spec
    collect("CartPole-v1", 4, "my/other-v0", "scripted", references=(22.0, 500.0))
    known = Config(id="my/other-v0", env="CartPole-v1", episodes=4)
    assert Source(known).spec.references == (22.0, 500.0)
    same = known.model_copy(update={"references": (22.0, 500.0)})
    assert Source(known).fingerprint() == Source(same).fingerprint()


# ---- bad input ------------------------------------------------------------------------------------------------------


def test_bad_input(home):
    for env, policy, id, said in (
        ("CartPol-v1", "random", "my/b-v0", "there is no environment 'CartPol-v1'; did you mean 'CartPole-v1'?"),
        ("os:CartPole-v1", "random", "my/b-v0", "is no id of an environment"),
        (
            "Hopper-v5",
            "scripted",
            "my/b-v0",
            "no scripted policy for 'Hopper-v5'; there is one for CartPole-v1",
        ),
        ("CartPole-v1", "clever", "my/b-v0", "policy 'clever': there are random and scripted"),
        ("CartPole-v1", "random", "no-version", "'no-version' is no dataset id"),
        ("CartPole-v1", "random", "hf://x/my/b-v0", "names a server; a dataset made here is called 'my/b-v0'"),
    ):
        with pytest.raises((DataError, EnvError)) as told:
            collect(env, 2, id, policy)
        assert said in str(told.value)
    assert not (home / "datasets").exists()
    collect("CartPole-v1", 2, "my/b-v0")
    with pytest.raises(DataError, match="there is a dataset 'my/b-v0' already .*choose another id, or delete that folder"):
        collect("CartPole-v1", 2, "my/b-v0")


def test_a_missing_package_is_named_with_its_extra(home, monkeypatch):
    import gymnasium.error

    def make(*_, **__):
        raise gymnasium.error.DependencyNotInstalled("Box2D is not installed")

    monkeypatch.setattr(gymnasium, "make", make)
    for env, brings in (
        ("LunarLander-v3", "seqrl[box2d]"),
        ("Hopper-v5", "seqrl[mujoco]"),
        ("phys2d/CartPole-v1", "gymnasium[jax]"),
        ("tabular/CliffWalking-v0", "gymnasium[jax]"),
    ):
        with pytest.raises(EnvError) as told:
            collect(env, 2, "my/b-v0")
        assert str(told.value).startswith(f"{env} needs a package that is not installed (Box2D is not installed): ")
        assert str(told.value).endswith(f"pip install '{brings}'")
    # Of anybody else's environment it is not known what brings its packages.
    with pytest.raises(EnvError, match=r"Own-v0 needs a package that is not installed \(Box2D is not installed\)$"):
        collect("Own-v0", 2, "my/b-v0")


@pytest.mark.parametrize("failure", [KeyboardInterrupt, RuntimeError("policy broke")])
def test_nothing_is_left_when_it_is_interrupted(home, failure):
    closed = []

    def policy(obs, first, last_reward):
        if len(closed) > 30:
            raise failure
        closed.append(1)
        return {"action": np.zeros(len(first))}

    with pytest.raises(failure if isinstance(failure, type) else RuntimeError):
        collect("CartPole-v1", 50, "my/b-v0", policy, rows=4)
    assert not (home / "datasets").exists()


def test_an_environment_without_an_end_is_found_out(home, monkeypatch):
    monkeypatch.setattr(collected, "_LONGEST", 50)
    with pytest.raises(EnvError, match="Pendulum-v1: episode 0 does not end within 50 steps"):
        collect("Pendulum-v1", 2, "my/b-v0")
