"""Key and Value: what is asked for has been there, depths and lengths are as asked for, and the player is right."""

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from seqrl.core.errors import DataError, EnvError
from seqrl.rollout.envs import make
from seqrl.sources._key_value import ID, KeyValue
from seqrl.sources._laws import players_of
from seqrl.sources.collected import Config, Source

SMALL = {"keys": 4, "values": 5, "noise": 3, "least": 4, "most": 40, "pairs": 4}


def play(env, act, **reset):
    """(key, value) of every step, the right answers, what was paid, and the last info."""
    env.reset(**reset)
    seen, right, paid, over = [], [], [], False
    while not over:
        seen.append((int(env._key[env._t]), int(env._value[env._t])))
        right.append(env.answer)
        _, reward, over, cut, info = env.step(act(env))
        paid.append(reward)
        assert not cut
    return seen, right, paid, info


@pytest.mark.parametrize("observation", ["vector", "codes"])
def test_it_is_an_environment(observation):
    env = KeyValue(**SMALL, observation=observation)
    check_env(env, skip_render_check=True)
    assert isinstance(gymnasium.make(ID).unwrapped, KeyValue)
    assert isinstance(make({"id": ID, "kwargs": SMALL}, 1)[0].unwrapped, KeyValue)


def test_what_is_asked_for_was_there_and_nothing_else_is():
    env, lengths, questions = KeyValue(**SMALL, questions=2.0), [], 0
    for seed in range(200):
        seen, right, paid, info = play(env, lambda e: e.answer, seed=seed)
        known = {}
        for t, ((key, value), answer) in enumerate(zip(seen, right, strict=True)):
            assert 0 <= key < 7
            assert 0 <= value <= 5
            if key < 3:
                assert value > 0
                assert answer == 0
            elif value:
                assert key not in known, "a key has one value"
                assert answer == 0
                known[key] = value
            else:
                assert answer == known[key]
                questions += 1
            assert paid[t] == (answer > 0)
        assert known
        assert info["success"]
        assert info["right"] == sum(a > 0 for a in right) > 0
        lengths.append(len(seen))
    assert (min(lengths), max(lengths)) == (4, 40) or (min(lengths) >= 4 and max(lengths) <= 40 and max(lengths) > 30)
    # Every doubling as often: half of them lie below the geometric mean.
    assert 60 < sum(n < 12.7 for n in lengths) < 140
    assert questions > 400


def test_wrong_answers_and_idle_steps_pay_nothing():
    env = KeyValue(**SMALL)
    for wrong in (lambda e: 0, lambda e: e.answer % 5 + 1):
        _, _, paid, info = play(env, wrong, seed=1)
        assert sum(paid) == 0
        assert (info["right"], info["success"]) == (0, False)


def test_a_seed_is_an_episode():
    one, two = KeyValue(**SMALL), KeyValue(**SMALL)
    assert play(one, lambda e: 0, seed=5)[:2] == play(two, lambda e: 0, seed=5)[:2] != play(two, lambda e: 0, seed=6)[:2]


def test_the_two_observations_say_the_same():
    codes, vector = (KeyValue(**SMALL, observation=o) for o in ("codes", "vector"))
    for seed in range(5):
        (a, _), (b, _) = codes.reset(seed=seed), vector.reset(seed=seed)
        over = False
        while not over:
            assert np.flatnonzero(b).tolist() == [a["key"], 7 + a["value"]]
            a, _, over, *_ = codes.step(0)
            b, *_ = vector.step(0)


@pytest.mark.parametrize(
    ("depths", "asked", "places"),
    [
        ([0.0], 1, [0]),
        ([1.0], 1, [18]),
        ([0.5], 1, [9]),
        ([0.5, 0.5, 0.5], 2, [8, 9, 10]),
        ([1.0, 1.0, 0.0], 3, [15, 16, 0]),
    ],
)
def test_needles_are_hidden_where_they_are_asked_to_be(depths, asked, places):
    env = KeyValue(**SMALL)
    options = {"length": 20, "depths": depths, "asked": asked}
    seen, right, paid, _ = play(env, lambda e: e.answer, seed=3, options=options)
    assert len(seen) == 20
    assert sum(paid) == asked
    there = [t for t, (key, value) in enumerate(seen) if key >= 3 and value]
    assert there == sorted(places) if len(set(depths)) > 1 or len(depths) == 1 else abs(there[1] - 9) <= 1
    assert [t for t, a in enumerate(right) if a] == list(range(20 - asked, 20))
    assert len({seen[t][0] for t in range(20 - asked, 20)}) == asked


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"length": 20, "depths": [1.5]}, "depths"),
        ({"length": 20, "depths": [0.1] * 5}, "1 to 4"),
        ({"length": 20, "depths": [0.1], "asked": 2}, "asked"),
        ({"length": 1, "depths": [0.1]}, "steps"),
    ],
)
def test_options_that_cannot_be(options, said):
    with pytest.raises(EnvError, match=said):
        KeyValue(**SMALL).reset(options=options)


@pytest.mark.parametrize(
    "wrong", [{"keys": 0}, {"values": 1}, {"least": 9, "most": 8}, {"questions": -1}, {"observation": "rgb"}]
)
def test_settings_that_cannot_be(wrong):
    with pytest.raises(EnvError, match=next(iter(wrong))):
        KeyValue(**wrong)


def test_its_player_makes_data(home):
    assert len(players_of(ID, "scripted")) == 1
    with pytest.raises(DataError, match="oracle"):
        players_of(ID, "oracl")
    source = Source(Config(id="test/keys-v0", env=ID, settings=SMALL, episodes=3, policy="oracle", levels=[1.0]))
    episode = source.episode(0)
    assert episode.rew.sum() == (episode.act["action"] > 0).sum() > 0
    assert episode.terminated[-1]
