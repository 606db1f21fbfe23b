"""A bundle: one folder that is a whole model, and the repository that would be published.

``config.json`` and ``model.safetensors`` (transformers' own files), ``tokenizer.json`` (layout, codecs, fitted statistics, the
data's spaces), beside it ``tokenizer.safetensors`` where a codec stands on a trained encoder, ``recipe.yaml`` (resolved),
``metrics.json``. Nothing in it is executed: weights are safetensors, and the model kind it names must be one of this house's
unless the caller says that other installed packages may be trusted. A name that is no folder here may be a repository's on the
Hub; of that only these six files are fetched, each verified and none larger than it can be in earnest.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from seqrl.core import kinds
from seqrl.core.errors import BundleError, HubError, RecipeError
from seqrl.core.plain import read_json, read_yaml
from seqrl.core.settings import check_depth
from seqrl.data.mixture import Mixture, read_tokenizer
from seqrl.data.tokenizer import Tokenizer
from seqrl.remote.failures import NoRepositoryError
from seqrl.remote.names import SCHEME, Repo, read_name

FORMAT = 1
FILES = ("config.json", "model.safetensors", "tokenizer.json", "recipe.yaml", "metrics.json")
"""What every bundle has."""
MORE = ("tokenizer.safetensors",)
"""What a bundle may have besides."""
# Words of this house: whoever types runs/x means a folder, and must not get what a stranger called runs has published.
_ALWAYS_HERE = ("runs", "checkpoints", "recipes", "datasets", "models")
_LARGEST = {"config.json": 16 << 20, "recipe.yaml": 16 << 20, "metrics.json": 64 << 20, "tokenizer.json": 1 << 30}
"""Bytes; these are read into memory whole."""


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
    aside.write_text(json.dumps(_read(path, read_json) | dict(more), indent=1), encoding="utf-8")
    os.replace(aside, path)


def find(name: str | Path, revision: str | None = None) -> Path:
    """The bundle folder behind a name: a bundle, a run folder (its last checkpoint), one checkpoint of it, or a Hub repository.

    What lies on this disk wins. A name whose first word is a folder here, or ``runs``, is taken for a misspelt path and the Hub
    is not asked, unless it begins with ``hf://``; a ``Path`` is always one of this disk.

    Args:
        name: a path, ``org/name``, ``org/name@revision`` or ``hf://org/name@revision``.
        revision: branch, tag or commit, for a repository alone.

    Raises:
        BundleError: nothing of the kind is there.
        HubError: the repository cannot be had.
    """
    # As text first: a Path would make one slash of two.
    repo = read_name(name, revision) if isinstance(name, str) else None
    if repo and str(name).startswith(SCHEME):
        return _fetch(repo)
    path = Path(name)
    for candidate in (path, path / "bundle", path / "checkpoints" / "last" / "bundle"):
        try:
            there = (candidate / "tokenizer.json").is_file()
        except OSError as e:
            raise BundleError(f"{str(name)[:80]}: there can be no folder of this name ({e.strerror})") from e
        if there:
            if revision:
                raise BundleError(
                    f"{name}: this is a folder here, and has no revision '{revision}'; for the Hub's say hf://{name}"
                )
            return candidate
    if not path.exists():
        # The name may say a revision, which no folder here has in it.
        if repo and not path.parent.is_dir() and repo.id.partition("/")[0] not in _ALWAYS_HERE:
            try:
                return _fetch(repo)
            except NoRepositoryError as e:
                raise HubError(f"{e} (there is no folder {name} here either)") from e
        hint = f"; a repository of that name on the Hub would be hf://{name}" if repo else ""
        raise BundleError(f"{name}: there is no such folder; name a run (runs/x), one of its checkpoints, or a bundle{hint}")
    if (path / "recipe.yaml").is_file():
        raise BundleError(f"{name}: this run has no complete checkpoint yet; go on with: seqrl train --resume {name}")
    raise BundleError(f"{name}: this is neither a run folder nor a bundle (no tokenizer.json, no checkpoints/last)")


def _fetch(repo: Repo) -> Path:
    """A repository's bundle, brought here; nothing else of it is."""
    from seqrl.remote.download import MissingError, fetch

    try:
        return fetch(repo, FILES, MORE, _LARGEST)
    except MissingError as e:
        how = f"a transformers checkpoint is converted with: seqrl import {repo.id}"
        raise BundleError(f"{repo}: there is no {e.name} in this repository, so it is no bundle of seqrl's; {how}") from e


def _read(path: Path, parse: Any) -> Any:
    try:
        return parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError as e:
        raise BundleError(f"{path.parent}: there is no {path.name} in it, so it is no complete bundle") from e
    except (OSError, ValueError) as e:
        raise BundleError(f"{path}: cannot be read: {e}") from e


def load(name: str | Path, device: str = "cpu", trust: bool = False, revision: str | None = None) -> Bundle:
    """Loads a bundle for use.

    Args:
        name: a bundle folder, a run folder (its last checkpoint is meant), a checkpoint, or a repository (``find``).
        device: where the model goes.
        trust: allow a model kind of another installed package to be imported.
        revision: branch, tag or commit of a repository.

    Raises:
        BundleError: missing, truncated or corrupt files, a newer format, or a kind that is not this house's.
        HubError: the repository cannot be had.
    """
    folder = find(name, revision)
    metrics = _read(folder / "metrics.json", read_json)
    if not isinstance(metrics, dict):
        raise BundleError(f"{folder / 'metrics.json'}: this is no seqrl bundle's")
    form = metrics.get("format", 0)
    if not isinstance(form, int) or form > FORMAT:
        newer = f"format {form}, this one reads {FORMAT}"
        raise BundleError(f"{folder}: written by a newer seqrl ({newer}); pip install -U seqrl")
    recipe = _read(folder / "recipe.yaml", read_yaml)
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
    raw = _raw_config(folder)
    return kinds.load(kind).Config(**{k: v for k, v in raw.items() if k in kinds.settings(kind)})


def _raw_config(folder: Path) -> dict[str, Any]:
    raw = _read(folder / "config.json", read_json)
    if not isinstance(raw, dict):
        raise BundleError(f"{folder / 'config.json'}: this is no model's config")
    return raw


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
        tensors = load_file(weights)
        check_depth(_raw_config(folder), len(tensors))
        config = read_config(folder, kind)
        # Built without memory, then given the file's tensors: nothing is initialised only to be overwritten.
        with torch.device("meta"):
            model = module.Model(config)
        model.load_state_dict(tensors, strict=True, assign=True)
    except (SafetensorError, OSError) as e:
        raise BundleError(f"{weights}: truncated or no safetensors file ({e})") from e
    except (RuntimeError, RecipeError, TypeError, ValueError, AttributeError, KeyError) as e:
        raise BundleError(f"{folder}: weights and config do not belong together: {e}") from e
    return model.float().to(device).eval()
