"""Moving weights between our trunk and transformers' GPT2Model, LlamaModel, Qwen2Model and Qwen3Model.

The twins keep queries, keys and values (and gate and up) apart where we join them, and GPT-2's ``Conv1D`` stores matrices
transposed. Token embeddings are not part of a trunk: they are passed over on the way in and absent on the way out.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from seqrl.core.errors import BundleError
from seqrl.nn.transformer import Transformer, TrunkConfig, family_config

# ours -> (theirs, joined along the outputs; whether theirs is transposed)
_GPT2 = {
    "norm1": (["ln_1"], False),
    "attn.qkv": (["attn.c_attn"], True),
    "attn.out": (["attn.c_proj"], True),
    "norm2": (["ln_2"], False),
    "mlp.up": (["mlp.c_fc"], True),
    "mlp.down": (["mlp.c_proj"], True),
}
_LLAMA = {
    "norm1": (["input_layernorm"], False),
    "attn.qkv": (["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"], False),
    "attn.norm_q": (["self_attn.q_norm"], False),
    "attn.norm_k": (["self_attn.k_norm"], False),
    "attn.out": (["self_attn.o_proj"], False),
    "norm2": (["post_attention_layernorm"], False),
    "mlp.up": (["mlp.gate_proj", "mlp.up_proj"], False),
    "mlp.down": (["mlp.down_proj"], False),
}


def _places(config: TrunkConfig) -> dict[str, tuple[list[str], bool]]:
    """Every module of a trunk with parameters, and where its twin keeps them."""
    gpt2 = config.norm == "layer"
    places = {"norm": (["ln_f" if gpt2 else "norm"], False)}
    if config.positions == "learned":
        places["positions"] = (["wpe"], False)
    for i in range(config.layers):
        for ours, (theirs, flip) in (_GPT2 if gpt2 else _LLAMA).items():
            places[f"blocks.{i}.{ours}"] = ([f"{'h' if gpt2 else 'layers'}.{i}.{name}" for name in theirs], flip)
    return places


def _parts(config: TrunkConfig, ours: str) -> list[int]:
    """How many outputs of a joined module belong to each of its twin's modules."""
    if ours.endswith("qkv"):
        return [config.heads * config.head_dim] + 2 * [config.kv_heads * config.head_dim]
    return 2 * [config.inner]


def from_twin(config: TrunkConfig, weights: Mapping[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
    """A trunk's state dict made of its twin's; names in ``weights`` begin with ``prefix`` (such as ``"model."``).

    Raises:
        BundleError: weights are missing.
    """
    made = {}
    with torch.device("meta"):
        expected = Transformer(config).state_dict()
    for ours, (theirs, flip) in _places(config).items():
        for leaf in ("weight", "bias"):
            if f"{ours}.{leaf}" not in expected:
                continue
            names = [f"{prefix}{name}.{leaf}" for name in theirs]
            missing = [name for name in names if name not in weights]
            if missing:
                raise BundleError(f"these weights are not those of such a trunk: {', '.join(missing)} missing")
            joined = torch.cat([weights[n] for n in names]) if len(names) > 1 else weights[names[0]]
            made[f"{ours}.{leaf}"] = (joined.t() if flip and leaf == "weight" else joined).contiguous().clone()
    return made


def to_twin(trunk: Transformer, prefix: str = "") -> dict[str, Tensor]:
    """The twin's state dict (without token embeddings) made of a trunk's; inverse of ``from_twin``."""
    weights, made = trunk.state_dict(), {}
    for ours, (theirs, flip) in _places(trunk.config).items():
        for leaf in ("weight", "bias"):
            whole = weights.get(f"{ours}.{leaf}")
            if whole is None:
                continue
            parts = whole.split(_parts(trunk.config, ours)) if len(theirs) > 1 else [whole]
            for name, part in zip(theirs, parts, strict=True):
                made[f"{prefix}{name}.{leaf}"] = (part.t() if flip and leaf == "weight" else part).contiguous().clone()
    return made


def config_of_twin(twin: Any) -> TrunkConfig:
    """The trunk config equal to a GPT2Config, LlamaConfig, Qwen2Config or Qwen3Config.

    Raises:
        BundleError: the twin uses something our trunk has not got.
    """
    family = twin.model_type
    if family == "gpt2":
        odd = [k for k in ("add_cross_attention", "scale_attn_by_inverse_layer_idx") if getattr(twin, k, False)]
        settings: dict[str, Any] = {
            "inner": twin.n_inner,
            "activation": twin.activation_function,
            "eps": twin.layer_norm_epsilon,
            "max_positions": twin.n_positions,
            "dropout": twin.resid_pdrop,
            "attention_dropout": twin.attn_pdrop,
        }
    else:
        rope = twin.rope_parameters or {}
        odd = [k for k in ("use_sliding_window", "mlp_bias") if getattr(twin, k, False)]
        odd += ["rope_parameters"] if rope.get("rope_type", "default") != "default" else []
        odd += ["attention_bias"] if family != "qwen2" and getattr(twin, "attention_bias", False) else []
        settings = {
            "kv_heads": twin.num_key_value_heads,
            "head_dim": getattr(twin, "head_dim", None),
            "inner": twin.intermediate_size,
            "activation": twin.hidden_act,
            "eps": twin.rms_norm_eps,
            "rope_theta": rope.get("rope_theta"),
            "attention_dropout": twin.attention_dropout,
        }
    if odd:
        raise BundleError(f"this {family} uses {', '.join(odd)}, which our trunk does not have")
    return family_config(
        family, width=twin.hidden_size, layers=twin.num_hidden_layers, heads=twin.num_attention_heads, **settings
    )
