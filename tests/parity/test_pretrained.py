"""Decoders of transformers behind the face of our trunk: every verified family on tiny random weights, without a network."""

import sys

import pytest
import torch
from torch import nn
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from seqrl.core.errors import RecipeError
from seqrl.nn import pretrained
from seqrl.nn.admit import VERIFIED
from seqrl.nn.init import init_weights
from seqrl.nn.pretrained import Pretrained, add_lora
from seqrl.nn.transformer import Transformer
from seqrl.nn.twins import config_of_twin, from_twin

WORDS = {"vocab_size": 40, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
DEEP = WORDS | {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
SHARED = DEEP | {"num_key_value_heads": 2}
CONFIGS = dict.fromkeys(VERIFIED, SHARED) | {
    "gpt2": WORDS | {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "gpt_neox": DEEP,
    "gemma": SHARED | {"head_dim": 16},
    "qwen3": SHARED | {"head_dim": 16},
    "opt": DEEP | {"ffn_dim": 48, "word_embed_proj_dim": 16},
}
PACK = torch.tensor([[0] * 5 + [1] * 3 + [2] * 4, [0] * 10 + [-1] * 2])
DOCUMENTS = [(0, 0, 5), (0, 5, 8), (0, 8, 12), (1, 0, 10)]


def config(name, **more):
    return CONFIG_MAPPING[name](**(CONFIGS.get(name, SHARED) | more))


def pair(name, **more):
    """A body with strong random weights, and the model they are from."""
    torch.manual_seed(0)
    twin = AutoModelForCausalLM.from_config(config(name, **more)).eval()
    with torch.no_grad():
        for p in twin.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    return Pretrained(twin.config, twin).eval(), twin


def close(a, b, tolerance=1e-5):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", VERIFIED)
@torch.no_grad()
def test_words_become_the_models_own_logits(name):
    body, twin = pair(name)
    words = torch.randint(40, (3, 11))
    y = body(body.embedding(words))
    theirs = twin(words, output_hidden_states=True)
    close(body.logits(y), theirs.logits)
    close(y @ body.head_weight.T, theirs.logits - (0 if body.head is None or body.head.bias is None else body.head.bias))
    assert y.shape == (3, 11, body.width)
    assert body.head_weight.shape == (40, body.width)
    close(body(body.embedding(words), slice(1, None, 2)), y[:, 1::2])
    at = torch.tensor([[0, 10], [7, 3], [5, 5]])
    close(body(body.embedding(words), at), torch.stack([y[i, at[i]] for i in range(3)]))


@pytest.mark.parametrize("name", VERIFIED)
def test_packed_documents_equal_documents_alone_and_so_do_their_gradients(name):
    body, _ = pair(name)
    x = torch.randn(2, 12, body.width, requires_grad=True)
    y = body(x, pack=PACK)
    assert y.isfinite().all()
    alone = [body(x[row : row + 1, first:end])[0] for row, first, end in DOCUMENTS]
    for (row, first, end), z in zip(DOCUMENTS, alone, strict=True):
        close(y[row, first:end], z)
    given = [x, *(p for p in body.decoder.parameters() if p is not body.embedding.weight)]
    packed = torch.autograd.grad(y[PACK >= 0].square().sum(), given)
    for a, b in zip(packed, torch.autograd.grad(sum(z.square().sum() for z in alone), given), strict=True):
        close(a, b, 5e-4)


@pytest.mark.parametrize("name", VERIFIED)
@torch.no_grad()
def test_ragged_rows_from_the_cache_equal_whole_rows(name):
    body, _ = pair(name)
    x = torch.randn(3, 12, body.width)
    whole, cache = body(x), body.init_cache(3, 12)
    body.extend(x[:, :4], cache, places=torch.tensor([[0, 1, 2, 3], [0, 1, -1, -1], [-1, -1, -1, -1]]))
    assert cache.length.tolist() == [4, 2, 0]
    fed = torch.stack((x[0, 4:7], x[1, 2:5], x[2, 0:3]))
    y = body.extend(fed, cache)
    for i, first in enumerate((4, 2, 0)):
        close(y[i], whole[i, first : first + 3])
    body.extend(torch.randn(3, 2, body.width) * 5, cache)
    back = torch.tensor([[7, 8], [5, -1], [3, 4]])
    y = body.extend(x.gather(1, back.clamp(min=0)[..., None].expand(-1, -1, body.width)), cache, places=back)
    assert cache.length.tolist() == [9, 6, 5]
    close(y[0], whole[0, 7:9])
    close(y[1, 0], whole[1, 5])
    close(y[2], whole[2, 3:5])
    body.fill(x[[2, 0], :7], cache, torch.tensor([2, 0]), torch.tensor([7, 5]))
    chosen = cache.index(torch.tensor([0, 2]))
    y = body.extend(torch.stack((x[0, 5:6], x[2, 7:8])), chosen, torch.tensor([5, 7]), slice(-1, None))
    close(y[0, 0], whole[0, 5])
    close(y[1, 0], whole[2, 7])
    with pytest.raises(ValueError, match="room for 12"):
        body.extend(torch.randn(3, 6, body.width), cache, torch.tensor([7, 7, 7]))


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen2", "qwen3"])
@torch.no_grad()
def test_our_trunk_with_the_same_weights_is_the_same_function(name):
    body, _ = pair(name)
    trunk = Transformer(config_of_twin(body.config)).eval()
    trunk.load_state_dict(from_twin(trunk.config, body.decoder.state_dict()))
    x = torch.randn(2, 12, 32)
    close(body(x), trunk(x))
    close(body(x, pack=PACK)[PACK >= 0], trunk(x, pack=PACK)[PACK >= 0])
    places = torch.tensor([[0, 1, 2], [0, -1, -1]])
    caches = body.init_cache(2, 8), trunk.init_cache(2, 8)
    for m, cache in zip((body, trunk), caches, strict=True):
        m.extend(x[:, :3], cache, places=places)
    close(body.extend(x[:, 3:6], caches[0]), trunk.extend(x[:, 3:6], caches[1]))
    close(caches[0].kv[:, :, 1:2], caches[1].kv[:, :, 1:2])


@pytest.mark.parametrize("name", ["gpt2", "llama", "opt"])
def test_adapters_alone_are_learned_and_restored(name):
    body, _ = pair(name)
    x = torch.randn(2, 6, body.width)
    before, frozen = body(x), {n: p.clone() for n, p in body.named_parameters()}
    add_lora(body, rank=2, alpha=4)
    close(body(x), before)
    learned = {n for n, p in body.named_parameters() if p.requires_grad}
    assert learned
    assert all("lora_" in n for n in learned)
    optimizer = torch.optim.SGD([p for p in body.parameters() if p.requires_grad], 0.1)
    for _ in range(2):
        optimizer.zero_grad()
        body(x).square().mean().backward()
        optimizer.step()
    after = body(x)
    assert not torch.allclose(after, before)
    for n, p in body.named_parameters():
        assert n in learned or torch.equal(p, frozen[n.replace(".base_layer", "")])
    cache = body.init_cache(2, 6)
    close(body.extend(x, cache), after)
    state = body.state_dict()
    assert all(type(v) is torch.Tensor for v in state.values())
    fresh = Pretrained(body.config.to_dict())
    add_lora(fresh, rank=2, alpha=4)
    fresh.load_state_dict(state, strict=True)
    assert torch.equal(fresh.eval()(x), after)


def test_adapters_that_cannot_be_are_refused(monkeypatch):
    body, _ = pair("llama")
    with pytest.raises(RecipeError, match=r"q_prj name no layer .*'q_proj'"):
        add_lora(body, targets="q_prj")
    with pytest.raises(RecipeError, match="rank at least 1"):
        add_lora(body, rank=0)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(RecipeError, match=r"seqrl\[lora\]"):
        add_lora(body)


@pytest.mark.parametrize("name", ["gemma", "gpt2", "llama"])
def test_a_folder_is_loaded_and_only_safetensors(name, tmp_path):
    body, twin = pair(name)
    twin.save_pretrained(tmp_path / "safe")
    x = torch.randn(2, 5, body.width)
    assert torch.equal(Pretrained.load(tmp_path / "safe")(x), body(x))
    half = Pretrained.load(str(tmp_path / "safe"), torch.bfloat16)
    assert half(x).dtype == torch.bfloat16
    assert half.init_cache(1, 2).kv.dtype == torch.bfloat16
    twin.config.save_pretrained(tmp_path / "pickle")
    torch.save(twin.state_dict(), tmp_path / "pickle" / "pytorch_model.bin")
    with pytest.raises(RecipeError, match="weights as safetensors"):
        Pretrained.load(tmp_path / "pickle")
    with pytest.raises(RecipeError, match="no decoder could be loaded from"):
        Pretrained.load(tmp_path / "nothing")


class OuterConfig(PreTrainedConfig):
    """A policy's config with a body in it."""

    model_type = "seqrl_test_outer"
    body: dict | None = None
    lora: bool = False


class Outer(PreTrainedModel):
    """A policy with a body in it."""

    config_class = OuterConfig

    def __init__(self, config, body=None):
        super().__init__(config)
        self.body = body or Pretrained(config.body)
        if config.lora:
            add_lora(self.body, rank=2)
        self.out = nn.Linear(self.body.width, 3)
        self.post_init()

    def _init_weights(self, module):
        init_weights(module, 0.02)


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("name", ["gemma", "gpt2", "llama", "olmo2"])
def test_a_policy_with_a_body_is_saved_and_loaded(name, lora, tmp_path):
    body, _ = pair(name)
    x = torch.randn(2, 5, body.width)
    before = body(x)
    policy = Outer(OuterConfig(body=body.config.to_dict(), lora=lora), body).eval()
    # Finishing the policy must not draw anew what the body brought.
    close(policy.body(x), before)
    policy.save_pretrained(tmp_path)
    again = Outer.from_pretrained(tmp_path)
    assert torch.equal(again.body(x), policy.body(x))
    assert again.state_dict().keys() == policy.state_dict().keys()
    close(again.body.logits(before), policy.body.logits(before))


@pytest.mark.parametrize("name", ["gpt2", "llama"])
@torch.no_grad()
def test_autocast_stays_close(name):
    body, _ = pair(name)
    x = torch.randn(2, 12, body.width)
    whole, cache = body(x), body.init_cache(2, 12)
    with torch.autocast("cpu", torch.bfloat16):
        found = [body(x), body(x, pack=torch.zeros(2, 12, dtype=torch.int64)), body.extend(x, cache)]
    for y in found:
        torch.testing.assert_close(y.float(), whole, rtol=0.1, atol=0.15)


def test_a_config_comes_back_as_it_was():
    body = Pretrained({"model_type": "llama", **SHARED, "auto_map": {"AutoModelForCausalLM": "evil.Evil"}})
    again = Pretrained(body.config.to_dict())
    assert again.config.to_dict() == body.config.to_dict()
    assert again.state_dict().keys() == body.state_dict().keys()
    assert (body.width, body.max_positions) == (32, 64)


def test_contexts_that_are_too_long_are_refused():
    body, _ = pair("gpt2")
    body.check_context(64)
    for ask in (
        lambda: body.check_context(65),
        lambda: body.init_cache(1, 65),
        lambda: body(torch.zeros(1, 65, 32)),
        lambda: body(torch.zeros(1, 130, 32), pack=torch.tensor([[0] * 30 + [1] * 65 + [2] * 35])),
    ):
        with pytest.raises(RecipeError, match=r"'gpt2' has positions for 64 tokens, and the context has 65"):
            ask()
    # Rows may be as long as they like, where their documents are not.
    assert body(torch.zeros(1, 130, 32), pack=torch.tensor([[0] * 64 + [-1] * 66])).isfinite().all()
    body, _ = pair("mistral", sliding_window=8)
    body.check_context(8)
    with pytest.raises(RecipeError, match=r"'mistral' .* 8 tokens only \(a sliding window\), and the context has 9"):
        body.init_cache(1, 9)


@pytest.mark.parametrize("name", ["granite", "olmo2", "phi3", "stablelm", "qwen3_moe"])
@torch.no_grad()
def test_families_nobody_looked_at_prove_themselves(name):
    body = Pretrained(config(name))
    assert body.training
    x = torch.randn(1, 5, 32)
    close(body.eval().extend(x, body.init_cache(1, 5)), body(x))


@pytest.mark.parametrize(
    ("name", "more", "message"),
    [
        ("bart", {}, "'bart' is an encoder and a decoder"),
        ("bert", {}, "'bert' fails the test of its"),
        ("bloom", {}, "takes no position_ids"),
        ("cohere", {}, "'cohere' fails the test of its logits"),
        ("gemma2", {}, "caps the scores"),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "dynamic rope"),
        ("mamba", {}, r"keep something other than keys and values \(linear_attention\)"),
        ("recurrent_gemma", {}, r"linear_attention"),
        ("vit", {}, "no decoder of the model_type 'vit'"),
        ("gemma3", {}, "senses of its own"),
        ("llama", {"num_attention_heads": 5}, "no config of a 'llama' .*not a multiple"),
    ],
)
def test_models_that_cannot_be_honoured_are_refused_by_name(name, more, message):
    plain = {} if name in ("vit", "gemma3") else SHARED
    with pytest.raises(RecipeError, match=message):
        Pretrained({"model_type": name, **plain, **more})


def test_the_proof_finds_what_is_wrong(monkeypatch):
    monkeypatch.setattr(pretrained, "VERIFIED", ())
    Pretrained(config("llama"))
    # A cache that shows the new tokens alone, as of a model that passes it over.
    monkeypatch.setattr(pretrained._Feed, "update", lambda self, k, v, *_: (k, v))
    with pytest.raises(RecipeError, match="'llama' fails the test of its cache"):
        Pretrained(config("llama"))
    with pytest.raises(RecipeError, match="there is no|no decoder of the model_type 'lama'; did you mean 'llama'"):
        Pretrained({"model_type": "lama"})
