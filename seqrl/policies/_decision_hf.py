"""From transformers' DecisionTransformerModel to ours: the same actions, without the parts that nothing reads.

Theirs adds the constant ``wpe[0]`` to every token (behind the norm of the embeddings), so here it is folded into the bias of
that norm. The heads for states and returns, which the paper does not train, are left behind.

A config may claim any size at all: the model is built without memory, and takes the numbers of weights that have its shapes.
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
        BundleError: the model uses something ours has not got, or weights are missing or not those of its config.
    """
    weights: Mapping[str, torch.Tensor] = source if isinstance(source, Mapping) else source.state_dict()
    config = source.config if config is None else config
    for name, value in _MUST_BE.items():
        if getattr(config, name, value) != value:
            raise BundleError(
                f"{name} is {getattr(config, name)} in this Decision Transformer, and only {value} can be converted"
            )
    layers = config.n_layer
    found = sum(n.startswith("encoder.h.") and n.endswith(".ln_1.weight") for n in weights)
    if found != layers or not layers:
        raise BundleError(f"these are the weights of {found} layers, and the config of this Decision Transformer says {layers}")
    widths = {"return": 1, "state": config.state_dim, "action": config.act_dim}
    bounded = {"return": False, "state": False, "action": bool(config.action_tanh)}
    settings = DecisionTransformerConfig.for_ports(
        ports or Ports("return state action", widths, dict.fromkeys(widths, 0), bounded),
        context,
        width=config.hidden_size,
        layers=layers,
        heads=config.n_head,
        inner=config.n_inner,
        activation=config.activation_function,
        max_time=config.max_ep_len,
        dropout=config.resid_pdrop,
        attention_dropout=config.attn_pdrop,
    )
    try:
        with torch.device("meta"):
            ours = DecisionTransformer(settings)
        made = {f"trunk.{k}": v for k, v in from_twin(ours.trunk.config, weights, "encoder.").items()}
    # Sizes that no tensor can have, or weights of another rank.
    except (RuntimeError, ValueError, TypeError, ArithmeticError) as e:
        raise BundleError(f"no Decision Transformer can be made of this config and these weights ({e})") from e
    for theirs, name in _OURS.items():
        for leaf in ("weight", "bias"):
            if f"{theirs}.{leaf}" in weights:
                made[f"{name}.{leaf}"] = weights[f"{theirs}.{leaf}"].clone()
    own = ours.state_dict()
    missing = own.keys() - made.keys()
    if missing or "encoder.wpe.weight" not in weights:
        raise BundleError(
            f"these are not the weights of a Decision Transformer: {', '.join(sorted(missing) or ['encoder.wpe'])} missing"
        )
    places = weights["encoder.wpe.weight"]
    for name, tensor in own.items():
        if tensor.shape != made[name].shape or not made[name].is_floating_point():
            raise BundleError(
                f"{name} is {tuple(made[name].shape)} of {made[name].dtype} in these weights, and the config of this Decision "
                f"Transformer makes it {tuple(tensor.shape)} of numbers"
            )
    if places.ndim != 2 or not len(places) or places.shape[1] != config.hidden_size:
        raise BundleError(f"encoder.wpe is {tuple(places.shape)} in these weights, and must be (any, {config.hidden_size})")
    own = {k: made[k].to(tensor.dtype).contiguous() for k, tensor in own.items()}
    own["embed_norm.bias"] += places[0]
    # Assigned, since what was built has no memory to copy them to.
    ours.load_state_dict(own, assign=True)
    return ours.eval()
