"""What a publication says of itself, and what a run remembers of having published.

``publication.json`` in the repository names the files that ``seqrl push`` wrote, so that the next push may take away what it
no longer writes and leaves alone what people have added. ``published.json`` in the run's folder names the commit that its
last push made: the next one begins there, and notices if somebody else has published since.
"""

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from seqrl.core.plain import read_json

NAME, MEMORY = "publication.json", "published.json"
FORMAT = 1


def write_publication(folder: Path, step: int | None, recipe: str = "") -> None:
    """Writes the file of that name into a folder to be published: versions, the step, and all files of the folder."""
    files = sorted({str(p.relative_to(folder).as_posix()) for p in folder.rglob("*") if p.is_file()} | {NAME})
    said = {"format": FORMAT, "seqrl": version("seqrl"), "recipe": recipe, "step": step, "files": files}
    (folder / NAME).write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")


def read_about(path: Path) -> dict[str, Any]:
    """``recipe`` and ``step`` of a publication, as it says; None where it does not."""
    said: Any = None
    with suppress(OSError, ValueError):
        said = read_json(path.read_text(encoding="utf-8"))
    said = said if isinstance(said, dict) else {}
    step, recipe = said.get("step"), said.get("recipe")
    return {"step": step if isinstance(step, int) else None, "recipe": recipe if isinstance(recipe, str) else "a publication"}


def read_files(path: Path) -> list[str]:
    """The files that a publication says are its own; none where it cannot be read."""
    with suppress(OSError, ValueError):
        said = read_json(path.read_text(encoding="utf-8"))
        files = said.get("files") if isinstance(said, dict) else None
        if isinstance(files, list):
            return [f for f in files if isinstance(f, str)]
    return []


def remembered(run: Path | None, server: str, repo: str) -> str | None:
    """The commit of this run's last push to a repository of a server, or None."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        entry = _memory(run)[_key(server, repo)]["commit"]
        return entry if isinstance(entry, str) else None
    return None


def remember(run: Path, server: str, repo: str, commit: str, tags: Iterable[str] = ()) -> None:
    """Notes a push in the run's folder, in one step for whoever reads; raises OSError where it cannot be written."""
    entry = {"repo": repo, "server": server, "commit": commit, "tags": list(tags)}
    aside = run / f".{MEMORY}.{os.getpid()}.part"
    known: dict[str, Any] = {}
    with suppress(OSError, ValueError):
        known = _memory(run)
    aside.write_text(json.dumps(known | {_key(server, repo): entry}, indent=1) + "\n", encoding="utf-8")
    os.replace(aside, run / MEMORY)


def _memory(run: Path | None) -> dict[str, Any]:
    if run is None:
        raise ValueError("a bundle without a run remembers nothing")
    raw = read_json((run / MEMORY).read_text(encoding="utf-8"))
    if not isinstance(raw, dict):
        raise ValueError(f"{MEMORY} is no mapping")
    return raw


def _key(server: str, repo: str) -> str:
    return f"{server}/{repo}"
