"""Which of transformers' decoders can be a body: refusals by name, and a proof for those nobody has looked at.

A body must keep plain keys and values in every layer, look at what its mask shows it and nothing else, and take positions
and vectors from outside. What a config tells against that is refused at once. The families in ``VERIFIED`` are held to it by
tests/parity/test_pretrained.py; any other has to show it on a few random vectors when it is built, and is refused by name
if packed rows, the cache or the logits come out differently. The code is always transformers' own, never a model's.
"""

import copy
import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from transformers import CONFIG_MAPPING, PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import get_layer_types_and_kwargs
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from seqrl.core.errors import RecipeError, did_you_mean
from seqrl.nn.attention import NO_DROPPED_WEIGHTS
from seqrl.nn.ringed import ring_refusal

if TYPE_CHECKING:
    from seqrl.nn.pretrained import Pretrained

VERIFIED = ("gemma", "gpt2", "gpt_neox", "llama", "mistral", "opt", "phi", "qwen2", "qwen3", "smollm3", "starcoder2")
_NEEDED = {"inputs_embeds", "attention_mask", "position_ids", "past_key_values"}
_KINDS = {"full_attention", "sliding_attention", "chunked_attention"}
_STATEFUL_ROPE = {"dynamic", "longrope"}
_WEIGHT_DROPS = ("attention_dropout", "attn_pdrop", "attn_dropout", "attention_probs_dropout_prob")


def refusal(kind: str, why: str) -> RecipeError:
    """The error for a model that cannot be a body."""
    return RecipeError(f"body: '{kind}' {why}, so it cannot be a body here; these can: {', '.join(VERIFIED)}")


def say(error: Exception) -> str:
    """What an error says, in one line that fits into another's message; its name where it says nothing."""
    return textwrap.shorten(str(error) or type(error).__name__, 200)


def read_config(config: Mapping[str, Any] | PreTrainedConfig) -> PreTrainedConfig:
    """A config of one's own, made of another or of what its ``to_dict`` gave.

    Raises:
        RecipeError: no ``model_type``, one that transformers itself has no decoder for, or settings it does not take.
    """
    kind = config.get("model_type") if isinstance(config, Mapping) else config.model_type
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or kind not in CONFIG_MAPPING:
        near = did_you_mean(kind, VERIFIED)
        raise RecipeError(
            f"body: transformers has no decoder of the model_type '{kind}'{near}; code that comes with a model is never run"
        )
    if not isinstance(config, Mapping):
        return copy.deepcopy(config)
    try:
        return CONFIG_MAPPING[kind].from_dict({k: v for k, v in config.items() if k != "auto_map"})
    # Configs check themselves with errors of many kinds.
    except Exception as error:
        raise RecipeError(f"body: no config of a '{kind}' ({say(error)})") from error


def check_config(config: PreTrainedConfig) -> int | None:
    """The fewest tokens that any layer looks back over, or None where all look back to the beginning.

    Raises:
        RecipeError: the config tells that the model cannot be a body.
    """
    kind = config.model_type
    if getattr(config, "is_encoder_decoder", False):
        raise refusal(kind, "is an encoder and a decoder")
    if config.get_text_config(decoder=True) is not config:
        raise refusal(kind, "is a decoder with senses of its own")
    if getattr(config, "attn_logit_softcapping", None):
        raise refusal(kind, "caps the scores of its attention (attn_logit_softcapping)")
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = {part.get("rope_type") for part in (rope, *rope.values()) if isinstance(part, Mapping)} & _STATEFUL_ROPE
    if kinds:
        raise refusal(kind, f"turns positions differently as a row grows ({', '.join(kinds)} rope), which no cache can follow")
    if not all(isinstance(getattr(config, n, None), int) for n in ("num_hidden_layers", "num_attention_heads", "hidden_size")):
        raise refusal(kind, "does not tell its layers, heads and width in the usual words")
    names, settings = get_layer_types_and_kwargs(config)
    if odd := sorted(set(names) - _KINDS):
        raise refusal(kind, f"has layers that keep something other than keys and values ({', '.join(odd)})")
    return min((s["sliding_window"] for s in settings if s.get("sliding_window")), default=None)


def check_ring(config: PreTrainedConfig, decoder: PreTrainedModel, window: int | None) -> None:
    """Raises RecipeError where what is known of a body tells that its rows cannot be cut over processes (nn/ringed.py).

    Args:
        window: what ``check_config`` answered.
    """
    kind = config.model_type
    if window is not None:
        raise ring_refusal(kind, f"has layers that look back {window} tokens only (a sliding window)")
    if decoder.config._attn_implementation == "eager" or not decoder._can_set_attn_implementation():
        raise ring_refusal(kind, "does not let its attention be replaced (no attention backend)")
    keys = getattr(config, "qk_head_dim", None) or getattr(config, "head_dim", None)
    values = getattr(config, "v_head_dim", None)
    if keys and values and keys != values:
        raise ring_refusal(kind, f"has values of {values} numbers for keys of {keys}")
    if any(name.rpartition(".")[2] == "sinks" for name, _ in decoder.named_parameters()):
        raise ring_refusal(kind, "adds sinks to its softmax")
    if any(getattr(config, name, 0) for name in _WEIGHT_DROPS):
        raise RecipeError(f"the body '{kind}': {NO_DROPPED_WEIGHTS}")


def check_decoder(kind: str, decoder: PreTrainedModel, out: Any) -> None:
    """Raises RecipeError where a decoder cannot be fed as a body must be, or has no plain matrices (``out``) at its ends."""
    if getattr(out, "weight", None) is None or getattr(decoder.get_input_embeddings(), "embedding_dim", None) is None:
        raise refusal(kind, "has no plain embedding of words or no output matrix")
    code = type(decoder).forward
    while hasattr(code, "__wrapped__"):
        code = code.__wrapped__
    if missing := sorted(_NEEDED - set(code.__code__.co_varnames[: code.__code__.co_argcount])):
        raise refusal(kind, f"takes no {', '.join(missing)}")


@torch.no_grad()
def prove(body: "Pretrained", model: PreTrainedModel) -> None:
    """Holds a body to its promises on two rows of six random vectors: logits, packed rows, cache.

    Args:
        body: made of ``model``. model: with its output matrix, in evaluation mode.

    Raises:
        RecipeError: one of them is not kept.
    """
    weight, kind, what = body.embedding.weight, body.config.model_type, "forward"
    x = torch.randn(2, 6, body.width, generator=torch.Generator().manual_seed(0))
    x = x.to(weight.device, weight.dtype) * weight.std()
    noise, share = (1e-5, 0.02) if weight.dtype == torch.float32 else (0.02, 0.2)

    def same(a: torch.Tensor, b: torch.Tensor, effect: float = 0.0) -> None:
        # With random weights tokens hardly move each other, so it is this effect that differences are measured by.
        found, most = float((a - b).abs().max()), max(noise * float(b.abs().max()), share * effect)
        if not found <= most:
            raise ValueError(f"off by {found:.1g}, where {most:.1g} is rounding")

    try:
        whole = body(x)
        what = "logits"
        same(body.logits(whole), model(inputs_embeds=x, use_cache=False).logits)
        what = "packed rows"
        parts = body(x.view(4, 3, -1)).view_as(x)
        effect = float((whole - parts).abs().max())
        same(body(x, pack=torch.tensor([[0, 0, 0, 1, 1, 1]], device=x.device).expand(2, -1)), parts, effect)
        what = "cache"
        cache = body.init_cache(2, 6)
        body.extend(x[:, :3], cache, places=torch.tensor([[0, 1, 2], [0, -1, -1]], device=x.device))
        found = body.extend(torch.stack((x[0, 3:6], x[1, 1:4])), cache)
        same(found, torch.stack((whole[0, 3:6], whole[1, 1:4])), effect)
    except RecipeError:
        raise
    except Exception as error:
        raise refusal(kind, f"fails the test of its {what} ({say(error)})") from error
