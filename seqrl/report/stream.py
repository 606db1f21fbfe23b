"""A stream drawn: which token stands where, what it says, what the world meant by it, and what is trained.

The same drawing for a terminal (``to_text``, for rich) and for a page (``to_html``): the layout's own picture of one step,
a ribbon with a cell for every token, and a table that spells the first steps out. A slot has one colour throughout; a
trained token is filled and starred, one that is only read is pale, and a trained read-out is marked under the token it is
read at.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from seqrl.core.contracts import Codec
from seqrl.core.stream import Stream
from seqrl.report.spell import Row, counted, drawing, readout, rows, written
from seqrl.report.stream_html import CSS, to_html, to_page

if TYPE_CHECKING:
    from rich.console import Group
    from rich.text import Text

__all__ = ["ANSI", "CSS", "to_html", "to_page", "to_text"]

ANSI = ("blue", "green", "dark_orange3", "magenta", "yellow4", "cyan")
"""Colours of the slots in a terminal, in turn."""


def to_text(
    stream: Stream, steps: int = 4, width: int = 100, start: int = 0, codecs: Mapping[str, Codec] | None = None
) -> "Group":
    """The drawing for a terminal.

    Args:
        stream: a whole episode, tokenised.
        steps: environment steps spelled out in the table.
        width: columns of the terminal; the ribbon shows as many tokens as fit.
        start: the first step in the table.
        codecs: slot -> its codec, so that texts are spelled in words and pictures in colours.

    Returns:
        a rich renderable.
    """
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    head = Text(f"{stream.layout}", style="bold")
    head.append(f"   {counted(stream)}\n", style="dim")
    table = Table(box=None, expand=True, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    shown = list(rows(stream, start, steps, codecs))
    for title, longest in (("step", 5), ("pos", max([3, *(len(r.pos) for r in shown)]))):
        table.add_column(title, justify="right", no_wrap=True, width=longest, min_width=longest)
    longest = max([4, *(len(r.name) + r.trained for r in shown)])
    table.add_column("slot", no_wrap=True, width=longest, min_width=longest)
    for title in ("tokens", "as the world gave it"):
        table.add_column(title, no_wrap=True, overflow="ellipsis", ratio=1)
    before = None
    for row in shown:
        name = Text(row.name + "*" * row.trained, style=("bold " if row.trained else "") + _colour(row.slot))
        step = "" if row.time == before else ("front" if row.time < 0 else f"{row.time}")
        table.add_row(
            Text(step, style="bold"), Text(row.pos, style="dim"), name, _tokens(row, (width - 32) // 2), Text(row.given)
        )
        before = row.time
    return Group(head, Text(drawing(stream)), Text(), _ribbon(stream, width), Text(), table)


def _colour(slot: int) -> str:
    return ANSI[slot % len(ANSI)]


def _ribbon(stream: Stream, width: int) -> "Text":
    """A character a token, and under it a mark where a trained read-out is answered."""
    from rich.text import Text

    slot, target, asked = np.asarray(stream.tracks["slot"]), np.asarray(stream.tracks["target"]), readout(stream)
    count, first = min(len(slot), max(width - 2, 1)), len(stream.layout.names) - len(stream.layout.readout)
    ribbon = Text()
    for i in range(count):
        ribbon.append("█" if target[i] else "▒", style=_colour(int(slot[i])))
    ribbon.append("…" if len(slot) > width - 2 else "", style="dim")
    if asked[:count].any():
        ribbon.append("\n")
        for bits in asked[:count].tolist():
            # The lowest bit that is set: the first of the read-outs.
            lowest = (bits & -bits).bit_length() - 1
            ribbon.append("▀" if bits else " ", style=_colour(first + lowest) if bits else "")
    return ribbon


def _tokens(row: Row, room: int) -> "Text":
    """What a row's tokens say, within ``room`` columns: words in their slot's colour, patches in their own."""
    from rich.text import Text

    out, style = Text(), _colour(row.slot)
    if row.patches is not None:
        each = 2 if 2 * len(row.patches) <= room - 6 else 1
        fits = min(len(row.patches), room // each if each * len(row.patches) <= room else room - 6)
        for r, g, b in row.patches[:fits]:
            out.append("█" * each, style=f"rgb({r},{g},{b})")
        return out.append(f" … ({len(row.patches)})" if len(row.patches) > fits else "")
    if row.words is None:
        return Text(written(row.values, max(2, room // 8)), style=style)
    for i, word in enumerate(row.words):
        more = i + 1 < len(row.words)
        if out and len(out) + len(word) + 3 > room - (10 if more else 0):
            return out.append(f"… ({len(row.words)})")
        out.append(f"‹{word}› " if more else f"‹{word}›", style=style)
    return out
