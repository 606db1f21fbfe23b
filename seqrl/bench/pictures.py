"""The two pictures of a suite: the scores with their intervals, and the performance profiles.

Lines are labelled where they stand, and colours stay apart for every kind of colour vision (Okabe and Ito); a method has the
same one in both pictures. Drawn with matplotlib's object interface, as all figures here are.
"""

import math
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from seqrl.bench import numbers
from seqrl.bench.results import Results, Row
from seqrl.bench.table import beside
from seqrl.report.ink import BLUE, GRID, INK, MUTED, ORANGE, PAPER, STYLE, number

_COLOURS = (BLUE, ORANGE, "#009e73", "#cc79a7", "#e69f00", "#56b4e9", MUTED)
_DASHES = ((None, None), (5, 2), (1.5, 1.5))
_POINTS = 201


def colour(results: Results, method: str) -> str:
    return _COLOURS[list(results.suite.methods).index(method) % len(_COLOURS)]


def _dashes(results: Results, method: str) -> tuple[float | None, ...]:
    """A second mark, for suites of more methods than there are colours."""
    return _DASHES[list(results.suite.methods).index(method) // len(_COLOURS) % len(_DASHES)]


def scores(results: Results) -> Figure | None:
    """A line a method and dataset: the IQM, its interval, every run, and published figures; None without results.

    Datasets without references have an axis of their own, in units of the return.
    """
    if not results.rows:
        return None
    panels: list[list[Row]] = [[r for r in results.rows if r.normalised]]
    panels += [[r for r in results.rows if r.dataset == d and not r.normalised] for d in _datasets(results)]
    panels = [p for p in panels if p]
    tall = [0.27 * len(p) + 0.5 * len({r.dataset for r in p}) + 0.75 for p in panels]
    with matplotlib.rc_context(STYLE | {"axes.grid.axis": "x"}):
        figure = Figure(figsize=(8.2, sum(tall)), layout="constrained")
        for axes, rows in zip(figure.subplots(len(panels), 1, height_ratios=tall, squeeze=False)[:, 0], panels, strict=True):
            _scores(axes, results, rows)
    return figure


def _datasets(results: Results) -> list[str]:
    return list(dict.fromkeys(r.dataset for r in results.rows))


def _scores(axes: Axes, results: Results, rows: Sequence[Row]) -> None:
    at, ticks, names = 0.0, [], []
    for dataset in dict.fromkeys(r.dataset for r in rows):
        axes.annotate(dataset, (0, at), (0, -2), xycoords=axes.get_yaxis_transform(), textcoords="offset points", **_TITLE)
        at += 1.0
        for row in (r for r in rows if r.dataset == dataset):
            ink = colour(results, row.method)
            axes.plot(row.ci, [at, at], color=ink, linewidth=6, alpha=0.35)
            axes.scatter([r.score for r in row.runs], [at] * len(row.runs), s=13, color=ink, alpha=0.7, linewidths=0, zorder=3)
            axes.scatter([row.iqm], [at], s=48, color=ink, edgecolors=PAPER, linewidths=1.3, zorder=4)
            for other in beside(results, row.method, dataset):
                axes.scatter([other.score], [at], s=34, marker="D", facecolors="none", edgecolors=INK, linewidths=1, zorder=5)
            ticks.append(at)
            names.append(row.method)
            at += 1.0
        at += 0.55
    axes.set_yticks(ticks, names)
    axes.set_ylim(at - 0.5, -0.75)
    axes.set_xlim(left=min(0.0, axes.get_xlim()[0]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: number(x)))
    what = "normalised score" if rows[0].normalised else "return"
    published = "; diamond, published" if any(beside(results, r.method, r.dataset) for r in rows) else ""
    told = f"{what}\ndot, the middle half of all episodes (IQM); bar, its 95 % interval; small dot, a run{published}"
    axes.set_title(told, loc="left", color=MUTED, fontsize=9.5)


_TITLE = {"ha": "left", "va": "center", "fontsize": 9.5, "fontweight": "bold", "color": INK}


def profiles(results: Results) -> Figure | None:
    """Performance profiles: over all datasets the share of runs above tau, with its band; and for each dataset the share of its
    episodes, because a few seeds would make a stair of a few steps. None without results."""
    datasets = _datasets(results)
    if not datasets:
        return None
    columns = min(4, len(datasets))
    lines = math.ceil(len(datasets) / columns)
    whole = bool(results.wholes)
    tall = ([3.3] if whole else []) + [1.75] * lines
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.2, sum(tall) + 0.3), layout="constrained")
        grid = figure.add_gridspec(len(tall), columns, height_ratios=tall)
        if whole:
            _whole(figure.add_subplot(grid[0, :]), results)
        for i, dataset in enumerate(datasets):
            axes = figure.add_subplot(grid[i // columns + whole, i % columns])
            name = dataset.removeprefix(_common(datasets))
            _episodes(axes, results, dataset, name, label=i == 0 and not whole, left=i % columns == 0)
    return figure


def _whole(axes: Axes, results: Results) -> None:
    every = np.concatenate([t for w in results.wholes for t in w.tasks.values()])
    taus = _taus(every)
    ends = []
    for w in results.wholes:
        share, low, high = numbers.profile(list(w.tasks.values()), taus)
        ink = colour(results, w.method)
        axes.fill_between(taus, low, high, step="post", color=ink, alpha=0.13, linewidth=0)
        axes.plot(taus, share, color=ink, dashes=_dashes(results, w.method), drawstyle="steps-post")
        ends.append((w.method, share, ink))
    _name_lines(axes, taus, ends)
    _share(axes)
    axes.set_xlabel("τ, normalised score", loc="right")
    number_of = len(results.wholes[0].tasks)
    bands = ", with 95 % bands" if any(w.ci for w in results.wholes) else ""
    told = f"share of runs above τ, mean over {number_of} datasets{bands}"
    axes.set_title(told, loc="left", color=MUTED, fontsize=10)


def _episodes(axes: Axes, results: Results, dataset: str, name: str, label: bool, left: bool) -> None:
    rows = [r for r in results.rows if r.dataset == dataset]
    pooled = {r.method: np.concatenate([run.scores for run in r.runs]) for r in rows}
    taus = _taus(np.concatenate(list(pooled.values())))
    ends = []
    for method, found in pooled.items():
        share = (found[None] > taus[:, None]).mean(1)
        ink = colour(results, method)
        axes.plot(taus, share, color=ink, linewidth=1.5, dashes=_dashes(results, method), drawstyle="steps-post")
        ends.append((method, share, ink))
    if label:
        _name_lines(axes, taus, ends)
    _share(axes)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.tick_params(labelsize=8)
    if left:
        axes.set_ylabel("episodes above τ", fontsize=8)
    else:
        axes.set_yticklabels([])
    unit = "" if rows[0].normalised else " (return)"
    axes.set_title(_short(name) + unit, loc="left", color=INK, fontsize=8.5, fontweight="bold")


def _common(datasets: Sequence[str]) -> str:
    """The folders that all names begin with."""
    folders = [d.split("/")[:-1] for d in datasets]
    shared = [parts[0] for parts in zip(*folders, strict=False) if len(set(parts)) == 1] if len(datasets) > 1 else []
    # Only as far as they agree from the beginning.
    same = next((n for n in range(len(shared), 0, -1) if all(f[:n] == shared[:n] for f in folders)), 0)
    return "".join(f"{folder}/" for folder in shared[:same])


def _short(dataset: str) -> str:
    """The end of a long name, which is what tells two datasets apart."""
    return dataset if len(dataset) <= 26 else "…" + dataset[-25:]


def _taus(values: np.ndarray) -> np.ndarray:
    low, high = min(0.0, float(values.min())), float(values.max())
    pad = 0.03 * (high - low or 1.0)
    return np.linspace(low - pad, high + pad, _POINTS)


def _share(axes: Axes) -> None:
    axes.set_ylim(-0.02, 1.05)
    axes.set_yticks([0, 0.5, 1])
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:.0f} %"))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: number(x)))
    axes.axhline(0, color=GRID, linewidth=0.8)


def _name_lines(axes: Axes, taus: np.ndarray, ends: Sequence[tuple[str, np.ndarray, str]]) -> None:
    """Writes each line's name beside it, where it is farthest from the other lines and from names already written."""
    taken: list[tuple[float, float]] = []
    width, height = taus[-1] - taus[0], 1.07
    for name, share, ink in ends:
        others = [s for n, s, _ in ends if n != name]
        best, spot = -1.0, (taus[0], 1.0)
        for i in range(5, len(taus) - 20):
            if not 0.06 < share[i] < 0.94 and best >= 0:
                continue
            room = min((abs(share[i] - s[i]) for s in others), default=1.0)
            apart = min((math.hypot((taus[i] - x) / width * 2.5, (share[i] - y) / height) for x, y in taken), default=1.0)
            steep = abs(share[i] - share[i + 8])
            value = min(room, 0.3) + min(apart, 0.3) - 0.5 * steep - (0 if 0.06 < share[i] < 0.94 else 0.5)
            if value > best:
                best, spot = value, (float(taus[i]), float(share[i]))
        taken.append(spot)
        box = {"facecolor": PAPER, "edgecolor": "none", "alpha": 0.75, "pad": 0.6}
        axes.annotate(name, spot, (5, 3), textcoords="offset points", color=ink, fontsize=9.5, fontweight="bold", bbox=box)
