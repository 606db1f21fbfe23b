"""The measures say what they mean, and fidelity compares the right step with the right step."""

import json

import numpy as np
import pytest
import torch

from seqrl.core.errors import DataError, UserError
from seqrl.rollout import measures
from seqrl.rollout.excerpts import Excerpts
from seqrl.rollout.fidelity import measure
from seqrl.rollout.settings import DreamConfig
from seqrl.rollout.worlds import Bridge, world_of


def look(linear, world=None, batch=64, **config):
    return measure(world or linear.world, linear.tokenizer, linear.data, DreamConfig(**config), batch=batch)


def test_a_world_that_knows_everything_has_no_errors(linear):
    found = look(linear, context=3, horizon=20)
    assert found.horizons == (1, 2, 5, 10, 20)
    assert found.missing == (50,)
    errors = found.errors["state"]
    assert errors["r2"]["model"] == pytest.approx([1.0] * 5, abs=1e-5)
    assert errors["rmse"]["model"] == pytest.approx([0.0] * 5, abs=1e-5)
    for kind in (found.reward, found.done):
        for when in ("one_step", "open_loop"):
            assert (kind[when]["precision"], kind[when]["recall"], kind[when]["f1"]) == (1.0, 1.0, 1.0)
            assert kind[when]["happened"] >= 1
    assert found.returns["correlation"] == pytest.approx(1.0, abs=1e-3)
    assert found.returns["gap"] < 0.2, "an end is believed at nine tenths"


def test_baselines_are_those_of_the_same_excerpts(linear):
    found = look(linear, context=3, horizon=5, starts=40)
    bridge = Bridge(linear.world, linear.tokenizer)
    excerpts = Excerpts(linear.data, linear.tokenizer, bridge)
    places = excerpts.places(40, 3, 5)
    there = places.length >= 5
    values = np.asarray(linear.data.stores[0].column("obs.observation"))
    now, then = values[places.row[there] + 2], values[places.row[there] + 7]
    e = linear.data.train
    mean = np.concatenate([values[r : r + n] for r, n in zip(e.row, e.length, strict=True)]).mean(0)
    errors = found.errors["state"]["rmse"]
    assert errors["copy"][-1] == pytest.approx(np.sqrt(np.mean((now - then) ** 2)), rel=1e-5)
    assert errors["marginal"][-1] == pytest.approx(np.sqrt(np.mean((mean - then) ** 2)), rel=1e-4)
    assert found.windows[-1] == there.sum()


def test_a_world_that_ignores_actions_is_found_out(linear):
    knows, ignores = look(linear, horizon=10), look(linear, linear.World(known=0.0).eval(), horizon=10)
    control = knows.control["state"]
    assert (control["measure"], control["horizon"]) == ("rmse", 10)
    assert control["other"] > control["true"] + 0.3
    assert ignores.control["state"]["other"] == pytest.approx(ignores.control["state"]["true"])
    assert ignores.errors["state"]["r2"]["model"][-1] < 0.8


def test_the_batch_changes_nothing_but_the_speed(linear):
    one, many = (json.loads(json.dumps(look(linear, batch=b, starts=50).to_json())) for b in (7, 64))
    for found in (one, many):
        found.pop("steps_per_second")
    assert one["windows"] == many["windows"]
    np.testing.assert_allclose(one["errors"]["state"]["rmse"]["model"], many["errors"]["state"]["rmse"]["model"], atol=1e-6)
    assert one["latent"]["effective_rank"] == pytest.approx(many["latent"]["effective_rank"])


def test_draws_follow_from_the_seed_and_disturb_nobody(linear):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    a, b = (look(linear, sample=True, starts=20).metrics() for _ in range(2))
    assert {k: v for k, v in a.items() if k != "steps_per_second"} == {k: v for k, v in b.items() if k != "steps_per_second"}
    assert torch.equal(before, torch.get_rng_state())
    assert a["state/rmse/1"] == pytest.approx(0.1, rel=0.2), "the noise of a draw"


@pytest.mark.parametrize(
    ("config", "said"),
    [({"horizon": 99}, "lower the horizon to 23"), ({"context": 31}, "lower the context")],
)
def test_what_the_data_do_not_reach_is_refused(linear, config, said):
    with pytest.raises(UserError, match=said):
        look(linear, **({"context": 8} | config))


def test_without_held_out_episodes_there_is_nothing_to_compare_with(linear):
    linear.data.held_out = linear.data.held_out.pick(np.zeros(0, np.int64))
    with pytest.raises(DataError, match=r"data\.held_out=0\.1"):
        look(linear)


def test_a_policy_is_no_world(fakes, linear):
    policy = fakes.Policy(linear.tokenizer)
    with pytest.raises(UserError, match=r"this is a policy \(.*no world model to dream in"):
        world_of(policy, linear.tokenizer)
    policy.world = linear.world
    assert world_of(policy, linear.tokenizer) == (linear.world, linear.tokenizer), "that of an actor-critic"
    with pytest.raises(UserError, match="has no domains"):
        world_of(linear.world, linear.tokenizer, "x")


def test_excerpts_end_with_their_episodes(linear):
    excerpts = Excerpts(linear.data, linear.tokenizer, Bridge(linear.world, linear.tokenizer))
    places = excerpts.places(10_000, 4, 6)
    held = linear.data.held_out
    assert len(places) == (held.length - 3).clip(0).sum(), "every start there is"
    real = excerpts.read(places)
    values, actions = (np.asarray(linear.data.stores[0].column(n)) for n in ("obs.observation", "act.action"))
    done, rewards = (np.asarray(linear.data.stores[0].column(n)) for n in ("terminated", "reward"))
    seen, before, ahead = real.context(4)
    for i in np.random.default_rng(0).permutation(len(places))[:50]:
        row, n = places.row[i], places.length[i]
        assert row + 3 + n <= places.last[i]
        np.testing.assert_array_equal(seen["state"][i], values[row : row + 4])
        np.testing.assert_allclose(before[i, 1:], actions[row : row + 3], atol=1e-6)
        np.testing.assert_allclose(ahead[i, :n], actions[row + 3 : row + 3 + n], atol=1e-6)
        np.testing.assert_array_equal(real.reward[i, :n], rewards[row + 3 : row + 3 + n])
        np.testing.assert_array_equal(real.done[i, :n], done[row + 3 : row + 3 + n])
        assert not real.done[i, n:].any()


def test_measures_on_numbers_one_can_check():
    true = np.array([[0.0, 5.0], [2.0, 5.0]])
    assert measures.r2(true, np.array([[0.0, 9.0], [1.0, 0.0]])) == pytest.approx(0.5), "what never varies is left out"
    assert measures.r2(true[:, 1:], true[:, 1:]) is None
    codes, before, said = (np.array([x]) for x in ([1, 2, 3, 4], [1, 2, 0, 0], [1, 0, 3, 0]))
    assert measures.accuracy(codes, said) == 0.5
    assert measures.changed_accuracy(codes, before, said) == 0.5
    assert measures.changed_accuracy(codes, codes, said) is None
    real, told = np.array([0, 1, -1, 1, 0]), np.array([0, 1, 1, 0, 1])
    found = measures.events(real, told)
    assert (found["precision"], found["recall"]) == (pytest.approx(1 / 3), pytest.approx(1 / 3))
    assert measures.events(real * 0, real * 0)["f1"] is None
    square = np.random.default_rng(0).normal(size=(4000, 4))
    assert measures.effective_rank(square) == pytest.approx(4, rel=0.01)
    assert measures.effective_rank(square[:, :1] * np.ones(4)) == pytest.approx(1)
    assert measures.effective_rank(np.ones((9, 4))) == 1.0
