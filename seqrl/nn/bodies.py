"""Whether a language model fits a recipe, and what a model built on one needs besides: its config, its words, its weights.

The model's config holds the whole config of its body, so that a bundle is complete and whoever loads it reads no other folder.
Everything that does read one (a *base*: a folder or a repository of the Hub) is called when a run starts, and nowhere else.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig

from seqrl.core.errors import RecipeError, did_you_mean
from seqrl.nn.admit import check_config, read_config, say
from seqrl.nn.pretrained import Pretrained

# Of a config: where it lay, which class wrote it, what a classifier needs, and what is decided here.
_LEFT = {"_name_or_path", "architectures", "dtype", "id2label", "label2id", "transformers_version", "use_cache"}

_LORA: dict[str, Any] = {"rank": int, "alpha": int | float, "dropout": int | float, "targets": str | list | tuple}


def choose_body(base: str | None, body: dict | None) -> dict | None:
    """The config of the body that a recipe names by ``model.base`` or gives as ``model.body``.

    Raises:
        RecipeError: it does both or neither, or ``base`` is none that can be a body.
    """
    if (base is None) == (body is None):
        raise RecipeError(
            "model.base: name the language model to begin with, a folder or an id on the Hub (such as "
            "model.base=Qwen/Qwen2.5-0.5B); or give model.body, a config, to begin at random; "
            + ("not both" if base else "here is neither")
        )
    return body if base is None else base_config(base)


def check_lora(lora: Mapping[str, Any] | None, freeze: bool) -> None:
    """Raises RecipeError on a setting of ``model.lora`` that there is not, or on one together with ``model.freeze``."""
    for name, value in (lora or {}).items():
        if name not in _LORA:
            raise RecipeError(f"model.lora.{name}: unknown{did_you_mean(name, _LORA)} (there are: {', '.join(_LORA)})")
        if isinstance(value, bool) or not isinstance(value, _LORA[name]):
            raise RecipeError(f"model.lora.{name}: {value!r} is none of its values")
    if lora is not None and freeze:
        raise RecipeError("model.freeze: with model.lora the body is frozen already; leave one of them out")


def plain_config(raw: Mapping[str, Any] | PreTrainedConfig) -> dict[str, Any]:
    """A decoder's config as plain JSON: what its class knows and nothing else.

    A config out of somebody's bundle may also name attention kernels by repository, or a quantiser; none of that is kept.

    Raises:
        RecipeError: it is no config of a decoder of transformers, or of one that cannot be a body.
    """
    config = read_config(raw)
    check_config(config)
    known = set(type(config)().to_dict()) - _LEFT
    return {key: value for key, value in config.to_dict().items() if key in known}


def base_config(base: str) -> dict[str, Any]:
    """The plain config of a folder or a repository of the Hub; raises RecipeError where there is none that can be a body."""
    try:
        found = AutoConfig.from_pretrained(place(base), trust_remote_code=False)
    except (OSError, ValueError) as e:
        raise RecipeError(
            f"model.base: '{base}' is no folder with config.json and weights as safetensors, nor the id of such a repository "
            f"on the Hub ({say(e)})"
        ) from e
    return plain_config(found)


def place(base: str) -> str:
    """A folder with ``~`` spelled out; an id of the Hub as it is."""
    folder = Path(base).expanduser()
    return str(folder) if folder.is_dir() else base


def check_room(config: Mapping[str, Any], tokens: int) -> None:
    """Raises RecipeError where a body of this config cannot take rows of ``tokens`` tokens."""
    read = read_config(config)
    most = min(filter(None, (getattr(read, "max_position_embeddings", None), check_config(read))), default=None)
    if most is not None and tokens > most:
        raise RecipeError(
            f"the body '{read.model_type}' sees {most} tokens at most, and a row has {tokens}; "
            f"set tokens.pack={most} or lower, or take a body that sees more"
        )


def words_of(base: str) -> int | None:
    """Ids of the tokenizer that comes with a body; None where none comes with it."""
    file = Path(place(base)) / "tokenizer.json"
    try:
        if file.is_file():
            found = Tokenizer.from_file(str(file))
        else:
            found = AutoTokenizer.from_pretrained(place(base), use_fast=True, trust_remote_code=False)
        return max(found.get_vocab().values()) + 1
    except Exception:  # the Hub, its files and the libraries each raise their own, and weights may come without words
        return None


def wake(body: Pretrained, _: Any = None) -> None:
    """Fills what no file holds, after a body built on the meta device was given its weights: its angles of positions, in place.

    They are buffers that transformers never saves, and computes where it draws initial weights.
    """
    for module in body.decoder.modules():
        lost = [n for n in module._non_persistent_buffers_set if module._buffers[n].is_meta]
        if not lost:
            continue
        for name in lost:
            module._buffers[name] = torch.empty_like(module._buffers[name], device=body.embedding.weight.device)
        there = list(module.parameters(recurse=False))
        for p in there:
            p._is_hf_initialized = True
        body.decoder._init_weights(module)
        for p in there:
            del p._is_hf_initialized


def train_only(body: Pretrained, freeze: bool, fed: bool, said: bool) -> None:
    """Leaves untrained what is frozen or never used: a matrix without a gradient needs no moments, and several processes would
    wait for one.

    Args:
        freeze: all of the body. fed, said: whether any word is fed, or predicted.
    """
    if freeze:
        body.requires_grad_(False)
    if body.head is not None and not said:
        body.head.requires_grad_(False)
    if not fed and not (said and body.head is None):
        body.embedding.requires_grad_(False)
