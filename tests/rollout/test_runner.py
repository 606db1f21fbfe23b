import gymnasium
import numpy as np
import pytest
import torch

from seqrl.rollout import envs
from seqrl.rollout.agent import Agent
from seqrl.rollout.face import Face
from seqrl.rollout.runner import Job, play


def run(fakes, spec, n, jobs, mode="exact", **options):
    tokenizer = fakes.Tokenizer(spec)
    made = envs.make(spec, n)
    agent = Agent(fakes.Policy(tokenizer, True), tokenizer, n, mode=mode, **options)
    return play(agent, made, Face.of(made[0], spec), jobs), agent


@pytest.mark.parametrize("mode", ["exact", "cached"])
def test_results_do_not_depend_on_the_number_of_environments(fakes, mode):
    spec = fakes.cartpole_spec(env={"id": "CartPole-v1", "max_episode_steps": 60})
    jobs = [Job(seed=100 + i, target=[20.0, 200.0, 400.0][i % 3], key=i) for i in range(17)]
    alone, many = (run(fakes, spec, n, jobs, mode, sample=True, seed=4)[0] for n in (1, 7))
    more = run(fakes, spec, 40, jobs, mode, sample=True, seed=4)[0]
    assert np.array_equal(alone.returns, many.returns)
    assert np.array_equal(alone.lengths, many.lengths)
    assert np.array_equal(alone.returns, more.returns)
    assert len(np.unique(alone.returns)) > 3
    assert np.array_equal(alone.terminated, alone.lengths < 60)


def by_hand(fakes, env_id, spec, job, seed=0, **make):
    """The plainest loop there is, with gymnasium's own checker."""
    tokenizer = fakes.Tokenizer(spec)
    agent = Agent(fakes.Policy(tokenizer, True), tokenizer, 1, sample=True, seed=seed)
    agent.reset([0], [job.target], [job.key])
    env = gymnasium.make(env_id, **make)
    observation, _ = env.reset(seed=job.seed)
    rewards, over = [], False
    while not over:
        action = agent.act({"observation": observation[None].astype(np.float32)})["action"][0]
        observation, reward, terminated, truncated, _ = env.step(action)
        rewards.append(float(reward))
        agent.receive([reward])
        over = terminated or truncated
    return rewards


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Hopper-v5"])
def test_same_rewards_as_a_plain_gymnasium_loop(fakes, env_id):
    spec = (fakes.hopper_spec if env_id == "Hopper-v5" else fakes.cartpole_spec)()
    jobs = [Job(seed=i, target=100.0 * i, key=i) for i in range(4)]
    played, _ = run(fakes, spec, 3, jobs, sample=True)
    for i, job in enumerate(jobs):
        rewards = by_hand(fakes, env_id, spec, job)
        total = 0.0
        for r in rewards:
            total += r
        assert played.returns[i] == total
        assert played.lengths[i] == len(rewards)


def test_every_step_of_made_environments_is_gymnasiums(fakes):
    (ours,) = envs.make(fakes.hopper_spec(), 1)
    theirs = gymnasium.make("Hopper-v5")
    rng = np.random.default_rng(0)
    for seed in range(3):
        a, b = ours.reset(seed=seed)[0], theirs.reset(seed=seed)[0]
        over = False
        while not over:
            assert np.array_equal(a, b)
            action = rng.uniform(-1, 1, 3).astype(np.float32)
            (a, *x), (b, *y) = ours.step(action), theirs.step(action)
            assert x[:3] == y[:3]
            over = x[1] or x[2]


def test_slots_take_the_next_job_and_the_batch_shrinks(fakes):
    spec = fakes.cartpole_spec(env={"id": "CartPole-v1", "max_episode_steps": 15})
    jobs = [Job(seed=i, target=50.0, key=i) for i in range(10)]
    told = []
    tokenizer = fakes.Tokenizer(spec)
    made = envs.make(spec, 4)
    agent = Agent(policy := fakes.Policy(tokenizer), tokenizer, 4, mode="cached")
    played = play(agent, made, Face.of(made[0], spec), jobs, lambda *said: told.append(said))
    rows = [len(page) for page in policy.diary]
    assert rows == sorted(rows, reverse=True), "a row that ended went on being played"
    assert sum(rows) == played.lengths.sum()
    assert told[-1][:2] == (10, 10)
    assert (played.lengths > 0).all()
    assert played.steps_per_second > 0


def test_no_jobs_and_fewer_jobs_than_environments(fakes):
    spec = fakes.cartpole_spec()
    assert len(run(fakes, spec, 2, [])[0].returns) == 0
    played, agent = run(fakes, spec, 5, [Job(1, 30.0), Job(2, 30.0)])
    assert len(played.returns) == 2
    assert len(agent) == 0


def test_threads_are_given_back(fakes):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        spec = fakes.cartpole_spec(env={"id": "CartPole-v1", "max_episode_steps": 5})
        tokenizer, made = fakes.Tokenizer(spec), envs.make(spec, 1)
        policy = fakes.Policy(tokenizer)
        agent = Agent(policy, tokenizer, 1)
        seen, act = [], policy.act
        policy.act = lambda *a, **k: seen.append(torch.get_num_threads()) or act(*a, **k)
        play(agent, made, Face.of(made[0], spec), [Job(0, 10.0)])
        assert set(seen) == {1}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_success_is_kept_once_an_environment_has_told_it(fakes):
    spec = fakes.cartpole_spec(env={"id": "CartPole-v1", "max_episode_steps": 20})
    tokenizer = fakes.Tokenizer(spec)
    jobs = [Job(seed=i, target=500.0, key=i) for i in range(5)]

    class Told(gymnasium.Wrapper):
        """Says that it was reached at the third step, in every second episode."""

        count = -1

        def reset(self, **options):
            self.count, self.t = self.count + 1, 0
            return self.env.reset(**options)

        def step(self, action):
            self.t += 1
            *rest, info = self.env.step(action)
            return (*rest, info | {"success": self.t == 3 and self.count % 2 == 0})

    made = [Told(e) for e in envs.make(spec, 1)]
    agent = Agent(fakes.Policy(tokenizer, True), tokenizer, 1)
    assert play(agent, made, Face.of(made[0], spec), jobs).success.tolist() == [1, 0, 1, 0, 1]
    plain = envs.make(spec, 1)
    agent = Agent(fakes.Policy(tokenizer, True), tokenizer, 1)
    assert np.isnan(play(agent, plain, Face.of(plain[0], spec), jobs[:2]).success).all()
