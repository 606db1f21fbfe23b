"""Latents: divergences against torch.distributions in float64, draws, gradients straight through, and who is moved by whom."""

import pytest
import torch
from torch import distributions

from seqrl.nn.latents import Categoricals, FromLatent, Gaussians, balanced

BOTH = {"categorical": Categoricals(3, 5, 0.01), "pure": Categoricals(3, 5, 0.0), "gaussian": Gaussians(6)}
both = pytest.mark.parametrize("latents", BOTH.values(), ids=BOTH)


def raw(latents, *shape, scale=2.0):
    return (torch.randn(*shape, latents.parameters) * scale).requires_grad_()


def reference(latents, parameters):
    """The distribution by torch, in float64, its numbers or groups counted together."""
    parameters = parameters.detach().double()
    if isinstance(latents, Gaussians):
        mean, std = parameters.chunk(2, -1)
        std = torch.log1p(std.exp()) + latents.min_std
        return distributions.Independent(distributions.Normal(mean, std), 1)
    p = parameters.unflatten(-1, (latents.groups, latents.classes)).softmax(-1)
    p = (1 - latents.unimix) * p + latents.unimix / latents.classes
    return distributions.Independent(distributions.OneHotCategorical(probs=p), 1)


@both
def test_the_divergence_is_that_of_torch(latents):
    torch.manual_seed(0)
    q, p = raw(latents, 4, 7), raw(latents, 4, 7)
    want = distributions.kl_divergence(reference(latents, q), reference(latents, p))
    torch.testing.assert_close(latents.kl(q, p).double(), want, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(latents.kl(q, q), torch.zeros(4, 7), rtol=0, atol=1e-5)


@both
def test_draws_have_the_frequencies_they_should(latents):
    torch.manual_seed(0)
    one = raw(latents, 1)
    drawn = latents.draw(one.detach().expand(40_000, -1))
    want = reference(latents, one).mean[0].flatten().float()
    torch.testing.assert_close(drawn.mean(0), want, rtol=0, atol=0.05)
    assert drawn.shape[-1] == latents.width


def test_unimix_leaves_no_class_impossible():
    latents = Categoricals(1, 4, 0.2)
    p = latents.probs(torch.tensor([[50.0, 0, 0, 0]]))
    torch.testing.assert_close(p[0, 0], torch.tensor([0.85, 0.05, 0.05, 0.05]))
    torch.testing.assert_close(latents.log_probs(torch.tensor([[50.0, 0, 0, 0]])), p.log())


def test_a_categorical_draw_is_one_hot_and_its_gradient_the_probabilities():
    torch.manual_seed(0)
    latents = Categoricals(3, 5)
    x, weight = raw(latents, 8), torch.randn(8, 15)
    drawn = latents.draw(x)
    hot = drawn.detach().unflatten(-1, (3, 5))
    torch.testing.assert_close(hot, torch.zeros_like(hot).scatter(-1, hot.argmax(-1, keepdim=True), 1.0))
    (got,) = torch.autograd.grad((drawn * weight).sum(), x)
    (want,) = torch.autograd.grad((latents.probs(x).flatten(-2) * weight).sum(), x)
    torch.testing.assert_close(got, want)
    with torch.no_grad():
        assert set(latents.draw(x).unique().tolist()) == {0.0, 1.0}


def test_temperature_and_no_draw_at_all():
    torch.manual_seed(0)
    latents = Categoricals(1, 3, 0.0)
    x = torch.tensor([0.0, 1.0, 2.0]).expand(20_000, -1)
    for temperature in (0.5, 1.0, 2.0):
        want = (torch.tensor([0.0, 1.0, 2.0]) / temperature).softmax(-1)
        torch.testing.assert_close(latents.draw(x, temperature=temperature).mean(0), want, rtol=0, atol=0.02)
    assert (latents.draw(x, sample=False) == torch.tensor([0.0, 0.0, 1.0])).all()
    still = Gaussians(2)
    x = torch.randn(4, 4)
    torch.testing.assert_close(still.draw(x, sample=False), x[:, :2])
    wide = still.draw(x[:1].expand(20_000, -1), temperature=3.0).std(0)
    torch.testing.assert_close(wide, 3 * still.mean_std(x[0])[1], rtol=0.05, atol=0)


def test_a_gaussian_draw_passes_gradients_to_mean_and_deviation():
    latents = Gaussians(3)
    x = raw(latents, 2)
    torch.manual_seed(0)
    drawn = latents.draw(x)
    torch.manual_seed(0)
    noise = torch.randn(2, 3)
    mean, std = latents.mean_std(x)
    torch.testing.assert_close(drawn, mean + std * noise)
    (got,) = torch.autograd.grad(drawn.sum(), x)
    torch.testing.assert_close(got[:, :3], torch.ones(2, 3))
    torch.testing.assert_close(got[:, 3:], noise * x[:, 3:].sigmoid())


@both
def test_each_term_moves_one_side(latents):
    torch.manual_seed(0)
    q, p = raw(latents, 3), raw(latents, 3)
    terms = balanced(latents, q, p, 0.0, "each")
    torch.testing.assert_close(terms["dyn"], terms["rep"])
    for name, moved, still in (("dyn", p, q), ("rep", q, p)):
        moves, stays = torch.autograd.grad(terms[name].sum(), (moved, still), allow_unused=True, retain_graph=True)
        assert moves.abs().sum() > 0
        assert stays is None or stays.abs().sum() == 0


@both
def test_a_joint_term_is_the_divergence_with_its_gradient_shared_out(latents):
    torch.manual_seed(0)
    q, p = raw(latents, 3), raw(latents, 3)
    plain = balanced(latents, q, p, 0.0, "plain")["kl"]
    joint = balanced(latents, q, p, 0.0, "joint", 0.8)["kl"]
    torch.testing.assert_close(plain, joint)
    whole, shared = (torch.autograd.grad(t.sum(), (q, p), retain_graph=True) for t in (plain, joint))
    torch.testing.assert_close(shared[0], 0.2 * whole[0])
    torch.testing.assert_close(shared[1], 0.8 * whole[1])


@pytest.mark.parametrize("form", ["plain", "joint", "each"])
def test_free_nats_are_free(form):
    latents = Categoricals(1, 2, 0.0)
    # Divergences of nearly nought, and of one nat or more.
    q = torch.tensor([[0.0, 0.1], [0.0, 9.0]], requires_grad=True)
    p = torch.tensor([[0.0, 0.0], [9.0, 0.0]], requires_grad=True)
    for value in balanced(latents, q, p, 1.0, form).values():
        assert value[0] == 1.0
        torch.testing.assert_close(value[1], latents.kl(q, p)[1])
        for grad in torch.autograd.grad(value.sum(), (q, p), allow_unused=True, retain_graph=True):
            assert grad is None or grad[0].abs().sum() == 0


@both
def test_rows_that_are_looked_up_are_the_product(latents):
    torch.manual_seed(0)
    layer, drawn = FromLatent(latents, 9), latents.draw(torch.randn(4, 6, latents.parameters))
    drawn[1] = 0  # as in a carry that has not begun
    want = drawn @ layer.weight
    assert layer(drawn).requires_grad
    with torch.no_grad():
        torch.testing.assert_close(layer(drawn), want)
        torch.testing.assert_close(layer(drawn[:, 2]), want[:, 2])
        assert (layer(drawn)[1] == 0).all()
