"""One line of progress over all cells of a suite: a bar on a terminal, plain lines now and then elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from seqrl.train.progress import spell

_EVERY = 30.0
"""Seconds between plain lines."""


def plain(words: str) -> str:
    """Somebody's words without anything that could steer the terminal."""
    return "".join(c if c.isprintable() or c == "\n" else "�" for c in words)


class Board(Protocol):
    """What a suite under way tells."""

    def say(self, line: str) -> None:
        """A line that stays."""

    def at(self, cells: int, of: int, steps: int, all_steps: int, left: float | None, running: str) -> None:
        """How far it is: cells and steps done, seconds left (None: nobody knows), and what is running."""


@contextmanager
def board(title: str) -> Iterator[Board]:
    """A board on stderr."""
    if not sys.stderr.isatty():
        yield _Lines(title)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns: list[Any] = [TextColumn("[bold]{task.description}"), BarColumn(), TextColumn("{task.fields[told]}")]
    columns.append(TextColumn("{task.fields[running]}", style="dim"))
    with Progress(*columns, console=Console(stderr=True, highlight=False), refresh_per_second=4) as live:
        yield _Live(live, title)


class _Live:
    def __init__(self, live: Any, title: str) -> None:
        from rich.markup import escape

        self.live, self.task = live, live.add_task(escape(title), total=None, told="", running="")

    def say(self, line: str) -> None:
        self.live.console.print(plain(line), markup=False)

    def at(self, cells: int, of: int, steps: int, all_steps: int, left: float | None, running: str) -> None:
        from rich.markup import escape

        told = _told(cells, of, steps, all_steps, left)
        self.live.update(self.task, total=max(all_steps, 1), completed=steps, told=told, running=escape(plain(running)))


class _Lines:
    def __init__(self, title: str) -> None:
        self.title, self.said = title, float("-inf")

    def say(self, line: str) -> None:
        print(plain(line), file=sys.stderr, flush=True)

    def at(self, cells: int, of: int, steps: int, all_steps: int, left: float | None, running: str) -> None:
        now = time.monotonic()
        if now - self.said < _EVERY:
            return
        self.said = now
        said = f"{self.title}  {_told(cells, of, steps, all_steps, left)}  {running}"
        print(plain(said).rstrip(), file=sys.stderr, flush=True)


def _told(cells: int, of: int, steps: int, all_steps: int, left: float | None) -> str:
    eta = "" if left is None else f"  eta {spell(left)}"
    return f"{cells:,}/{of:,} cells  {steps:,}/{all_steps:,} steps{eta}"
