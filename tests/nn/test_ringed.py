"""Ring attention in one process, and all the ways in which a body must not be silently wrong."""

import copy
import pickle

import pytest
import torch
from torch.utils.checkpoint import checkpoint
from transformers import LlamaConfig

from seqrl.context.cut import cut_rows
from seqrl.core.contracts import LongBody
from seqrl.core.errors import RecipeError
from seqrl.nn import attention, ringed
from seqrl.nn.pretrained import Pretrained
from seqrl.nn.transformer import Transformer, family_config

SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 40}
PACK = torch.tensor([[0] * 5 + [1] * 3 + [2] * 4, [0] * 10 + [-1] * 2])
POS = attention.places_in(PACK).where(PACK >= 0, 0)


def alone(pack):
    return cut_rows(pack, None, 1, 0)


def bodies():
    torch.manual_seed(0)
    return {
        "own": Transformer(family_config("llama", width=32, layers=2, heads=4, kv_heads=2)),
        "llama": Pretrained(LlamaConfig(**SMALL, num_key_value_heads=2)),
    }


both = pytest.mark.parametrize("name", ["own", "llama"])


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@both
def test_one_process_with_a_cut_is_the_packed_pass(name):
    body = bodies()[name]
    assert isinstance(body, LongBody)
    body.prepare_ring()
    body.prove_ring(1, alone)
    x, cut = torch.randn(2, 12, 32), alone(PACK)
    found, wanted = body(cut.take(x), pos=cut.take(POS), cut=cut), body(x, pack=PACK)
    assert found.shape == (1, 24, 32)
    close(found, cut.take(wanted))


@both
def test_arguments_that_do_not_go_with_a_cut_are_named(name):
    body, cut = bodies()[name], alone(PACK)
    x, pos = cut.take(torch.randn(2, 12, 32)), cut.take(POS)
    with pytest.raises(ValueError, match="answers all of its tokens"):
        body(x, slice(1, None), pos=pos, cut=cut)
    with pytest.raises(ValueError, match="a cut of 24 tokens takes x"):
        body(x, cut=cut)
    with pytest.raises(ValueError, match="a cut of 24 tokens takes x"):
        body(x[:, :20], pos=pos[:, :20], cut=cut)


@both
def test_the_proof_finds_attention_that_sees_other_documents(name, monkeypatch):
    def careless(q, k, v, cut, scale=None):
        cut.called()
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)

    body = bodies()[name]
    for room in (ringed, attention):
        monkeypatch.setattr(room, "ring_attention", careless)
    with pytest.raises(RecipeError, match="says something else over a cut"):
        body.prove_ring(1, alone)


@both
def test_the_proof_finds_layers_that_never_ask(name, monkeypatch):
    def silent(q, k, v, cut, scale=None):
        before = cut.calls
        out = own(q, k, v, cut, scale)
        object.__setattr__(cut, "calls", before)
        return out

    body, own = bodies()[name], ringed.ring_attention
    for room in (ringed, attention):
        monkeypatch.setattr(room, "ring_attention", silent)
    with pytest.raises(RecipeError, match="asked the ring 0 times in 2 layers"):
        body.prove_ring(1, alone)


@both
def test_the_proof_leaves_everything_as_it_was(name):
    body = bodies()[name].train()
    body.requires_grad_(True)
    next(iter(body.children())).eval()
    modes = [m.training for m in body.modules()]
    state = torch.get_rng_state()
    body.prove_ring(1, alone)
    assert modes == [m.training for m in body.modules()]
    assert torch.equal(state, torch.get_rng_state())
    assert all(p.grad is None for p in body.parameters())


def test_attention_that_was_not_told_raises():
    body, cut = bodies()["llama"], alone(PACK)
    body.prepare_ring()
    del body.decoder.layers[1].self_attn._seqrl_ring
    with pytest.raises(RecipeError, match=r"'llama' has an attention that was not told of the cut \(LlamaAttention\)"):
        body(cut.take(torch.randn(2, 12, 32)), pos=cut.take(POS), cut=cut)
    # Nothing of the failed pass is left behind.
    assert ringed._INSIDE.get() is None
    assert body(torch.randn(2, 12, 32)).isfinite().all()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"sliding_window": 8}, "looks back over a window"),
        ({"softcap": 5.0}, "caps its scores"),
        ({"s_aux": torch.zeros(4)}, "adds sinks"),
        ({"is_causal": False}, "what comes after"),
        ({"attention_mask": torch.zeros(1, 1, 4, 4)}, "a mask of its own"),
        ({"value": torch.zeros(1, 2, 4, 6)}, "values of 6 numbers for keys of 8"),
        ({"key": torch.zeros(1, 2, 3, 8), "value": torch.zeros(1, 2, 3, 8)}, "3 keys for 4 tokens"),
        ({"dropout": 0.1}, "attention_dropout"),
    ],
)
def test_what_attention_is_asked_for_is_looked_at(more, message):
    body, cut = bodies()["llama"], alone(torch.zeros(1, 4, dtype=torch.int64))
    body.prepare_ring()
    plain = {"query": torch.zeros(1, 4, 4, 8), "key": torch.zeros(1, 2, 4, 8), "value": torch.zeros(1, 2, 4, 8)}
    with body._ring.inside(cut), pytest.raises(RecipeError, match=message):
        ringed._attend(body.decoder.layers[0].self_attn, **{**plain, "attention_mask": None, **more})


def test_dropout_on_weights_is_refused_and_on_branches_is_not():
    trunk = Transformer(family_config("gpt2", width=32, layers=1, heads=4, attention_dropout=0.1))
    with pytest.raises(RecipeError, match="attention_dropout"):
        trunk.prepare_ring()
    cut = alone(PACK)
    with pytest.raises(RecipeError, match="attention_dropout"):
        trunk(cut.take(torch.randn(2, 12, 32)), pos=cut.take(POS), cut=cut)
    Transformer(family_config("gpt2", width=32, layers=1, heads=4, dropout=0.1)).prepare_ring()


def test_somebody_else_s_recomputation_sees_the_cut_too():
    """Layers wrapped by hand, as libraries do: the cut of the last pass is still there in the backward pass."""
    body, cut = bodies()["llama"], alone(PACK)
    body.prepare_ring()
    x = torch.randn(2, 12, 32)

    def gradient(wrapped):
        layers, kept = body.decoder.layers, [m.forward for m in body.decoder.layers]
        if wrapped:
            for layer, own in zip(layers, kept, strict=True):
                layer.forward = lambda *a, own=own, **k: checkpoint(own, *a, use_reentrant=False, **k)
        given = x.clone().requires_grad_()
        body(cut.take(given), pos=cut.take(POS), cut=cut).square().sum().backward()
        for layer in layers if wrapped else ():
            del layer.forward
        return given.grad

    before = cut.calls
    wanted = gradient(False)
    assert cut.calls == before + 2
    assert torch.equal(gradient(True), wanted)
    assert cut.calls == before + 6


def test_copies_are_in_no_pass():
    body, cut = bodies()["llama"], alone(PACK)
    body.prepare_ring()
    x = torch.randn(2, 12, 32)
    y = body(cut.take(x), pos=cut.take(POS), cut=cut)
    for twin in (copy.deepcopy(body), pickle.loads(pickle.dumps(body))):
        assert twin._ring is not body._ring
        assert twin._ring.cut is None
        assert twin.decoder.layers[0].self_attn._seqrl_ring is twin._ring
        assert torch.equal(twin(cut.take(x), pos=cut.take(POS), cut=cut), y)


def test_a_saved_config_does_not_name_the_ring(tmp_path):
    body = bodies()["llama"]
    before = body.config.to_dict()
    body.prepare_ring()
    assert body.config.to_dict() == before
    body.decoder.save_pretrained(tmp_path)
    assert "ring" not in (tmp_path / "config.json").read_text()
