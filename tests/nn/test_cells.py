"""Recurrent cells: blocks against a plain loop of small ones, the plain one against PyTorch's, and gates that begin slow."""

import pytest
import torch

from seqrl.core.errors import RecipeError
from seqrl.nn.cells import KINDS, BlockLinear, make_cell
from seqrl.nn.latents import Gaussians

N, S, A, D, H, G = 5, 7, 3, 12, 8, 4
kinds = pytest.mark.parametrize("kind", KINDS)


def cell(kind, norm="rms"):
    torch.manual_seed(0)
    return make_cell(kind, Gaussians(S), A, D, H, G, "silu", norm)


def inputs():
    g = torch.Generator().manual_seed(1)
    return (torch.randn(N, n, generator=g) for n in (D, S, A))


def test_block_matrices_are_small_matrices_side_by_side():
    torch.manual_seed(0)
    layer, x = BlockLinear(D, 2 * D, G), torch.randn(N, D)
    torch.nn.init.normal_(layer.bias)
    parts = [x[:, i * 3 : i * 3 + 3] @ layer.weight[i] for i in range(G)]
    torch.testing.assert_close(layer(x), torch.cat(parts, -1) + layer.bias)


@pytest.mark.parametrize("norm", ["none", "rms"])
def test_a_block_gru_is_a_loop_of_small_ones(norm):
    made = cell("block", norm)
    h, s, a = inputs()
    got = made(h, s, made.given(a))
    common = torch.cat((made.memory(h), made.join(made.latent(s))), -1)
    inner = []
    for i in range(G):
        rows = slice(i * D // G, (i + 1) * D // G)
        own = h[:, rows] @ made.own.weight[i] + made.own.bias[rows]
        inner.append(own + common @ made.common.weight[rows].T + made.action(a) @ made.done.weight[rows].T)
    inner = torch.nn.functional.silu(made.behind.norm(torch.cat(inner, -1)))
    want = []
    for i in range(G):
        rows, gates = slice(i * D // G, (i + 1) * D // G), slice(i * 3 * D // G, (i + 1) * 3 * D // G)
        reset, new, update = (inner[:, rows] @ made.gates.weight[i] + made.gates.bias[gates]).chunk(3, -1)
        update = torch.sigmoid(update - 1)
        want.append(update * torch.tanh(torch.sigmoid(reset) * new) + (1 - update) * h[:, rows])
    torch.testing.assert_close(got, torch.cat(want, -1))


def test_the_plain_one_is_pytorch_s_behind_one_layer():
    made = cell("plain", "none")
    h, s, a = inputs()
    x = torch.nn.functional.silu(s @ made.latent.weight + a @ made.action.weight.T + made.action.bias)
    torch.testing.assert_close(made(h, s, made.given(a)), made.gru(x, h))


def test_normed_gates_are_normalised_together():
    made = cell("layer_norm")
    h, s, a = inputs()
    x = made.join(made.latent(s) + made.given(a))
    y = torch.cat((x, h), -1) @ made.gates.weight.T
    y = (y - y.mean(-1, keepdim=True)) / (y.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
    reset, new, update = y.chunk(3, -1)
    update = torch.sigmoid(update - 1)
    want = update * torch.tanh(torch.sigmoid(reset) * new) + (1 - update) * h
    torch.testing.assert_close(made(h, s, made.given(a)), want)


@kinds
def test_rows_do_not_meet_and_everything_is_read(kind):
    made = cell(kind)
    h, s, a = (x.requires_grad_() for x in inputs())
    out = made(h, s, made.given(a))
    grads = torch.autograd.grad(out[2].sum(), (h, s, a))
    for grad in grads:
        assert grad[2].abs().sum() > 0
        assert grad[[0, 1, 3, 4]].abs().sum() == 0


@kinds
def test_what_actions_give_can_be_had_for_all_steps_at_once(kind):
    made = cell(kind)
    a = torch.randn(N, 6, A)
    torch.testing.assert_close(made.given(a)[:, 4], made.given(a[:, 4]))


def test_blocks_must_divide_the_memory():
    with pytest.raises(RecipeError, match="blocks=5"):
        make_cell("block", Gaussians(S), A, D, H, 5, "silu", "rms")
