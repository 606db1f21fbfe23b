"""What an agent sees of a Hidden Order board: numbers, symbols or pixels, and never the order itself.

A board is a small grid of cell codes. Seen whole it has a rim of walls and the agent in it; seen through the agent's eyes it is
a square of 3, 5 or 7 cells ahead of it, turned so that ahead is up, the agent in the middle of the bottom row. Walls do not
block the view, as in MiniGrid with ``see_through_walls``.
"""

from collections.abc import Sequence
from functools import cache

import numpy as np

Cell = tuple[int, int]
EMPTY, WALL, BALL, AGENT = 0, 1, 2, 10
"""Codes of cells: a ball of colour ``c`` is ``BALL + c`` (at most 8 of them), an agent that faces ``d`` is ``AGENT + d``."""
# red, green, blue, yellow, purple, cyan, orange, white
_COLOURS = (
    (230, 60, 50),
    (60, 180, 75),
    (60, 110, 240),
    (240, 220, 50),
    (170, 70, 200),
    (70, 220, 220),
    (245, 140, 40),
    (245, 245, 245),
)
PIXELS = 64


def _channels() -> np.ndarray:
    table = np.zeros((AGENT + 4, 3), np.uint8)
    table[WALL, 0] = 1
    table[BALL:AGENT, 0], table[BALL:AGENT, 1] = 2, 1 + np.arange(8)
    table[AGENT:, 0], table[AGENT:, 2] = 3, 1 + np.arange(4)
    return table


CHANNELS = _channels()
"""``(14, 3)`` uint8, code -> kind (0 empty, 1 wall, 2 ball, 3 agent), colour (1 on, 0 none), direction (1 on, 0 none)."""


def numbers(size: int, place: Cell, facing: int, cells: Sequence[Cell], present: Sequence[bool]) -> np.ndarray:
    """The whole board as ``(2 size + 4 + N (1 + 2 size),)`` float32 of zeros and ones.

    The agent's row, column and direction as one-hots; then for each colour whether its ball is there, and the row and column
    of its place as one-hots, which stay while the ball is gone.
    """
    width = 1 + 2 * size
    out = np.zeros(2 * size + 4 + len(cells) * width, np.float32)
    ones = [place[0], size + place[1], 2 * size + facing]
    for c, (row, column) in enumerate(cells):
        start = 2 * size + 4 + c * width
        ones += (start + 1 + row, start + 1 + size + column)
        if present[c]:
            ones.append(start)
    out[ones] = 1.0
    return out


def codes(size: int, place: Cell, facing: int, cells: Sequence[Cell], present: Sequence[bool], view: int | str) -> np.ndarray:
    """The board as cell codes: ``(size + 2, size + 2)`` seen whole, ``(view, view)`` through the agent's eyes."""
    reach = 1 if view == "full" else int(view) - 1
    board = np.full((size + 2 * reach,) * 2, WALL, np.uint8)
    board[reach : reach + size, reach : reach + size] = EMPTY
    for c, (row, column) in enumerate(cells):
        if present[c]:
            board[reach + row, reach + column] = BALL + c
    row, column = place
    board[reach + row, reach + column] = AGENT + (facing if view == "full" else 0)
    if view == "full":
        return board
    # As far as it could see in all directions, turned until its own is up; what lies behind and beside is cut off.
    around = np.rot90(board[row : row + 2 * reach + 1, column : column + 2 * reach + 1], facing)
    side = reach - int(view) // 2
    return around[: reach + 1, side : side + int(view)]


def picture(board: np.ndarray, tile: int, pixels: int | None = None) -> np.ndarray:
    """Cell codes as ``(H * tile, W * tile, 3)`` uint8 pixels, or centred on black within ``pixels`` by ``pixels``."""
    height, width = board.shape
    drawn = _tiles(tile)[board].transpose(0, 2, 1, 3, 4).reshape(height * tile, width * tile, 3)
    if pixels is None:
        return drawn
    out = np.zeros((pixels, pixels, 3), np.uint8)
    top, left = (pixels - height * tile) // 2, (pixels - width * tile) // 2
    out[top : top + height * tile, left : left + width * tile] = drawn
    return out


@cache
def _tiles(tile: int) -> np.ndarray:
    """``(14, tile, tile, 3)`` uint8: how each code is drawn."""
    out = np.zeros((AGENT + 4, tile, tile, 3), np.uint8)
    # A thin line on two sides shows where cells end.
    out[:, 0], out[:, :, 0] = 40, 40
    out[WALL] = 110
    y, x = (np.indices((tile, tile)) + 0.5) / tile - 0.5
    disc = x**2 + y**2 < 0.36**2
    for c, colour in enumerate(_COLOURS):
        out[BALL + c][disc] = colour
    arrow = (np.abs(x) < (y + 0.4) / 2) & (y < 0.36)
    for d in range(4):
        out[AGENT + d][np.rot90(arrow, -d)] = (255, 120, 180)
    out.flags.writeable = False
    return out
