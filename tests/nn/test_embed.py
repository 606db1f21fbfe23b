"""Slots become vectors: continuous ones by a matrix, codes by the sum of a vector for each place."""

import torch

from seqrl.core.contracts import Ports
from seqrl.nn.embed import Codes, SlotEmbedding


def test_codes_of_different_places_have_vectors_of_their_own():
    table = Codes(3, 5, 8)
    assert torch.equal(table(torch.tensor([[4, 0, 2]]))[0], table.weight[[4, 5, 12]].sum(0))


def test_order_is_the_callers():
    ports = Ports("a b", {"a": 3, "b": 2}, {"a": 0, "b": 4}, {"a": False, "b": False})
    embed = SlotEmbedding(ports, ("a", "b"), 8)
    values = {"a": torch.randn(2, 5, 3, dtype=torch.float64), "b": torch.randint(4, (2, 5, 2))}
    b, a = embed(values, ("b", "a"))
    assert a.shape == b.shape == (2, 5, 8)
    assert a.dtype == torch.float32
    assert torch.equal(embed(values, ("a",))[0], a)
