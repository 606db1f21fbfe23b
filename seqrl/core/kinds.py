"""The file name is the kind: ``kind: policies.decision`` in a recipe is ``seqrl/policies/decision.py`` on disk.

There is nothing to register. A room's kinds are the files in its folder, and a dotted path of another package works as
well. Each such module names what it offers by one of the words in ``OFFERS``. A model's settings can be read without
importing it (and so without torch): ``settings`` reads the annotated fields of its Config class from the source text.
"""

import ast
import importlib
import importlib.util
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from seqrl.core.errors import RecipeError, did_you_mean

HOUSE = Path(__file__).resolve().parent.parent
OFFERS = {"sources": "Source", "tokens": "Codec", "policies": "Model", "worlds": "Model", "encoders": "Model"}


def names(room: str) -> list[str]:
    """The kinds of a room, by listing its folder; nothing is imported."""
    return sorted(p.stem for p in (HOUSE / room).glob("*.py") if not p.stem.startswith("_"))


def is_own(kind: str, room: str | None = None) -> bool:
    """Whether a kind is a file of this house (and not another package's module)."""
    here, _, leaf = (kind if "." in kind or room is None else f"{room}.{kind}").partition(".")
    return here in OFFERS and leaf in names(here)


def _full_name(kind: str, room: str | None) -> str:
    """The module name behind a kind; raises RecipeError naming the closest kind."""
    if len(kind) > 200:
        raise RecipeError(f"unknown kind '{kind[:80]}...' (a kind is a short name, such as vector or policies.decision)")
    dotted = kind if "." in kind or room is None else f"{room}.{kind}"
    here, _, leaf = dotted.partition(".")
    if room and here in OFFERS and here != room:
        raise RecipeError(f"kind '{kind}' is one of {here}, and one of {room} is wanted ({', '.join(names(room))})")
    if here in OFFERS:
        if leaf in names(here):
            return f"seqrl.{dotted}"
        known = [f"{here}.{n}" for n in names(here)] if "." in kind else names(here)
        raise RecipeError(f"unknown kind '{kind}'{did_you_mean(kind, known)} (there are: {', '.join(known)})")
    try:
        found = importlib.util.find_spec(dotted)
    except Exception:
        # To look for a.b Python imports a, and that is anybody's.
        found = None
    if found is None:
        known = [f"{r}.{n}" for r in OFFERS for n in names(r)]
        raise RecipeError(f"unknown kind '{kind}'{did_you_mean(kind, known)} (no such file, nor an installed module)")
    return dotted


def load(kind: str, room: str | None = None) -> ModuleType:
    """Imports the module of a kind.

    Args:
        kind: ``room.name``, a bare ``name`` when ``room`` is given, or the dotted path of another package's module.
        room: the room a bare name is looked up in.

    Raises:
        RecipeError: there is no such kind, or the module does not offer what the room's kinds do.
    """
    module = importlib.import_module(_full_name(kind, room))
    wanted = ("Config", OFFERS[room]) if room in OFFERS else ()
    if missing := [name for name in wanted if not hasattr(module, name)]:
        raise RecipeError(f"kind '{kind}': its module offers no {' and no '.join(missing)}, so it is none of the {room}")
    return module


@lru_cache
def _said(kind: str, name: str) -> Any:
    """The constant ``name = ...`` that stands in a kind's file, read without importing it; None where there is none."""
    return _constant(_tree(kind), name)


def _tree(kind: str) -> ast.Module:
    """The source of a kind's file, parsed; raises RecipeError where it has none, as built-in modules and namespaces."""
    origin = importlib.util.find_spec(_full_name(kind, None)).origin
    try:
        return ast.parse(Path(origin or "").read_text(encoding="utf-8"))
    except (OSError, ValueError, SyntaxError, RecursionError) as e:
        raise RecipeError(f"kind '{kind}' is a module without Python source, so it is none that seqrl could use") from e


def _constant(tree: ast.Module, name: str) -> Any:
    for node in tree.body:
        if isinstance(node, ast.Assign) and [ast.unparse(t) for t in node.targets] == [name]:
            return ast.literal_eval(node.value)
    return None


def converters() -> dict[str, str]:
    """transformers' model type -> the module that turns such a model into one of ours, by listing the rooms.

    Such a module is called ``_<kind>_hf.py``, stands beside its kind, says ``TAKES = (model types)`` and offers ``from_hf``.
    """
    found = {}
    for room in OFFERS:
        for file in sorted((HOUSE / room).glob("_*_hf.py")):
            for taken in _constant(ast.parse(file.read_text(encoding="utf-8")), "TAKES") or ():
                found[taken] = f"{room}.{file.stem}"
    return found


def first_words(kind: str) -> str:
    """The docstring of a kind's file, read without importing it."""
    return ast.get_docstring(_tree(kind)) or ""


def reads_packed(kind: str) -> bool:
    """Whether a model kind reads packed rows: ``PACKED = True`` stands in its file."""
    return _said(kind, "PACKED") is True


def reads_documents(kind: str) -> bool:
    """Whether a model kind reads token documents: ``DOCUMENTS = True`` stands in its file."""
    return _said(kind, "DOCUMENTS") is True


def gives_examples(kind: str) -> bool:
    """Whether a kind of source gives ready examples instead of episodes: ``EXAMPLES = True`` stands in its file."""
    return _said(kind if "." in kind else f"sources.{kind}", "EXAMPLES") is True


def looks_ahead(kind: str) -> bool:
    """Whether a model's windows end in the observation after their last action: ``AHEAD = True`` stands in its file."""
    return _said(kind, "AHEAD") is True


def own_losses(kind: str) -> tuple[str, ...]:
    """Losses of a model kind that are on no slot (such as a divergence): ``LOSSES = (...)`` in its file."""
    return tuple(_said(kind, "LOSSES") or ())


@lru_cache
def settings(kind: str) -> dict[str, tuple[Any, Any]]:
    """A model kind's settings, ``name -> (type, default)``, read from its source without importing it.

    Reads the annotated fields of the first class in the file whose name ends in ``Config``. Types are those a recipe can
    hold: ``int float str bool None list tuple dict Literal`` and unions of them. ``...`` stands for "no default".
    """
    classes = [n for n in _tree(kind).body if isinstance(n, ast.ClassDef) and n.name.endswith("Config")]
    if not classes:
        raise RecipeError(f"kind '{kind}' has no Config class standing above its model")
    words = {"int": int, "float": float, "str": str, "bool": bool, "list": list, "tuple": tuple, "dict": dict}
    words |= {"Literal": Literal, "Any": Any, "None": None}
    found = {}
    for node in classes[0].body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            # The text is our own source or that of an installed package, and only these words can be spoken in it.
            try:
                kind_of = eval(ast.unparse(node.annotation), {"__builtins__": {}}, words)
                found[node.target.id] = (kind_of, ... if node.value is None else ast.literal_eval(node.value))
            except (NameError, TypeError, ValueError, AttributeError) as e:
                raise RecipeError(f"kind '{kind}': its settings are none of a model's ('{node.target.id}': {e})") from e
    return found
