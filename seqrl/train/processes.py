"""Several processes that train together: who started them, how they meet, and how they end when one of them is gone.

Each tells a common store that it lives, from a thread of its own, so that it does so even while it waits. When what it waits
for fails, the store says whose life has stopped, and what a process said that ended by itself; that is the message.
"""

import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from seqrl.core.errors import RecipeError, UserError
from seqrl.train.around import started

_BEAT = 1.0
"""Seconds between signs of life."""
_LOST = ("gloo", "nccl", "connection", "socket", "timed out", "timeout", "peer", "store", "collective")
"""Words of errors that come of another process, where the library raises plain RuntimeErrors."""


_GO_ON = ". Go on from the last checkpoint with --resume; where there is none yet, the first command again"


class LostProcess(Exception):
    """Another process ended or does not answer; one message that names it."""

    exit_code = 1


def join(wanted: int | None, device: str, minutes: float) -> tuple[int, int]:
    """Meets the others, if there are any.

    Args:
        wanted: how many there should be; None takes what there is.
        device: cpu or cuda. minutes: until who waits gives up.

    Returns:
        this process's number, and how many there are.

    Raises:
        RecipeError: there are more or fewer of them.
    """
    there = started() or 1
    if wanted is not None and wanted != there:
        raise RecipeError(
            f"engine: {wanted} processes are asked for, and {there} {'is' if there == 1 else 'are'} running; "
            f"'seqrl train' in a plain shell starts them itself, torchrun with --nproc_per_node; engine.processes={there} "
            "takes what there is"
        )
    if there == 1 and not dist.is_initialized():
        return 0, 1
    if not dist.is_initialized():
        if device == "cuda":
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
        # What lies in the host's memory is spoken about as well, such as whole numbers of steps.
        backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=timedelta(minutes=minutes))
    return dist.get_rank(), dist.get_world_size()


class Company:
    """The others, as one process sees them; of one process alone everything here is nothing."""

    def __init__(self, rank: int, world: int) -> None:
        self.rank, self.world, self._waits = rank, world, 0
        self._over = threading.Event()
        if world > 1:
            store = dist.distributed_c10d._get_default_store()
            self._store = dist.PrefixStore(f"seqrl/{next(_companies)}", store)
            self._life = threading.Thread(target=self._live, daemon=True)
            self._life.start()

    def _live(self) -> None:
        beat = 0
        while not self._over.is_set():
            try:
                self._store.set(f"beat/{self.rank}", str(beat := beat + 1))
            except RuntimeError:
                return
            self._over.wait(_BEAT)

    def alone(self, work: Callable[[], Any]) -> Any:
        """Process 0 works, however long it takes, while the others wait; what it found, and None for the others."""
        if self.world == 1:
            return work()
        self._waits += 1
        key = f"done/{self._waits}"
        if self.rank == 0:
            found = work()
            self._store.set(key, "yes")
            return found
        while not self._store.check([key]):
            if self._store.check(["said/0"]):
                raise LostProcess(self._who_is_gone() + _GO_ON)
            time.sleep(0.1)
        return None

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Turns an error that comes of another process into one that names it; tells the others of errors of its own."""
        try:
            yield
        except BaseException as error:
            if self.world > 1 and _is_of_others(error):
                message = self._who_is_gone()
                self._say("")
                raise LostProcess(f"{message} ({_bare(error)}){_GO_ON}") from error
            if self.world > 1 and not isinstance(error, LostProcess):
                self._say(str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}")
            raise

    def _say(self, message: str) -> None:
        # Whoever is told may be gone.
        try:
            self._store.set(f"said/{self.rank}", message)
        except RuntimeError:
            return

    def _who_is_gone(self) -> str:
        """Who has stopped living, or has said why it ended; takes some seconds, in which those who live say so."""
        try:
            before = self._beats()
            time.sleep(3.5 * _BEAT)
            after, said = self._beats(), self._said()
        except RuntimeError:
            return f"process 0 of {self.world} is gone; all others stop"
        told = [f"process {r} of {self.world} stopped: {said[r]}" for r in sorted(said) if said[r]]
        gone = [r for r in range(self.world) if r != self.rank and r not in said and after.get(r) == before.get(r)]
        if told or gone:
            named = ", ".join(map(str, gone))
            dead = f"processes {named} of {self.world} are" if len(gone) > 1 else f"process {named} of {self.world} is"
            return "; ".join([*told, *([f"{dead} gone; all others stop"] if gone else [])])
        return f"a process of {self.world} is too late; they live, but one does not answer within engine.timeout"

    def _beats(self) -> dict[int, bytes]:
        keys = {r: f"beat/{r}" for r in range(self.world)}
        return {r: self._store.get(k) for r, k in keys.items() if self._store.check([k])}

    def _said(self) -> dict[int, str]:
        keys = {r: f"said/{r}" for r in range(self.world)}
        return {r: self._store.get(k).decode() for r, k in keys.items() if self._store.check([k])}

    def part(self) -> None:
        """The end of living together."""
        self._over.set()


def _count() -> Iterator[int]:
    n = 0
    while True:
        yield (n := n + 1)


_companies = _count()


def _is_of_others(error: BaseException) -> bool:
    """Whether an error tells of another process: one of torch's, or one that names its rank (context/errors.py)."""
    if isinstance(error, dist.DistError) or type(error).__name__ == "LostRank":
        return True
    said = str(error).lower()
    return type(error) is RuntimeError and any(word in said for word in _LOST)


def _bare(error: BaseException) -> str:
    """The first line of a library's error without the place in its source that it begins with."""
    return re.sub(r"^\[[^\]]*\]\s*", "", str(error).splitlines()[0])[:120].rstrip()
