"""Modules of the house made flat: each becomes one file that imports its neighbours by ``from .seqrl_nn_heads import X``.

transformers copies the files of a model into one folder, and finds them by reading such lines. So imports are rewritten, and
nothing else: what a function says and does is what it says and does here. A module that needs more than transformers brings
is replaced by its stand-in (``hub/_plain``); what is loaded by its kind is found in a table of those that the bundle names.
"""

import ast
import sys
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

from seqrl.core import kinds
from seqrl.core.errors import UserError

# Module -> what travels in its place.
STAND_INS = {
    "seqrl.core.config": "seqrl.hub._plain.settings",
    "seqrl.core.kinds": "seqrl.hub._plain.table",
    "seqrl.data.mixture": "seqrl.hub._plain.mixture",
    "seqrl.context.cut": "seqrl.hub._plain.whole",
    "seqrl.context.ring": "seqrl.hub._plain.whole",
    "pydantic": "seqrl.hub._plain.settings",
}
_TABLE = STAND_INS["seqrl.core.kinds"]
# torch, transformers, and what transformers itself requires.
ALLOWED = {"torch", "transformers", "numpy", "safetensors", "tokenizers", "yaml", "huggingface_hub"}
_HEADER = """\
# Copyright the authors of seqrl. Licensed under the Apache License, Version 2.0:
# https://www.apache.org/licenses/LICENSE-2.0 (without warranties or conditions of any kind).
# {path} of seqrl {version}, with its imports made relative: this file needs torch and transformers alone.
"""


def flat_name(module: str) -> str:
    """``seqrl.nn.heads`` -> ``seqrl_nn_heads``; of a module with a stand-in, that of the stand-in."""
    module = STAND_INS.get(module, module).replace("seqrl.hub._plain.", "seqrl.plain.")
    return module.replace(".", "_")


def gather(roots: Iterable[str], named: Iterable[str]) -> dict[str, str]:
    """The files of some modules and of all they need.

    Args:
        roots: modules, such as ``seqrl.policies.decision``.
        named: kinds that are loaded by name, such as ``tokens.vector``.

    Returns:
        file name -> its text.

    Raises:
        UserError: one of them imports a package that is not among those a published model may need.
    """
    table = {kind: flat_name(f"seqrl.{kind}") for kind in sorted(named)}
    files: dict[str, str] = {}
    todo = [*roots, *(f"seqrl.{kind}" for kind in table)]
    while todo:
        module = todo.pop()
        module = STAND_INS.get(module, module)
        if (name := f"{flat_name(module)}.py") not in files:
            files[name], more = _flatten(module)
            todo += more
    if (name := f"{flat_name(_TABLE)}.py") in files:
        files[name] = _with_table(files[name], table)
    return files


def _place(module: str) -> Path | None:
    """The file of a module of ours; None for a package, or where there is none."""
    file = kinds.HOUSE.parent / (module.replace(".", "/") + ".py")
    return file if file.is_file() else None


def _for_types(node: ast.AST) -> bool:
    """Whether a statement is ``if TYPE_CHECKING``."""
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def _flatten(module: str) -> tuple[str, list[str]]:
    """The text of a module with its imports rewritten, and the modules of ours that it needs."""
    file = _place(module)
    if file is None:
        raise UserError(f"{module} is no file of seqrl's that could go along")
    text = file.read_text(encoding="utf-8")
    lines, needs = text.splitlines(), []
    edits: dict[int, tuple[int, list[str]]] = {}

    def walk(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if _for_types(child):
                # For type checkers alone; transformers would take these lines for files that are needed.
                edits[child.lineno] = (child.end_lineno, [])
            elif isinstance(child, ast.Import | ast.ImportFrom):
                edits[child.lineno] = (child.end_lineno, _rewritten(child, lines, needs))
            else:
                walk(child)

    tree = ast.parse(text)
    walk(tree)
    _check_packages(tree, module)
    out, hidden = [], 0
    for number, line in enumerate(lines, 1):
        if number in edits:
            hidden, new = edits[number]
            out += new
        elif number > hidden:
            out.append(line)
    path = file.relative_to(kinds.HOUSE.parent).as_posix()
    return _HEADER.format(path=path, version=version("seqrl")) + "\n".join(out) + "\n", needs


def _rewritten(node: ast.Import | ast.ImportFrom, lines: list[str], needs: list[str]) -> list[str]:
    """The lines of an import as they travel; notes in ``needs`` what it is of."""
    old = lines[node.lineno - 1 : node.end_lineno]
    if isinstance(node, ast.Import) or not (node.module in STAND_INS or f"{node.module}.".startswith("seqrl.")):
        return old
    indent = " " * node.col_offset
    if node.module in STAND_INS or _place(node.module):
        needs.append(node.module)
        return [old[0].replace(f"from {node.module} ", f"from .{flat_name(node.module)} ", 1), *old[1:]]
    new = []
    for alias in node.names:
        # A whole module: the first line is the form that transformers finds a file by.
        needs.append(f"{node.module}.{alias.name}")
        flat = flat_name(needs[-1])
        new.append(f"{indent}from .{flat} import __name__ as _  # noqa: F401")
        new.append(f"{indent}from . import {flat} as {alias.asname or alias.name}")
    return new


def _check_packages(tree: ast.Module, module: str) -> None:
    """Raises UserError where a module needs a package that transformers does not bring; what stands in a ``try`` may miss."""

    def walk(node: ast.AST) -> None:
        if isinstance(node, ast.Try) or _for_types(node):
            return
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        for name in names:
            top = name.partition(".")[0]
            if top not in ALLOWED and top not in sys.stdlib_module_names and top != "seqrl" and name not in STAND_INS:
                raise UserError(f"its code needs the package '{top}' ({module}), which transformers does not bring")
        for child in ast.iter_child_nodes(node):
            walk(child)

    walk(tree)


def _with_table(text: str, table: dict[str, str]) -> str:
    """The stand-in of ``core.kinds`` with the kinds of one bundle, and the lines by which transformers finds their files."""
    empty = "FILES: dict[str, str] = {}"
    rows = "".join(f'    "{kind}": "{file}",\n' for kind, file in table.items())
    brings = [
        "",
        "",
        "def _brought_along() -> None:",
        "    # Never called: transformers reads these lines to know which files belong here.",
        *(f"    from .{file} import Config  # noqa: F401" for file in table.values()),
    ]
    return text.replace(empty, f"{empty[:-1]}\n{rows}}}", 1) + "\n".join(brings) + "\n"
