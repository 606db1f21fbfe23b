"""From transformers' DecisionTransformerModel to ours: the same actions, without the parts that nothing reads.

Theirs adds the constant ``wpe[0]`` to every token (behind the norm of the embeddings), so here it is folded into the bias of
that norm. The heads for states and returns, which the paper does not train, are left behind.
"""

from collections.abc import Mapping
from typing import Any

import torch

from seqrl.core.contracts import Ports
from seqrl.core.errors import BundleError
from seqrl.nn.twins import from_twin
from seqrl.policies.decision import DecisionTransformer, DecisionTransformerConfig

KIND = "policies.decision"
TAKES = ("decision_transformer",)

_OURS = {
    "embed_return": "embed.slots.return",
    "embed_state": "embed.slots.state",
    "embed_action": "embed.slots.action",
    "embed_timestep": "embed_time",
    "embed_ln": "embed_norm",
    "predict_action.0": "heads.action.out",
}
_MUST_BE = {
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
    "layer_norm_epsilon": 1e-5,
}


def from_hf(source: Any, config: Any = None, context: int = 20, ports: Ports | None = None) -> DecisionTransformer:
    """Our model with the weights of a ``transformers.DecisionTransformerModel``, in evaluation mode.

    Args:
        source: the model, or its state dict.
        config: its config where ``source`` is a state dict (a DecisionTransformerConfig).
        context: steps in a window; transformers 5 no longer keeps it in the config.
        ports: of the tokenizer it will act with; None makes those that follow from its config.

    Raises:
        BundleError: the model uses something ours has not got, or weights are missing.
    """
    weights: Mapping[str, torch.Tensor] = source if isinstance(source, Mapping) else source.state_dict()
    config = source.config if config is None else config
    for name, value in _MUST_BE.items():
        if getattr(config, name, value) != value:
            raise BundleError(
                f"{name} is {getattr(config, name)} in this Decision Transformer, and only {value} can be converted"
            )
    widths = {"return": 1, "state": config.state_dim, "action": config.act_dim}
    bounded = {"return": False, "state": False, "action": bool(config.action_tanh)}
    ours = DecisionTransformer(
        DecisionTransformerConfig.for_ports(
            ports or Ports("return state action", widths, dict.fromkeys(widths, 0), bounded),
            context,
            width=config.hidden_size,
            layers=config.n_layer,
            heads=config.n_head,
            inner=config.n_inner,
            activation=config.activation_function,
            max_time=config.max_ep_len,
            dropout=config.resid_pdrop,
            attention_dropout=config.attn_pdrop,
        )
    )
    made = {f"trunk.{k}": v for k, v in from_twin(ours.trunk.config, weights, "encoder.").items()}
    for theirs, name in _OURS.items():
        for leaf in ("weight", "bias"):
            if f"{theirs}.{leaf}" in weights:
                made[f"{name}.{leaf}"] = weights[f"{theirs}.{leaf}"].clone()
    missing = ours.state_dict().keys() - made.keys()
    if missing or "encoder.wpe.weight" not in weights:
        raise BundleError(
            f"these are not the weights of a Decision Transformer: {', '.join(sorted(missing) or ['encoder.wpe'])} missing"
        )
    made["embed_norm.bias"] += weights["encoder.wpe.weight"][0]
    ours.load_state_dict(made)
    return ours.eval()
