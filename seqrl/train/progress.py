"""Progress of long work: a bar with rate and time left on a terminal, plain lines elsewhere."""

import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol


class Progress(Protocol):
    """What long work calls: how far it is, and a few words to show beside."""

    def __call__(self, done: int, total: int, note: str = "") -> None: ...


def spell(seconds: float) -> str:
    """Seconds as a person would say them: ``42s``, ``3m05s``, ``2h10m``."""
    s = round(max(0.0, seconds))
    if s < 60:
        return f"{s}s"
    return f"{s // 60}m{s % 60:02d}s" if s < 3600 else f"{s // 3600}h{s % 3600 // 60:02d}m"


class _Rate:
    """Units per second over the last half minute, so that what is told is how fast it goes now."""

    def __init__(self, window: float = 30.0) -> None:
        self.window, self.marks = window, deque()

    def __call__(self, now: float, done: int) -> float:
        if self.marks and done < self.marks[-1][1]:
            # Counting begins anew, as with the next of several datasets.
            self.marks.clear()
        if not self.marks or now - self.marks[-1][0] > self.window / 100:
            self.marks.append((now, done))
        while len(self.marks) > 1 and now - self.marks[0][0] > self.window:
            self.marks.popleft()
        then, before = self.marks[0]
        return (done - before) / (now - then) if now > then else 0.0


@contextmanager
def bar(title: str, unit: str = "step", every: float = 10.0, quiet: bool = False) -> Iterator[Progress]:
    """A progress reporter.

    Args:
        title: what is being done.
        unit: what is counted.
        every: seconds between plain lines where there is no terminal.
        quiet: say nothing (processes other than the first).
    """
    if quiet:
        yield lambda done, total, note="": None
    elif sys.stderr.isatty():
        with _live(title, unit) as report:
            yield report
    else:
        yield _Lines(title, unit, every)


@contextmanager
def _live(title: str, unit: str) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns: list[Any] = [TextColumn(f"[bold]{title}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}")]
    columns += [TextColumn("eta"), TimeRemainingColumn(), TextColumn("{task.fields[note]}", style="dim")]
    rated = _Rate()
    with Progress(*columns, console=Console(stderr=True), refresh_per_second=4) as live:
        task = live.add_task(title, total=None, rate="", note="")

        def report(done: int, total: int, note: str = "") -> None:
            rate = rated(time.monotonic(), done)
            live.update(task, completed=done, total=total, rate=f"{rate:,.1f} {unit}s/s" if rate else "", note=note)

        yield report


class _Lines:
    def __init__(self, title: str, unit: str, every: float) -> None:
        self.title, self.unit, self.every = title, unit, every
        self.rated = _Rate()
        self.began: float | None = None
        self.said, self.last = 0.0, 0

    def __call__(self, done: int, total: int, note: str = "") -> None:
        now = time.monotonic()
        rate = self.rated(now, done)
        if self.began is None or done < self.last:
            self.began = self.said = now
        self.last = done
        if now - self.said < self.every and done < total:
            return
        self.said = now
        left = f"in {spell(now - self.began)}" if done >= total else f"eta {spell((total - done) / rate)}" if rate > 0 else ""
        print(
            f"{self.title} {done:,}/{total:,} {self.unit}s  {rate:,.1f}/s  {left}  {note}".rstrip(), file=sys.stderr, flush=True
        )
