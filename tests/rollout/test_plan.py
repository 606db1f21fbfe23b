"""Planners against problems whose best answer is known, and the agent that plans against one that replays."""

from typing import NamedTuple

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from seqrl.core import tree
from seqrl.core.contracts import Pred
from seqrl.core.errors import UserError
from seqrl.rollout.imagine import Imagined
from seqrl.rollout.objectives import Goal, Pessimistic, Return, Weighted
from seqrl.rollout.plan import PlanConfig, Planner
from seqrl.rollout.sequences import Choices, Numbers, throw

PLANNERS = ("cem", "icem", "mppi", "random")


class At(NamedTuple):
    state: torch.Tensor
    t: torch.Tensor


class World:
    """``state' = A state + B action``, and a reward that is a function of state, action and time."""

    def __init__(self, reward, A=None, B=None, D=1):
        self.reward, self.A, self.B, self.D = reward, A, B, D

    def init(self, rows, steps, front=None):
        return At(torch.zeros(rows, self.D), torch.zeros(rows, dtype=torch.int64))

    def share(self, carry, candidates, steps):
        return tree.repeat(carry, candidates)

    def step(self, carry, action, sample=True, temperature=1.0):
        state = carry.state if self.A is None else carry.state @ self.A.T + action @ self.B.T
        reward = self.reward(carry.state, action, carry.t)
        return At(state, carry.t + 1), Pred(state, state, reward, torch.ones_like(reward), {"disagreement": reward.abs()})


def states(rows, seed=0):
    return np.arange(rows, dtype=np.uint64) + np.uint64(1000 * seed)


def planner(space, reward=None, world=None, **settings):
    world = world or World(reward)
    made = Planner(PlanConfig(**settings), world, space)
    return made, world


def tracking(wish):
    """The reward is minus the squared distance to ``wish [H, A]`` at each step."""
    return lambda state, action, t: -((action - wish[t]) ** 2).sum(-1)


# ---- known optima ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "off"), [("cem", 0.05), ("icem", 0.12), ("mppi", 0.05), ("random", 0.9)])
def test_the_best_of_a_quadratic_is_found(kind, off):
    wish = torch.tensor([[0.5, -0.3], [0.1, 0.7], [-0.8, 0.0], [0.2, 0.2]])
    plan, world = planner(
        Numbers(2, least=0.01), tracking(wish), planner=kind, horizon=4, candidates=200, iterations=8, elites=15, discount=1.0
    )
    actions, _ = plan(world.init(3, 4), plan.begin(3), Return(1.0), states(3))
    assert actions.shape == (3, 4, 2)
    assert ((actions - wish).pow(2).mean().sqrt() < off).all()
    assert (actions.abs() <= 1).all()


@pytest.mark.parametrize("kind", PLANNERS)
def test_the_best_sequence_of_choices_is_found(kind):
    code = torch.tensor([[2, 0], [1, 1], [0, 1], [2, 1]])

    def reward(state, action, t):
        return (action == code[t]).sum(-1).float()

    plan, world = planner(Choices([3, 2]), reward, planner=kind, horizon=4, candidates=150, iterations=8, elites=15)
    actions, _ = plan(world.init(2, 4), plan.begin(2), Return(1.0), states(2))
    assert actions.dtype == torch.int64
    right = (actions == code).float().mean()
    assert right == 1 if kind != "random" else right > 0.7


def test_in_a_linear_world_with_quadratic_costs_the_plan_costs_what_the_best_costs():
    # A point pushed by a bounded force: state (place, speed), cost place^2 + 0.1 force^2, solved exactly by least squares.
    A, B, H = torch.tensor([[1.0, 0.3], [0.0, 1.0]]), torch.tensor([[0.0], [0.3]]), 8
    world = World(lambda s, a, t: -((s @ A.T + a @ B.T)[:, 0] ** 2) - 0.1 * a[:, 0] ** 2, A, B, 2)
    begin = torch.tensor([[0.3, 0.0]])
    rows, free = [], []
    for t in range(H):
        rows.append([float((torch.linalg.matrix_power(A, t - k) @ B)[0, 0]) if k <= t else 0.0 for k in range(H)])
        free.append(float((torch.linalg.matrix_power(A, t + 1) @ begin[0])[0]))
    M, c = np.array(rows), np.array(free)
    best = np.linalg.solve(M.T @ M + 0.1 * np.eye(H), -M.T @ c)
    assert np.abs(best).max() < 1, "the bounds must not matter here"
    least = ((M @ best + c) ** 2).sum() + 0.1 * (best**2).sum()
    plan, _ = planner(Numbers(1, least=0.005), world=world, horizon=H, candidates=400, iterations=12, elites=20, discount=1.0)
    carry = At(begin, torch.zeros(1, dtype=torch.int64))
    actions, _ = plan(carry, plan.begin(1), Return(1.0), states(1))
    cost = -float(plan.score(carry, actions[:, None], Return(1.0)))
    assert cost == pytest.approx(least, rel=0.02)


# ---- what a planner promises -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", PLANNERS)
@pytest.mark.parametrize("space", [Numbers(1), Choices([4])], ids=["numbers", "choices"])
def test_a_row_is_planned_for_as_if_it_were_alone(kind, space):
    wish = torch.tensor([[0.5], [-0.5], [0.1]])
    plan, world = planner(space, tracking(wish), planner=kind, horizon=3, candidates=20, iterations=2)
    together, kept = plan(world.init(4, 3), plan.begin(4), Return(), states(4))
    again, _ = plan(world.init(4, 3), plan.begin(4), Return(), states(4))
    assert torch.equal(together, again)
    for row in range(4):
        alone, mine = plan(world.init(1, 3), plan.begin(1), Return(), states(4)[[row]])
        torch.testing.assert_close(together[[row]], alone)
        torch.testing.assert_close(tree.index(kept, torch.tensor([row])).belief.mean, mine.belief.mean)
    other, _ = plan(world.init(4, 3), plan.begin(4), Return(), states(4, seed=1))
    assert kind == "random" or not torch.equal(together.float(), other.float()) or not space.normal


@pytest.mark.parametrize("kind", ["cem", "icem", "mppi"])
def test_what_was_planned_before_is_where_the_next_plan_begins(kind):
    H = 6
    wish = torch.linspace(-0.9, 0.9, H + 1)[:, None]
    slow = {"planner": kind, "horizon": H, "candidates": 60, "elites": 6, "std": 0.5}
    plan, world = planner(Numbers(1), tracking(wish), iterations=8, **slow)
    _, memory = plan(world.init(5, H), plan.begin(5), Return(1.0), states(5))
    later = At(torch.zeros(5, 1), torch.ones(5, dtype=torch.int64))
    wish_now = torch.cat((wish, wish[-1:]))
    quick, world = planner(Numbers(1), tracking(wish_now), iterations=1, **slow)
    scores = []
    for begin in (plan.shift(memory, 1), plan.begin(5)):
        actions, _ = quick(later, begin, Return(1.0), states(5, 1))
        scores.append(quick.score(later, actions[:, None], Return(1.0)).mean())
    assert scores[0] > scores[1] + 0.1


def test_a_plan_is_shifted_and_its_end_forgotten():
    space = Numbers(1)
    plan, _ = planner(space, lambda s, a, t: s[:, 0], planner="icem", horizon=4, candidates=20, elites=10)
    memory = plan.begin(2)
    line = torch.arange(1.0, 5)[None, :, None].expand(2, -1, -1) / 10
    memory = memory._replace(belief=memory.belief._replace(mean=line), kept=line[:, None].expand(-1, 3, -1, -1))
    ahead = plan.shift(memory, 2)
    assert ahead.belief.mean[0, :, 0].tolist() == pytest.approx([0.3, 0.4, 0, 0])
    assert (ahead.belief.std == 1).all()
    assert ahead.kept[1, 2, :, 0].tolist() == pytest.approx([0.3, 0.4, 0.4, 0.4])


def test_candidates_keep_within_bounds_and_choices_within_their_sizes():
    numbers = Numbers(2, -3.0, 3.0)
    drawn = numbers.draw(numbers.begin(2, 5), throw(states(2), (50, 5, 2), True))
    assert drawn.abs().max() == 3
    choices = Choices([2, 5])
    belief = choices.begin(2, 5)
    drawn = choices.draw(belief, throw(states(2), (400, 5, 2), False))
    assert drawn[..., 0].unique().tolist() == [0, 1]
    assert drawn[..., 1].unique().tolist() == [0, 1, 2, 3, 4]
    fitted = choices.fit(belief, drawn[:, :3], torch.full((2, 3), 1 / 3), 0.0)
    torch.testing.assert_close(fitted.mean.sum(-1), torch.ones(2, 5, 2))
    assert (fitted.mean[..., 0, 2:] == 0).all(), "there are but two choices"
    assert (fitted.mean[..., 1, :] > 0).all(), "no choice is given up for good"


def test_noise_has_a_colour_and_a_deviation_of_one():
    for beta, alike in ((0.0, 0.05), (2.0, 0.5)):
        x = throw(states(40), (100, 16, 1), True, beta)[..., 0]
        assert x.std() == pytest.approx(1, abs=0.05)
        neighbours = (x[..., 1:] * x[..., :-1]).mean()
        assert neighbours < alike if beta == 0 else neighbours > alike
    assert torch.equal(throw(states(3), (5, 4, 2), True, 2.0)[1], throw(states(3)[1:2], (5, 4, 2), True, 2.0)[0])


def test_proposals_stand_beside_what_is_drawn():
    # One narrow peak far from the middle: no draw finds it, the proposal is it.
    wish = torch.full((6, 3), 0.93)

    def reward(state, action, t):
        return ((action - wish[t]).abs().amax(-1) < 0.02).float()

    plan, world = planner(Numbers(3), reward, planner="icem", horizon=6, candidates=20, iterations=2, elites=2)
    actions, _ = plan(world.init(1, 6), plan.begin(1), Return(1.0), states(1))
    assert plan.score(world.init(1, 6), actions[:, None], Return(1.0)) == 0
    actions, _ = plan(world.init(1, 6), plan.begin(1), Return(1.0), states(1), wish[None, None])
    assert plan.score(world.init(1, 6), actions[:, None], Return(1.0)) == 6


def test_repeated_actions_are_imagined_as_often_as_they_are_done():
    plan, world = planner(Numbers(1), lambda s, a, t: a[:, 0] * (t + 1), horizon=6, repeat=3, candidates=4, elites=2)
    actions = torch.tensor([[[[1.0], [0.5]]]])
    assert plan.score(world.init(1, 6), actions, Return(1.0)).item() == pytest.approx(1 + 2 + 3 + 0.5 * (4 + 5 + 6))


def test_a_future_that_is_not_a_number_is_the_worst():
    def reward(state, action, t):
        return torch.where(action[:, 0] > 0, torch.nan, action[:, 0])

    plan, world = planner(Numbers(1), reward, horizon=1, candidates=100, iterations=4)
    actions, _ = plan(world.init(1, 1), plan.begin(1), Return(1.0), states(1))
    assert -0.2 < actions.item() <= 0
    plan, world = planner(Numbers(1), lambda s, a, t: a[:, 0] * torch.nan, horizon=1)
    with pytest.raises(UserError, match="not a number"):
        plan(world.init(1, 1), plan.begin(1), Return(1.0), states(1))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"candidates": 5, "elites": 6}, "elites"),
        ({"horizon": 7, "repeat": 2}, "horizon"),
        ({"horizon": 8, "repeat": 2, "replan": 3}, "replan"),
        ({"horizon": 4, "replan": 5}, "replan"),
        ({"planner": "best"}, "planner"),
    ],
)
def test_settings_that_cannot_be(wrong, said):
    with pytest.raises(ValidationError, match=said):
        PlanConfig(**wrong)


# ---- objectives ------------------------------------------------------------------------------------------------------


def dream(rewards, conts, latents=None, aux=None):
    rewards, conts = torch.tensor(rewards), torch.tensor(conts)
    N, H = rewards.shape
    latents = torch.zeros(N, H, 1) if latents is None else torch.tensor(latents)
    feats = torch.cat((latents[:, :1], latents), 1)
    return Imagined(feats, torch.zeros(N, H, 1), latents, rewards, conts, aux or {})


def test_the_return_counts_what_is_reached():
    one = dream([[1.0, 2.0, 4.0]], [[0.5, 0.5, 0.5]], [[[1.0], [2.0], [10.0]]])
    assert Return(1.0)(one).item() == pytest.approx(1 + 0.5 * 2 + 0.25 * 4)
    assert Return(0.5)(one).item() == pytest.approx(1 + 0.25 * 2 + 0.0625 * 4)
    with_value = Return(0.5, value=lambda feat: feat[:, 0])
    assert with_value(one).item() == pytest.approx(1.75 + 0.25**3 * 10)


def test_a_goal_is_a_distance_in_what_matters():
    one = dream([[0.0] * 3], [[1.0] * 3], [[[3.0, 9.0], [1.0, 9.0], [2.0, 9.0]]])
    wanted = torch.tensor([[0.0, float("nan")]])
    assert [Goal(lambda x: x, wanted, when)(one).item() for when in ("end", "closest", "mean")] == [-2, -1, -2]
    # Two rows of two candidates each, and each row has its own goal.
    two = dream([[0.0]] * 4, [[1.0]] * 4, [[[1.0]], [[2.0]], [[1.0]], [[2.0]]])
    assert Goal(lambda x: x, torch.tensor([[1.0], [2.0]]), "end")(two).tolist() == [0, -1, -1, 0]


def test_pessimism_takes_off_what_is_not_known():
    one = dream([[1.0, 1.0]], [[1.0, 1.0]], aux={"disagreement": torch.tensor([[0.5, 1.0]])})
    assert Weighted([(1.0, Return(1.0)), (2.0, Pessimistic(1.0))])(one).item() == pytest.approx(2 - 2 * 1.5)
    with pytest.raises(UserError, match="no ensemble"):
        Pessimistic()(dream([[1.0]], [[1.0]]))
