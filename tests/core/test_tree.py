"""Carries: rows are chosen, repeated and mixed in every leaf alike."""

from typing import NamedTuple

import torch

from seqrl.core import tree


class Inner(NamedTuple):
    kv: torch.Tensor
    length: torch.Tensor


class Carry(NamedTuple):
    h: torch.Tensor
    inner: Inner
    extra: dict
    nothing: None = None


def make(rows=3):
    n = torch.arange(rows)
    return Carry(n.float()[:, None].repeat(1, 2), Inner(n.float()[:, None, None] * torch.ones(1, 4, 2), n), {"z": n * 10})


def test_rows_are_chosen_in_every_leaf():
    got = tree.index(make(), torch.tensor([2, 0, 2]))
    assert got.inner.length.tolist() == [2, 0, 2]
    assert got.extra["z"].tolist() == [20, 0, 20]
    assert isinstance(got, Carry)
    assert isinstance(got.inner, Inner)
    assert got.nothing is None
    assert tree.index(make(), torch.tensor([False, True, False])).h.tolist() == [[1.0, 1.0]]


def test_copies_of_a_row_stand_side_by_side():
    assert tree.repeat(make(), 2).inner.length.tolist() == [0, 0, 1, 1, 2, 2]


def test_rows_of_two_are_mixed():
    got = tree.where(torch.tensor([True, False, True]), make(), tree.map_leaves(lambda t: t + 100, make()))
    assert got.inner.length.tolist() == [0, 101, 2]
    assert got.inner.kv[1].unique().tolist() == [101.0]
    assert got.h[:, 0].tolist() == [0.0, 101.0, 2.0]


def test_a_clone_survives_and_a_detached_one_has_no_gradient():
    one = make()
    kept = tree.clone(one)
    one.h.add_(5)
    assert kept.h[0, 0] == 0
    grown = one._replace(h=one.h.clone().requires_grad_())
    assert not tree.detach(grown).h.requires_grad
