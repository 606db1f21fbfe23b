"""A stream drawn: which token stands where, what it says, what the world meant by it, and what is trained.

The same drawing for a terminal (``to_text``, for rich) and for a page (``to_html``): the layout's own picture of one step,
a ribbon with a cell for every token, and a table that spells the first steps out. A slot has one colour throughout; a
trained token is filled and starred, one that is only read is pale.
"""

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from seqrl.core.layout import Layout, Slot
from seqrl.core.stream import Stream

if TYPE_CHECKING:
    from rich.console import Group

_ANSI = ("blue", "green", "dark_orange3", "magenta", "yellow4", "cyan")
_WRITTEN = 6
"""Numbers written out where there is no room for all."""
_CELLS = 48
"""Numbers drawn as cells on a page."""


@dataclass(frozen=True)
class _Row:
    """One slot of one step: its number in the layout, time, positions in the row, tokens, and the value behind them."""

    slot: int
    name: str
    time: int
    pos: str
    trained: bool
    values: np.ndarray
    raw: np.ndarray


def _rows(stream: Stream, start: int, steps: int) -> Iterator[_Row]:
    """Every slot of steps ``start`` to ``start + steps``, and of the prefix where the drawing begins at step 0."""
    slot, time, target = (np.asarray(stream.tracks[k]) for k in ("slot", "time", "target"))
    names = stream.layout.names
    first = -1 if start == 0 else start
    spots = np.flatnonzero((time >= first) & (time < start + steps))
    for at in np.split(spots, np.flatnonzero(np.diff(slot[spots] * (time.max() + 3) + time[spots])) + 1) if len(spots) else []:
        number, t = int(slot[at[0]]), int(time[at[0]])
        pos = np.asarray(stream.tracks["pos"])[at]
        where = f"{pos[0]}" if len(at) == 1 else f"{pos[0]}–{pos[-1]}"
        name, row = names[number], max(t, 0)
        values, raw = np.atleast_1d(stream.values[name][row]).ravel(), np.atleast_1d(stream.raw[name][row]).ravel()
        yield _Row(number, name, t, where, bool(target[at].any()), values, raw)


def _trained(stream: Stream) -> tuple[str, ...]:
    slot, target = np.asarray(stream.tracks["slot"]), np.asarray(stream.tracks["target"])
    return tuple(name for i, name in enumerate(stream.layout.names) if target[slot == i].any())


def _drawing(stream: Stream) -> str:
    """The layout's picture of one step, with a slot of K tokens drawn as one cell ``name×K``."""
    slots = {s.name: Slot(s.name if s.width == 1 else f"{s.name}×{s.width}") for s in stream.layout.slots}
    parts = [tuple(slots[s.name] for s in part) for part in (stream.layout.prefix, stream.layout.step, stream.layout.readout)]
    return textwrap.dedent(Layout(*parts).drawing(tuple(slots[name].name for name in _trained(stream))))


def write_number(x: Any) -> str:
    """One value in few characters: text as it is, whole numbers whole, others to three digits."""
    if isinstance(x, str | np.str_):
        return str(x)
    x = float(x)
    if not np.isfinite(x):
        return str(x)
    return f"{x:,.0f}" if abs(x) < 1e6 and (x == round(x) or abs(x) >= 1000) else f"{x:.3g}"


def _written(values: np.ndarray, most: int = _WRITTEN) -> str:
    words = " ".join(write_number(v) for v in values[:most])
    return words if len(values) <= most else f"{words} … ({len(values)})"


def to_text(stream: Stream, steps: int = 4, width: int = 100, start: int = 0) -> "Group":
    """The drawing for a terminal.

    Args:
        stream: a whole episode, tokenised.
        steps: environment steps spelled out in the table.
        width: columns of the terminal; the ribbon shows as many tokens as fit.
        start: the first step in the table.

    Returns:
        a rich renderable.
    """
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    def colour(slot: int) -> str:
        return _ANSI[slot % len(_ANSI)]

    slot, target = np.asarray(stream.tracks["slot"]), np.asarray(stream.tracks["target"])
    head = Text(f"{stream.layout}", style="bold")
    head.append(f"   {len(stream):,} tokens, {int(target.sum()):,} trained (*)\n", style="dim")
    ribbon = Text()
    for i in range(min(len(slot), max(width - 2, 1))):
        ribbon.append("█" if target[i] else "▒", style=colour(int(slot[i])))
    ribbon.append("…" if len(slot) > width - 2 else "", style="dim")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    shown = list(_rows(stream, start, steps))
    for title, longest in (("step", 5), ("pos", max([3, *(len(r.pos) for r in shown)]))):
        table.add_column(title, justify="right", no_wrap=True, width=longest)
    table.add_column("slot", no_wrap=True, width=max([4, *(len(r.name) + r.trained for r in shown)]))
    for title in ("tokens", "as the world gave it"):
        table.add_column(title, no_wrap=True, overflow="ellipsis", ratio=1)
    most, before = max(2, (width - 32) // 16), None
    for row in shown:
        code = np.issubdtype(row.values.dtype, np.integer)
        words = " ".join(f"‹{v}›" for v in row.values[:most]) if code else _written(row.values, most)
        tokens = Text(words, style=colour(row.slot))
        tokens.append(f" … ({len(row.values)})" if code and len(row.values) > most else "")
        name = Text(row.name + "*" * row.trained, style=("bold " if row.trained else "") + colour(row.slot))
        step = "" if row.time == before else ("front" if row.time < 0 else f"{row.time}")
        table.add_row(Text(step, style="bold"), Text(row.pos, style="dim"), name, tokens, Text(_written(row.raw, most)))
        before = row.time
    return Group(head, Text(_drawing(stream)), Text(), ribbon, Text(), table)


def to_html(stream: Stream, steps: int = 4, start: int = 0, ribbon: int = 240) -> str:
    """The drawing for a page: a fragment that brings its own style and is legible alone.

    Args:
        stream: a whole episode, tokenised.
        steps: environment steps spelled out in the table.
        start: the first of them.
        ribbon: most tokens in the ribbon.
    """
    slot, time, target = (np.asarray(stream.tracks[k]) for k in ("slot", "time", "target"))
    names = stream.layout.names
    steps_of = np.split(np.arange(min(len(slot), ribbon)), np.flatnonzero(np.diff(time[:ribbon])) + 1)
    cells = "".join(
        "<span>"
        + "".join(
            f'<i class="s{slot[i] % 6}{" on" * bool(target[i])}" title="pos {i}: {escape(names[slot[i]])}, step {time[i]}"></i>'
            for i in step
        )
        + "</span>"
        for step in steps_of
    )
    legend = "".join(
        f'<span><i class="s{i % 6}{" on" if name in _trained(stream) else ""}"></i>{escape(name)}</span>'
        for i, name in enumerate(names)
        if (slot == i).any()
    )
    shown = list(_rows(stream, start, steps))
    largest = {
        name: max((float(np.abs(r.values).max(initial=0.0)) for r in shown if r.name == name), default=1.0) or 1.0
        for name in names
    }
    body, before = [], None
    for row in shown:
        step = "" if row.time == before else ("front" if row.time < 0 else f"{row.time}")
        edge = ' class="first"' if row.time != before else ""
        star = '<b title="trained">*</b>' if row.trained else ""
        body.append(
            f'<tr{edge}><td class="n">{step}</td><td class="n">{row.pos}</td>'
            f'<td><i class="s{row.slot % 6}{" on" if row.trained else ""}"></i>{escape(row.name)}{star}</td>'
            f"<td>{_tokens(row.values, largest[row.name])}</td>"
            f'<td class="v" title="{escape(_written(row.raw, 32))}">{escape(_written(row.raw))}</td></tr>'
        )
        before = row.time
    more = f"<p>the first {ribbon:,} of {len(slot):,} tokens</p>" if len(slot) > ribbon else ""
    return (
        f'<div class="sq"><style>{CSS}</style>'
        f"<pre>{escape(_drawing(stream))}</pre>"
        f'<div class="sq-legend">{legend}</div><div class="sq-ribbon">{cells}</div>{more}'
        '<div class="sq-scroll"><table><thead><tr><th class="n">step</th><th class="n">pos</th><th>slot</th><th>tokens</th>'
        f"<th>as the world gave it</th></tr></thead><tbody>{''.join(body)}</tbody></table></div></div>\n"
    )


def _tokens(values: np.ndarray, largest: float) -> str:
    """Codes as boxed numbers; few numbers as numbers, many as cells from blue (below zero) to orange (above)."""
    shown = values[:_CELLS]
    rest = f'<span class="more">… ({len(values)})</span>' if len(values) > _CELLS else ""
    if np.issubdtype(values.dtype, np.integer):
        return "".join(f'<span class="code">{v}</span>' for v in shown) + rest
    if len(values) <= 4:
        return f'<span class="num">{escape(_written(values))}</span>'
    # Nine shades are enough to see a pattern, and a class is something a page may let through where a style is not.
    shades = np.clip(np.rint(4 * shown / largest), -4, 4).astype(int) + 4
    return "".join(f'<u class="h{h}" title="{write_number(v)}"></u>' for h, v in zip(shades, shown, strict=True)) + rest


CSS = """
.sq { --s0:#0072b2; --s1:#00916a; --s2:#d55e00; --s3:#b5528b; --s4:#b8860b; --s5:#3d9bd1; --line:#8884; --dim:#687482;
  font-size:14px; line-height:1.5 }
.sq pre { font-size:13px; line-height:1.35; margin:0 0 1em; overflow-x:auto }
.sq i { display:inline-block; width:11px; height:11px; border-radius:3px; margin-right:6px; opacity:.38; vertical-align:-1px }
.sq i.on { opacity:1 }
.sq .s0 { background:var(--s0) } .sq .s1 { background:var(--s1) } .sq .s2 { background:var(--s2) }
.sq .s3 { background:var(--s3) } .sq .s4 { background:var(--s4) } .sq .s5 { background:var(--s5) }
.sq-legend { display:flex; flex-wrap:wrap; gap:4px 18px; margin-bottom:8px }
.sq-ribbon { display:flex; flex-wrap:wrap; gap:4px 6px; margin-bottom:4px }
.sq-ribbon span { display:flex; flex-wrap:wrap; gap:2px }
.sq-ribbon i { margin:0; width:9px; height:14px; border-radius:2px }
.sq p { color:var(--dim); font-size:12.5px; margin:2px 0 0 }
.sq-scroll { overflow-x:auto; margin-top:14px }
.sq table { border-collapse:collapse; width:100%; font-variant-numeric:tabular-nums }
.sq th { text-align:left; font-weight:500; color:var(--dim); font-size:12.5px; padding:2px 14px 4px 0; border:0 }
.sq td { padding:3px 14px 3px 0; white-space:nowrap; border:0 }
.sq tr.first td { border-top:1px solid var(--line) }
.sq .n { text-align:right; color:var(--dim); width:1%; padding-left:2px }
.sq td.n:first-child { color:inherit; font-weight:600 }
.sq b { color:var(--s2); margin-left:2px } .sq .v { color:var(--dim) }
.sq .code { border:1px solid var(--line); border-radius:4px; padding:0 5px; margin-right:3px }
.sq .more { color:var(--dim); margin-left:4px }
.sq u { display:inline-block; width:11px; height:16px; border-radius:2px; margin-right:1px; vertical-align:-3px;
  background:#8883 }
.sq .h0 { background:#0072b2 } .sq .h1 { background:#0072b2bb }
.sq .h2 { background:#0072b277 } .sq .h3 { background:#0072b23c }
.sq .h5 { background:#d55e003c } .sq .h6 { background:#d55e0077 }
.sq .h7 { background:#d55e00bb } .sq .h8 { background:#d55e00 }
@media (prefers-color-scheme: dark) { .sq { --s0:#4aa8e0; --s1:#2bbf93; --s2:#f08a4b; --s3:#d98ab8; --s4:#e0b040; --s5:#7cc4ee;
  --dim:#97a3b2 } }
@media print { .sq i, .sq u { print-color-adjust:exact; -webkit-print-color-adjust:exact } }
"""
