"""Longer rows: more positions, another base of the rotary angles, and configs that say so when they are saved."""

import pytest
import torch
from transformers import CONFIG_MAPPING

from seqrl.core.contracts import Ports
from seqrl.core.errors import RecipeError
from seqrl.nn.pretrained import Pretrained
from seqrl.nn.transformer import Transformer, family_config
from seqrl.policies import gato, vla

SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 40,
    "max_position_embeddings": 16,
    "pad_token_id": None,
}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
CONFIGS = {
    "llama": SMALL,
    "llama3": SMALL | {"rope_parameters": LLAMA3 | {"original_max_position_embeddings": 8}},
    "qwen3": SMALL | {"head_dim": 16, "num_key_value_heads": 2},
    # These turn a part of each head only.
    "gpt_neox": SMALL | {"hidden_size": 64},
    "phi": SMALL | {"hidden_size": 64},
    "stablelm": SMALL | {"hidden_size": 64, "num_key_value_heads": 4},
}


def body_of(name, **more):
    torch.manual_seed(0)
    body = Pretrained(CONFIG_MAPPING[name.replace("llama3", "llama")](**CONFIGS[name] | more)).eval()
    with torch.no_grad():
        for p in body.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    return body


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_a_stretched_body_is_one_that_was_built_so(name):
    body = body_of(name)
    x = torch.randn(1, 24, body.width)
    with pytest.raises(RecipeError, match="positions for 16 tokens"):
        body(x)
    before = body(x[:, :16])
    body.stretch(24, None)
    torch.testing.assert_close(body(x)[:, :16], before)
    short = body(x)
    body.stretch(32, 1e6)
    assert not torch.allclose(body(x), short, atol=1e-4)
    assert body.max_positions == 32
    again = Pretrained(body.config.to_dict()).eval()
    again.load_state_dict(body.state_dict())
    assert torch.equal(again(x), body(x))
    assert again.max_positions == 32
    assert body.decoder.config.rope_parameters["rope_theta"] == 1e6


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
@torch.no_grad()
def test_a_stretched_trunk_is_one_that_was_built_so(family):
    torch.manual_seed(0)
    trunk, x = Transformer(family_config(family, width=32, layers=2, heads=4)).eval(), torch.randn(2, 24, 32)
    for p in trunk.parameters():
        p.add_(torch.randn_like(p) * 0.1)
    before = trunk(x)
    trunk.stretch(4096, None)
    assert torch.equal(trunk(x), before)
    trunk.stretch(None, 1e6)
    assert not torch.allclose(trunk(x), before, atol=1e-4)
    assert (trunk.config.max_positions, trunk.config.rope_theta) == (4096, 1e6)
    again = Transformer(trunk.config).eval()
    again.load_state_dict(trunk.state_dict())
    assert torch.equal(again(x), trunk(x))
    cache = trunk.init_cache(2, 24)
    torch.testing.assert_close(trunk.extend(x, cache), trunk(x), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_angles_follow_a_body_built_without_numbers():
    with torch.device("meta"):
        body = Pretrained(CONFIG_MAPPING["llama"](**SMALL))
    body.stretch(32, 1e6)
    assert all(b.is_meta for b in body.buffers())


def test_what_cannot_be_stretched_is_named():
    words = {"vocab_size": 40, "bos_token_id": None, "eos_token_id": None}
    gpt2 = Pretrained(CONFIG_MAPPING["gpt2"](**words, n_embd=32, n_layer=1, n_head=4, n_positions=16))
    trunk = Transformer(family_config("gpt2", width=32, layers=1, heads=4, max_positions=16))
    for body, name in ((gpt2, "gpt2"), (trunk, "trunk")):
        body.stretch(16, None)
        with pytest.raises(RecipeError, match=rf"'{name}' has 16 learned positions and cannot be stretched to 32"):
            body.stretch(32, None)
        with pytest.raises(RecipeError, match=rf"'{name}' has no rotary angles"):
            body.stretch(None, 1e6)
        with pytest.raises(RecipeError, match="at least 1 token"):
            body.stretch(0, None)
    with pytest.raises(RecipeError, match="rope_base: above 1"):
        body_of("llama").stretch(32, 0.5)


PORTS = Ports(
    "state action",
    {"state": 2, "action": 2},
    {"state": 16, "action": 5},
    {"state": False, "action": False},
    {"state": 2, "action": 2},
    {"state": "bins16", "action": "choice"},
)


@pytest.mark.parametrize(("room", "settings"), [(vla, {}), (gato, {"body": "llama"})])
@torch.no_grad()
def test_a_bundle_remembers_how_far_its_body_was_stretched(room, settings, tmp_path):
    torch.manual_seed(0)
    model = room.Model(room.Config.tiny({"a": PORTS}, 16, **settings)).eval()
    for p in model.trunk.parameters():
        p.add_(torch.randn_like(p) * 0.1)
    before = model.trunk(torch.ones(1, 12, 32) * torch.arange(12.0)[:, None])
    if hasattr(model, "stretch"):
        model.stretch(24, 1e6)
    else:
        model.trunk.stretch(24, 1e6)
        model.config.length, model.config.rope_base = 24, 1e6
    model.save_pretrained(tmp_path)
    again, x = room.Model.from_pretrained(tmp_path).eval(), torch.ones(1, 24, 32) * torch.arange(24.0)[:, None]
    assert again.config.length == 24
    assert torch.equal(again.trunk(x), model.trunk(x))
    assert not torch.allclose(model.trunk(x)[:, :12], before, atol=1e-4)
