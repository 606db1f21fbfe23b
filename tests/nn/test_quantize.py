"""The quantizers: codes as running means, revival, levels and their numbering, gradients straight through."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
import torch

from seqrl.nn.quantize import FSQ, VQ


def gathered(codes=4, width=3, **settings):
    torch.manual_seed(0)
    vq = VQ(codes, width, **settings)
    vq.table.copy_(torch.randn(codes, width))
    vq.sizes.fill_(5.0)
    vq.sums.copy_(vq.table * 5)
    return vq


def test_every_code_of_fsq_has_its_own_levels_and_comes_back():
    fsq = FSQ([3, 4, 5])
    codes = torch.arange(fsq.vocab)
    vectors = fsq.lookup(codes)
    assert len({tuple(v) for v in vectors.tolist()}) == 60
    assert vectors.min() == -1
    # Five levels reach both ends, four only the lower one: there is no middle otherwise.
    assert vectors.max(0).values.tolist() == [1.0, 0.5, 1.0]
    whole = vectors * torch.tensor([1.0, 2.0, 2.0])
    assert torch.equal(fsq.index(whole), codes)
    by_hand = [i + 3 * j + 12 * k for k, j, i in itertools.product(range(5), range(4), range(3))]
    assert by_hand == codes.tolist()


def test_fsq_answers_the_vector_of_its_code_and_reaches_every_level():
    fsq = FSQ([3, 4, 5])
    x = torch.linspace(-6, 6, 4001)[:, None].expand(-1, 3)
    found = fsq(x)
    torch.testing.assert_close(found.vectors, fsq.lookup(found.codes), rtol=0, atol=1e-6)
    assert [len(set(found.vectors[:, i].tolist())) for i in range(3)] == [3, 4, 5]
    assert found.commitment is None
    # Nothing is shifted: 0 is a level whether there is a middle one or not.
    assert torch.equal(fsq(torch.zeros(1, 3)).vectors, torch.zeros(1, 3))
    extreme = fsq(torch.tensor([[-1e6] * 3, [1e6] * 3])).codes
    assert extreme.tolist() == [0, 59]


def test_fsq_bounds_as_the_formula_says():
    x = np.random.default_rng(0).normal(size=(50, 2)) * 2
    half = np.array([3, 4]) * (1 + 1e-3) / 2
    offset = np.array([0.5, 0.0])
    want = np.tanh(x + np.arctanh(offset / half)) * half - offset
    got = FSQ([4, 5]).bound(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-9)


def test_gradients_pass_fsq_as_if_nothing_were_rounded():
    fsq, x = FSQ([4, 5]), torch.randn(20, 2, requires_grad=True)
    (fsq(x).vectors * torch.arange(2.0).add(1)).sum().backward()
    again = x.detach().clone().requires_grad_()
    (fsq.bound(again) / 2 * torch.arange(2.0).add(1)).sum().backward()
    torch.testing.assert_close(x.grad, again.grad)
    assert (x.grad != 0).all()


@pytest.mark.parametrize("cosine", [False, True])
def test_gradients_pass_vq_untouched_and_the_nearest_code_is_taken(cosine):
    vq = gathered(cosine=cosine).eval()
    x = torch.randn(5, 7, 3, requires_grad=True)
    found = vq(x)
    unit = x / x.norm(dim=-1, keepdim=True) if cosine else x
    brute = (unit[..., None, :] - vq.table).square().sum(-1)
    assert torch.equal(found.codes, brute.argmin(-1))
    torch.testing.assert_close(found.vectors, vq.table[found.codes])
    torch.testing.assert_close(found.commitment, brute.min(-1).values / 3)
    assert torch.equal(vq.nearest(x), found.codes)
    out = torch.randn_like(x)
    got = torch.autograd.grad(found.vectors, x, out, retain_graph=True)[0]
    want = torch.autograd.grad(unit, x, out, retain_graph=True)[0] if cosine else out
    torch.testing.assert_close(got, want)
    pulled = torch.autograd.grad(found.commitment.sum(), x)[0]
    if not cosine:
        torch.testing.assert_close(pulled, 2 / 3 * (x - vq.table[found.codes]).detach())


def test_codes_are_running_means_as_in_the_appendix():
    vq = gathered(decay=0.9, revive=0.0).train()
    sizes, sums = vq.sizes.double().numpy().copy(), vq.sums.double().numpy().copy()
    table = vq.table.double().numpy().copy()
    for step in range(20):
        x = torch.randn(64, 3, generator=torch.Generator().manual_seed(step))
        vq(x)
        rows = x.double().numpy()
        chosen = ((rows[:, None] - table) ** 2).sum(-1).argmin(1)
        n = np.bincount(chosen, minlength=4)
        total = np.stack([rows[chosen == i].sum(0) for i in range(4)])
        sizes, sums = 0.9 * sizes + 0.1 * n, 0.9 * sums + 0.1 * total
        table = sums / sizes[:, None]
    np.testing.assert_allclose(vq.sizes, sizes, rtol=1e-5)
    np.testing.assert_allclose(vq.table, table, rtol=1e-4, atol=1e-5)


def test_padding_moves_no_code_but_gets_one():
    x, rubbish = torch.randn(6, 3), torch.full((2, 3), 1e4)
    alone, padded = gathered().train(), gathered().train()
    alone(x)
    found = padded(torch.cat((x, rubbish)), torch.arange(8) < 6)
    assert found.codes.shape == (8,)
    for name in ("table", "sums", "sizes"):
        assert torch.equal(getattr(alone, name), getattr(padded, name))


def test_nothing_moves_in_evaluation():
    vq = gathered().eval()
    before = {n: t.clone() for n, t in vq.state_dict().items()}
    vq(torch.randn(50, 3) + 10)
    assert all(torch.equal(t, before[n]) for n, t in vq.state_dict().items())


def test_codes_begin_on_vectors_of_the_first_batch():
    torch.manual_seed(0)
    vq, x = VQ(8, 2).train(), torch.randn(100, 2) + 50
    vq._raise_dead(x)
    assert all((x == row).all(1).any() for row in vq.table)
    assert len({tuple(r) for r in vq.table.tolist()}) == 8


def test_a_dead_code_is_put_where_vectors_are_badly_served():
    torch.manual_seed(0)
    vq = gathered(codes=3, width=2, revive=0.1)
    vq.table.copy_(torch.tensor([[0.0, 0.0], [1.0, 0.0], [77.0, 77.0]]))
    vq.sizes.copy_(torch.tensor([90.0, 60.0, 1.0]))
    vq.sums.copy_(vq.table * vq.sizes[:, None])
    x = torch.cat((torch.randn(500, 2) * 0.01, torch.randn(4, 2) * 0.01 + 9))
    codes = vq.train()(x).codes
    assert (vq.table[2] - 9).abs().max() < 0.1, "the code lies where the four are, not with the five hundred"
    assert (codes[500:] == 2).all()
    assert (codes[:500] == 0).all()


@pytest.mark.parametrize(("revive", "alive"), [(0.0, 1), (0.01, 4)])
def test_without_revival_the_dead_lie(revive, alive):
    torch.manual_seed(0)
    vq = gathered(codes=4, width=2, revive=revive).train()
    vq.table.copy_(torch.tensor([[0.0, 0.0], [50.0, 0.0], [50.0, 50.0], [0.0, 50.0]]))
    vq.sums.copy_(vq.table * 5)
    for _ in range(400):
        x = torch.randn(64, 2)
        vq(x)
    assert len(vq.eval()(torch.randn(1000, 2)).codes.unique()) == alive


def test_two_runs_from_one_state_and_seed_are_one():
    state, after = gathered(revive=0.3).state_dict(), []
    for _ in range(2):
        vq = gathered(revive=0.3).train()
        vq.load_state_dict(state)
        torch.manual_seed(5)
        for _ in range(30):
            vq(torch.randn(16, 3) * torch.tensor([5.0, 0.1, 0.1]))
        after.append(vq.state_dict())
    assert all(torch.equal(after[0][n], after[1][n]) for n in after[0])


SHARE = """
import sys
import torch
from seqrl.nn.quantize import VQ

rank, at = int(sys.argv[1]), sys.argv[2]
torch.distributed.init_process_group("gloo", init_method=f"file://{at}/meet", rank=rank, world_size=2)
vq = VQ(4, 3, decay=0.9, revive=0.05).train()
vq.load_state_dict(torch.load(f"{at}/state.pt"))
for step in range(3):
    torch.manual_seed(10 * step + rank)
    vq(torch.load(f"{at}/rows.pt")[step, rank::2])
torch.save(vq.state_dict(), f"{at}/after{rank}.pt")
torch.distributed.destroy_process_group()
"""


@pytest.mark.dist
def test_processes_share_one_update(tmp_path):
    vq, rows = gathered(decay=0.9, revive=0.05), torch.randn(3, 64, 3)
    torch.save(vq.state_dict(), tmp_path / "state.pt")
    torch.save(rows, tmp_path / "rows.pt")
    ranks = [subprocess.Popen([sys.executable, "-c", SHARE, str(rank), str(tmp_path)]) for rank in range(2)]
    assert [process.wait(120) for process in ranks] == [0, 0]
    alone = vq.train()
    for x in rows:
        alone(x)
    for rank in range(2):
        for name, after in torch.load(tmp_path / f"after{rank}.pt").items():
            torch.testing.assert_close(after, getattr(alone, name), rtol=1e-5, atol=1e-6)
