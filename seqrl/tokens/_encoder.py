"""A trained encoder, taken out of its run folder or put together again from what a tokenizer kept of it.

The folder is a bundle's: ``recipe.yaml`` names the kind, ``config.json`` holds its settings, ``model.safetensors`` its weights;
nothing else is read, and only kinds of this house's ``encoders`` are made. A tokenizer that reads with an encoder keeps all
three itself, so the folder is needed once. PyTorch is loaded when an encoder is, not with the codec's settings.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from seqrl.core import kinds
from seqrl.core.errors import BundleError, RecipeError, did_you_mean
from seqrl.core.plain import read_json, read_yaml
from seqrl.core.settings import check_depth

# Where the bundle is in what may be named: itself, a checkpoint, a run.
_INSIDE = (".", "bundle", "checkpoints/last/bundle")
_FILES = ("recipe.yaml", "config.json", "model.safetensors")


@dataclass(frozen=True)
class Encoder:
    """A model that turns frames into codes, and all that it takes to make it again.

    Args:
        model: with ``encode``, ``decode``, ``tokens``, ``vocab`` and ``shape``.
        kind, config: what it is, plain JSON.
        tensors: name -> its weights.
        digest: hex, of kind, config and weights.
    """

    model: Any
    kind: str
    config: Mapping[str, Any]
    tensors: Mapping[str, np.ndarray]
    digest: str


def digest_of(kind: str, config: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> str:
    """The same for the same encoder, wherever it lies."""
    found = hashlib.sha256(json.dumps([kind, config], sort_keys=True).encode())
    for name in sorted(tensors):
        found.update(f"{name} {tensors[name].dtype} {tensors[name].shape}".encode())
        found.update(np.ascontiguousarray(tensors[name]).tobytes())
    return found.hexdigest()


def make(kind: str, config: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> Encoder:
    """An encoder from its parts.

    Raises:
        BundleError: the kind is none of this house's encoders, or weights and config do not belong together.
    """
    if not kinds.is_own(kind) or not kind.startswith("encoders."):
        known = [f"encoders.{n}" for n in kinds.names("encoders")]
        raise BundleError(f"'{kind}' is none of this house's encoders{did_you_mean(kind, known)} ({', '.join(known)})")
    import torch

    module = kinds.load(kind)
    own = {k: v for k, v in config.items() if k in kinds.settings(kind)}
    try:
        check_depth(own, len(tensors))
        with torch.device("meta"):
            model = module.Model(module.Config(**own))
        weights = {n: torch.from_numpy(np.ascontiguousarray(t)) for n, t in tensors.items()}
        model.load_state_dict(weights, strict=True, assign=True)
    except (RuntimeError, RecipeError, TypeError, ValueError, AttributeError, KeyError) as e:
        raise BundleError(f"the encoder's weights and config do not belong together: {e}") from e
    return Encoder(model.float().eval(), kind, own, dict(tensors), digest_of(kind, own, tensors))


def read(name: str) -> Encoder:
    """The encoder in a run folder, one of its checkpoints, or a bundle.

    Raises:
        RecipeError: there is none, or it is one of another sort; names what to run.
        BundleError: it is not whole.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path = Path(name)
    if name.startswith("~/"):
        path = Path.home() / name[2:]
    folder = next((path / inside for inside in _INSIDE if (path / inside / "model.safetensors").is_file()), None)
    if folder is None:
        there = "there is no such folder" if not path.exists() else "there is no trained model in it"
        raise RecipeError(f"encoder {name}: {there}; train one first, such as: seqrl train vq_pong --out runs/vq_pong")
    try:
        kind = str(read_yaml((folder / "recipe.yaml").read_text(encoding="utf-8"))["model"]["kind"])
        config = read_json((folder / "config.json").read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError("config.json is no mapping")
        tensors = load_file(folder / "model.safetensors")
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as e:
        raise BundleError(f"encoder {folder}: {', '.join(_FILES)} cannot be read ({type(e).__name__}: {e})") from e
    if not kind.startswith("encoders."):
        raise RecipeError(f"encoder {name}: this is a model of kind {kind}; name a run of a kind of encoders (recipe vq_pong)")
    try:
        return make(kind, config, tensors)
    except BundleError as e:
        raise BundleError(f"encoder {folder}: {e}") from e
