"""Who sees whom: the tokens of a packed row as a grid in which a cell is filled where its row's token may see its column's.

A token sees its own document up to itself. What follows in the row is another document, which sees nothing of this one; in a
model of windows there is one document, and it is as long as the window. Of a slot of many tokens, such as the patches of a
picture, only the first few are drawn, so that more than a step fits.
"""

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from seqrl.core.stream import Stream
from seqrl.report.spell import trained_names

if TYPE_CHECKING:
    from rich.text import Text

_STEPS = 6
"""Steps of the first document that are drawn, where they fit; of the one behind it, a third as many."""
_FOLD = 4
"""Tokens of a slot that are drawn."""
_CELL = 9
"""Side of a cell of the page's picture, in pixels."""


@dataclass(frozen=True)
class Sight:
    """The tokens drawn.

    Args:
        slot, time, document: ``(n,)`` each: number of the slot, step (-1 in front), document.
        sees: ``(n, n)`` bool, whether the token of the row may see that of the column.
        folded: whether tokens of some slot were left out.
    """

    slot: np.ndarray
    time: np.ndarray
    document: np.ndarray
    sees: np.ndarray
    folded: bool


def sight(stream: Stream, most: int = 48, packed: bool = True) -> Sight:
    """The first steps of a stream and, in packed rows, the beginning of a document behind them.

    Args:
        stream: an episode.
        most: tokens drawn at most; a step that is longer is cut.
        packed: whether other documents stand in the same row.
    """
    kept = np.flatnonzero(np.asarray(stream.tracks["part"]) < _FOLD)
    slot, time = (np.asarray(stream.tracks[k])[kept] for k in ("slot", "time"))
    front, width = int((time < 0).sum()), int((time == 0).sum())

    def long(steps: int, room: int) -> int:
        return min(front + max(1, min(steps, (room - front) // width)) * width, room, len(slot))

    # One document leaves a quarter of the room to the next, of which one wants to see no more than that it begins anew.
    first = long(_STEPS, most * 3 // 4 if packed else most)
    second = long(_STEPS // 3, most - first) if packed else 0
    at = np.concatenate([np.arange(first), np.arange(second)])
    document = np.repeat([0, 1], [first, second])
    n = np.arange(len(at))
    return Sight(slot[at], time[at], document, (n[:, None] >= n) & (document[:, None] == document), len(kept) < len(stream))


def to_blocks(sight: Sight, colours: tuple[str, ...]) -> "Text":
    """The grid for a terminal: two tokens a line, in upper and lower halves of a character."""
    from rich.style import Style
    from rich.text import Text

    out, n = Text(), len(sight.slot)
    for i in range(0, n, 2):
        for j in range(n):
            above, below = sight.sees[i, j], i + 1 < n and sight.sees[i + 1, j]
            colour = colours[sight.slot[j] % len(colours)]
            if not (above or below):
                out.append("·" if j == 0 or sight.document[j] != sight.document[j - 1] else " ", style="dim")
            else:
                out.append("█" if above and below else "▀" if above else "▄", style=Style(color=colour))
        out.append("\n")
    return out


def to_svg(sight: Sight, stream: Stream) -> str:
    """The grid for a page: an SVG that takes the page's colours ``.s0`` to ``.s5``, a bar of slots above and beside it."""
    n, names, said = len(sight.slot), stream.layout.names, set(trained_names(stream))
    edge, cell = 3 * _CELL, _CELL
    parts = []
    for k in range(n):
        name, at = names[sight.slot[k]], edge + k * cell
        on = " on" if name in said else ""
        told = f"<title>{escape(name)}, {'front' if sight.time[k] < 0 else f'step {sight.time[k]}'}</title>"
        bar = f'class="s{sight.slot[k] % 6}{on}"'
        parts.append(f'<rect {bar} x="{at}" y="{cell}" width="{cell - 1}" height="{cell}">{told}</rect>')
        parts.append(f'<rect {bar} x="{cell}" y="{at}" width="{cell}" height="{cell - 1}">{told}</rect>')
        first = int(np.flatnonzero(sight.sees[k])[0])
        for j in range(first, k + 1):
            spot = f'x="{edge + j * cell}" y="{at}" width="{cell - 1}" height="{cell - 1}"'
            parts.append(f'<rect class="s{sight.slot[j] % 6} see" {spot}/>')
    for k in np.flatnonzero(np.diff(sight.document)) + 1:
        spot = edge + k * cell - 0.5
        parts.append(f'<path d="M{cell} {spot}H{edge + n * cell}M{spot} {cell}V{edge + n * cell}"/>')
    side = edge + n * cell + 2
    return (
        f'<svg class="sight" viewBox="0 0 {side} {side}" width="{side}" height="{side}" role="img" '
        f'aria-label="which tokens a token may see">{"".join(parts)}</svg>'
    )
