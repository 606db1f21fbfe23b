"""The agent that plans: rows come and go, carries fill and are begun anew, goals and priors are heard."""

from types import SimpleNamespace
from typing import NamedTuple

import gymnasium
import numpy as np
import pytest
import torch

from seqrl.core import kinds, tree
from seqrl.core.contracts import Pred
from seqrl.core.episode import EpisodeSpec, Modality
from seqrl.core.errors import UserError
from seqrl.data.slots import TokensConfig
from seqrl.data.tokenizer import Tokenizer
from seqrl.rollout.evaluate import EvalConfig
from seqrl.rollout.face import Face
from seqrl.rollout.goals import Goals
from seqrl.rollout.imagine import imagine
from seqrl.rollout.plan import PlanConfig
from seqrl.rollout.planned import evaluate_agent, jobs_of
from seqrl.rollout.planner_agent import PlannerAgent
from seqrl.rollout.runner import play

INF = float("inf")
SHORT = {"id": "CartPole-v1", "max_episode_steps": 30}


def tokenizer(context=8, layout="state action > reward done", n=2):
    spec = EpisodeSpec(
        "tests/cartpole-v0",
        {"observation": Modality("vector", (4,), "float32", (-INF,) * 4, (INF,) * 4)},
        {"action": Modality("discrete", (), "int64", n=(n,))},
        env=SHORT,
    )
    made = Tokenizer(TokensConfig(layout=layout, context=context, slots={"state": {"kind": "vector", "scale": "none"}}), spec)
    rng = np.random.default_rng(0)
    known = {
        "state": {"observation": rng.normal(size=(50, 4)).astype(np.float32)},
        "action": {"action": np.arange(50) % 2},
        "reward": {"reward": np.ones(50, np.float32)},
        "done": {"done": np.arange(50) % 2},
    }
    made.fit({n: known[n] for n in made.slots}, np.ones(3))
    return made


class Here(NamedTuple):
    seen: torch.Tensor
    acts: torch.Tensor
    n: torch.Tensor


class World:
    """Falls as a stick on a cart does, and keeps what it has seen, in as many places as it is given (or in one)."""

    def __init__(self, grows=True):
        self.grows, self.begun, self.looks = grows, [], []

    def parameters(self):
        return iter(())

    def encode(self, obs, sample=True):
        return obs["state"]

    def init(self, rows, steps, front=None):
        self.begun.append((rows, steps))
        room = steps if self.grows else 1
        return Here(torch.zeros(rows, room, 4), torch.zeros(rows, room).long(), torch.zeros(rows).long())

    def observe(self, carry, z, prev_action):
        seen, acts, n = carry
        rows = torch.arange(len(n))
        for t in range(z.shape[1]):
            at = n if self.grows else n * 0
            assert (at < seen.shape[1]).all(), "more than there is room for"
            seen[rows, at], acts[rows, at] = z[:, t], prev_action[:, t, 0]
            n = n + 1
        self.looks.append((seen.clone(), acts.clone(), n.clone()))
        return Here(seen, acts, n), z

    def share(self, carry, candidates, steps):
        last = carry.seen[torch.arange(len(carry.n)), (carry.n - 1 if self.grows else carry.n * 0)]
        return tree.repeat(last, candidates)

    def step(self, state, action, sample=True, temperature=1.0):
        state = self.share(state, 1, 1) if isinstance(state, Here) else state
        x, v, angle, w = state.unbind(-1)
        push = action[:, 0] * 2.0 - 1
        state = torch.stack((x + 0.02 * v, v + 0.19 * push, angle + 0.02 * w, w + 0.02 * (15 * angle) - 0.29 * push), -1)
        return state, Pred(state, state, -(state[:, 2] ** 2) - 0.01 * state[:, 3] ** 2, torch.ones(len(x)), {})

    def decode(self, latent):
        return {"state": latent}


def config(**changes):
    return PlanConfig(**{"horizon": 5, "candidates": 12, "iterations": 2, "elites": 3, **changes})


def played(rows, agent=None, episodes=5, **changes):
    agents = []

    def make(n):
        agents.append(agent(n) if agent else PlannerAgent(World(), tokenizer(16), n, config(**changes)))
        return agents[-1]

    report = evaluate_agent(make, tokenizer(), EvalConfig(episodes=episodes, envs=rows))
    return report, agents[-1]


@pytest.mark.parametrize("changes", [{}, {"replan": 3}, {"repeat": 2, "horizon": 6}, {"planner": "icem"}], ids=str)
def test_an_episode_is_planned_the_same_whoever_is_played_beside_it(changes):
    (one, _), (three, agent) = played(1, **changes), played(3, **changes)
    assert one.returns[0].tolist() == three.returns[0].tolist()
    assert one.mode == changes.get("planner", "cem")
    assert agent.seconds > 0
    steps, every = one.targets[0].length * 5, agent.config.every
    assert steps / every <= agent.decisions <= steps / every + 5


def test_planning_keeps_the_stick_up():
    report, _ = played(4, horizon=10, candidates=40)
    assert report.targets[0].mean == 30


@pytest.mark.parametrize(("grows", "room"), [(True, 3), (False, None)])
def test_a_carry_is_begun_anew_when_it_is_full(grows, room):
    """Whatever is planned from holds the last real steps, each beside the action that led to it, in order."""
    made = tokenizer(context=8)
    agent = PlannerAgent(world := World(grows), made, 2, config())
    assert agent.present.room == room
    env = gymnasium.make("CartPole-v1")
    face = Face.of(env, made.spec)
    world.looks.clear()
    truth = []
    agent.reset([0, 1], None, [0, 1])
    rng = np.random.default_rng(1)
    for t in range(9):
        if t == 5:
            agent.reset([1], None, [2])
        obs = {"observation": rng.normal(size=(2, 4)).astype(np.float32)}
        done = agent.act(obs)
        assert face.split(done)[0] in (0, 1)
        truth.append((obs["observation"], done["action"]))
    seen, acts, n = world.looks[-1]
    held = n.tolist() if grows else [1, 1]
    assert not grows or all(1 <= h <= room for h in held)
    for row in range(2):
        wanted = np.stack([o[row] for o, _ in truth[9 - held[row] :]])
        np.testing.assert_array_equal(seen[row, : held[row]].numpy(), wanted)
        if grows:
            before = [int(a[row]) for _, a in truth[8 - held[row] : 8]]
            assert acts[row, : held[row]].tolist() == before
    agent.keep([1])
    agent.act({"observation": np.zeros((1, 4), np.float32)})
    assert len(agent) == 1


def test_a_goal_of_one_s_own():
    goal = {"objective": "goal", "horizon": 10, "candidates": 60, "reach": "end"}
    angles = []
    for wish in (-0.3, 0.3):
        agent = PlannerAgent(World(False), tokenizer(), 1, config(**goal), goal=f"observation=_,_,{wish},_")
        agent.reset([0], None, [0])
        state = torch.zeros(1, 4)
        for _ in range(10):
            action = agent.act({"observation": state.numpy()})["action"]
            state, _ = World().step(state, torch.from_numpy(action)[:, None])
        angles.append(float(state[0, 2]))
    assert angles[0] < -0.1 < 0.1 < angles[1]


def test_the_environment_says_where_the_goal_is():
    wide = (-INF,) * 2, (INF,) * 2
    spec = EpisodeSpec(
        "tests/maze-v0",
        {n: Modality("vector", (2,), "float64", *wide) for n in ("observation", "achieved_goal", "desired_goal")},
        {"action": Modality("discrete", (), "int64", n=(2,))},
    )
    made = Tokenizer(TokensConfig(layout="state action > reward"), spec)
    rng = np.random.default_rng(0)
    scales = {"observation": 1.0, "achieved_goal": np.array([2.0, 20.0]), "desired_goal": 5.0}
    state = {n: 3 + scales[n] * rng.normal(size=(500, 2)) for n in spec.obs}
    made.fit({"state": state, "action": {"action": np.arange(500) % 2}, "reward": {"reward": np.ones(500)}}, np.ones(2))
    world = SimpleNamespace(decode=lambda latent: {"state": latent})
    bridge = SimpleNamespace(tokenizer=made, world=world, shown=("state",), fields=tuple(spec.obs), device=torch.device("cpu"))
    goals = Goals(bridge)
    here = {"observation": np.zeros((2, 2)), "achieved_goal": np.zeros((2, 2)), "desired_goal": np.array([[4.0, 8.0], [0, 0]])}
    seen = torch.from_numpy(made.encode_slot("state", here))[:, None]
    off = goals.look(seen)[:, 0] - goals.wanted(here)
    np.testing.assert_allclose(off.numpy(), [[-2, -0.4], [0, 0]], atol=0.15)


class Follower:
    """A policy's agent that always does the same, and writes down what it is told."""

    def __init__(self, rows, does=1, **spec):
        self.tokenizer = SimpleNamespace(
            spec=tokenizer(**spec).spec, slots={n: SimpleNamespace(fields=(n,)) for n in ("observation", "action")}
        )
        self.tokenizer.encode_action = lambda a: {"action": np.asarray(a["action"])[:, None]}
        self.does, self.context, self.device = does, 50, torch.device("cpu")
        self.t, self.noise = np.zeros(rows, np.int64), np.zeros(rows, np.uint64)
        self.history = {"action": torch.zeros(rows, 50, 1, dtype=torch.int64)}
        self.told = []

    def __len__(self):
        return len(self.t)

    def reset(self, rows, targets, keys):
        self.told.append(("reset", list(rows), targets))
        self.t[rows] = 0

    def keep(self, rows):
        self.told = list(self.told)
        self.t, self.noise, self.history = self.t[rows], self.noise[rows], {"action": self.history["action"][rows]}

    def receive(self, reward):
        self.told.append(("reward", np.asarray(reward).tolist()))

    def act(self, obs):
        self.t = self.t + 1
        return {"action": np.full(len(self), self.does)}


def test_a_prior_proposes_and_is_told_what_was_really_done():
    # The world likes nothing but the policy's action all the way, which no draw of so many steps is likely to find.
    class Liking(World):
        def step(self, state, action, sample=True, temperature=1.0):
            state = self.share(state, 1, 1) if isinstance(state, Here) else state
            after, _ = super().step(state, action)
            # Counts how often in a row, in the place of the cart.
            run = torch.where(action[:, 0] == 1, state[:, 0] + 1, -100.0)
            after[:, 0] = run
            return after, Pred(after, after, (run == 12).float(), torch.ones(len(run)), {})

    settings = config(horizon=12, planner="random", iterations=1, prior_share=0.2)
    for does, right in ((1, 1), (0, None)):
        follower = Follower(2, does)
        agent = PlannerAgent(Liking(False), tokenizer(context=20), 2, settings, prior=follower)
        agent.reset([0, 1], [5.0, 6.0], [0, 1])
        seen = {"observation": np.zeros((2, 4), np.float32)}
        done = agent.act(seen)
        agent.receive(np.array([1.0, 2.0]))
        assert follower.told == [("reset", [0, 1], [5.0, 6.0]), ("reward", [1.0, 2.0])], "the dream's rewards are a copy's"
        assert follower.t.tolist() == [1, 1]
        assert follower.history["action"][:, 0, 0].tolist() == done["action"].tolist()
        if right is not None:
            assert agent.plan.unique().tolist() == [1]


def test_mistakes_are_named():
    with pytest.raises(UserError, match="at most 7"):
        PlannerAgent(World(), tokenizer(context=8), 1, config(horizon=8))
    assert PlannerAgent(World(False), tokenizer(context=8), 1, config(horizon=8)).present.room is None
    with pytest.raises(UserError, match="says no reward"):
        PlannerAgent(World(), tokenizer(layout="state action > done"), 1, config())
    with pytest.raises(UserError, match="no goal of its own"):
        PlannerAgent(World(), tokenizer(), 1, config(objective="goal"))
    with pytest.raises(UserError, match="action 'action' is discrete of \\[3\\] choices, the world's discrete of \\[2\\]"):
        PlannerAgent(World(), tokenizer(), 1, config(), prior=Follower(1, n=3))
    stranger = Follower(1)
    stranger.tokenizer.spec.obs["camera"] = stranger.tokenizer.spec.obs["observation"]
    stranger.tokenizer.slots["camera"] = SimpleNamespace(fields=("camera",))
    with pytest.raises(UserError, match="reads the observation 'camera', and this world shows observation"):
        PlannerAgent(World(), tokenizer(), 1, config(), prior=stranger)


def test_jobs_are_those_of_an_evaluation():
    from seqrl.rollout.noise import env_seeds

    jobs = jobs_of(EvalConfig(episodes=3, seed=4), 7.0)
    assert [j.seed for j in jobs] == env_seeds(4, 3).tolist()
    assert [(j.key, j.target) for j in jobs] == [(0, 7.0), (1, 7.0), (2, 7.0)]


def test_a_runner_cannot_tell_it_from_another_agent():
    made = tokenizer()
    envs = [gymnasium.make("CartPole-v1", max_episode_steps=5) for _ in range(2)]
    agent = PlannerAgent(World(), made, 4, config())
    out = play(agent, envs, Face.of(envs[0], made.spec), jobs_of(EvalConfig(episodes=3), None))
    assert out.lengths.tolist() == [5, 5, 5]


@pytest.mark.parametrize(
    "kind",
    [n for n in kinds.names("worlds") if not (kinds.reads_packed(f"worlds.{n}") or kinds.reads_documents(f"worlds.{n}"))],
)
def test_every_kind_of_world_can_be_planned_in(kind):
    module = kinds.load(kind, "worlds")
    torch.manual_seed(0)
    made = module.Config.tiny(tokenizer().ports())
    world, own = module.Model(made).eval(), tokenizer(max(made.context_length, 4))
    rng = np.random.default_rng(0)
    seen = rng.normal(size=(2 * own.context + 3, 2, 4)).astype(np.float32)
    runs = []
    for _ in range(2):
        agent = PlannerAgent(world, own, 2, config(horizon=2, planner="icem"))
        agent.reset([0, 1], None, [0, 1])
        done = []
        for t, now in enumerate(seen):
            if t == 3:
                agent.reset([1], None, [2])
            done.append(agent.act({"observation": now})["action"].tolist())
            agent.receive(np.zeros(2))
        runs.append(done)
    assert runs[0] == runs[1]
    assert {a for step in runs[0] for a in step} <= {0, 1}
    # What candidates share is theirs to read: it can be shared again, and where it is small a copy for each is the same.
    actions = torch.randint(2, (2, 5, 2, 1), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        carry, planner = agent.present.carry, agent.planner
        first, again = (planner.score(carry, actions, agent.objective) for _ in range(2))
        torch.testing.assert_close(first, again, rtol=0, atol=0)
        if agent.present.room is None:
            flat = actions.flatten(0, 1)
            _, dream = imagine(world, tree.repeat(carry, 5), None, flat, 2, sample=False)
            torch.testing.assert_close(agent.objective(dream).view(2, 5), first)
