"""``seqrl train`` starts its own processes: one command in a plain shell, and nothing else to learn.

The first process speaks and shows the progress, the others keep what they say to themselves. Each is in a process group of its
own, so that Ctrl-C reaches this parent alone: it asks the first process to stop, which tells the others, and all save. When
a process dies the others notice by themselves and end; whoever has not ended a while later is ended here. Nothing here is done
where torchrun, accelerate, MPI or SLURM has started this process.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from seqrl.core.errors import RecipeError
from seqrl.train.settings import EngineConfig, count_of

PARENT = "SEQRL_PARENT"
"""Names the number of a pipe that closes when the parent is gone."""
_GRACE = 20.0
"""Seconds in which the others end by themselves when one has died."""


class Ended(Exception):
    """The processes ended otherwise than well, and it was said why, or ``message`` says it."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def needed(engine: EngineConfig, env: Mapping[str, str] = os.environ) -> int | None:
    """How many processes are to be started here; None where this process trains by itself or is one of several already.

    Raises:
        RecipeError: weights are to be dealt out, and nobody said over how many processes.
    """
    words = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS")
    if any(count_of(w, env.get(w) or "0") > 1 for w in words) or PARENT in env or ("RANK" in env and "WORLD_SIZE" in env):
        return None
    if engine.kind in ("zero2", "zero3", "fsdp") and engine.wanted is None:
        raise RecipeError(f"engine.kind: {engine.kind} deals out over processes; say how many: engine.processes=2")
    return engine.wanted if (engine.wanted or 1) > 1 else None


def _environment(rank: int, world: int, port: int, pipe: int) -> dict[str, str]:
    """Of process ``rank``: torch's own words, and an equal share of the cores."""
    threads = max(1, len(os.sched_getaffinity(0)) // world) if hasattr(os, "sched_getaffinity") else 1
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)}
    quiet = {"TORCH_CPP_LOG_LEVEL": os.environ.get("TORCH_CPP_LOG_LEVEL", "ERROR")}
    own = {"RANK": str(rank), "LOCAL_RANK": str(rank), PARENT: str(pipe)}
    return {**os.environ, **where, **quiet, **own, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads))}


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def together(command: Sequence[str], world: int) -> None:
    """Runs ``command`` as ``world`` processes and waits for them.

    Raises:
        Ended: one of them did not end well.
    """
    port, (pipe, ours) = _free_port(), os.pipe()
    with tempfile.TemporaryDirectory(prefix="seqrl-") as folder, contextlib.ExitStack() as open_files:
        heard = [None, *(open_files.enter_context((Path(folder) / str(r)).open("w+b")) for r in range(1, world))]
        children = []
        try:
            for rank, file in enumerate(heard):
                said: dict[str, Any] = {} if file is None else {"stdout": subprocess.DEVNULL, "stderr": file}
                env = _environment(rank, world, port, pipe)
                children.append(subprocess.Popen(list(command), env=env, process_group=0, pass_fds=(pipe,), **said))
            _wait(children)
        finally:
            _end(children)
            os.close(pipe)
            os.close(ours)
        _tell(children, heard)


def _wait(children: list[subprocess.Popen]) -> None:
    """Until all have ended, or one has ended badly and the others had time to notice."""
    asked: list[int] = []

    def ask(number: int, frame: object) -> None:
        asked.append(number)
        # Once: the first process stops after its step, and all others with it. Twice: at once.
        for child in children[:1] if len(asked) == 1 else children:
            if child.poll() is None:
                child.send_signal(number if len(asked) == 1 or child is children[0] else signal.SIGKILL)

    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        until = None
        while any(c.poll() is None for c in children):
            if until is None and any(c.poll() for c in children):
                until = time.monotonic() + _GRACE
            if until is not None and time.monotonic() > until:
                return
            time.sleep(0.1)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(children: list[subprocess.Popen]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        left = [c for c in children if c.poll() is None]
        for child in left:
            child.send_signal(number)
        until = time.monotonic() + 3
        while left and any(c.poll() is None for c in left) and time.monotonic() < until:
            time.sleep(0.05)


def _tell(children: list[subprocess.Popen], heard: list[IO[bytes] | None]) -> None:
    """Raises Ended where a process did not end well; what the first has said itself is not said again."""
    codes, world = [c.returncode for c in children], len(children)
    if not any(codes):
        return
    first = codes[0]
    if first > 0:
        raise Ended("", first)
    told = []
    for rank, code in enumerate(codes):
        if code < 0:
            told.append(f"process {rank} of {world} was ended by {signal.Signals(-code).name}")
        elif code and (file := heard[rank]) is not None:
            file.seek(0)
            lines = file.read().decode(errors="replace").strip().splitlines()
            told.append(
                f"process {rank} of {world} ended with code {code}: {lines[-1].removeprefix('seqrl: ') if lines else ''}"
            )
    # A process that another's end has ended says less than that other.
    killed = [t for t, c in zip(told, (c for c in codes if c), strict=True) if c < 0]
    raise Ended((killed or told)[0] + "; all others stopped. Go on from the last checkpoint with --resume", 1)


def watch_parent() -> None:
    """In a process that was started here: when the parent is gone, as if it had asked to stop."""
    pipe = os.environ.get(PARENT)
    if pipe is None:
        return

    def wait() -> None:
        with contextlib.suppress(OSError):
            os.read(int(pipe), 1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


def leave(code: int) -> None:
    """Ends one of several processes at once: gloo's threads may otherwise abort while the interpreter takes itself apart."""
    sys.stdout.flush()
    sys.stderr.flush()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        os._exit(code)
