"""A stream drawn for a page: a fragment that brings its own style and is legible alone, and a whole page around it.

The fragment is made of a few tags and classes only, so that a report can take it out of a stranger's folder and still know
that it is nothing but a drawing. The page adds what such a filter would not let through: the picture of who sees whom.
"""

from collections.abc import Iterable, Mapping
from html import escape

import numpy as np

from seqrl.core.contracts import Codec
from seqrl.core.stream import Stream
from seqrl.report.roundtrip import HEADS, RoundTrip
from seqrl.report.sight import sight, to_svg
from seqrl.report.spell import Row, drawing, readout, rows, trained_names, write_number, written

_CELLS, _PATCHES = 48, 1024
"""Numbers and patches drawn as cells on a page."""


def to_html(
    stream: Stream, steps: int = 4, start: int = 0, ribbon: int = 240, codecs: Mapping[str, Codec] | None = None
) -> str:
    """The drawing as a fragment.

    Args:
        stream: a whole episode, tokenised.
        steps: environment steps spelled out in the table.
        start: the first of them.
        ribbon: most tokens in the ribbon.
        codecs: slot -> its codec, so that texts are spelled in words and pictures in colours.
    """
    slot = np.asarray(stream.tracks["slot"])
    shown = list(rows(stream, start, steps, codecs))
    largest = {
        name: max((float(np.abs(r.values).max(initial=0.0)) for r in shown if r.name == name and not r.words), default=1.0)
        for name in stream.layout.names
    }
    body, before = [], None
    for row in shown:
        step = "" if row.time == before else ("front" if row.time < 0 else f"{row.time}")
        edge = ' class="first"' if row.time != before else ""
        star = '<b title="trained">*</b>' if row.trained else ""
        body.append(
            f'<tr{edge}><td class="n">{step}</td><td class="n">{row.pos}</td>'
            f'<td><i class="s{row.slot % 6}{" on" if row.trained else ""}"></i>{escape(row.name)}{star}</td>'
            f"<td>{_tokens(row, largest[row.name] or 1.0)}</td>"
            f'<td class="v" title="{escape(row.in_full)}">{escape(row.given)}</td></tr>'
        )
        before = row.time
    more = f"<p>the first {ribbon:,} of {len(slot):,} tokens</p>" if len(slot) > ribbon else ""
    return (
        f'<div class="sq"><style>{CSS}</style>'
        f"<pre>{escape(drawing(stream))}</pre>"
        f'<div class="sq-legend">{_legend(stream)}</div><div class="sq-ribbon">{_ribbon(stream, ribbon)}</div>{more}'
        '<div class="sq-scroll"><table><thead><tr><th class="n">step</th><th class="n">pos</th><th>slot</th><th>tokens</th>'
        f"<th>as the world gave it</th></tr></thead><tbody>{''.join(body)}</tbody></table></div></div>\n"
    )


def _legend(stream: Stream) -> str:
    said, slot = trained_names(stream), np.asarray(stream.tracks["slot"])
    read = {s.name for s in stream.layout.readout}
    return "".join(
        f'<span><i class="s{i % 6}{" on" * (name in said)}"></i>{escape(name)}{" (read out)" * (name in read)}</span>'
        for i, name in enumerate(stream.layout.names)
        if (slot == i).any() or name in read
    )


def _ribbon(stream: Stream, most: int) -> str:
    """A cell a token, a step a group; a token that answers a read-out is underlined in the read-out's colour."""
    slot, time, target = (np.asarray(stream.tracks[k]) for k in ("slot", "time", "target"))
    names, asked = stream.layout.names, readout(stream)
    first = len(names) - len(stream.layout.readout)

    def cell(i: int) -> str:
        answers = [k for k in range(first, len(names)) if asked[i] >> (k - first) & 1]
        marks = (" on" if target[i] else "") + (f" q{answers[0] % 6}" if answers else "")
        told = f", answers {', '.join(names[k] for k in answers)}" if answers else ""
        return f'<i class="s{slot[i] % 6}{marks}" title="pos {i}: {escape(names[slot[i]])}, step {time[i]}{escape(told)}"></i>'

    groups = np.split(np.arange(min(len(slot), most)), np.flatnonzero(np.diff(time[:most])) + 1)
    return "".join(f"<span>{''.join(cell(i) for i in group)}</span>" for group in groups)


def _tokens(row: Row, largest: float) -> str:
    """Words boxed, patches in their colours; few numbers as numbers, many as cells from blue (below zero) to orange."""
    count = len(row.words or row.values if row.patches is None else row.patches)
    rest = f'<span class="more">… ({count})</span>' if count > _CELLS else ""
    if row.words is not None:
        return "".join(f'<span class="code">{escape(word)}</span>' for word in row.words[:_CELLS]) + rest
    if row.patches is not None:
        # Six shades of each colour: a class is something a page may let through where a style is not.
        shades = np.rint(row.patches / 51).astype(int)
        told = [f"rgb {r} {g} {b}" for r, g, b in row.patches]
        cells = [f'<u class="px c{r}{g}{b}" title="{t}"></u>' for (r, g, b), t in zip(shades, told, strict=True)]
        lines = ("".join(cells[i : i + row.across]) for i in range(0, min(count, _PATCHES), row.across))
        return "".join(f'<div class="line">{line}</div>' for line in lines)
    if count <= 4:
        return f'<span class="num">{escape(written(row.values))}</span>'
    shown = row.values[:_CELLS]
    shades = np.clip(np.rint(4 * shown / largest), -4, 4).astype(int) + 4
    return "".join(f'<u class="h{h}" title="{write_number(v)}"></u>' for h, v in zip(shades, shown, strict=True)) + rest


def to_page(
    title: str,
    facts: Iterable[str],
    stream: Stream,
    trips: Iterable[RoundTrip],
    steps: int = 8,
    start: int = 0,
    codecs: Mapping[str, Codec] | None = None,
    packed: bool = True,
) -> str:
    """A page of its own: facts, the drawing, who sees whom, and what the codecs keep.

    Args:
        title: what is drawn. facts: lines under it.
        trips: of every slot. packed: whether rows hold several documents.
        stream, steps, start, codecs: as for ``to_html``.
    """
    shown = sight(stream, 72, packed)
    said = "A filled cell: the token of its row may see that of its column. "
    other = "Two documents of a row, divided by lines, see nothing of each other."
    said += "Of a slot of many tokens the first few are drawn. " if shown.folded else ""
    said += other if packed else "In a window that is all that came before."
    heads = "".join(f"<th{' class=r' * (i > 2)}>{escape(h)}</th>" for i, h in enumerate(HEADS))
    lines = "".join(
        f'<tr><td><i class="s{i % 6} on"></i>{escape(name)}</td>'
        + "".join(f"<td{' class=r' * (k > 1)}>{escape(word)}</td>" for k, word in enumerate(rest))
        + "</tr>"
        for i, (name, *rest) in enumerate(trip.words() for trip in trips)
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{PAGE_CSS}</style></head><body><h1>{escape(title)}</h1>"
        + "".join(f"<p>{escape(f)}</p>" for f in facts)
        + to_html(stream, steps, start, codecs=codecs)
        + f'<div class="sq"><h2>Who sees whom</h2><p>{said}</p>{to_svg(shown, stream)}'
        + "<h2>There and back</h2><p>decode(encode(x)) − x over this episode, in the units of the value, beside what the codec "
        + "promises inside the range it was fitted on.</p>"
        + f'<div class="sq-scroll"><table><thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table></div></div>'
        + "</body></html>\n"
    )


PAGE_CSS = """
:root { color-scheme:light dark } 
body { font:15px/1.55 system-ui,sans-serif; max-width:1060px; margin:2.2rem auto; padding:0 1.2rem }
h1 { font-size:1.35rem; margin:0 0 .5rem } h2 { font-size:1.05rem; margin:2rem 0 .3rem } p { margin:.15rem 0; opacity:.75 }
.sq { margin-top:1.6rem } .sq p { opacity:1; max-width:46rem } .sq .r { text-align:right }
.sight { max-width:100%; height:auto; margin-top:.8rem } .sight rect { opacity:.38 } .sight .on { opacity:1 }
.sight .see { opacity:.8 } .sight path { stroke:currentColor; stroke-width:1; opacity:.5; fill:none }
.sq .sight .s0 { fill:var(--s0) } .sq .sight .s1 { fill:var(--s1) } .sq .sight .s2 { fill:var(--s2) }
.sq .sight .s3 { fill:var(--s3) } .sq .sight .s4 { fill:var(--s4) } .sq .sight .s5 { fill:var(--s5) }
"""

CSS = """
.sq { --s0:#0072b2; --s1:#00916a; --s2:#d55e00; --s3:#b5528b; --s4:#b8860b; --s5:#3d9bd1; --line:#8884; --dim:#687482;
  font-size:14px; line-height:1.5 }
.sq pre { font-size:13px; line-height:1.35; margin:0 0 1em; overflow-x:auto }
.sq i { display:inline-block; width:11px; height:11px; border-radius:3px; margin-right:6px; opacity:.38; vertical-align:-1px }
.sq i.on { opacity:1 }
.sq .s0 { background:var(--s0) } .sq .s1 { background:var(--s1) } .sq .s2 { background:var(--s2) }
.sq .s3 { background:var(--s3) } .sq .s4 { background:var(--s4) } .sq .s5 { background:var(--s5) }
.sq .q0 { box-shadow:0 4px 0 -1px var(--s0) } .sq .q1 { box-shadow:0 4px 0 -1px var(--s1) }
.sq .q2 { box-shadow:0 4px 0 -1px var(--s2) } .sq .q3 { box-shadow:0 4px 0 -1px var(--s3) }
.sq .q4 { box-shadow:0 4px 0 -1px var(--s4) } .sq .q5 { box-shadow:0 4px 0 -1px var(--s5) }
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
.sq u.px { margin:0; border-radius:0; width:13px; height:11px; vertical-align:top } .sq .line { height:11px; line-height:0 }
.sq .h0 { background:#0072b2 } .sq .h1 { background:#0072b2bb }
.sq .h2 { background:#0072b277 } .sq .h3 { background:#0072b23c }
.sq .h5 { background:#d55e003c } .sq .h6 { background:#d55e0077 }
.sq .h7 { background:#d55e00bb } .sq .h8 { background:#d55e00 }
@media (prefers-color-scheme: dark) { .sq { --s0:#4aa8e0; --s1:#2bbf93; --s2:#f08a4b; --s3:#d98ab8; --s4:#e0b040; --s5:#7cc4ee;
  --dim:#97a3b2 } }
@media print { .sq i, .sq u { print-color-adjust:exact; -webkit-print-color-adjust:exact } }
"""

# The colours of patches: six shades each of red, green and blue.
_SIX = range(6)
CSS += "".join(f".sq .c{r}{g}{b}{{background:#{3 * r:x}{3 * g:x}{3 * b:x}}}" for r in _SIX for g in _SIX for b in _SIX)
