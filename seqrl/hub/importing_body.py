"""A causal language model of transformers' made into a folder that ``model.base`` can name: safetensors, config, words.

Most already are that. What this is for are those published as old pickles (LWM's, in Llama's format, are shards of
``pytorch_model.bin``): their tensors are rewritten file by file, so that memory holds one shard at a time, and are held against
the model that the config describes, built without memory. What that model has not got is left out.
"""

import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seqrl.core.errors import BundleError
from seqrl.core.plain import read_json
from seqrl.hub import unpickle

if TYPE_CHECKING:
    from torch import Tensor

_WORDS = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json")
# Code to run, code that ran, and where it lay.
_LEFT = ("auto_map", "_name_or_path", "custom_pipelines")
# How configs call the number of layers, and more of them than any model has: each is built, even without memory.
_DEPTH, _DEEPEST = ("num_hidden_layers", "num_layers", "n_layer", "n_layers"), 1024


def is_decoder(kind: str) -> bool:
    """Whether transformers has a causal language model of this model type."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES


def make(found: Any, folder: Path, out: Path, **settings: Any) -> tuple[str, list[str], list[str]]:
    """Writes the folder of a body; arguments and answer as ``importing_policy.make``.

    Raises:
        BundleError: weights and config do not belong together, weights are quantised or of another dtype than a model's, or
            settings were given that only a policy has.
    """
    if given := [k for k, v in settings.items() if v is not None]:
        raise BundleError(f"{found.name}: is a language model, which has no {', '.join(given)}; leave them out")
    if found.config.get("quantization_config"):
        raise BundleError(f"{found.name}: its weights are quantised, and cannot be trained from; import the original")
    wanted, kept = _shapes(found)
    files = unpickle.weight_files(found.folder)
    where: dict[str, str] = {}
    left: list[str] = []
    total = 0
    for number, file in enumerate(files, 1):
        name = "model.safetensors" if len(files) == 1 else f"model-{number:05d}-of-{len(files):05d}.safetensors"
        read = _read(file)
        tensors = {key: tensor for key, tensor in read.items() if key in kept}
        left += [key for key in read if key not in kept]
        for key, tensor in tensors.items():
            own = kept[key]
            if tensor.shape != own.shape:
                raise BundleError(f"{found.name}: {key} is {tuple(tensor.shape)}, and its config says {tuple(own.shape)}")
            if tensor.dtype.is_floating_point != own.dtype.is_floating_point:
                raise BundleError(f"{found.name}: {key} is of dtype {_dtype(tensor)}, and its model's is {_dtype(own)}")
            total += tensor.nbytes
        _write(tensors, folder / name)
        where |= dict.fromkeys(tensors, name)
    if missing := sorted(set(wanted) - set(where)):
        raise BundleError(f"{found.name}: {len(missing)} weights are missing, such as {missing[0]}; is the upload whole?")
    if len(files) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": where}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1), encoding="utf-8")
    config = {k: v for k, v in found.config.items() if k not in _LEFT}
    (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    words = [name for name in _WORDS if (found.folder / name).is_file()]
    for name in words:
        _copy_words(found.folder / name, folder / name)
    if any(f.suffix == ".bin" for f in files):
        notes = [f"{len(files)} file{'s' if len(files) > 1 else ''} of pickles rewritten as safetensors"]
    else:
        notes = ["its weights were safetensors already"]
    if left:
        notes.append(f"{len(left):,} tensors that such a model has not got, or has twice, left out, such as {left[0][:99]}")
    length = found.config.get("max_position_embeddings")
    notes += [f"sees {length:,} tokens"] if isinstance(length, int) else []
    notes += [] if words else ["it brings no tokenizer"]
    numbers = sum(kept[name].numel() for name in wanted)
    return (
        f"a body: '{found.config['model_type']}' of {numbers:,} parameters",
        notes,
        [f"seqrl train lwm_finetune model.base={out}   # or any recipe whose model has a base"],
    )


def _dtype(tensor: "Tensor") -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _shapes(found: Any) -> "tuple[set[str], dict[str, Tensor]]":
    """Names of the weights that a model of this config must be given, and all it may be given, as tensors without memory."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    raw = {k: v for k, v in found.config.items() if k not in (*_LEFT, "model_type", "architectures")}
    for part in (found.config, found.config.get("text_config")):
        for name in _DEPTH if isinstance(part, dict) else ():
            if part.get(name) is not None and (type(part[name]) is not int or not 0 < part[name] <= _DEEPEST):
                raise BundleError(f"{found.name}: {name} must be 1 to {_DEEPEST}, and its config says {str(part[name])[:100]}")
    try:
        config = AutoConfig.for_model(found.config["model_type"], **raw)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    # Whatever another's constructor raises of a config, the config was at fault.
    except Exception as e:
        kind = found.config["model_type"]
        raise BundleError(f"{found.name}: no '{kind}' can be built of its config ({unpickle.reason(e)})") from e
    tied = set(getattr(model, "_tied_weights_keys", None) or ()) if config.tie_word_embeddings else set()
    wanted = {n for n, _ in model.named_parameters(remove_duplicate=False) if n not in tied}
    if not any(re.search(r"\.\d+\.", n) for n in wanted):
        raise BundleError(f"{found.name}: its config describes a model without layers; nothing can be trained from it")
    return wanted, {n: t for n, t in model.state_dict().items() if n not in tied}


def _read(file: Path) -> "dict[str, Tensor]":
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file) if file.suffix == ".safetensors" else unpickle.read_bin(file)
    except (SafetensorError, OSError) as e:
        raise BundleError(f"{file.name}: truncated or no safetensors file ({e})") from e


def _write(tensors: "dict[str, Tensor]", path: Path) -> None:
    from safetensors.torch import save_file

    seen: set[int] = set()
    alone = {}
    for name, tensor in tensors.items():
        # Two names of one storage (a tied head) are two tensors in a safetensors file.
        shared = tensor.untyped_storage().data_ptr() in seen
        seen.add(tensor.untyped_storage().data_ptr())
        alone[name] = tensor.clone() if shared else tensor.contiguous()
    save_file(alone, path, metadata={"format": "pt"})


def _copy_words(source: Path, target: Path) -> None:
    if source.name != "tokenizer_config.json":
        shutil.copyfile(source, target)
        return
    try:
        raw = read_json(source.read_text(encoding="utf-8"))
        kept = {k: v for k, v in raw.items() if k not in _LEFT}
    except (OSError, ValueError, AttributeError) as e:
        raise BundleError(f"{source.name}: cannot be read ({e})") from e
    target.write_text(json.dumps(kept, indent=1), encoding="utf-8")
