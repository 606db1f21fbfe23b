"""Files of a run on a disk that may be full or lose power: whole or not there, and a disk that refuses is one message."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from seqrl.core.errors import UserError
from seqrl.sources._files import flush, why

try:
    import fcntl
except ImportError:  # Windows has none: two processes in one folder are then the user's own care.
    fcntl = None  # type: ignore[assignment]

LOCK = ".running"
"""The file that the process which trains in a folder has locked."""


@contextmanager
def alone_in(run: Path) -> Iterator[None]:
    """Keeps other processes from training in a run folder for as long as the block, or this process, lives.

    Makes the folder where there is none, and takes it away again if nothing came into it.

    Raises:
        UserError: another process is at work there, or the folder cannot be written.
    """
    made = [folder for folder in (run, *run.parents) if not folder.exists()]
    with writing(run / LOCK):
        run.mkdir(parents=True, exist_ok=True)
        fd = locked(run / LOCK)
    if fd is None:
        raise UserError(
            f"{run}: another process is training in this folder; wait for it, stop it (Ctrl-C saves), or choose another --out"
        )
    try:
        yield
    finally:
        with suppress(OSError):
            (run / LOCK).unlink(missing_ok=True)
            # Only what is empty goes; the first that is not ends it.
            for folder in made:
                folder.rmdir()
        os.close(fd)


def locked(path: Path) -> int | None:
    """An open file that no other process has locked; None where one has."""
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        if fcntl is None:
            return fd
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        except OSError:
            # Some network disks know no locks; there it is the user's own care.
            return fd
        if os.fstat(fd).st_nlink:
            return fd
        # Whoever had it has just removed it.
        os.close(fd)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raises UserError, naming ``path``, where the disk refuses what is written in the block."""
    try:
        yield
    except OSError as e:
        again = f"do the same again (a run goes on with: seqrl train --resume {path.parent})"
        raise UserError(f"{path}: cannot be written ({why(e)}); nothing half-written counts. Make room, then {again}") from e


def flush_tree(folder: Path) -> None:
    """``flush`` of everything in a folder, and of the folder."""
    for path in sorted(folder.rglob("*"), reverse=True):
        flush(path)
    flush(folder)


def write_whole(path: Path, text: str) -> None:
    """Writes a file so that it appears complete or not at all, even where the machine loses power.

    Raises:
        UserError: the disk is full or cannot be written; what was there before stays.
    """
    aside = path.with_name(f".{path.name}.part")
    with writing(path):
        try:
            aside.write_text(text, encoding="utf-8")
            flush(aside)
            os.replace(aside, path)
            flush(path.parent)
        except OSError:
            aside.unlink(missing_ok=True)
            raise
