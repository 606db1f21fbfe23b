"""What a commit holds: the files of a repository by path, how operations change them, and the names git gives to them.

Paths come from strangers. One that could lead out of the folder a repository is copied to is refused here, so that no
repository on this Hub ever holds one (unless a test plants it).
"""

import base64
import binascii
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from seqrl.hub.practice.objects import Objects, git_id, pointer
from seqrl.hub.practice.wire import Refused

ALWAYS_LARGE = (
    *("7z", "arrow", "avro", "bin", "bz2", "ckpt", "ftz", "gz", "h5", "hdf5", "joblib", "mlmodel", "model", "msgpack", "npy"),
    *("npz", "onnx", "ot", "parquet", "pb", "pickle", "pkl", "pt", "pth", "rar", "safetensors", "tar", "tflite", "tgz", "wasm"),
    *("xz", "zip", "zst", "gif", "mp4", "png", "jpg", "jpeg", "webp", "wav", "mp3"),
)
"""Endings of the files that are large ones whatever their size."""

_DRIVE = re.compile(r"[A-Za-z]:.*")


@dataclass(frozen=True)
class Entry:
    """A file of a commit: git's name of the blob, its size in bytes, and its sha256 where the blob is an LFS pointer to it."""

    oid: str
    size: int
    sha256: str | None = None


Files = Mapping[str, Entry]


def large_entry(sha256: str, size: int) -> Entry:
    return Entry(git_id("blob", pointer(sha256, size)), size, sha256)


def lfs(entry: Entry, name: str = "oid") -> dict[str, Any]:
    """The large content behind an entry, as the Hub tells of it."""
    size = len(pointer(entry.sha256, entry.size))
    return {name: entry.sha256, "size": entry.size, "pointerSize": size}


def checked(path: Any) -> str:
    """The path itself; raises Refused where it leads out of the repository or no file can have it."""
    fine = isinstance(path, str) and 0 < len(path) <= 1024 and path.isprintable() and "\\" not in path
    if not fine or _DRIVE.fullmatch(path) or any(p in ("", ".", "..") or p.lower() == ".git" for p in path.split("/")):
        raise Refused(400, f"{ascii(path)[:200]} is no path of a file in a repository")
    return path


def applied(files: Files, operations: Iterable[Mapping[str, Any]], objects: Objects) -> dict[str, Entry]:
    """The files after a commit's operations (``{"key": "file", "value": {...}}``); contents are kept on the way.

    Raises:
        Refused: a wrong path or content, a missing file to delete, a large file that was never uploaded, or a file where
            there is a folder. What the commit brought lies among the contents then, but no commit names it.
    """
    after = dict(files)
    for operation in operations:
        key, value = operation.get("key"), operation.get("value")
        if not isinstance(value, dict):
            raise Refused(400, f"an operation '{key}' without a value")
        path = checked(str(value.get("path", "")).rstrip("/") if key == "deletedFolder" else value.get("path"))
        if key == "file":
            after[path] = _small(path, value, objects)
        elif key == "lfsFile":
            stored = objects.large(value.get("oid"))
            if not stored.is_file():
                raise Refused(400, f"LFS pointer pointed to a file that does not exist: {path}")
            size = stored.stat().st_size
            if value.get("size", size) != size:
                raise Refused(400, f"{path}: its LFS object has {size} bytes, not {value['size']}")
            after[path] = large_entry(value["oid"], size)
        elif key in ("deletedFile", "deletedFolder"):
            gone = [p for p in after if p == path] if key == "deletedFile" else [p for p in after if p.startswith(f"{path}/")]
            if not gone:
                raise Refused(404, f"there is no {path} to delete", "EntryNotFound")
            for p in gone:
                del after[p]
        else:
            raise Refused(400, f"an unknown operation '{key}'")
    for path in after:
        parts = path.split("/")
        if any("/".join(parts[:k]) in after for k in range(1, len(parts))):
            raise Refused(400, f"{path}: one of its folders is a file")
    return after


def _small(path: str, value: Mapping[str, Any], objects: Objects) -> Entry:
    try:
        content = value.get("content", "")
        data = base64.b64decode(content, validate=True) if value.get("encoding") == "base64" else content.encode()
    except (binascii.Error, ValueError, AttributeError) as e:
        raise Refused(400, f"{path}: its content is not {value.get('encoding', 'text')}") from e
    return Entry(objects.put(data), len(data))


def folders(files: Files) -> dict[str, str]:
    """Every folder's git id by its path; the whole tree's is at ``""``."""
    inside: dict[str, list[tuple[str, bool, str]]] = {"": []}
    for path, entry in files.items():
        folder, _, name = path.rpartition("/")
        inside.setdefault(folder, []).append((name, False, entry.oid))
        while folder:
            folder = folder.rpartition("/")[0]
            inside.setdefault(folder, [])
    ids: dict[str, str] = {}
    # Deepest first, and the root after all others: a folder's id is made of the ids in it.
    for folder in sorted(inside, key=lambda f: (f.count("/") + bool(f), f), reverse=True):
        # Git sorts a folder as if its name ended in a slash.
        rows = sorted(inside[folder], key=lambda row: (row[0] + "/" * row[1]).encode())
        modes = ((b"40000 " if is_folder else b"100644 ", name.encode(), bytes.fromhex(oid)) for name, is_folder, oid in rows)
        ids[folder] = git_id("tree", b"".join(mode + name + b"\0" + oid for mode, name, oid in modes))
        if folder:
            above, _, name = folder.rpartition("/")
            inside[above].append((name, True, ids[folder]))
    return ids
