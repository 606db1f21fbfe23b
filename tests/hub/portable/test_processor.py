"""The processor: values of slots there and back, episodes as windows, an agent that is the one seqrl evaluates with."""

import json

import numpy as np
import pytest
import torch

from seqrl import bundle
from seqrl.core.errors import UserError
from seqrl.hub.processor import TrajectoryProcessor
from seqrl.hub.register import register
from seqrl.rollout.agent import Agent


@pytest.fixture(scope="module")
def decision(portables):
    return bundle.load(portables["decision"]), TrajectoryProcessor.from_pretrained(portables["decision"])


@pytest.fixture
def episode():
    rng = np.random.default_rng(2)
    obs = rng.normal(size=(11, 3)).astype(np.float32)
    return obs, rng.uniform(-1, 1, (10, 2)).astype(np.float32), rng.normal(size=10)


def test_it_reads_the_bundle_s_own_statistics(decision):
    loaded, processor = decision
    assert json.dumps(processor.of().to_json()) == json.dumps(loaded.tokenizer.to_json())
    assert processor.domains == ()
    assert not processor.ahead


def test_saved_and_read_again_it_is_the_same(decision, tmp_path):
    decision[1].save_pretrained(tmp_path)
    again = TrajectoryProcessor.from_pretrained(tmp_path)
    assert again.of().to_json() == decision[1].of().to_json()
    assert again.ahead == decision[1].ahead


def test_values_come_back(decision, episode):
    processor, (obs, actions, rewards) = decision[1], episode
    made = processor.encode(obs[:10], actions, returns=rewards)
    assert set(made) == {"state", "action", "return"}
    back = processor.decode({n: torch.from_numpy(v) for n, v in made.items()})
    np.testing.assert_allclose(back["observation"], obs[:10], atol=1e-5)
    np.testing.assert_allclose(back["action"], actions, atol=1e-5)
    np.testing.assert_allclose(back["return"][:, 0], rewards, atol=1e-3)


def test_an_episode_becomes_windows_that_follow_each_other(decision, episode):
    (loaded, processor), (obs, actions, rewards) = decision, episode
    batch = processor(obs, actions, rewards)["batch"]
    assert batch.length.tolist() == [4, 4, 2]
    assert batch.time[1].tolist() == [4, 5, 6, 7]
    left = np.array([sum(0.99 ** (i - 4) * r for i, r in enumerate(rewards) if i >= 4)])
    np.testing.assert_allclose(batch.values["return"][1, 0].numpy(), processor.encode(returns=left)["return"][0], rtol=1e-5)
    np.testing.assert_array_equal(batch.values["action"][2, 1], processor.encode(actions=actions[9:])["action"][0])
    total, count = loaded.model(batch=batch).sums()["action"]
    assert total.isfinite()
    assert count == 20


def test_a_world_s_windows_end_in_an_observation(portables, episode):
    processor = TrajectoryProcessor.from_pretrained(portables["tssm"])
    obs, actions, rewards = episode
    batch = processor(obs, actions, rewards, np.arange(10) == 9)["batch"]
    assert processor.ahead
    assert batch.time.shape[1] == 5
    assert batch.values["done"][2, :2, 0].tolist() == [0, 1]
    np.testing.assert_array_equal(batch.values["state"][0, 4], processor.encode(obs[4:5])["state"][0])


def test_its_agent_is_the_agent_that_evaluates(decision):
    loaded, processor = decision
    ours = processor.agent(loaded.model, 2, seed=1)
    plain = Agent(loaded.model, loaded.tokenizer, 2, seed=1, discount=loaded.tokenizer.discount)
    assert ours.discount == 0.99
    assert ours.spend
    rng, done = np.random.default_rng(0), []
    for agent in (ours, plain):
        agent.reset([0, 1], [3.0, 9.0], [0, 1])
    for _ in range(6):
        seen = {"observation": rng.normal(size=(2, 3)).astype(np.float32)}
        done.append([agent.act(seen)["action"] for agent in (ours, plain)])
        for agent in (ours, plain):
            agent.receive(np.ones(2))
    assert all(np.array_equal(a, b) for a, b in done)


WRONG = {
    "no such domain": ("gato", lambda p: p.of("rbot"), "did you mean 'robot'"),
    "a domain must be named": ("gato", lambda p: p.encode(np.zeros((1, 3))), "name one of robot, grid"),
    "there are no domains": ("decision", lambda p: p.of("hopper"), "has no domains"),
    "an unknown observation": ("decision", lambda p: p.encode({"observatoin": np.zeros((1, 3))}), "did you mean 'observation'"),
    "observations without names": ("gato", lambda p: p.encode(np.zeros((1, 3)), domain="grid"), "give them by name"),
    "what a slot is made of": ("decision", lambda p: p(np.zeros((3, 3)), np.zeros((2, 2))), "'return' is made of return"),
    "another length": ("decision", lambda p: p(np.zeros((9, 3)), np.zeros((2, 2)), np.zeros(2)), "an episode of 2 steps"),
    "an unknown slot": ("decision", lambda p: p.decode({"stat": np.zeros((1, 3))}), "did you mean 'state'"),
    "a push of its own": ("decision", lambda p: p.save_pretrained("x", push_to_hub=True), "seqrl push"),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_input_is_told(portables, what):
    name, call, said = WRONG[what]
    with pytest.raises(UserError, match=said):
        call(TrajectoryProcessor.from_pretrained(portables[name]))


def test_a_world_does_not_act(portables):
    loaded = bundle.load(portables["tssm"])
    with pytest.raises(UserError, match="TSSM does not act"):
        TrajectoryProcessor(loaded.tokenizer).agent(loaded.model)


def test_with_seqrl_the_auto_classes_make_ours_and_run_no_code(portables):
    from transformers import AutoConfig, AutoModel, AutoProcessor

    register()
    register()
    for name in ("decision", "rssm"):
        loaded = bundle.load(portables[name])
        model = AutoModel.from_pretrained(portables[name], trust_remote_code=False)
        assert type(model) is type(loaded.model)
        assert type(AutoConfig.from_pretrained(portables[name], trust_remote_code=False)) is type(loaded.model.config)
        mine, theirs = model.state_dict(), loaded.model.state_dict()
        assert all(torch.equal(mine[n], theirs[n]) for n in theirs)
        assert type(AutoProcessor.from_pretrained(portables[name], trust_remote_code=False)) is TrajectoryProcessor
