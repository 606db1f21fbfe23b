"""A dream is an environment like any other, and stepping it is what teacher forcing would have said."""

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers.vector import RecordEpisodeStatistics

from seqrl.core.errors import UserError
from seqrl.rollout.agent import Agent
from seqrl.rollout.dream import DreamEnv, flat, nested, space_of
from seqrl.rollout.excerpts import Excerpts
from seqrl.rollout.imagine import imagine
from seqrl.rollout.worlds import Bridge


@pytest.fixture
def dream(linear):
    """``dream(B, ...)``: an environment over the linear world and its data."""

    def make(num_envs=5, world=None, **settings):
        starts = Excerpts(linear.data, linear.tokenizer, Bridge(linear.world, linear.tokenizer))
        return DreamEnv(world or linear.world, linear.tokenizer, starts, num_envs, **settings)

    return make


def run(env, steps=60, seed=4):
    env.action_space.seed(0)
    told = [env.reset(seed=seed)]
    told += [env.step(env.action_space.sample()) for _ in range(steps)]
    return told


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
def test_it_is_a_vector_environment(dream, mode):
    env = dream(horizon=8, context=2, autoreset=mode)
    assert env.metadata["autoreset_mode"] is AutoresetMode(mode)
    told = run(RecordEpisodeStatistics(env))
    assert told[0][0] in env.observation_space
    over = np.zeros(5, bool)
    for obs, reward, terminated, truncated, info in told[1:]:
        assert obs in env.observation_space
        assert obs.dtype == np.float32
        assert [x.shape for x in (reward, terminated, truncated)] == [(5,)] * 3
        assert (reward.dtype, terminated.dtype, truncated.dtype) == (np.float64, bool, bool)
        assert not (terminated & truncated).any()
        if mode == "NextStep":
            assert not (over & (terminated | truncated | (reward != 0))).any(), "the step after the last is the reset"
        else:
            assert ("final_obs" in info) == bool((terminated | truncated).any())
            for row in np.flatnonzero(terminated | truncated):
                assert info["_final_obs"][row]
                assert not np.array_equal(info["final_obs"][row], obs[row])
        over = terminated | truncated
    lengths = [info["episode"]["l"][info["_episode"]] for *_, info in told[1:] if "episode" in info]
    assert max(np.concatenate(lengths)) == 8


def test_the_same_seed_is_the_same_dream_and_disturbs_nobody(dream):
    state = torch.get_rng_state()
    a, b, c = run(dream(horizon=6)), run(dream(horizon=6)), run(dream(horizon=6), seed=5)
    for (obs, *rest), (other, *others) in zip(a, b, strict=True):
        np.testing.assert_array_equal(obs, other)
        for x, y in zip(rest[:-1], others[:-1], strict=True):
            np.testing.assert_array_equal(x, y)
    assert not np.array_equal(a[0][0], c[0][0])
    assert torch.equal(state, torch.get_rng_state())


def test_stepping_equals_teacher_forcing(linear, dream):
    """Under the real actions a world that knows everything shows the real episode; and any world what ``imagine`` says."""
    starts = Excerpts(linear.data, linear.tokenizer, Bridge(linear.world, linear.tokenizer))
    places = starts.places(400, 4, 12)
    places = places.pick(np.flatnonzero(places.length == 12)[:5])
    real, seen = starts.read(places), starts.raw("observation", places.rows)
    for world in (linear.world, linear.World(known=0.4).eval()):
        env = dream(world=world, sample=False, ends="threshold", horizon=12, autoreset="Disabled")
        env.reset(seed=0, options={"observations": seen[:, 3]})
        values, before, actions = real.context(4)
        carry, feat = env.bridge.begin(values, before, {}, 12, sample=False)
        _, forced = imagine(world, carry, feat[:, -1], actions, 12, sample=False)
        for h in range(12):
            obs, reward, terminated, truncated, _ = env.step(actions[:, h].numpy())
            np.testing.assert_allclose(obs, forced.latents[:, h], atol=1e-5)
            np.testing.assert_allclose(reward, forced.rewards[:, h])
            np.testing.assert_array_equal(terminated, forced.conts[:, h] < 0.5)
            if world is linear.world:
                np.testing.assert_allclose(obs, seen[:, 4 + h], atol=1e-4)
                np.testing.assert_array_equal(reward, real.reward[:, h])
            if terminated.any():
                break
        assert truncated.all() == (h == 11 and not terminated.any())


def test_without_autoreset_rows_are_reset_by_hand(dream):
    env = dream(horizon=3, autoreset="Disabled", sample=False, ends="threshold")
    env.reset(seed=2)
    while not env._over.any():
        obs, *_ = env.step(np.zeros((5, 1), np.float32))
    with pytest.raises(ValueError, match="are over"):
        env.step(np.zeros((5, 1), np.float32))
    mask = env._over.copy()
    again, _ = env.reset(options={"reset_mask": mask})
    np.testing.assert_array_equal(again[~mask], obs[~mask])
    assert not (again[mask] == obs[mask]).all(1).any()
    env.step(np.zeros((5, 1), np.float32))


def test_a_row_goes_on_while_others_begin_anew(dream):
    """A reset of one row leaves the others where they were, whatever the time in their carries."""
    env = dream(num_envs=2, horizon=50, sample=False, ends="threshold", autoreset="Disabled")
    alone = dream(num_envs=2, horizon=50, sample=False, ends="threshold", autoreset="Disabled")
    begun = np.array([[0.1, 0.2], [-0.3, 0.1]], np.float32)
    push = np.full((2, 1), 0.2, np.float32)
    for e in (env, alone):
        e.reset(seed=0, options={"observations": begun})
        e.step(push)
    env.reset(options={"reset_mask": np.array([True, False])})
    for _ in range(5):
        np.testing.assert_array_equal(env.step(push)[0][1], alone.step(push)[0][1])
    assert env.carry.steps.tolist() == [6, 7]


def test_ends_are_drawn_or_by_the_better_chance(linear, dream):
    far = np.tile(np.array([0.0, 4.0], np.float32), (200, 1))

    def ended(ends):
        env = dream(num_envs=200, ends=ends, sample=False)
        env.reset(seed=0, options={"observations": far})
        return env.step(np.zeros((200, 1), np.float32))[2].mean()

    assert ended("threshold") == 1.0
    assert 0.8 < ended("sample") < 1.0, "nine tenths"


def test_an_agent_acts_in_a_dream(linear, dream, fakes):
    """What a policy is given has the names and units of the data."""
    env = dream(num_envs=3, horizon=5)
    env.reset(seed=1)
    tokenizer = fakes.Tokenizer(linear.tokenizer.spec, layout="state action")
    policy = fakes.Policy(tokenizer)
    policy._law = lambda seen, uniform: torch.tanh(seen[-1][1][:1])
    agent = Agent(policy, tokenizer, 3, sample=False)
    agent.reset([0, 1, 2], None, [0, 1, 2])
    for _ in range(4):
        actions = agent.act(env.now)
        np.testing.assert_allclose(actions["action"][:, 0], np.tanh(env.now["observation"][:, 0]), atol=1e-6)
        env.step(nested(actions, "action"))


def test_what_is_wrong_is_named(linear, dream):
    with pytest.raises(UserError, match="'sample' or 'threshold'"):
        dream(ends="never")
    with pytest.raises(UserError, match="one of NextStep, SameStep, Disabled"):
        dream(autoreset="now and then")
    with pytest.raises(UserError, match="option 'observations'"):
        DreamEnv(linear.world, linear.tokenizer).reset()
    linear.tokenizer.config = linear.tokenizer.config.model_copy(update={"layout": "state > reward"})
    with pytest.raises(UserError, match="no action in it"):
        DreamEnv(linear.world, linear.tokenizer)


def test_names_become_nested_spaces_and_back():
    named = {"a/b": 1, "a/c": 2, "d": 3}
    assert nested(named, "observation") == {"a": {"b": 1, "c": 2}, "d": 3}
    assert flat(nested(named, "observation"), "observation") == named
    assert nested({"observation": 5}, "observation") == 5
    assert flat(5, "observation") == {"observation": 5}


def test_spaces_are_those_of_the_data(fakes):
    from gymnasium import spaces

    from seqrl.core.episode import Modality

    assert space_of(Modality("discrete", (), "int64", n=(4,), start=(2,))) == spaces.Discrete(4, start=2)
    assert space_of(Modality("discrete", (2,), "int64", n=(3, 2))) == spaces.MultiDiscrete([3, 2])
    assert space_of(Modality("image", (8, 8, 3), "uint8")) == spaces.Box(0, 255, (8, 8, 3), np.uint8)
    assert space_of(Modality("vector", (1,), "float32", (-1.0,), (2.0,))) == spaces.Box(-1, 2, (1,), np.float32)
    assert space_of(Modality("vector", (1,), "float32")).low == -np.inf
