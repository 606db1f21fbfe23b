"""Writing while training goes on: one thread, one write at a time, and how the processes of a run meet while they write.

What is to be saved is copied to the host's memory first; the copy is written, flushed and renamed here, off the critical path.
The thread runs no model and draws no number, so that training is the same to the bit. It never speaks over the process group of
the training: two threads that did would hear each other's answers. Processes meet in the store that they found each other by.
"""

import json
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import torch

from seqrl.core.errors import UserError
from seqrl.train.processes import Company, LostProcess

_LOOK = 0.02
"""Seconds between two looks at the store."""
_PATIENCE = 15.0
"""Seconds without a sign of life after which a process is taken for gone."""


def copies(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors as they are now, in the host's memory, sharing nothing with those that train on."""
    return {n: t.detach().to("cpu", copy=True, memory_format=torch.contiguous_format) for n, t in tensors.items()}


class Writer:
    """A thread that writes, one thing at a time; what goes wrong there is raised by whoever asks next."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    @property
    def failed(self) -> bool:
        """Whether the last write has failed; waits for nothing."""
        return self._error is not None

    def begin(self, work: Callable[[], Any]) -> None:
        """Starts to write once the write before is done; raises what that one met."""
        self.wait()
        # A daemon: who stops at once, at a second Ctrl-C, leaves a part that is swept away, and the checkpoint before.
        self._thread = threading.Thread(target=self._run, args=(work,), name="seqrl-writer", daemon=True)
        self._thread.start()

    def _run(self, work: Callable[[], Any]) -> None:
        try:
            work()
        except BaseException as e:
            self._error = e

    def wait(self) -> None:
        """Until nothing is being written; raises what the last write met."""
        self.let_finish()
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def let_finish(self, seconds: float | None = None) -> None:
        """Until nothing is being written, however that ends; or for so long."""
        if self._thread is not None:
            self._thread.join(seconds)
            self._thread = self._thread if self._thread.is_alive() else None


class Posts:
    """What the processes that write one checkpoint tell each other, in a store, from a thread of each.

    A store keeps what was said to it, so that nobody has to be there when it is said. Of one process alone this is nothing.
    """

    def __init__(self, company: Company | None = None, name: str = "") -> None:
        """
        Args:
            company: the processes; None is one alone.
            name: of this write, the same on all of them and of no other write.
        """
        self._company = company if company is not None and company.world > 1 else None
        self._name = f"write/{name}"

    @property
    def others(self) -> range:
        """The numbers of the processes beside the first."""
        return range(1, self._company.world if self._company else 1)

    def tell(self, point: str, said: str = "") -> None:
        """This process has come to ``point``."""
        if self._company:
            self._company._store.set(f"{self._name}/{point}/{self._company.rank}", json.dumps({"said": said}))

    def fail(self, error: str) -> None:
        """This process comes to no more points; whoever waits for one raises ``error``."""
        # Whoever is told may be gone.
        with suppress(RuntimeError):
            if self._company:
                self._company._store.set(f"{self._name}/failed/{self._company.rank}", json.dumps({"error": error}))

    def hear(self, point: str, rank: int = 0) -> str:
        """Waits until process ``rank`` has come to ``point``, and answers what it said there.

        Raises:
            UserError: it failed before. LostProcess: it is gone.
        """
        if not self._company:
            return ""
        store, patience = self._company._store, _Patience(self._company, rank)
        place, failed = (f"{self._name}/{word}/{rank}" for word in (point, "failed"))
        while True:
            for key in (place, failed):
                if store.check([key]):
                    told = json.loads(store.get(key))
                    if "error" in told:
                        raise UserError(told["error"])
                    return told["said"]
            patience.look()
            time.sleep(_LOOK)


class _Patience:
    """Whether a process that is waited for still lives, by its signs of life in the company's store."""

    def __init__(self, company: Company, rank: int) -> None:
        self._store, self._rank, self._world = company._store, rank, company.world
        self._beat, self._since = b"", time.monotonic()

    def look(self) -> None:
        """Raises LostProcess where the process has said that it stops, or has shown no sign of life for long."""
        if self._store.check([said := f"said/{self._rank}"]):
            raise LostProcess(f"process {self._rank} of {self._world} stopped: {self._store.get(said).decode()}")
        if time.monotonic() < self._since + 1.0:
            return
        key = f"beat/{self._rank}"
        beat = self._store.get(key) if self._store.check([key]) else b""
        if beat != self._beat:
            self._beat, self._since = beat, time.monotonic()
        elif time.monotonic() > self._since + _PATIENCE:
            raise LostProcess(f"process {self._rank} of {self._world} is gone; all others stop")
