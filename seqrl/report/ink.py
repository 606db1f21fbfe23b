"""The look of a figure, and how it leaves matplotlib: as PNG bytes on white, or as inline SVG that follows its page.

In the SVG every colour of the palette is a CSS variable with the drawn colour as its fallback, so the page around it decides
between light and dark; text is text, in the page's own font. Blue and orange stay apart for every kind of colour vision.
"""

import io
import re

import matplotlib
import numpy as np
from matplotlib.figure import Figure

INK, MUTED, GRID, BLUE, ORANGE, BAND, PAPER = "#1d2733", "#687482", "#e2e6eb", "#0072b2", "#d55e00", "#eef4f9", "#fefefe"
VARIABLES = {INK: "ink", MUTED: "muted", GRID: "grid", BLUE: "blue", ORANGE: "orange", BAND: "band", PAPER: "paper"}

STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    # Names come from anybody; a dollar in one is a dollar, and no formula that cannot be read.
    "text.parse_math": False,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "ytick.major.size": 0,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "svg.fonttype": "none",
    # The same figure gives the same bytes, so a report can be compared with an older one.
    "svg.hashsalt": "seqrl",
}


def number(x: float) -> str:
    """A number as one says it: ``12k``, ``3,610``, ``48.7``, ``0.0312``."""
    if not np.isfinite(x):
        return "–"
    size = abs(x)
    if size >= 1e6:
        return f"{x / 1e6:.3g}M"
    if size >= 1e4 and x % 100 == 0:
        return f"{x / 1e3:g}k"
    if size >= 99.95:
        return f"{x:,.0f}"
    return f"{x:.3g}"


def svg(figure: Figure, name: str, says: str) -> str:
    """The figure as one inline ``<svg>`` element.

    Args:
        name: letters and digits; keeps the ids of several figures on one page apart.
        says: the sentence a screen reader gives instead of the picture.
    """
    sink = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(
            sink, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
        )
    text = sink.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", text)
    # The page's own font and no rule for the whole page: matplotlib writes both into every figure.
    text = re.sub(r"<style.*?</style>|font-family: [^;\"]*;? ?", "", text, flags=re.DOTALL)
    text = re.sub(r"font: ([^;\"]*?)([\d.]+px) [^;\"]*", r"font-size: \2", text)
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, f"var(--plot-{variable}, {colour})")
    opening = re.match(r"<svg[^>]*>", text)[0]
    box = re.search(r'viewBox="[^"]*"', opening)[0]
    label = says.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    names = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    words = f'<svg class="plot" {box} role="img" aria-label="{label}" {names} style="stroke-linejoin: round">'
    return words + text[len(opening) :]


def png(figure: Figure, dpi: int = 160) -> bytes:
    """The figure as a PNG on white."""
    sink = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(sink, format="png", dpi=dpi, facecolor="white")
    return sink.getvalue()
