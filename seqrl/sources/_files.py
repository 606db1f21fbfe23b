"""Files on disk: where they live, how a folder comes to be whole or not at all, and which digest its content has.

Whoever writes more than one file (a dataset, a store, a download) does it in a temporary neighbour that is renamed at the
end. A crash, Ctrl-C or a full disk therefore leaves either the finished folder or nothing.
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from seqrl.core.errors import DataError

Progress = Callable[[int, int], None]
"""``progress(done, total)``, called after each episode."""


def cache_home() -> Path:
    """Where converted data live: ``SEQRL_CACHE``, or ``~/.cache/seqrl``."""
    return Path(os.environ.get("SEQRL_CACHE") or "~/.cache/seqrl").expanduser()


def datasets_home() -> Path:
    """Where Minari keeps its datasets: ``MINARI_DATASETS_PATH``, or ``~/.minari/datasets``."""
    return Path(os.environ.get("MINARI_DATASETS_PATH") or "~/.minari/datasets").expanduser()


def why(error: BaseException) -> str:
    """The reason of an operating system error in few words; HDF5 hides the number of its errors inside the text."""
    number = getattr(error, "errno", None)
    if number in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error) or "errno = 28" in str(error):
        return "no space left on the disk"
    said = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return said.splitlines()[0]


def passing(error: BaseException) -> bool:
    """Whether an error, or one that caused it, is the machine's and may pass: too little memory, too many open files, a disk or
    a server of files that does not answer. What stands in a file raises errors without a number."""
    while True:
        if isinstance(error, MemoryError) or (isinstance(error, OSError) and (error.errno or "errno = " in str(error))):
            return True
        if error.__cause__ is None:
            return False
        error = error.__cause__


@contextmanager
def one_at_a_time(target: Path, wait: bool = True) -> Iterator[None]:
    """Holds a lock between processes for the making of ``target``; a process that dies gives it back.

    Raises:
        DataError: the cache cannot be written, or somebody else holds it and ``wait`` is false.
    """
    from filelock import FileLock

    folder = cache_home() / "locks"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / f"{_name_of(target)}.lock")
        lock.acquire(blocking=wait)
    except OSError as e:
        raise DataError(f"{folder}: cannot be written ({why(e)}); set SEQRL_CACHE to a folder that can") from e
    try:
        yield
    finally:
        lock.release()


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """Gives a temporary folder that becomes ``target`` when the block ends well, and vanishes when it does not.

    Call it under ``one_at_a_time(target)``: what an earlier, killed writer of the same target left is removed first.

    Raises:
        DataError: something is there already, or the disk is full or cannot be written; nothing is left behind.
    """
    if target.exists():
        raise DataError(f"{target}: there is something at this place already")
    temporary = target.parent / f".{target.name}.{os.getpid()}.tmp"
    new_parents = [p for p in target.parents if not p.exists()]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        for left in target.parent.glob(f".{target.name}.*.tmp"):
            shutil.rmtree(left, ignore_errors=True)
        temporary.mkdir()
        yield temporary
        for path in (*(p for p in temporary.rglob("*") if p.is_file()), temporary):
            flush(path)
        temporary.rename(target)
    except BaseException as e:
        shutil.rmtree(temporary, ignore_errors=True)
        with suppress(OSError):
            for parent in new_parents:
                parent.rmdir()
        if isinstance(e, OSError):
            raise DataError(f"{target}: could not be written: {why(e)}; nothing was left behind") from e
        raise


def flush(path: Path) -> None:
    """Waits until a file, or the list of names of a folder, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _name_of(path: Path) -> str:
    return hashlib.sha256(os.fsencode(path.absolute())).hexdigest()[:24]


def digest(folder: Path, files: Sequence[Path]) -> str:
    """sha256 of the names (below ``folder``) and contents of ``files``: all of a folder's, or a single one.

    Read once: the answer is kept in the cache for as long as path, size and modification time of every file stay the same.

    Raises:
        DataError: a file cannot be read.
    """
    try:
        stats = [(str(f.relative_to(folder)), (s := f.stat()).st_size, s.st_mtime_ns) for f in sorted(files)]
        seen = hashlib.sha256(json.dumps(stats).encode()).hexdigest()
        # Single files often lie side by side; kept under their folder they would drive each other out.
        of = files[0] if len(files) == 1 else folder
        memo = cache_home() / "digests" / f"{_name_of(of)}.json"
        with suppress(OSError, ValueError, KeyError):
            known = json.loads(memo.read_text())
            if known["seen"] == seen:
                return known["digest"]
        total = joint_digest({str(f.relative_to(folder)): sha256(f) for f in files})
    except OSError as e:
        raise DataError(f"{folder}: cannot be read: {why(e)}") from e
    # A cache that cannot be written only means reading once more next time.
    with suppress(OSError):
        memo.parent.mkdir(parents=True, exist_ok=True)
        fresh = memo.with_suffix(f".{os.getpid()}.tmp")
        fresh.write_text(json.dumps({"seen": seen, "digest": total}))
        fresh.replace(memo)
    return total


def sha256(path: Path) -> str:
    """sha256 of a file's content."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def joint_digest(digests: Mapping[str, str]) -> str:
    """One digest of the names of several files and the sha256 of each."""
    total = hashlib.sha256()
    for name in sorted(digests, key=lambda n: Path(n).parts):
        total.update(f"{name}\0{digests[name]}\n".encode())
    return total.hexdigest()
