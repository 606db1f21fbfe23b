"""Rewards and continuation: the two-hot distribution against a slow reference in float64, and what heads say in real units."""

import math

import pytest
import torch

from seqrl.core.contracts import Ports
from seqrl.core.errors import RecipeError
from seqrl.nn.outcomes import Continue, Reward, TwoHot, symexp, symlog, twohot


def slow_twohot(x, bins):
    """One number at a time, in plain Python."""
    out = [0.0] * len(bins)
    x = min(max(x, bins[0]), bins[-1])
    for i in range(len(bins) - 1):
        if bins[i] <= x <= bins[i + 1]:
            share = (x - bins[i]) / (bins[i + 1] - bins[i])
            out[i], out[i + 1] = 1 - share, share
            return out


def ports(vocab=0, levels=(0.0, 1.0)):
    slots = ("state", "action", "reward", "done")
    widths, vocabs = {"state": 3, "action": 2, "reward": 1, "done": 1}, {"state": 0, "action": 0, "reward": vocab, "done": 2}
    known = {"reward": list(levels)} if levels else {}
    return Ports("state action > reward done", widths, vocabs, dict.fromkeys(slots, False), levels=known)


def test_symexp_undoes_symlog():
    x = torch.tensor([-1e6, -3.0, -1e-9, 0.0, 1e-9, 0.5, 7.0, 1e6], dtype=torch.float64)
    torch.testing.assert_close(symexp(symlog(x)), x, rtol=1e-12, atol=0)
    assert symlog(torch.zeros(1)) == 0
    torch.testing.assert_close(symlog(x), torch.tensor([math.copysign(math.log1p(abs(v)), v) for v in x], dtype=torch.float64))


def test_twohot_is_the_slow_reference():
    bins = TwoHot(2).bins(torch.device("cpu")).double()
    x = torch.cat((torch.randn(200, dtype=torch.float64).mul(3).sinh(), bins[[0, 5, 127, 128, -1]], bins[[0, -1]] * 2))
    want = torch.tensor([slow_twohot(float(v), bins.tolist()) for v in x], dtype=torch.float64)
    got = twohot(x, bins)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-12)
    torch.testing.assert_close(got.sum(-1), torch.ones(len(x), dtype=torch.float64))
    torch.testing.assert_close(got @ bins, x.clamp(bins[0], bins[-1]))
    assert ((got > 0).sum(-1) <= 2).all()


def test_nought_is_one_bin_and_uniform_means_nought_exactly():
    head = TwoHot(4)
    bins = head.bins(torch.device("cpu"))
    assert torch.equal(bins, -bins.flip(0))
    assert bins[127] == 0
    hot = twohot(torch.zeros(3), bins)
    assert (hot[:, 127] == 1).all()
    assert hot.sum() == 3
    with torch.no_grad():
        head.out.weight.zero_()
        head.out.bias.zero_()
    assert (head.mean(torch.randn(50, 4) * 100) == 0).all()
    torch.testing.assert_close(head.loss(torch.randn(5, 4), torch.randn(5) * 9), torch.full((5,), math.log(255)))


def test_the_loss_is_cross_entropy_with_the_two_hot_target():
    torch.manual_seed(0)
    head = TwoHot(6)
    torch.nn.init.normal_(head.out.weight)
    x, target = torch.randn(3, 5, 6), torch.randn(3, 5) * 4
    log_p = head.out(x).log_softmax(-1)
    want = -(twohot(target, head.bins(x.device)) * log_p).sum(-1)
    torch.testing.assert_close(head.loss(x, target), want)
    p = head.out(x).double().softmax(-1)
    torch.testing.assert_close(head.mean(x).double(), p @ head.bins(x.device).double(), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("kind", ["twohot", "mse"])
def test_a_head_finds_the_mean_of_what_it_sees(kind):
    torch.manual_seed(0)
    head = Reward(ports(), 4, kind)
    # As a model begins: nothing known. Otherwise what is left on the largest bins would not cancel.
    torch.nn.init.zeros_(head.head.out.weight)
    torch.nn.init.zeros_(head.head.out.bias)
    x, target = torch.ones(256, 4), (torch.rand(256, 1) < 0.25).float() * 8
    optim = torch.optim.Adam(head.parameters(), 0.1)
    for _ in range(200):
        optim.zero_grad()
        head.loss(x, target).mean().backward()
        optim.step()
    torch.testing.assert_close(head.mean(x[:1])[0], target.mean(), rtol=0.05, atol=0)


@pytest.mark.parametrize("kind", ["twohot", "mse"])
def test_rewards_leave_in_their_own_units(kind):
    torch.manual_seed(0)
    plain, scaled = Reward(ports(), 4, kind), Reward(ports(levels=(-2.0, 8.0)), 4, kind)
    scaled.load_state_dict(plain.state_dict())
    torch.nn.init.normal_(plain.head.out.weight)
    scaled.load_state_dict(plain.state_dict())
    x = torch.randn(7, 4)
    torch.testing.assert_close(scaled.mean(x), -2 + 10 * plain.mean(x))


def test_rewards_that_are_codes_are_classes():
    torch.manual_seed(0)
    head = Reward(ports(vocab=3, levels=(-1.0, 0.0, 5.0)), 4)
    torch.nn.init.normal_(head.head.weight)
    x, codes = torch.randn(2, 6, 4), torch.randint(3, (2, 6, 1))
    log_p = head.head(x).log_softmax(-1)
    torch.testing.assert_close(head.loss(x, codes), -log_p.gather(-1, codes)[..., 0])
    torch.testing.assert_close(head.mean(x), log_p.exp() @ torch.tensor([-1.0, 0.0, 5.0]))


def test_without_rewards_it_says_what_layout_has_them():
    with pytest.raises(RecipeError, match="reward"):
        Reward(ports(levels=()), 4)


def test_going_on_is_the_opposite_of_done():
    torch.manual_seed(0)
    head = Continue(4)
    torch.nn.init.normal_(head.out.weight)
    x, done = torch.randn(5, 4), torch.tensor([[0], [1], [0], [1], [1]])
    p = head.probability(x)
    torch.testing.assert_close(head.loss(x, done), -torch.where(done[:, 0] == 1, 1 - p, p).log())
