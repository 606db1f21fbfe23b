"""A heat map of needles found: a column for every length, a row for every depth, and how many were found in every cell.

Blue is found and orange lost, which all kinds of colour vision tell apart, and the number stands in the cell as well. Lengths
that the model had not learned on are told apart by a line.
"""

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from seqrl.report.ink import BLUE, INK, MUTED, ORANGE, PAPER, STYLE, number
from seqrl.rollout.needle import Needles

_COLOURS = LinearSegmentedColormap.from_list("found", [ORANGE, "#f6d5c0", "#eef4f9", "#9cc7e2", BLUE])
_LIGHT = "#ffffff"


def tokens(n: int) -> str:
    """A length as one says it: ``512``, ``64k``, ``1M``, ``1,500``."""
    for size, letter in ((1 << 20, "M"), (1 << 10, "k")):
        if n >= size and n % size == 0:
            return f"{n // size}{letter}"
    return f"{n:,}"


def depth(d: float | None) -> str:
    """A row's name: ``25 %``, or that depths were drawn."""
    return "any" if d is None else f"{100 * d:g} %"


def heat_map(found: Needles) -> Figure:
    """Recall by depth and length.

    Args:
        found: with any number of lengths and depths, in any order; the map has them in theirs.
    """
    c = found.config
    columns = sorted(range(len(c.lengths)), key=lambda s: c.lengths[s])
    rows = sorted(range(len(c.rows)), key=lambda d: c.rows[d] or 0.0)
    recall = found.recall[np.ix_(rows, columns)]
    D, S = recall.shape
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(max(6.4, 1.7 + 0.78 * S), 1.5 + 0.46 * max(D, 2)), layout="constrained")
        axes = figure.subplots()
        axes.pcolormesh(recall, cmap=_COLOURS, vmin=0, vmax=1, edgecolors=PAPER, linewidth=2)
        for (d, s), share in np.ndenumerate(recall):
            red, green, blue, _ = _COLOURS(share)
            dark = 0.3 * red + 0.59 * green + 0.11 * blue < 0.55
            axes.text(s + 0.5, d + 0.5, _share(share), ha="center", va="center", color=_LIGHT if dark else INK, fontsize=10)
        axes.grid(False)
        axes.spines[:].set_visible(False)
        axes.set_xticks(np.arange(S) + 0.5, [tokens(c.lengths[s]) for s in columns])
        axes.set_yticks(np.arange(D) + 0.5, [depth(c.rows[d]) for d in rows])
        axes.invert_yaxis()
        axes.set_ylabel("depth of the needle" if c.depths else "depths drawn")
        axes.set_xlabel("tokens read", loc="left")
        _trained(axes, [c.lengths[s] for s in columns], found)
        axes.set_title(_title(found), loc="left", color=MUTED, fontsize=10, pad=22)
    return figure


def _share(share: float) -> str:
    """``1`` only where nothing was lost."""
    return "1" if share == 1 else f"{min(share, 0.99):.2f}".lstrip("0") if share else "0"


def _trained(axes: Axes, lengths: list[int], found: Needles) -> None:
    """A line behind the last length that the model has learned on, and above the columns what holds for them."""
    inside = sum(n <= found.trained for n in lengths)
    bases = [found.bases[found.config.lengths.index(n)] for n in lengths]
    said = {"textcoords": "offset points", "annotation_clip": False, "fontsize": 9, "color": MUTED}
    top = axes.get_xaxis_transform()
    if inside:
        axes.annotate(f"as trained, up to {tokens(found.trained)}", (0, 1), (1, 6), xycoords=top, **said)
    if inside < len(lengths):
        if inside:
            axes.plot([inside, inside], [0, 1.09], transform=top, color=INK, linewidth=1.4, clip_on=False)
        base = next((b for b in bases if b is not None), None)
        words = "longer" + ("" if base is None else f", rope base {number(base)}")
        axes.annotate(words, (inside, 1), (6 if inside else 1, 6), xycoords=top, **said)


def _title(found: Needles) -> str:
    c = found.config
    hidden = "a number in a text" if found.what == "words" else "a pair in an episode"
    if c.needles > 1:
        what = "numbers in a text" if found.what == "words" else "pairs in an episode"
        hidden = f"{c.asked} of {c.needles} {what}"
    each = f"{found.total} question{'s' if found.total > 1 else ''} a cell"
    return f"share found of {hidden}, {each}"
