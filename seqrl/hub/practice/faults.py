"""Faults on order: what the next matching requests meet instead of an answer, or on the way to one."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

WORDS = ("drop", "half", "corrupt", "lost", "slow")


@dataclass(frozen=True)
class Fault:
    """One request's fate.

    Args:
        word: ``status`` (an error answer), ``drop`` (closed without an answer, nothing done), ``lost`` (done, then closed
            without an answer), ``half`` (closed in the middle of the body), ``corrupt`` (a wrong byte), ``slow``.
        status, headers: of the error answer.
        seconds: how long a slow one takes.
    """

    word: str
    status: int = 0
    headers: tuple[tuple[str, str], ...] = ()
    seconds: float = 0.0


def fault(what: Any) -> Fault:
    """From 503, ``(429, {"Retry-After": "1"})``, ``"drop"``, ``("slow", 2.0)``; raises ValueError for anything else."""
    if isinstance(what, int):
        return Fault("status", what)
    if isinstance(what, tuple) and len(what) == 2 and isinstance(what[0], int):
        return Fault("status", what[0], tuple(what[1].items()))
    if isinstance(what, tuple) and len(what) == 2 and what[0] == "slow":
        return Fault("slow", seconds=float(what[1]))
    if what in WORDS and what != "slow":
        return Fault(what)
    raise ValueError(f"a fault is a status, (status, headers), ('slow', seconds), or one of {', '.join(WORDS)}; not {what!r}")


class Faults:
    """Queues of faults, each for the requests of one method whose path holds some text."""

    def __init__(self) -> None:
        self._lock, self._queues = threading.Lock(), []

    def add(self, method: str, part: str, what: Sequence[Any]) -> None:
        with self._lock:
            self._queues.append((method.upper(), part, [fault(w) for w in what]))

    def clear(self) -> None:
        with self._lock:
            self._queues.clear()

    def next(self, method: str, path: str) -> Fault | None:
        """Takes the fault that the request meets out of the first queue for it that has one left."""
        with self._lock:
            for wanted, part, queue in self._queues:
                if queue and wanted in (method, "*") and part in path:
                    return queue.pop(0)
        return None
