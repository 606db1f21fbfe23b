"""A bundle: one folder that is a whole model, and the repository that would be published.

``config.json`` and ``model.safetensors`` (transformers' own files), ``tokenizer.json`` (layout, codecs, fitted statistics, the
data's spaces), beside it ``tokenizer.safetensors`` where a codec stands on a trained encoder, ``recipe.yaml`` (resolved),
``metrics.json``. Nothing in it is executed: weights are safetensors, and the model kind it names must be one of this house's
unless the caller says that other installed packages may be trusted.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from seqrl.core import kinds
from seqrl.core.errors import BundleError, RecipeError
from seqrl.data.mixture import Mixture, read_tokenizer
from seqrl.data.tokenizer import Tokenizer

FORMAT = 1


@dataclass(frozen=True)
class Bundle:
    """A loaded bundle: the model in eval mode, its tokenizer, the resolved recipe, what was measured, and where it lies."""

    model: Any
    tokenizer: Tokenizer | Mixture
    recipe: Mapping[str, Any]
    metrics: Mapping[str, Any]
    path: Path


def save(folder: Path, model: Any, tokenizer: Tokenizer | Mixture, recipe: str, metrics: Mapping[str, Any]) -> None:
    """Writes a complete bundle into ``folder`` (made if need be). The caller makes it atomic."""
    # transformers' own files, written by hand: its save_pretrained imports DeepSpeed (seconds) and draws a progress bar.
    folder.mkdir(parents=True, exist_ok=True)
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    weights = {name: t.detach().cpu().contiguous() for name, t in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save(folder)
    (folder / "recipe.yaml").write_text(recipe, encoding="utf-8")
    facts = {"format": FORMAT, **metrics}
    (folder / "metrics.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")


def add_metrics(folder: Path, more: Mapping[str, Any]) -> None:
    """Adds what was measured later to a bundle's ``metrics.json``, in one step for whoever reads."""
    path = folder / "metrics.json"
    aside = path.with_suffix(".part")
    aside.write_text(json.dumps(_read(path, json.loads) | dict(more), indent=1), encoding="utf-8")
    os.replace(aside, path)


def find(name: str | Path) -> Path:
    """The bundle folder behind a name: a bundle, a run folder (its last checkpoint), or one checkpoint of it.

    Raises:
        BundleError: nothing of the kind is there.
    """
    path = Path(name)
    for candidate in (path, path / "bundle", path / "checkpoints" / "last" / "bundle"):
        if (candidate / "tokenizer.json").is_file():
            return candidate
    if not path.exists():
        raise BundleError(f"{name}: there is no such folder; name a run (runs/x), one of its checkpoints, or a bundle")
    if (path / "recipe.yaml").is_file():
        raise BundleError(f"{name}: this run has no complete checkpoint yet; go on with: seqrl train --resume {name}")
    raise BundleError(f"{name}: this is neither a run folder nor a bundle (no tokenizer.json, no checkpoints/last)")


def _read(path: Path, parse: Any) -> Any:
    try:
        return parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError as e:
        raise BundleError(f"{path.parent}: there is no {path.name} in it, so it is no complete bundle") from e
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as e:
        raise BundleError(f"{path}: cannot be read: {e}") from e


def load(name: str | Path, device: str = "cpu", trust: bool = False) -> Bundle:
    """Loads a bundle for use.

    Args:
        name: a bundle folder, a run folder (its last checkpoint is meant), or a checkpoint.
        device: where the model goes.
        trust: allow a model kind of another installed package to be imported.

    Raises:
        BundleError: missing, truncated or corrupt files, a newer format, or a kind that is not this house's.
    """
    folder = find(name)
    metrics = _read(folder / "metrics.json", json.loads)
    if not isinstance(metrics, dict):
        raise BundleError(f"{folder / 'metrics.json'}: this is no seqrl bundle's")
    if metrics.get("format", 0) > FORMAT:
        newer = f"format {metrics['format']}, this one reads {FORMAT}"
        raise BundleError(f"{folder}: written by a newer seqrl ({newer}); pip install -U seqrl")
    recipe = _read(folder / "recipe.yaml", yaml.safe_load)
    try:
        kind = str(recipe["model"]["kind"])
    except (KeyError, TypeError) as e:
        raise BundleError(f"{folder / 'recipe.yaml'}: names no model.kind") from e
    if not trust and not kinds.is_own(kind):
        raise BundleError(f"{folder}: asks for code of another package ({kind}); load it with trust=True if you trust it")
    tokenizer = read_tokenizer(folder / "tokenizer.json", trust)
    return Bundle(load_model(folder, kind, device), tokenizer, recipe, metrics, folder)


def read_config(folder: Path, kind: str) -> Any:
    """The config of a bundle's model, the kind's own settings alone; raises BundleError where there is none to read."""
    raw = _read(folder / "config.json", json.loads)
    return kinds.load(kind).Config(**{k: v for k, v in raw.items() if k in kinds.settings(kind)})


def load_model(folder: Path, kind: str, device: str = "cpu") -> Any:
    """The model of a bundle, every weight accounted for.

    Only the kind's own settings are taken from ``config.json`` and only ``model.safetensors`` is read. transformers'
    ``from_pretrained`` would also follow what else a stranger may have put there: attention kernels by repository, adapters
    with their base models, index files that name weights outside the folder.

    Raises:
        BundleError: a weight is missing, left over, of another shape, or the file is truncated.
    """
    module = kinds.load(kind)
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise BundleError(f"{folder}: there is no model.safetensors in it, so it is no complete bundle")
    try:
        config = read_config(folder, kind)
        # Built without memory, then given the file's tensors: nothing is initialised only to be overwritten.
        with torch.device("meta"):
            model = module.Model(config)
        model.load_state_dict(load_file(weights), strict=True, assign=True)
    except (SafetensorError, OSError) as e:
        raise BundleError(f"{weights}: truncated or no safetensors file ({e})") from e
    except (RuntimeError, RecipeError, TypeError, ValueError, AttributeError, KeyError) as e:
        raise BundleError(f"{folder}: weights and config do not belong together: {e}") from e
    return model.float().to(device).eval()
