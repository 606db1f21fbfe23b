"""The shelves: folders of files that are chosen by name and hold no code (``recipes/``, ``tokenizers/``, ``hub/``).

In a checkout they stand beside the package, in an installed wheel inside it under ``_shipped``. A recipe's header, the
comment lines on top, says what a reader asks before running it: paper, command, hardware, minutes, expected number.
"""

import re
from pathlib import Path

from seqrl.core.errors import RecipeError, did_you_mean

HOUSE = Path(__file__).resolve().parent.parent
_KEY = re.compile(r"([a-z][a-z0-9_-]*):(?:\s+|$)(.*)")


def folder(shelf: str) -> Path:
    """Where a shelf stands: ``seqrl/_shipped/<shelf>`` if that is there, else ``<checkout>/<shelf>``."""
    shipped = HOUSE / "_shipped" / shelf
    return shipped if shipped.is_dir() else HOUSE.parent / shelf


def names(shelf: str, suffix: str = ".yaml") -> list[str]:
    """The names on a shelf, sorted; folders below it are other shelves."""
    return sorted(p.name.removesuffix(suffix) for p in folder(shelf).glob(f"*{suffix}"))


def find(shelf: str, name: str, suffix: str = ".yaml") -> Path:
    """The file behind a name.

    Args:
        shelf: which shelf, such as ``recipes``.
        name: a name on it, or a file. A bare name means the shelf even where a file of that name lies about.
        suffix: how the shelf's files end.

    Raises:
        RecipeError: neither; the message names the closest name and lists the rest.
    """
    known = names(shelf, suffix)
    if name in known:
        return folder(shelf) / f"{name}{suffix}"
    try:
        file = Path(name).expanduser()
        there = file.is_file()
    except (OSError, RuntimeError) as e:
        # Longer than any name may be, or of a person who has no home here.
        raise RecipeError(f"{name[:80]}: there is no such file ({getattr(e, 'strerror', None) or e})") from e
    if there:
        return file
    what = shelf.rpartition("/")[2].removesuffix("s")
    if file.is_dir():
        raise RecipeError(f"{name}: this is a folder, not a {what} file")
    if "/" in name or file.suffix:
        on_shelf = f"; the shelf has one of that name: '{file.stem}'" if file.stem in known else did_you_mean(file.stem, known)
        raise RecipeError(f"{name}: there is no such file{on_shelf}")
    listed = f"there are: {', '.join(known)}" if known else "the shelf is empty"
    raise RecipeError(f"no {what} '{name}'{did_you_mean(name, known)} ({listed}; a file is given by its path)")


def text(shelf: str, name: str) -> str:
    """The text behind a name; raises RecipeError where there is none or it cannot be read."""
    file = find(shelf, name)
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise RecipeError(f"{file}: cannot be read: {getattr(e, 'strerror', None) or e}") from e


def header(text: str) -> dict[str, str]:
    """What the comment lines on top of a file say.

    ``# key: value`` lines become entries; a deeper-indented comment line goes on with the entry above it; the first other
    line is the ``title``. An editor's ``yaml-language-server`` line says nothing to a reader and is passed over.

    Args:
        text: the whole file.
    """
    found: dict[str, str] = {}
    key = None
    for line in text.splitlines():
        if not line.startswith("#"):
            if line.strip():
                break
            continue
        said = line.lstrip("#")
        word = said.strip()
        if not word or word.startswith("yaml-language-server:"):
            key = None
        elif match := _KEY.fullmatch(word):
            key = match[1]
            found[key] = match[2].strip()
        elif key is not None and said.startswith("  "):
            found[key] = f"{found[key]} {word}".strip()
        elif "title" not in found:
            found["title"], key = word, "title"
    return found
