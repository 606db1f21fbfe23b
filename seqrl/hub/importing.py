"""Other people's checkpoints made into ours: ``seqrl import`` reads transformers' files and writes a folder.

What comes out depends on what goes in. A model that acts and has a twin in this house (``core.kinds.converters``; today
transformers' DecisionTransformer) becomes a bundle that acts the same (``importing_policy``). A causal language model, such as
LWM's in Llama's format, becomes a folder that ``model.base`` can name (``importing_body``). Nothing that is read is executed:
weights come from safetensors or, tensors alone, from the old pickles (``unpickle``), everything else is JSON and text.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqrl.core import kinds
from seqrl.core.errors import BundleError, did_you_mean
from seqrl.core.plain import read_json
from seqrl.hub import unpickle
from seqrl.remote.download import fetch
from seqrl.remote.names import read_name

_TEXTS = ("README.md", "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json")
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_INDEXES = tuple(f"{name}.index.json" for name in _WEIGHTS)
# What is read into memory whole, and what no such file ever reaches.
_LIMITS = {"config.json": 1 << 22, "README.md": 1 << 24} | dict.fromkeys((*_INDEXES, *_TEXTS[1:]), 1 << 26)


@dataclass(frozen=True)
class Imported:
    """What an import made: its folder, what it is, what was found out on the way, and how to use it."""

    folder: Path
    what: str
    notes: tuple[str, ...]
    next: tuple[str, ...]


@dataclass(frozen=True)
class Foreign:
    """Somebody's checkpoint, here: its folder, its config as plain JSON, how it is called, and which commit it is of."""

    folder: Path
    config: dict[str, Any]
    name: str
    revision: str | None


def bring(name: str, revision: str | None = None) -> Foreign:
    """A checkpoint by the name of a repository or a folder.

    Raises:
        HubError: it cannot be fetched.
        BundleError: there is no config.json in it, or a file of it cannot be read, or a folder's revision is asked for.
    """
    path = Path(name).expanduser()
    if path.is_dir() and revision:
        raise BundleError(f"{name}: this is a folder here, and has no revision '{revision}'; for the Hub's say hf://{name}")
    repo = None if path.is_dir() else read_name(name, revision)
    if repo is None:
        if not path.is_dir():
            raise BundleError(f"{name}: there is no such folder, and no repository can be called so (org/name)")
        folder, commit = path, None
    else:
        # First what says which files hold the weights.
        fetch(repo, ("config.json",), (*_INDEXES, *_TEXTS), _LIMITS)
        folder = fetch(repo, ("config.json",), (*_INDEXES, *_TEXTS), _LIMITS, lambda names: _weights_of(repo, names))
        commit = folder.name
    try:
        config = read_json((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise BundleError(f"{name}: there is no config.json in it that can be read ({e})") from e
    if not isinstance(config, dict):
        raise BundleError(f"{name}: its config.json is no mapping")
    return Foreign(folder, config, repo.id if repo else path.resolve().name, commit)


def _weights_of(repo: Any, names: Sequence[str]) -> list[str]:
    whole = next((n for n in _WEIGHTS if n in names), None)
    if whole:
        return [whole]
    index = next((n for n in _INDEXES if n in names), None)
    if index is None:
        raise BundleError(f"{repo}: there are no weights in it ({' or '.join(_WEIGHTS)}), so there is nothing to import")
    return unpickle.shards(fetch(repo, (index,), (), _LIMITS) / index)


def import_model(name: str, out: Path | None = None, revision: str | None = None, **settings: Any) -> Imported:
    """Imports a checkpoint into a new folder, whole or not at all.

    Args:
        name: ``org/name``, or a folder of transformers' files.
        out: the folder to make, ``imported/<name>`` where not given.
        revision: of the repository.
        settings: what the files do not say (``importing_policy.Told``).

    Raises:
        UserError: there is nothing to import, it is of a sort that is not known, or something must be told besides.
    """
    out = out or Path("imported") / name.rstrip("/").rpartition("/")[2].partition("@")[0]
    if out.exists():
        raise BundleError(f"{out}: is there already; name another folder with --out")
    found = bring(name, revision)
    make = _maker(found)
    part = out.with_name(f".{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        what, notes, following = make(found, part, out, **settings)
        part.rename(out)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return Imported(out, what, tuple(notes), tuple(following))


def _maker(found: Foreign) -> Callable[..., tuple[str, list[str], list[str]]]:
    from seqrl.hub import importing_body, importing_policy

    kind, known = str(found.config.get("model_type") or ""), kinds.converters()
    if kind in known:
        return importing_policy.make
    if importing_body.is_decoder(kind):
        return importing_body.make
    near = did_you_mean(kind, known)
    raise BundleError(
        f"{found.name}: its model_type is '{kind}'{near}; what can be imported: {', '.join(known)} (as a policy), and the "
        "causal language models of transformers (as a body)"
    )
