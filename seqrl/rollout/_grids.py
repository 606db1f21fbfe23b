"""Grids of cells as people see them: drawn with a plain palette, and where in the room the agent stands.

A cell of MiniGrid (Chevalier-Boisvert et al. 2023, arXiv 2306.13831) is kind, colour and state, three small numbers; columns
come before rows. In the view of an agent it stands in the middle of the last row and looks up, so its own cell never moves and
it is the walls that tell where it is: how many steps it is to the wall ahead, to the one on its left and the one on its right.
"""

from typing import Any

import numpy as np

_UNSEEN, _EMPTY, _WALL, _DOOR, _KEY, _BALL, _BOX, _GOAL, _LAVA, _AGENT = 0, 1, 2, 4, 5, 6, 7, 8, 9, 10
_COLOURS = ((214, 69, 65), (76, 153, 72), (66, 117, 200), (142, 84, 176), (222, 184, 58), (140, 140, 140))
_GROUND = {_UNSEEN: (38, 40, 44), _WALL: (120, 124, 130), _LAVA: (226, 118, 42), _GOAL: (150, 205, 140)}
_FLOOR, _LINE, _SELF = (246, 246, 242), (222, 222, 216), (30, 30, 30)


def is_grid(frames: np.ndarray) -> bool:
    """Whether pictures ``(T, H, W, C)`` are grids of cells as MiniGrid writes them."""
    return frames.ndim == 4 and frames.shape[-1] == 3 and max(frames.shape[1:3]) <= 32 and bool((frames <= 16).all())


def shows_agent(frames: np.ndarray) -> bool:
    """Whether grids ``(T, W, H, 3)`` are of a whole room with the agent in it, and not of what it sees."""
    return bool((frames[..., 0] == _AGENT).any())


def agent_cell(frame: np.ndarray, shown: bool) -> tuple[int, ...]:
    """Where the agent is in a grid ``(W, H, 3)``: column and row where grids show it (``shown``), else the steps to the walls.

    Returns:
        ``(column, row)``, -1 where there is no agent or more than one; or ``(ahead, left, right)`` with -1 where no wall is in
        sight.
    """
    kinds = frame[..., 0]
    if shown:
        found = np.argwhere(kinds == _AGENT)
        return tuple(int(x) for x in found[0]) if len(found) == 1 else (-1, -1)
    wide, high = kinds.shape
    x, y = wide // 2, high - 1

    def steps(line: np.ndarray) -> int:
        walls = np.flatnonzero(line == _WALL)
        return int(walls[0]) + 1 if len(walls) else -1

    return steps(kinds[x, :y][::-1]), steps(kinds[:x, y][::-1]), steps(kinds[x + 1 :, y])


def draw_grid(frame: np.ndarray, size: int = 24, view: bool = True) -> Any:
    """A grid ``(W, H, 3)`` as a picture with ``size`` pixels a cell; the agent whose ``view`` it is, is a dark triangle."""
    from PIL import Image, ImageDraw

    wide, high = frame.shape[:2]
    out = Image.new("RGB", (wide * size, high * size), _FLOOR)
    pen = ImageDraw.Draw(out)
    for x in range(wide):
        for y in range(high):
            kind, colour, state = (int(n) for n in frame[x, y])
            box = (x * size, y * size, (x + 1) * size - 1, (y + 1) * size - 1)
            pen.rectangle(box, fill=_GROUND.get(kind, _FLOOR), outline=_LINE if kind not in (_UNSEEN, _WALL) else None)
            _thing(pen, kind, _COLOURS[colour % len(_COLOURS)], state, box)
    if view and not (frame[..., 0] == _AGENT).any():
        _arrow(pen, (wide // 2, high - 1), size)
    return out


def _thing(pen: Any, kind: int, colour: tuple[int, int, int], state: int, box: tuple[int, int, int, int]) -> None:
    """What stands in a cell, in its box of pixels."""
    x0, y0, x1, y1 = box
    inset = (x1 - x0) // 5
    inner = (x0 + inset, y0 + inset, x1 - inset, y1 - inset)
    if kind == _BALL:
        pen.ellipse(inner, fill=colour)
    elif kind == _BOX:
        pen.rectangle(inner, outline=colour, width=max(2, inset // 2))
    elif kind == _KEY:
        middle = (x0 + x1) // 2
        pen.ellipse((middle - inset, y0 + inset // 2, middle + inset, y0 + inset // 2 + 2 * inset), outline=colour, width=2)
        pen.line((middle, y0 + inset // 2 + 2 * inset, middle, y1 - inset), fill=colour, width=max(2, inset // 2))
    elif kind == _DOOR:
        # Open doors are frames, closed ones are filled, locked ones crossed.
        pen.rectangle(inner, outline=colour, fill=None if state == 0 else colour, width=2)
        if state == 2:
            pen.line(inner, fill=_SELF, width=2)
    elif kind == _AGENT:
        # Its state is where it looks: right, down, left, up. The corner opposite to the two of its back.
        (a, b, c, d), x, y = inner, (x0 + x1) // 2, (y0 + y1) // 2
        looks = {0: [(a, b), (c, y), (a, d)], 1: [(a, b), (x, d), (c, b)], 2: [(c, b), (a, y), (c, d)]}
        pen.polygon(looks.get(state, [(a, d), (x, b), (c, d)]), fill=_COLOURS[0])


def _arrow(pen: Any, cell: tuple[int, int], size: int) -> None:
    x, y = cell[0] * size, cell[1] * size
    inset = size // 4
    pen.polygon([(x + inset, y + size - inset), (x + size // 2, y + inset), (x + size - inset, y + size - inset)], fill=_SELF)
