"""What is computed again is what was computed: losses and gradients bit for bit, dropout included, with less kept."""

import copy

import pytest
import torch
from transformers import GPT2Config, LlamaConfig, MixtralConfig

from seqrl.core.errors import RecipeError
from seqrl.nn.pretrained import Pretrained
from seqrl.nn.recompute import in_chunks
from seqrl.nn.transformer import FAMILIES, Transformer, family_config

SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 40}
SMALL |= {"bos_token_id": None, "eos_token_id": None}
GPT2 = {
    "vocab_size": 40,
    "n_positions": 64,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "bos_token_id": None,
    "eos_token_id": None,
}
PACK = torch.tensor([[0] * 5 + [1] * 3 + [2] * 4, [0] * 10 + [-1] * 2])


def body_of(name, drop):
    torch.manual_seed(0)
    if name in FAMILIES:
        settings = {"width": 32, "layers": 2, "heads": 4, "dropout": drop, "attention_dropout": drop}
        return Transformer(family_config(name, **settings)).train()
    configs = {
        "hf-gpt2": GPT2Config(**GPT2, resid_pdrop=drop, embd_pdrop=drop, attn_pdrop=drop),
        "hf-llama": LlamaConfig(**SMALL, attention_dropout=drop),
        "hf-mixtral": MixtralConfig(**SMALL, num_key_value_heads=2, num_local_experts=4, sliding_window=None),
    }
    return Pretrained(configs[name]).train()


NAMES = [*FAMILIES, "hf-gpt2", "hf-llama", "hf-mixtral"]
every = pytest.mark.parametrize("name", NAMES)


def run(body, how="none", feed=None):
    """The output, and the gradients of the input and of every weight; numbers kept for the backward pass."""
    body = copy.deepcopy(body)
    body.recompute(how, feed)
    torch.manual_seed(1)
    x, kept = torch.randn(2, 12, 32, requires_grad=True), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        y = body(x, pack=PACK)
    y.square().mean().backward()
    return [y.detach(), x.grad, *(p.grad for p in body.parameters() if p.grad is not None)], sum(kept)


@every
@pytest.mark.parametrize("drop", [0.0, 0.3])
@pytest.mark.parametrize("how", ["blocks", "offload"])
def test_blocks_are_the_same_bit_for_bit(name, drop, how):
    body = body_of(name, drop)
    wanted, kept = run(body)
    found, less = run(body, how)
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
    assert less < 0.5 * kept


@every
@pytest.mark.parametrize("how", ["none", "blocks"])
def test_chunks_of_the_feed_forward_layer_are_the_same_but_for_rounding(name, how):
    body = body_of(name, 0.0)
    wanted, kept = run(body)
    found, less = run(body, how, 5)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    assert less < kept


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_chunks_with_dropout_behind_the_layer_draw_the_same(name):
    body = body_of(name, 0.3)
    for a, b in zip(run(body, "blocks", 5)[0], run(body)[0], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@every
def test_caches_and_passes_without_gradients_are_as_before(name):
    body = body_of(name, 0.0)
    x = torch.randn(2, 12, 32)
    with torch.no_grad():
        wanted = body(x)
    body.recompute("blocks", 5)
    cache = body.init_cache(2, 12)
    found = torch.cat((body.extend(x[:, :7], cache), body.extend(x[:, 7:], cache)), 1)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(body(x), wanted, rtol=1e-5, atol=1e-5)
    # A pass over a cache takes nothing from the passes behind it.
    assert run(body, "blocks")[1] < 0.5 * run(body)[1]


@every
def test_it_can_be_taken_back_and_leaves_no_name(name):
    body = body_of(name, 0.0)
    names, (wanted, kept) = list(body.state_dict()), run(body)
    body.recompute("offload", 5)
    assert list(body.state_dict()) == names
    body.recompute()
    found, again = run(body)
    assert again == kept
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_a_copy_computes_with_its_own_weights():
    body = body_of("hf-llama", 0.0)
    body.recompute("blocks", 5)
    twin, x = copy.deepcopy(body), torch.randn(1, 12, 32)
    before = twin(x)
    with torch.no_grad():
        for p in body.parameters():
            p.zero_()
    assert torch.equal(twin(x), before)


def test_wrong_input_is_named():
    body = body_of("llama", 0.0)
    with pytest.raises(RecipeError, match=r"unknown 'block'; did you mean 'blocks'.*none, blocks, offload"):
        body.recompute("block")
    with pytest.raises(RecipeError, match="at least 1 token"):
        body.recompute("none", 0)
    other = body_of("hf-llama", 0.0)
    for layer in other.decoder.layers:
        layer.experts = layer.mlp
        del layer.mlp
    with pytest.raises(RecipeError, match="'llama' has no feed-forward layers that are known"):
        other.recompute("none", 4)


def test_chunks_of_several_rows_are_put_together_in_order():
    x = torch.arange(24.0).view(2, 12, 1)
    assert torch.equal(in_chunks(lambda t: t.view(-1, 1).view(t.shape) * 2, x, 5), x * 2)
