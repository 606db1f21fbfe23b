"""Ctrl-C and SIGTERM, politely: the loop finishes its step, saves, and says how to go on. A second one does not wait."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Stop:
    """Whether somebody asked to stop, and by which signal (0: nobody did)."""

    signal = 0

    def __bool__(self) -> bool:
        return self.signal != 0


class Interrupted(Exception):
    """Training stopped because it was asked to; everything is saved.

    Args:
        message: how to go on.
        signal: what asked; the exit code is 128 + signal, as shells have it.
    """

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal


@contextmanager
def politely() -> Iterator[Stop]:
    """Turns the first SIGINT or SIGTERM into a flag; the handlers of before come back at the end."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, frame: object) -> None:
        stop.signal = number
        print("seqrl: stopping after this step, then saving (once more stops at once)", file=sys.stderr, flush=True)
        # From now on the signal does what it always did, so an impatient second one ends the process.
        signal.signal(number, before[number] if number == signal.SIGINT else signal.SIG_DFL)

    for s in before:
        signal.signal(s, ask)
    try:
        yield stop
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)
