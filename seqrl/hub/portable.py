"""Portable code: a bundle that loads and acts where there is no seqrl, by AutoModel and AutoProcessor of transformers.

The model's own modules, its codecs', its tokenizer's and the agent's go along as files of one folder that import each other,
torch, transformers and what transformers itself requires. So the very same functions run with seqrl and without, and answer
the same bits. transformers runs such files only where a person says ``trust_remote_code=True``; ``seqrl`` never does.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from seqrl.core import kinds
from seqrl.core.errors import BundleError, UserError
from seqrl.core.plain import read_json, read_yaml
from seqrl.hub.portable_files import flat_name, gather

PROCESSOR = "seqrl.hub.processor"


def make_portable(staged: Path) -> list[str]:
    """Adds the code of a bundle to its folder.

    Writes flat ``.py`` files and ``processor_config.json``, and says in ``config.json`` (``auto_map``) what AutoConfig and
    AutoModel are to load. The other files stay as they are; ``seqrl.load`` looks at none of what is added.

    Args:
        staged: a whole bundle.

    Returns:
        the names written, without ``config.json``.

    Raises:
        UserError: the model, or a codec of it, cannot do without seqrl; nothing is written then.
        BundleError: the bundle's files cannot be read.
    """
    config, recipe = _read(staged / "config.json", read_json), _read(staged / "recipe.yaml", read_yaml)
    tokenizer = _read(staged / "tokenizer.json", read_json)
    try:
        kind = str(recipe["model"]["kind"])
    except (KeyError, TypeError) as e:
        raise BundleError(f"{staged / 'recipe.yaml'}: names no model.kind") from e
    if not kinds.is_own(kind):
        raise UserError(f"'{kind}' is a kind of another package, whose code is not ours to publish")
    if config.get("lora"):
        raise UserError(f"'{kind}' has adapters beside its weights (model.lora), which need peft")
    if "documents" in tokenizer:
        raise UserError(f"'{kind}' reads token documents, and its tokenizer needs seqrl")
    named = {kind, *_kinds_in(config), *_codecs_in(staged / "tokenizer.json")}
    files = gather([f"seqrl.{kind}", PROCESSOR], named)
    module, home = kinds.load(kind), flat_name(f"seqrl.{kind}")
    classes = {"AutoConfig": module.Config.__name__, "AutoModel": module.Model.__name__}
    config["auto_map"] = {auto: f"{home}.{name}" for auto, name in classes.items()}
    processor = {
        "processor_class": "TrajectoryProcessor",
        "ahead": kinds.looks_ahead(kind),
        "auto_map": {"AutoProcessor": f"{flat_name(PROCESSOR)}.TrajectoryProcessor"},
    }
    for name, text in files.items():
        (staged / name).write_text(text, encoding="utf-8")
    (staged / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    (staged / "processor_config.json").write_text(json.dumps(processor, indent=2) + "\n", encoding="utf-8")
    return sorted([*files, "processor_config.json"])


def _read(path: Path, parse: Any) -> dict[str, Any]:
    try:
        raw = parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise BundleError(f"{path}: cannot be read: {e}") from e
    if not isinstance(raw, dict):
        raise BundleError(f"{path}: this is no seqrl bundle's")
    return raw


def _kinds_in(raw: Any) -> Iterator[str]:
    """The kinds of ours that a config names, at any depth, such as the world an actor lives in."""
    if isinstance(raw, Mapping):
        if isinstance(raw.get("kind"), str) and kinds.is_own(raw["kind"]):
            yield raw["kind"]
        for value in raw.values():
            yield from _kinds_in(value)


def _codecs_in(path: Path) -> set[str]:
    """The codecs of a tokenizer, ``tokens.<kind>``, and the encoders they read with."""
    from seqrl.data.mixture import read_tokenizer

    tokenizer = read_tokenizer(path)
    slots = [s for t in getattr(tokenizer, "domains", {"": tokenizer}).values() for s in t.slots.values()]
    codecs = {f"tokens.{s.config.kind}" for s in slots}
    return codecs | {kind for s in slots for kind in _kinds_in(s.codec.state())}
