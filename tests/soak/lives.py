"""Runs that live and die: the ``seqrl`` command in forked processes, each with its fate.

One process imports everything once and is forked for each life, which spares the seconds that torch takes to start. A fate is
appointed before the command begins: to die by SIGKILL at the n-th thing that it does to a file, or when a file has so many
bytes; or to find the disk full from there on. What a process does to files is learned from Python's audit events, which come
before the deed; what safetensors writes in Rust is reached by the kernel's limit for the size of a file.
"""

import contextlib
import errno
import fcntl
import importlib
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass

DEEDS = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.symlink", "os.truncate", "shutil.rmtree", "fsync")


@dataclass(frozen=True)
class Fate:
    """What is to become of a life.

    Args:
        kind: ``none``, ``die`` (at a deed), ``full`` (deeds fail from there on), ``bytes`` (dies when a file has so many),
            ``large`` (writes beyond so many bytes fail), ``time`` (the parent kills it after so many seconds).
        within: counts only what is done to paths with this in them (any one of several, with | between).
        at: the number of the deed, from 1; of ``bytes`` and ``large`` the deed from which on the limit holds.
        size: bytes, or seconds of ``time``.
        rank: which of several processes it is for.
    """

    kind: str = "none"
    within: str = ""
    at: int = 1
    size: float = 0
    rank: int = 0

    def __str__(self) -> str:
        what = {"time": f"after {self.size:.2f} s", "bytes": f"at byte {self.size}", "large": f"above {self.size} bytes"}
        told = what.get(self.kind, f"at deed {self.at}")
        whose = f" of process {self.rank}" if self.rank else ""
        return f"{self.kind} {told}{f' in {self.within}' if self.within else ''}{whose}"


@dataclass(frozen=True)
class End:
    """How a life ended: its exit code (negative: the signal), what it said, and the deeds that were counted."""

    code: int
    said: str
    deeds: tuple[str, ...]


def _appoint(fate: Fate, report: int) -> None:
    """Makes this process meet its fate; writes each counted deed into the pipe ``report``."""
    if hasattr(signal, "SIGXFSZ") and fate.kind == "bytes":
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    count, places = [0], fate.within.split("|")

    def deed(event: str, where: str) -> None:
        if not any(place in where for place in places):
            return
        count[0] += 1
        os.write(report, f"{event} {where}\n".encode(errors="replace"))
        if count[0] < fate.at or fate.kind in ("none", "time"):
            return
        if fate.kind == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if fate.kind == "full" and event in ("open", "os.mkdir", "os.symlink", "fsync"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), where)
        if fate.kind in ("bytes", "large"):
            resource.setrlimit(resource.RLIMIT_FSIZE, (int(fate.size), resource.RLIM_INFINITY))

    def hook(event: str, args: tuple) -> None:
        if event in DEEDS and args and isinstance(args[0], str | bytes | os.PathLike):
            if event == "open" and not (len(args) > 2 and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)):
                return
            where = os.fsdecode(args[0])
            if event in ("os.remove", "os.rmdir") and isinstance(args[1], int) and args[1] >= 0:
                # What is removed with its folder is named within it.
                where = os.path.join(os.readlink(f"/proc/self/fd/{args[1]}"), where)
            deed(event, f"{where} -> {os.fsdecode(args[1])}" if event == "os.rename" else where)

    sys.addaudithook(hook)
    flush = os.fsync

    def fsync(file: int) -> None:
        where = os.readlink(f"/proc/self/fd/{file}") if os.path.isdir("/proc/self/fd") else ""
        deed("fsync", where)
        flush(file)

    os.fsync = fsync


def live(words: Sequence[str], fate: Fate = Fate(), world: int = 1, port: int = 0, limit: float = 240.0) -> list[End]:
    """``seqrl WORDS`` in ``world`` forked processes, one of which has a fate; how each ended.

    Raises:
        TimeoutError: one of them did not end.
    """
    born = [_fork(words, fate if r == fate.rank else Fate(within=fate.within), r, world, port) for r in range(world)]
    began, ends = time.monotonic(), {}
    while len(ends) < world:
        if fate.kind == "time" and fate.rank not in ends and time.monotonic() - began > fate.size:
            os.kill(born[fate.rank][0], signal.SIGKILL)
        for rank, (pid, files) in enumerate(born):
            if rank not in ends and (found := os.waitpid(pid, os.WNOHANG))[0]:
                said, deeds = (_drain(f) for f in files)
                code = os.waitstatus_to_exitcode(found[1])
                ends[rank] = End(code, said, tuple(deeds.splitlines()))
        if time.monotonic() - began > limit:
            for rank, (pid, _) in enumerate(born):
                if rank not in ends:
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
            raise TimeoutError(f"seqrl {' '.join(words)}: did not end ({fate})")
        time.sleep(0.01)
    return [ends[r] for r in range(world)]


def _drain(pipe: int) -> str:
    """What a child that has ended left in a pipe."""
    told = b""
    with os.fdopen(pipe, "rb") as file:
        while piece := file.raw.read(1 << 20):
            told += piece
    return told.decode(errors="replace")


def _pipe() -> tuple[int, int]:
    """One that takes a megabyte before anybody reads: neither a full disk nor a limit for files touches it."""
    read, write = os.pipe()
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 1 << 20)
    os.set_blocking(read, False)
    return read, write


def _fork(words: Sequence[str], fate: Fate, rank: int, world: int, port: int) -> tuple[int, tuple[int, int]]:
    """The number of the child, and two pipes: what it says, and its deeds."""
    (said, say), (deeds, do) = _pipe(), _pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        os.close(say)
        os.close(do)
        return pid, (said, deeds)
    code = 70
    try:
        os.dup2(say, 1)
        os.dup2(say, 2)
        if world > 1:
            where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(world), "RANK": str(rank)}
            os.environ.update(where, LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE=str(world), TORCH_CPP_LOG_LEVEL="ERROR")
        code = _command(words, lambda: _appoint(fate, do))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _command(words: Sequence[str], first: Callable[[], None]) -> int:
    from seqrl.cli.app import main

    first()
    try:
        main(list(words))
    except SystemExit as e:
        return e.code if isinstance(e.code, int) else int(e.code is not None)
    return 0


def warm(words: Sequence[str]) -> None:
    """Imports what ``seqrl WORDS`` imports, so that those who are forked from now on have it."""
    import seqrl.train.run  # noqa: F401

    out, into = _pipe()
    pid = os.fork()
    if not pid:
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        try:
            _command(words, lambda: None)
            os.write(into, "\n".join(sys.modules).encode())
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    os.close(into)
    for name in _drain(out).splitlines():
        with contextlib.suppress(Exception):
            importlib.import_module(name)


def collect(env: str, episodes: int, name: str) -> None:
    """Makes a dataset, in a process of its own, for who is forked should find no environment that was used."""
    pid = os.fork()
    if not pid:
        try:
            from seqrl.sources import collected

            collected.collect(env, episodes, name, "scripted", references=(22.0, 500.0))
            os._exit(0)
        finally:
            os._exit(1)
    if os.waitpid(pid, 0)[1]:
        raise RuntimeError(f"{name} could not be made")
