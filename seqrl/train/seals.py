"""Whether a checkpoint is still what was written: ``trainer/seal.json`` holds the sha256 of each of its files.

A disk that fails, a copy that was cut short or a hand that slipped changes bytes and not names, and weights with a wrong bit
train on without a word. What was sealed is looked through once before a run goes on from it, and again only if a file changed.
Checkpoints of before there were seals have none, and are taken as they are.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from seqrl.core.errors import BundleError
from seqrl.train.disk import write_whole

SEAL = Path("trainer") / "seal.json"
SEALED = "sealed"
"""The fact in ``state.json`` that says that there must be a seal."""

_seen: dict[Path, tuple[object, str | None]] = {}


def digest(path: Path) -> str:
    """sha256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def seal(checkpoint: Path, known: Mapping[str, str] | None = None) -> None:
    """Writes the seal of a checkpoint, over all of its files.

    Args:
        known: digests by path below the checkpoint, of files that need not be read for it.
    """
    known = known or {}
    files = sorted(p.relative_to(checkpoint).as_posix() for p in checkpoint.rglob("*") if p.is_file())
    sums = {name: [known.get(name) or digest(checkpoint / name)] for name in files if name != SEAL.as_posix()}
    (checkpoint / SEAL).write_text(json.dumps({"sha256": sums}, indent=1) + "\n", encoding="utf-8")


def wrong(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, in words: the first file that is not what was written; None where all are."""
    stamp = tuple(sorted((str(p), (s := p.stat()).st_size, s.st_mtime_ns) for p in checkpoint.rglob("*") if p.is_file()))
    if checkpoint not in _seen or _seen[checkpoint][0] != stamp:
        _seen[checkpoint] = stamp, _look(checkpoint)
    return _seen[checkpoint][1]


def _look(checkpoint: Path) -> str | None:
    try:
        facts = json.loads((checkpoint / "trainer" / "state.json").read_text(encoding="utf-8"))
        if not isinstance(facts, dict):
            return "trainer/state.json is damaged"
    except (OSError, ValueError, RecursionError):
        return "trainer/state.json is damaged"
    if SEALED not in facts and not (checkpoint / SEAL).exists():
        return None
    sums = _sums(checkpoint)
    if sums is None:
        return f"{SEAL.as_posix()} is damaged or gone"
    for name, allowed in sums.items():
        try:
            if digest(checkpoint / name) not in allowed:
                return f"{name} is damaged"
        except (OSError, ValueError):
            # The latter where no file can be called so.
            return f"{name} cannot be read"
    return None


def _sums(checkpoint: Path) -> dict[str, list[str]] | None:
    """Which digests each file may have; None where the seal cannot be read, or is not one of this checkpoint's files."""
    try:
        sums = json.loads((checkpoint / SEAL).read_text(encoding="utf-8"))["sha256"]
        fine = all(isinstance(v, list) and not name.startswith("/") and ".." not in name.split("/") for name, v in sums.items())
        return sums if fine and "trainer/state.json" in sums else None
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return None


def change(checkpoint: Path, name: str, text: str) -> None:
    """Replaces a file of a sealed checkpoint; whoever is killed in between leaves a file that fits the seal all the same.

    Raises:
        BundleError: the seal cannot be read.
        UserError: the disk is full or cannot be written.
    """
    if (checkpoint / SEAL).exists():
        sums = _sums(checkpoint)
        if sums is None:
            raise BundleError(f"{checkpoint / SEAL}: cannot be read; the checkpoint is damaged")
        after = hashlib.sha256(text.encode()).hexdigest()
        # Both are right until the file has been replaced; that the old one is allowed afterwards as well does no harm.
        sums[name] = list(dict.fromkeys([digest(checkpoint / name), after]))
        write_whole(checkpoint / SEAL, json.dumps({"sha256": sums}, indent=1) + "\n")
    write_whole(checkpoint / name, text)
