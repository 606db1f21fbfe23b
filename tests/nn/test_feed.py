"""Feeding token after token, with all made beforehand, gives what extending gives, whatever the trunk and wherever rows are."""

import pytest
import torch

from seqrl.core import tree
from seqrl.nn.feed import Feed, head_major
from seqrl.nn.transformer import Transformer, family_config

B, D, ROOM = 3, 32, 12


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen3"])
@pytest.mark.parametrize("start", [(3, 3, 3), (3, 0, 2)], ids=["even", "ragged"])
@torch.inference_mode()
def test_a_feed_gives_what_extending_gives(family, start):
    torch.manual_seed(0)
    trunk = Transformer(family_config(family, width=D, layers=2, heads=4, kv_heads=2, max_positions=32)).eval()
    one = trunk.init_cache(B, ROOM)
    two = head_major(B, 2, ROOM, 2, D // 4, one.kv)
    assert two.kv.shape == one.kv.shape
    x = torch.randn(B, 9, D)
    for cache in (one, two):
        trunk.extend(x[:, :3], cache)
        cache.length.copy_(torch.tensor(start))
    feed = Feed(trunk, two, 6)
    assert feed.even == (len(set(start)) == 1)
    for a, b in ((3, 5), (5, 6), (6, 9)):
        torch.testing.assert_close(feed(x[:, a:b]), trunk.extend(x[:, a:b], one)[:, -1], rtol=0, atol=1e-5)
    assert torch.equal(one.length, two.length)
    # Chosen rows may lie otherwise in memory, and are the same.
    two = tree.index(two, torch.tensor([2, 0]))
    new = torch.randn(2, 1, D)
    wanted = trunk.extend(new, tree.index(one, torch.tensor([2, 0])))[:, 0]
    torch.testing.assert_close(Feed(trunk, two, 1)(new), wanted, rtol=0, atol=1e-5)


@torch.inference_mode()
def test_more_than_there_is_room_for_is_refused():
    trunk = Transformer(family_config("llama", width=D, layers=1, heads=4)).eval()
    with pytest.raises(ValueError, match="room for 4"):
        Feed(trunk, head_major(B, 1, 4, 4, D // 4, torch.zeros(())), 5)
