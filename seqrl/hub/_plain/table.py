"""The kinds that a published model names, each in a file beside this one; all others are refused.

In seqrl a kind is the name of a file in a room; here it is an entry of a table that was written when the model was published.
"""

import importlib
from types import ModuleType
from typing import Any

from seqrl.core.errors import RecipeError

FILES: dict[str, str] = {}
"""Kind -> the file that holds it."""


def names(room: str) -> list[str]:
    """The kinds of a room that came along."""
    return sorted(kind.partition(".")[2] for kind in FILES if kind.startswith(f"{room}."))


def is_own(kind: str, room: str | None = None) -> bool:
    """Whether a kind came along."""
    return _full_name(kind, room) in FILES


def _full_name(kind: str, room: str | None) -> str:
    return kind if "." in kind or room is None else f"{room}.{kind}"


def load(kind: str, room: str | None = None) -> ModuleType:
    """The module of a kind; raises RecipeError where it did not come along."""
    name = _full_name(kind, room)
    if name not in FILES:
        raise RecipeError(f"'{name}' did not come along with this model (there are: {', '.join(sorted(FILES))})")
    return importlib.import_module(f".{FILES[name]}", __package__)


def settings(kind: str) -> dict[str, tuple[Any, Any]]:
    """A model kind's settings, ``name -> (type, default)``."""
    config = load(kind).Config
    return {name: (kind_of, getattr(config, name, ...)) for name, kind_of in config.__annotations__.items()}
