"""The trunk equals transformers' classes: same weights, same outputs, and the weights go both ways."""

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2Model,
    LlamaConfig,
    LlamaModel,
    Qwen2Config,
    Qwen2Model,
    Qwen3Config,
    Qwen3Model,
)

from seqrl.core.errors import BundleError
from seqrl.nn.transformer import Transformer
from seqrl.nn.twins import config_of_twin, from_twin, to_twin

NONE = {"vocab_size": 3, "bos_token_id": None, "eos_token_id": None}
GPT2 = NONE | {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64}
LLAMA = NONE | {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
TWINS = {
    "gpt2": (GPT2Model, GPT2Config(**GPT2)),
    "gpt2-relu": (GPT2Model, GPT2Config(**GPT2, activation_function="relu", n_inner=80)),
    "llama": (LlamaModel, LlamaConfig(**LLAMA, rope_parameters={"rope_type": "default", "rope_theta": 5000.0})),
    "qwen2": (Qwen2Model, Qwen2Config(**LLAMA)),
    "qwen3": (Qwen3Model, Qwen3Config(**LLAMA, head_dim=16)),
}


def pair(name):
    torch.manual_seed(0)
    kind, config = TWINS[name]
    twin = kind(config).eval()
    with torch.no_grad():
        for p in twin.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    ours = Transformer(config_of_twin(config)).eval()
    ours.load_state_dict(from_twin(ours.config, twin.state_dict()))
    return ours, twin


@pytest.mark.parametrize("name", TWINS)
@torch.no_grad()
def test_outputs_are_equal(name):
    ours, twin = pair(name)
    x = torch.randn(3, 17, 32)
    torch.testing.assert_close(ours(x), twin(inputs_embeds=x).last_hidden_state, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", TWINS)
def test_gradients_are_equal(name):
    ours, twin = pair(name)
    x = torch.randn(2, 9, 32)
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    ours(a).square().sum().backward()
    twin(inputs_embeds=b).last_hidden_state.square().sum().backward()
    torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", TWINS)
def test_weights_go_both_ways(name):
    ours, twin = pair(name)
    back = to_twin(ours, "model.")
    left = twin.state_dict()
    assert {n.removeprefix("model.") for n in back} == set(left) - {"wte.weight", "embed_tokens.weight"}
    assert all(torch.equal(w, left[n.removeprefix("model.")]) for n, w in back.items())
    again = from_twin(ours.config, back, "model.")
    assert all(torch.equal(again[n], w) for n, w in ours.state_dict().items())


def test_what_the_trunk_has_not_got_is_refused():
    with pytest.raises(BundleError, match="scale_attn_by_inverse_layer_idx"):
        config_of_twin(GPT2Config(**GPT2, scale_attn_by_inverse_layer_idx=True))
    rope = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}
    with pytest.raises(BundleError, match="rope_parameters"):
        config_of_twin(LlamaConfig(**LLAMA, rope_parameters=rope))
    ours, twin = pair("llama")
    weights = twin.state_dict()
    del weights["layers.1.mlp.up_proj.weight"]
    with pytest.raises(BundleError, match=r"layers\.1\.mlp\.up_proj\.weight missing"):
        from_twin(ours.config, weights)
