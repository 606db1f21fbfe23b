"""Heads: densities against torch.distributions in float64, draws against the distributions they are drawn from."""

import pytest
import torch
from torch import distributions as D

from seqrl.core.contracts import Ports
from seqrl.nn.heads import Categorical, Gaussian, Point, gaussian_log_density, make_head


@pytest.mark.parametrize("squashed", [False, True])
def test_density_against_torch_distributions(squashed):
    torch.manual_seed(0)
    mean, log_std = torch.randn(2, 500, 3, dtype=torch.float64)
    plain = D.Normal(mean, log_std.exp())
    known = D.TransformedDistribution(plain, D.TanhTransform()) if squashed else plain
    value = known.sample()
    # Where float64 itself rounds tanh to one, neither can say the density.
    inside = value.abs() < 1 - 1e-6 if squashed else torch.ones_like(value, dtype=torch.bool)
    ours = gaussian_log_density(value, mean, log_std, squashed)
    torch.testing.assert_close(ours[inside], known.log_prob(value)[inside], rtol=1e-8, atol=1e-8)
    assert inside.double().mean() > 0.9


@pytest.mark.parametrize("squash", ["tanh", "clip", None])
def test_gaussian_loss_is_finite_on_the_bounds_and_sums_over_numbers(squash):
    head, x = Gaussian(8, 3, squash, 0.0), torch.randn(4, 5, 8)
    target = torch.tensor([-1.0, 1.0, 0.3]).expand(4, 5, 3)
    loss = head.loss(x, target)
    assert loss.shape == (4, 5, 1)
    assert loss.isfinite().all()
    mean, log_std = head(x)
    torch.testing.assert_close(loss[..., 0], -gaussian_log_density(target, mean, log_std, squash == "tanh").sum(-1))


@pytest.mark.parametrize("squash", ["tanh", None])
def test_entropy_bonus(squash):
    """The bonus is the distribution's entropy: known for a Gaussian, estimated without bias for a squashed one."""
    torch.manual_seed(0)
    plain, bonus = Gaussian(8, 2, squash, 0.0), Gaussian(8, 2, squash, 0.5)
    bonus.load_state_dict(plain.state_dict())
    x, target = torch.randn(1, 8).expand(20_000, 8), torch.zeros(20_000, 2)
    found = (plain.loss(x, target) - bonus.loss(x, target)).mean() / 0.5
    mean, log_std = (t[0] for t in plain(x))
    known = D.Normal(mean, log_std.exp())
    if squash:
        known = D.TransformedDistribution(known, D.TanhTransform())
        expected = -known.log_prob(known.sample((200_000,))).sum(-1).mean()
    else:
        expected = known.entropy().sum()
    assert found.item() == pytest.approx(expected.item(), abs=0.03)


def test_gaussian_draws_follow_their_uniform_numbers():
    torch.manual_seed(0)
    head, x = Gaussian(8, 2, None, 0.0), torch.randn(1, 8).expand(50_000, 8)
    mean, log_std = (t[0] for t in head(x))
    drawn = head.answer(x, True, torch.rand(50_000, 2), 0.5)
    torch.testing.assert_close(drawn.mean(0), mean, rtol=0, atol=0.02)
    torch.testing.assert_close(drawn.std(0), 0.5 * log_std.exp(), rtol=0.02, atol=0)
    torch.testing.assert_close(head.answer(x, True, torch.full((50_000, 2), 0.5), 1.0)[0], mean)
    torch.testing.assert_close(head.answer(x, False, None, 1.0)[0], mean)


@pytest.mark.parametrize("squash", ["tanh", "clip"])
def test_bounded_draws_stay_in_bounds(squash):
    head = Gaussian(8, 2, squash, 0.0)
    drawn = head.answer(torch.randn(1000, 8) * 20, True, torch.rand(1000, 2), 1.0)
    assert drawn.abs().max() <= 1
    extreme = head.answer(torch.randn(2, 8), True, torch.tensor([[0.0, 1.0], [1.0, 0.0]]), 1.0)
    assert extreme.isfinite().all()


def test_categorical_draws_and_losses():
    torch.manual_seed(0)
    head, x = Categorical(8, 2, 5), torch.randn(1, 8).expand(50_000, 8)
    probabilities = head(x)[0].softmax(-1)
    drawn = head.answer(x, True, torch.rand(50_000, 2), 1.0)
    found = torch.stack([drawn[:, k].bincount(minlength=5) for k in range(2)]) / 50_000
    torch.testing.assert_close(found, probabilities, rtol=0, atol=0.01)
    assert head.answer(x[:2], True, torch.tensor([[0.0, 1.0]] * 2), 1.0).tolist() == [[0, 4]] * 2
    assert torch.equal(head.answer(x, False, None, 1.0)[0], probabilities.argmax(-1))
    cold = head.answer(x, True, torch.rand(50_000, 2), 1e-3)
    assert (cold == probabilities.argmax(-1)).all()
    loss = head.loss(x.view(10, 5000, 8), drawn.view(10, 5000, 2))
    assert loss.shape == (10, 5000, 2)
    torch.testing.assert_close(loss[3, 7, 1], -probabilities[1, drawn[3 * 5000 + 7, 1]].log())


def test_a_draw_without_uniform_numbers_is_refused():
    for head in (Gaussian(8, 2, None, 0.0), Categorical(8, 2, 5)):
        with pytest.raises(ValueError, match="uniform"):
            head.answer(torch.randn(3, 8), True, None, 1.0)


def test_the_port_chooses_the_head():
    ports = Ports("a b c", {"a": 2, "b": 2, "c": 3}, {"a": 0, "b": 7, "c": 0}, {"a": True, "b": False, "c": False})
    assert isinstance(make_head(ports, "b", 8, "gaussian"), Categorical)
    assert make_head(ports, "a", 8).bounded
    assert not make_head(ports, "c", 8).bounded
    assert make_head(ports, "a", 8, "gaussian", "clip").squash == "clip"
    assert make_head(ports, "c", 8, "gaussian").squash is None
    assert isinstance(make_head(ports, "c", 8), Point)
