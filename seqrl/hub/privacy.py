"""Paths of this machine, which a publication has no use for: they tell who trained where, and lose all but their last word.

In settings such a path is mostly a whole value; in prose it is a word. What counts is whether it lies below a folder of this
machine or in somebody's home. Statistics and vocabularies of a tokenizer are left alone: a vocabulary may well hold the word
``/usr/bin``. Code is not changed but refused. Everything is looked through once more at the end.
"""

import json
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from seqrl.core.errors import HubError
from seqrl.core.plain import read_json, read_yaml
from seqrl.hub.secrets import refuse_secrets
from seqrl.hub.weights import read_header, set_note

__all__ = ["Places", "clean", "find", "refuse_secrets"]

_SETTINGS = (".json", ".yaml", ".yml")
_PROSE = (".md", ".html", ".svg", ".txt")
_FOLDERS = ("SEQRL_CACHE", "MINARI_DATASETS_PATH", "HF_HOME", "TMPDIR")
# Where people's files lie on machines of many kinds; what else lies at the root of this one comes to it, but for the system's.
_TOPS = {"home", "Users", "root", "tmp", "data", "mnt", "media", "scratch", "gpfs", "lustre", "nfs", "Volumes", "workspace"}
_SYSTEM = {"bin", "boot", "dev", "etc", "lib", "lib64", "proc", "run", "sbin", "sys", "usr"}
_REST = r"[^\s\"'`<>|,;)\]}]*"
_WORD = re.compile(rf"(?<![\w.~/:\\-])(?:file://)?/[\w.-]{_REST}|\b[A-Za-z]:\\+Users\\{_REST}")
_ROOTED = re.compile(r"(?:/[\w.~-]+){2}/|file:///|~[\w.-]*/|\.\./")
_WINDOWS = re.compile(r"[A-Za-z]:[\\/]|\\\\\w")


class Places:
    """What is a place of this machine; read from it once, for many questions."""

    def __init__(self) -> None:
        told = [Path(v) for name in _FOLDERS if (v := os.environ.get(name, "")).startswith("/")]
        known = {Path.home(), Path.cwd(), Path(tempfile.gettempdir()), *told}
        self.known = tuple({str(q) for p in known for q in (p, p.resolve()) if len(q.parts) > 1})
        root = Path("/")
        self.tops = _TOPS | ({p.name for p in root.iterdir()} - _SYSTEM if root.is_dir() else set())

    def has(self, path: str, surely: bool = False) -> bool:
        """Whether an absolute path is one; ``surely`` asks for a known folder or a home, and not just a likely one."""
        path = path.removeprefix("file://")
        if path.startswith(self.known) and any(path == k or path.startswith(f"{k}/") for k in self.known):
            return True
        if re.match(r"/(?:home|Users)/\w|[A-Za-z]:\\+Users\\", path):
            return True
        parts = [p for p in path.split("/") if p]
        return not surely and len(parts) > 1 and parts[0] in self.tops

    def short(self, value: str, key: bool = False) -> str:
        """A setting's value, with each path of the machine in it as its last word; a ``key`` may be a name that looks so."""
        if "/" not in value and "\\" not in value:
            return value
        alone = "\n" not in value and not re.search(r"\s[/~-]", value)
        # A whole value that is a path from a root, a home, or up and out of a folder says nothing to others, whatever machine
        # it is of.
        if alone and ((not key and _ROOTED.match(value)) or "/../" in value or _WINDOWS.match(value) or self.has(value)):
            return _last(value)
        return _WORD.sub(lambda m: _last(m[0]) if self.has(m[0]) else m[0], value)


def clean(folder: Path) -> list[str]:
    """Shortens the paths of this machine in a folder's files to their last word.

    Returns:
        what was changed, a line each.

    Raises:
        HubError: one is left where it cannot be changed, in code; or settings cannot be read.
    """
    places, told = Places(), []
    for path in _files(folder):
        changes = _shorten(path, places)
        told += [f"{path.relative_to(folder)}: {before} -> {after}" for before, after in changes.items()]
    if left := find(folder, places):
        listed = "\n  ".join(left)
        raise HubError(f"nothing is published, for it names places of this machine:\n  {listed}")
    return told


def find(folder: Path, places: Places | None = None) -> list[str]:
    """Every place of this machine that a folder's files name: ``file``, of prose and code ``file:line``."""
    places = places or Places()
    found = []
    for path in _files(folder):
        name = str(path.relative_to(folder))
        if path.suffix in _SETTINGS:
            found += [name] if _in_settings(path, places) else []
        elif path.suffix == ".safetensors":
            found += [name] if _in_head(path, places) else []
        elif b"\0" not in (content := path.read_bytes()):
            text, code = content.decode("utf-8", "replace"), path.suffix not in _PROSE
            hits = (m.start() for m in _WORD.finditer(text) if places.has(m[0], surely=code))
            found += [f"{name}:{text.count(chr(10), 0, at) + 1}" for at in hits]
    return found


def _shorten(path: Path, places: Places) -> dict[str, str]:
    """Changes one file; returns ``{before: after}``."""
    changes: dict[str, str] = {}
    if path.suffix in _SETTINGS:
        if changes := _in_settings(path, places):
            parse, write = _how(path)
            raw = parse(path.read_text(encoding="utf-8"))
            path.write_text(write(_mapped(raw, places.short)), encoding="utf-8")
    elif path.suffix == ".safetensors":
        if _in_head(path, places):
            set_note(path, {"format": "pt"})
            changes["its metadata"] = "none"
    elif path.suffix in _PROSE:
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
        changes = {m[0]: _last(m[0]) for m in _WORD.finditer(text) if places.has(m[0])}
        if changes:
            new = _WORD.sub(lambda m: changes.get(m[0], m[0]), text)
            path.write_text(new, encoding="utf-8", errors="surrogateescape")
    return changes


def _in_settings(path: Path, places: Places) -> dict[str, str]:
    """``{before: after}`` of the values of a JSON or YAML file that hold a path of a machine."""
    changes: dict[str, str] = {}

    def look(value: str, key: bool = False) -> str:
        if (short := places.short(value, key)) != value:
            changes[value] = short
        return short

    try:
        _mapped(_how(path)[0](path.read_text(encoding="utf-8")), look)
    except (OSError, ValueError) as e:
        raise HubError(f"{path.name}: cannot be read, so nothing is published: {str(e).splitlines()[0]}") from e
    return changes


def _in_head(path: Path, places: Places) -> bool:
    """Whether the free text in a safetensors file names a place."""
    note = read_header(path).get("__metadata__") or {}
    return any(places.short(str(v)) != str(v) for v in note.values())


def _how(path: Path) -> tuple[Callable[[str], Any], Callable[[Any], str]]:
    if path.suffix == ".json":
        return read_json, lambda raw: json.dumps(raw, indent=1)
    # A recipe's own manner of writing (train/recipe.py): its keys in their order, a key a line.
    return read_yaml, lambda raw: yaml.safe_dump(raw, sort_keys=False, allow_unicode=True)


def _mapped(raw: Any, change: Callable[..., str]) -> Any:
    """The same values with every text changed, but for what a tokenizer has learned."""
    if isinstance(raw, dict):
        # ``state`` and ``text`` beside ``config`` are fitted statistics and a vocabulary.
        learned = ("state", "text") if "config" in raw else ()
        return {change(k, True) if isinstance(k, str) else k: v if k in learned else _mapped(v, change) for k, v in raw.items()}
    if isinstance(raw, list):
        return [_mapped(v, change) for v in raw]
    return change(raw) if isinstance(raw, str) else raw


def _last(path: str) -> str:
    return re.split(r"[/\\]+", path.rstrip("/\\.:"))[-1].lstrip("~") or "x"


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file())
