"""What a return is inside a dream, against slow float64 arithmetic; and which feature, action and outcome belong together."""

from typing import NamedTuple

import pytest
import torch

from seqrl.core import tree
from seqrl.core.contracts import Pred
from seqrl.core.stream import StreamBatch
from seqrl.rollout.foreseen import dream_returns
from seqrl.rollout.imagine import imagine, lambda_return, reached
from seqrl.rollout.starts import pick, starts

H = 7


def slow_lambda_return(r, c, v, g, lam):
    """The definition, term by term: every n-step return, weighted by how far lambda looks."""
    out = torch.zeros(len(r), r.shape[1], dtype=torch.float64)
    for b in range(len(r)):
        for t in range(r.shape[1]):

            def n_step(n, b=b, t=t):
                total, alive = 0.0, 1.0
                for k in range(t, t + n):
                    total += alive * float(r[b, k])
                    alive *= g * float(c[b, k])
                return total + alive * float(v[b, t + n])

            most = r.shape[1] - t
            mixed = sum((1 - lam) * lam ** (n - 1) * n_step(n) for n in range(1, most))
            out[b, t] = mixed + lam ** (most - 1) * n_step(most)
    return out


@pytest.mark.parametrize(("g", "lam"), [(0.9, 0.95), (1.0, 1.0), (0.99, 0.0), (0.5, 0.3)])
def test_lambda_returns_are_the_mixture_of_all_n_step_returns(g, lam):
    torch.manual_seed(0)
    r, c, v = torch.randn(3, H).double(), torch.rand(3, H).double(), torch.randn(3, H + 1).double()
    assert torch.allclose(lambda_return(r, c, v, g, lam), slow_lambda_return(r, c, v, g, lam), rtol=0, atol=1e-12)


def test_a_step_that_ends_the_episode_keeps_its_reward_and_nothing_behind_it():
    r, v = torch.tensor([[1.0, 2.0, 4.0]]), torch.full((1, 4), 100.0)
    ends_second = torch.tensor([[1.0, 0.0, 1.0]])
    assert lambda_return(r, ends_second, v, 1.0, 1.0).tolist() == [[3.0, 2.0, 104.0]]
    # What stands behind the end is not come to; the step that ends it is.
    assert reached(ends_second).tolist() == [[1.0, 1.0, 0.0]]


def test_the_weight_of_a_step_leaves_its_own_outcome_out():
    torch.manual_seed(1)
    c = torch.rand(4, H).double()
    slow = torch.ones(4, H).double()
    for t in range(H):
        for k in range(t):
            slow[:, t] *= 0.9 * c[:, k]
    assert torch.allclose(reached(c, 0.9), slow, rtol=0, atol=1e-12)


class At(NamedTuple):
    total: torch.Tensor


class Counter:
    """A world whose every answer tells what it was made of: the feature sums all actions up to it."""

    feat_width, differentiable = 1, True

    def init(self, rows, steps, front=None):
        return At(torch.zeros(rows, 1))

    def encode(self, obs, sample=True):
        return obs["state"]

    def observe(self, carry, z, prev_action):
        feats = [carry.total + z[:, :1].sum(1)]
        for t in range(1, z.shape[1]):
            feats.append(feats[-1] + z[:, t] + 10 * prev_action[:, t])
        return At(feats[-1]), torch.stack(feats, 1)

    def step(self, carry, action, sample=True, temperature=1.0):
        total = carry.total + action
        reward = 100 * carry.total[:, 0] + action[:, 0]
        return At(total), Pred(total, total, reward, torch.full_like(reward, 0.5), {"twice": 2 * reward})


def test_one_index_for_one_transition():
    start = torch.tensor([[1.0], [2.0]])
    carry, dream = imagine(Counter(), At(start), start, lambda feat, t: feat * (t + 1), 3)
    # feats 1, 2, 6, 24: each action is (t + 1) times the feature it was chosen at.
    assert dream.feats[0, :, 0].tolist() == [1, 2, 6, 24]
    assert dream.actions[0, :, 0].tolist() == [1, 4, 18]
    assert dream.rewards[0].tolist() == [101, 204, 618]
    assert dream.aux["twice"][0].tolist() == [202, 408, 1236]
    assert torch.equal(dream.latents, dream.feats[:, 1:])
    assert carry.total.tolist() == [[24], [48]]
    _, told = imagine(Counter(), At(start), None, dream.actions, 3)
    assert torch.equal(told.rewards, dream.rewards)


def test_dreams_begin_where_the_windows_had_come_to():
    class Recurrent(Counter):
        def observe(self, carry, z, prev_action):
            # One step at a time: what led to a step counts from the second on.
            assert z.shape[1] == 1
            first = carry.total == 0
            total = carry.total + z[:, 0] + torch.where(first, torch.zeros_like(first, dtype=z.dtype), 10 * prev_action[:, 0])
            return At(total), total[:, None]

    z = torch.tensor([[[1.0], [2.0], [3.0]], [[5.0], [6.0], [7.0]]])
    actions = torch.tensor([[[0.1], [0.2], [9.0]], [[0.3], [0.4], [9.0]]])
    chosen = torch.tensor([[True, False, True], [False, True, True]])
    carry, feat, feats = starts(Recurrent(), z, actions, torch.tensor([3, 3]), chosen, 5)
    assert torch.allclose(feats[..., 0], torch.tensor([[1.0, 4.0, 9.0], [5.0, 14.0, 25.0]]))
    assert torch.allclose(feat[:, 0], torch.tensor([1.0, 9.0, 14.0, 25.0]))
    assert torch.equal(carry.total, feat)

    class Parallel(Recurrent):
        def starts(self, z, actions, lengths, steps):
            assert steps == 5
            return At(feats.flatten(0, 1)), feats.flatten(0, 1)

    again, same, _ = starts(Parallel(), z, actions, torch.tensor([3, 3]), chosen, 5)
    assert torch.equal(tree.index(again, torch.arange(4)).total, carry.total)
    assert torch.equal(same, feat)


def test_starts_are_drawn_from_those_allowed():
    allowed = torch.rand(20, 30) < 0.3
    assert torch.equal(pick(allowed, None), allowed)
    assert torch.equal(pick(allowed, 10_000), allowed)
    some = pick(allowed, 17)
    assert some.sum() == 17
    assert not (some & ~allowed).any()
    assert not torch.equal(some, pick(allowed, 17))


def test_the_dreamed_return_counts_what_is_come_to():
    class Half(Counter):
        def step(self, carry, action, sample=True, temperature=1.0):
            reward = torch.full((len(action),), 3.0)
            return carry, Pred(carry.total, carry.total, reward, reward / 6)

    class Somebody:
        inner = Half()

        def front(self, batch):
            return None

        def choose(self, feat):
            return None, torch.zeros(len(feat), 1)

        likeliest = staticmethod(lambda feat: torch.zeros(len(feat), 1))

    first = StreamBatch({"state": torch.ones(4, 1, 1), "action": torch.zeros(4, 1, 1)}, torch.zeros(4, 1), torch.ones(4))
    assert dream_returns(Somebody(), first, 3).tolist() == [3 + 1.5 + 0.75] * 4
    assert dream_returns(Somebody(), first, 500, sample=False).tolist() == pytest.approx([6.0] * 4, abs=1e-3)
