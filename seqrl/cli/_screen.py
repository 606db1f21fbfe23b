"""Screens of a game: coloured half blocks and bars in a terminal, a window where there is a display, plain lines elsewhere."""

import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from seqrl.cli._game import Game
from seqrl.core.errors import UserError

_SEQUENCES = {"[A": "up", "[B": "down", "[C": "right", "[D": "left", "OA": "up", "OB": "down", "OC": "right", "OD": "left"}


def blocks(picture: np.ndarray, columns: int, lines: int) -> str:
    """A picture ``(h, w, 3)`` in truecolour half blocks: two pixels a character, one above the other."""
    h, w = picture.shape[:2]
    shrink = max(1, -(-w // max(columns, 1)), -(-h // max(2 * lines, 2)))
    # Every pixel counts: a ball of three must not fall between the ones that are taken.
    rows, cols = -(-h // shrink), -(-w // shrink)
    padded = np.pad(picture, ((0, rows * shrink - h), (0, cols * shrink - w), (0, 0)), mode="edge").astype(int)
    small = padded.reshape(rows, shrink, cols, shrink, 3).mean((1, 3)).astype(int)
    if rows % 2:
        small = np.concatenate([small, small[-1:]])
    out = []
    for top, base in zip(small[::2], small[1::2], strict=True):
        cells = (
            f"\x1b[38;2;{a[0]};{a[1]};{a[2]}m\x1b[48;2;{b[0]};{b[1]};{b[2]}m▀"
            for a, b in zip(top.tolist(), base.tolist(), strict=True)
        )
        out.append("".join(cells) + "\x1b[0m")
    return "\n".join(out)


def bars(values: np.ndarray, names: tuple[str, ...], scale: np.ndarray, lines: int) -> str:
    """Numbers ``(D,)`` as bars from a middle, each as long as it is of the largest so far."""
    half, wide = 16, max((len(n) for n in names), default=0)
    out = []
    for name, value, most in list(zip(names, values, scale, strict=True))[:lines]:
        n = round(half * abs(value) / most) if most > 0 else 0
        left, right = ("█" * n, "") if value < 0 else ("", "█" * n)
        out.append(f"{name:<{wide}} {value:>10.4g}  {left:>{half}}│{right:<{half}}")
    if len(values) > lines:
        out.append(f"... and {len(values) - lines} more")
    return "\n".join(out)


def lines(game: Game, keys: Iterable[str]) -> None:
    """Plain text: a line a key."""
    _line(game)
    for key in keys:
        if not game.press(key):
            return
        _line(game)


def _line(game: Game) -> None:
    seen = game.picture()
    shown = "" if seen.ndim == 3 else "   " + " ".join(f"{x:.4g}" for x in seen[:12])
    print(game.status() + shown, flush=True)


def terminal(game: Game) -> None:
    """Until somebody leaves; the terminal is then as it was."""
    scale = np.zeros(0)
    with _raw() as fd:
        note = ""
        while True:
            seen, size = game.picture(), shutil.get_terminal_size()
            if seen.ndim == 3:
                shown = blocks(seen, min(size.columns - 1, 120), size.lines - 5)
            else:
                scale = np.maximum(np.abs(seen), scale) if len(scale) == len(seen) else np.abs(seen)
                shown = bars(seen, game.names(), scale, size.lines - 5)
            page = f"{shown}\n\n{game.status()}\n\x1b[2m{note or game.help()}\x1b[0m"
            sys.stdout.write("\x1b[H\x1b[J" + page.replace("\n", "\r\n"))
            sys.stdout.flush()
            note = ""
            key = _key(fd)
            try:
                if key and not game.press(key):
                    return
            except UserError as e:
                note = str(e)


@contextmanager
def _raw() -> Iterator[int]:
    import termios
    import tty

    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    try:
        # What was typed while the model was loaded is not thrown away.
        tty.setcbreak(fd, termios.TCSADRAIN)
        # A page of its own, without a cursor.
        sys.stdout.write("\x1b[?1049h\x1b[?25l")
        yield fd
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)
        sys.stdout.write("\x1b[?25h\x1b[?1049l")
        sys.stdout.flush()


def _key(fd: int) -> str:
    """The next key as a word; "" for one that is none of ours."""
    import select

    raw = os.read(fd, 1)
    if not raw:
        return "q"
    first = raw.decode(errors="ignore")
    if first == "\x1b":
        # An arrow sends its three bytes at once; the key Esc sends one.
        more = os.read(fd, 2).decode(errors="ignore") if select.select([fd], [], [], 0.05)[0] else ""
        return _SEQUENCES.get(more, "")
    return {" ": "space", "\n": "space", "\r": "space", "\x04": "q"}.get(first, first.lower())


class Window:
    """A window of matplotlib's."""

    @staticmethod
    def check() -> None:
        """Raises UserError where there is no display."""
        if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY") or sys.platform in ("darwin", "win32")):
            raise UserError("--window: there is no display here; play in the terminal, without --window")

    def __init__(self, game: Game) -> None:
        """Raises UserError where no window can be opened."""
        import matplotlib

        # Its own keys (q closes, s saves, arrows go back) would answer as well.
        for name in [n for n in matplotlib.rcParams if n.startswith("keymap.")]:
            matplotlib.rcParams[name] = []
        try:
            import matplotlib.pyplot as plt

            self.figure, self.axes = plt.subplots(num="seqrl play")
        except Exception as e:
            raise UserError(f"--window: no window can be opened here ({e}); play in the terminal, without --window") from e
        self.game, self.show = game, plt.show
        self.close: Any = lambda: plt.close(self.figure)
        self.figure.canvas.mpl_connect("key_press_event", lambda event: self.key(event.key or ""))
        self.draw()

    def key(self, name: str) -> None:
        """A key was pressed."""
        try:
            if not self.game.press({" ": "space", "enter": "space"}.get(name, name)):
                self.close()
                return
        except UserError as e:
            self.draw(str(e))
        else:
            self.draw()

    def draw(self, note: str = "") -> None:
        seen = self.game.picture()
        self.axes.clear()
        if seen.ndim == 3:
            self.axes.imshow(seen, interpolation="nearest")
            self.axes.set_axis_off()
        else:
            self.axes.barh(self.game.names(), seen)
            self.axes.invert_yaxis()
        self.axes.set_title(f"{self.game.status()}\n{note or self.game.help()}", fontsize=9)
        self.figure.canvas.draw_idle()
