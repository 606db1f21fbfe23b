"""What `describe` says of a dataset is true of it."""

import json

import numpy as np
import pytest

from seqrl.data.describe import describe
from seqrl.data.store import prepare
from seqrl.sources import minari
from seqrl.sources._d4rl_names import nearest


def test_facts_of_collected_cartpole(cartpole):
    store = prepare(minari.Source(minari.Config(id=cartpole)))
    facts = describe(store)
    assert (facts.id, facts.env, facts.episodes) == (cartpole, "CartPole-v1", 24)
    assert facts.steps == store.episodes.length.sum()
    assert facts.returns["max"] == 500
    assert facts.returns["mean"] == store.episodes.total.mean()
    assert facts.seeded
    assert facts.references == (22.0, 500.0)
    assert facts.normalised == pytest.approx(100 * (facts.returns["mean"] - 22) / 478)
    assert sum(facts.histogram[0]) == 24
    obs, act = facts.columns
    assert (obs.name, obs.kind, obs.shape) == ("obs.observation", "vector", (4,))
    assert (act.declared, act.found) == ("0 to 1", "[0, 1]")
    assert facts.memory > store.steps * 4 * 4
    assert json.loads(json.dumps(facts.to_json()))["id"] == cartpole


def test_the_zeros_after_the_last_action_are_not_counted(home, memory):
    source = memory((5, 6))
    for e in source.episodes:
        e.act["action"][:] = 0.5
    assert describe(prepare(source)).columns[1].found == "[0.5, 0.5]"


def test_notes_warn(home, memory):
    source = memory((5, 6), name="mujoco/hopper/medium-v0")
    for e in source.episodes:
        e.rew[:] = 0
    said = " ".join(describe(prepare(source)).notes)
    for words in ("hopper-medium-v2", "no reference scores", "evaluation needs --env", "same return"):
        assert words in said
    assert describe(prepare(memory())).histogram[0] != [0]


@pytest.mark.parametrize(
    ("id", "name"),
    [
        ("mujoco/hopper/medium-v0", "hopper-medium-v2"),
        ("mujoco/walker2d/simple-v0", "walker2d-medium-replay-v2"),
        ("D4RL/pen/human-v2", "pen-human-v1"),
        ("D4RL/antmaze/large-play-v1", "antmaze-large-play-v2"),
        ("D4RL/pointmaze/umaze-dense-v2", "maze2d-umaze-dense-v1"),
        ("D4RL/kitchen/mixed-v2", "kitchen-mixed-v0"),
        ("D4RL/minigrid/fourrooms-random-v0", "minigrid-fourrooms-random-v0"),
        ("local/hopper-v0", None),
    ],
)
def test_the_nearest_name_of_d4rl(id, name):
    assert nearest(id) == name


def test_goal_environments_have_no_normalised_data(home, memory):
    source = memory((5, 6), references=(13.0, 218.0), env={"id": "A-v0"}, eval_env={"id": "A-v0", "max_episode_steps": 300})
    facts = describe(prepare(source))
    assert facts.normalised is None
    assert any("evaluation environment" in note for note in facts.notes)


def test_open_and_mixed_bounds(home, memory):
    import dataclasses

    spec = memory.spec()
    mixed = dataclasses.replace(spec.act["action"], low=(-1.0, -np.inf), high=(1.0, np.inf))
    source = memory((4, 4))
    source.spec = dataclasses.replace(spec, act={"action": mixed})
    obs, act = describe(prepare(source)).columns
    assert obs.declared == "open"
    assert act.declared == "[-inf, inf], not all alike"
