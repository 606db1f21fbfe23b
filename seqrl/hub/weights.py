"""The head of a safetensors file: read without its numbers, and its free text replaced without moving them.

A file begins with eight bytes, the length of the head, and the head in JSON: name, type, shape and place of every tensor, and
``__metadata__``, texts that whoever wrote it liked to add.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from seqrl.core.errors import BundleError
from seqrl.core.plain import read_json

_LONGEST = 100_000_000
"""Bytes of the longest head that the format allows."""


def read_header(path: Path) -> dict[str, Any]:
    """Name -> ``{dtype, shape, data_offsets}`` of every tensor, and ``__metadata__``.

    Raises:
        BundleError: the file is truncated, or no safetensors file.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(_LONGEST, path.stat().st_size - 8):
                raise ValueError("the length of its head cannot be")
            found = read_json(file.read(length))
            end = max([0, *(int(v["data_offsets"][1]) for k, v in found.items() if k != "__metadata__")])
    except (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError) as e:
        raise BundleError(f"{path}: truncated or no safetensors file ({e})") from e
    if path.stat().st_size != 8 + length + end:
        raise BundleError(f"{path}: truncated: {path.stat().st_size} bytes, where its head speaks of {8 + length + end}")
    return found


def set_note(path: Path, note: dict[str, str]) -> None:
    """Replaces ``__metadata__`` in a copy that takes the file's place; what is linked to the old one stays as it was.

    Raises:
        BundleError: no safetensors file, or the new text is longer than the old one.
    """
    head = read_header(path)
    fresh = json.dumps({"__metadata__": note, **{k: v for k, v in head.items() if k != "__metadata__"}}, separators=(",", ":"))
    aside = path.with_suffix(".part")
    shutil.copyfile(path, aside)
    with aside.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        written = fresh.encode()
        if len(written) > length:
            raise BundleError(f"{path}: its metadata cannot be replaced by something longer")
        file.write(written.ljust(length))
    aside.replace(path)
