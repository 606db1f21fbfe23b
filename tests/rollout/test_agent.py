import numpy as np
import pytest
import torch

from seqrl.core.errors import UserError
from seqrl.rollout import noise
from seqrl.rollout.agent import Agent


def obs(rng, rows):
    return {"observation": rng.normal(size=(rows, 4)).astype(np.float32)}


def begin(agent, targets, keys=None):
    rows = np.arange(len(agent))
    agent.reset(rows, targets, rows if keys is None else keys)


@pytest.mark.parametrize("mode", ["exact", "cached"])
def test_replayed_return_to_go_is_that_of_the_data(fakes, mode):
    rng = np.random.default_rng(0)
    tokenizer = fakes.Tokenizer(fakes.cartpole_spec())
    T, B = 30, 3
    rewards = rng.normal(size=(T, B)).astype(np.float32)
    agent = Agent(policy := fakes.Policy(tokenizer), tokenizer, B, mode=mode)
    begin(agent, rewards.sum(0, dtype=np.float64))
    for t in range(T):
        agent.act(obs(rng, B))
        agent.receive(rewards[t])
    left = np.cumsum(rewards[::-1].astype(np.float64), 0)[::-1]
    got = np.array([[row["ask"] for row in page] for page in policy.diary])
    assert np.allclose(got, (left / 100).astype(np.float32), rtol=0, atol=1e-7)


def test_discounted_budget(fakes):
    rng = np.random.default_rng(0)
    tokenizer = fakes.Tokenizer(fakes.cartpole_spec())
    rewards, discount = rng.normal(size=20), 0.9
    left = np.zeros(21)
    for t in range(19, -1, -1):
        left[t] = rewards[t] + discount * left[t + 1]
    agent = Agent(policy := fakes.Policy(tokenizer), tokenizer, 1, discount=discount)
    begin(agent, [left[0]])
    for r in rewards:
        agent.act(obs(rng, 1))
        agent.receive([r])
    assert np.allclose([page[0]["ask"] for page in policy.diary], left[:20] / 100, atol=1e-5)


def test_floor_and_delayed_reward(fakes):
    tokenizer = fakes.Tokenizer(fakes.cartpole_spec())
    rng = np.random.default_rng(0)
    floored = Agent(a := fakes.Policy(tokenizer), tokenizer, 1, return_floor=100.0)
    delayed = Agent(b := fakes.Policy(tokenizer), tokenizer, 1, spend=False)
    for agent in (floored, delayed):
        begin(agent, [120.0])
        for _ in range(3):
            agent.act(obs(rng, 1))
            agent.receive([15.0])
    assert [page[0]["ask"] for page in a.diary] == pytest.approx([1.2, 1.05, 1.0])
    assert [page[0]["ask"] for page in b.diary] == pytest.approx([1.2, 1.2, 1.2])


@pytest.mark.parametrize("context", [1, 2, 3, 4, 5, 6, 9, 20])
def test_cached_reads_between_half_and_the_whole_context(fakes, context):
    rng = np.random.default_rng(0)
    tokenizer = fakes.Tokenizer(fakes.cartpole_spec(), context)
    agent = Agent(policy := fakes.Policy(tokenizer), tokenizer, 2, mode="cached")
    begin(agent, [50.0, 60.0])
    for t in range(3 * context + 5):
        if t == context + 1:
            agent.reset([1], [70.0], [9])
        agent.act(obs(rng, 2))
        agent.receive([1.0, 1.0])
    for t, page in enumerate(policy.diary):
        for row, seen in enumerate(page):
            now = t - (context + 1 if row == 1 and t > context else 0)
            times = seen["times"]
            assert times == list(range(now - len(times) + 1, now + 1)), "a gap in what the cache holds"
            assert len(times) == now + 1 if now < context else max(1, context // 2) <= len(times) <= context
            if len(times) > 1:
                assert seen["previous"] == policy.diary[t - 1][row]["did"]
    # Row 0 is full for the first time at step K: it forgets, and re-reads the K // 2 - 1 steps before this one.
    if context >= 4:
        again = list(range(context - (context // 2 - 1), context))
        assert policy.refills[0] == {"rows": [0, 1], "times": [again, again]}
        assert policy.refills[1]["rows"] == [0]
        assert policy.refills[1]["times"][0][-1] == context + (context - context // 2)


def test_exact_reads_the_trained_window(fakes):
    rng = np.random.default_rng(0)
    tokenizer = fakes.Tokenizer(fakes.cartpole_spec(), 5)
    agent = Agent(policy := fakes.Policy(tokenizer), tokenizer, 2, mode="exact")
    begin(agent, [50.0, 60.0])
    for t in range(14):
        if t == 4:
            agent.reset([1], [70.0], [9])
        agent.act(obs(rng, 2))
    for t, page in enumerate(policy.diary):
        for row, seen in enumerate(page):
            now = t - (4 if row == 1 and t >= 4 else 0)
            assert seen["times"] == list(range(max(0, now - 4), now + 1))
            assert seen["previous"] == (policy.diary[t - 1][row]["did"] if now else None)
    assert not policy.refills


@pytest.mark.parametrize("sample", [False, True])
def test_cached_equals_exact_until_the_window_is_full(fakes, sample):
    tokenizer = fakes.Tokenizer(fakes.cartpole_spec(), 8)
    done = {}
    for mode in ("exact", "cached"):
        rng = np.random.default_rng(1)
        agent = Agent(policy := fakes.Policy(tokenizer, context_matters=True), tokenizer, 4, mode=mode, sample=sample, seed=3)
        assert agent.mode == mode
        begin(agent, [50.0] * 4)
        for _ in range(8):
            agent.act(obs(rng, 4))
        done[mode] = [[row["did"] for row in page] for page in policy.diary]
    assert done["exact"] == done["cached"]


@pytest.mark.parametrize("mode", ["exact", "cached"])
def test_rows_keep_what_is_theirs(fakes, mode):
    """Dropping and beginning rows changes nothing for the others."""
    tokenizer = fakes.Tokenizer(fakes.cartpole_spec(), 6)
    rng = np.random.default_rng(2)
    seen = [obs(rng, 5)["observation"] for _ in range(25)]

    def told(policy):
        return [[(r["times"], r["ask"], r["did"]) for r in page] for page in policy.diary]

    def go(policy, drop):
        agent = Agent(policy, tokenizer, 5, mode=mode, sample=True, seed=1)
        begin(agent, np.arange(5) * 100.0)
        rows = np.arange(5)
        for t, o in enumerate(seen):
            if drop and t == 9:
                agent.keep([4, 1, 3])
                rows = np.array([4, 1, 3])
            agent.act({"observation": o[rows]})
            agent.receive(rows + 0.5)
        return told(policy)

    whole, part = go(fakes.Policy(tokenizer, True), False), go(fakes.Policy(tokenizer, True), True)
    assert part[:9] == whole[:9]
    assert part[9:] == [[page[4], page[1], page[3]] for page in whole[9:]]


def test_remembers_what_was_done_not_what_was_answered(fakes):
    tokenizer = fakes.Tokenizer(fakes.hopper_spec(), 4)
    agent = Agent(policy := fakes.Policy(tokenizer), tokenizer, 2, sample=True)
    begin(agent, [1.0, 2.0])
    rng = np.random.default_rng(0)
    for _ in range(3):
        done = agent.act({"observation": 3 * rng.normal(size=(2, 11)).astype(np.float32)})["action"]
        assert done.dtype == np.float32
        assert np.abs(done).max() <= 1
    answers = np.array([[row["did"] for row in page] for page in policy.diary])
    fed = np.array([[row["previous"] for row in page] for page in policy.diary[1:]])
    assert np.abs(answers).max() > 1
    assert np.array_equal(fed, np.clip(answers[:-1], -1, 1).astype(np.float32))


def test_policies_without_return_or_cache(fakes):
    tokenizer = fakes.Tokenizer(fakes.cartpole_spec(), 4, layout="state > action")
    policy = fakes.Policy(tokenizer)
    policy.init_cache = None
    agent = Agent(policy, tokenizer, 3, mode="cached")
    assert agent.mode == "exact"
    begin(agent, None)
    assert agent.act(obs(np.random.default_rng(0), 3))["action"].shape == (3,)
    assert "return" not in agent.history


def test_wrong_input(fakes):
    tokenizer = fakes.Tokenizer(fakes.hopper_spec())
    agent = Agent(policy := fakes.Policy(tokenizer), tokenizer, 1)
    with pytest.raises(UserError, match="--targets"):
        begin(agent, None)
    policy.act = lambda *a, **k: {"action": torch.full((1, 3), float("nan"))}
    begin(agent, [1.0])
    with pytest.raises(UserError, match="diverged"):
        agent.act({"observation": np.zeros((1, 11), np.float32)})
    strange = fakes.Tokenizer(fakes.cartpole_spec(), layout="reward state action")
    with pytest.raises(UserError, match="fill reward"):
        Agent(fakes.Policy(strange), strange, 1)


def test_noise_is_a_function_of_its_place():
    keys, t = np.arange(50), np.arange(50) % 7
    u = noise.uniform(noise.streams(5, keys), t, 4)
    assert u.shape == (50, 4)
    assert u.dtype == np.float32
    one = noise.uniform(noise.streams(5, keys[13:14]), t[13:14], 4)
    assert np.array_equal(u[13:14], one)
    many = noise.uniform(noise.streams(0, np.arange(4000)), np.full(4000, 3), 25)
    assert 0 < many.min() < 1e-4 < 1 - 1e-4 < many.max() < 1
    assert abs(many.mean() - 0.5) < 0.003
    assert abs(many.var() - 1 / 12) < 0.001
    wide = many.reshape(4000, 25)
    assert np.abs(np.corrcoef(wide.T) - np.eye(25)).max() < 0.08
    assert len(np.unique(noise.streams(0, np.arange(4000)))) == 4000
    assert not np.array_equal(noise.streams(0, keys), noise.streams(1, keys))


def test_seeds_of_evaluations_do_not_overlap():
    a, b = noise.env_seeds(0, 1000), noise.env_seeds(1, 1000)
    assert np.array_equal(a[:10], noise.env_seeds(0, 10))
    assert not set(a) & set(b)
    assert not set(a) & set(range(100_000))
    assert a.min() >= 0
    assert a.max() < 2**31
