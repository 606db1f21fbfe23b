"""Branches: what many continuations of one past give is what whole rows give, whatever the trunk, after any choice of them."""

import pytest
import torch

from seqrl.nn.branches import Branches
from seqrl.nn.transformer import Transformer, family_config

B, N, E, L, D = 2, 3, 2, 5, 32


@pytest.mark.parametrize("length", [(5, 5), (5, 2)], ids=["even", "ragged"])
@pytest.mark.parametrize(("family", "kv_heads"), [("gpt2", 4), ("llama", 2), ("qwen3", 1)])
@torch.inference_mode()
def test_branches_equal_whole_rows(family, kv_heads, length):
    torch.manual_seed(0)
    trunk = Transformer(family_config(family, width=D, layers=2, heads=4, kv_heads=kv_heads, max_positions=32)).eval()
    x, length = torch.randn(B, L, D), torch.tensor(length)
    found = Branches(trunk, x, length, N, E, room=8)
    # The same branches as lists of vectors; rows are laid [E, B, N].
    rows = [x[b, : length[b]] for _ in range(E) for b in range(B) for _ in range(N)]

    def whole(rows):
        return torch.stack([trunk(r[None])[0, -1] for r in rows])

    def feed(rows):
        new = torch.randn(len(rows), 1, D)
        rows = [torch.cat((r, n)) for r, n in zip(rows, new, strict=True)]
        torch.testing.assert_close(found.feed(new), whole(rows), rtol=0, atol=1e-5)
        return rows

    torch.testing.assert_close(found.y, whole(rows[: B * N : N]), rtol=0, atol=1e-5)
    found.expand()
    rows = feed(feed(rows))
    chosen = torch.tensor([6, 0, 8, 9, 3, 3])
    found.keep(chosen)
    rows = feed([rows[i] for i in chosen])
    found.expand()
    rows = feed(rows * E)
    found.keep(torch.arange(B * N).flip(0).view(B, N).flip(0).flatten())
    feed([rows[i] for i in (2, 1, 0, 5, 4, 3)])
