"""Figures of a run: how the loss fell, how it played meanwhile, and what it got for what it was asked.

Drawn with matplotlib's object interface, so no window system and no global figure is involved. Lines and dots are labelled
where they stand, so a reader needs no legend. ``ink`` turns a figure into SVG or PNG.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from seqrl.report.ink import BAND, BLUE, INK, MUTED, ORANGE, PAPER, STYLE, number

Rows = Sequence[Mapping[str, Any]]


def finite(x: Any) -> bool:
    """Whether something read from a file is a number one can draw."""
    try:
        return x is not None and not isinstance(x, bool) and bool(np.isfinite(float(x)))
    except (TypeError, ValueError, OverflowError):
        return False


def series(rows: Rows, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and finite values of one key of ``metrics.jsonl``, each ``(N,)`` float64, in order of step."""
    pairs = {float(r["step"]): float(r[key]) for r in rows if finite(r.get(key)) and finite(r.get("step"))}
    found = np.array(sorted(pairs.items()), dtype=np.float64).reshape(-1, 2)
    return found[:, 0], found[:, 1]


def curves(rows: Rows) -> Figure | None:
    """Training loss (raw and smoothed), validation loss and learning rate against the step; None without a loss."""
    at, loss = series(rows, "loss")
    if not len(at):
        return None
    val_at, val = series(rows, "val/loss")
    lr_at, lr = series(rows, "lr")
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.2, 4.0 if len(lr) > 1 else 3.2), layout="constrained")
        panels = figure.subplots(
            *((2, 1) if len(lr) > 1 else (1, 1)), sharex=True, squeeze=False, height_ratios=[4, 1][: 1 + (len(lr) > 1)]
        )
        top = panels[0, 0]
        smooth, thin = _smooth(loss), max(1, len(at) // 1000)  # a thousand points are more than a page has pixels for
        top.plot(at[::thin], loss[::thin], color=BLUE, alpha=0.25, linewidth=0.9)
        top.plot(at[::thin], smooth[::thin], color=BLUE)
        ends = [(at[-1], smooth[-1], "training", BLUE)]
        if len(val):
            top.plot(val_at, val, color=ORANGE, marker="o", markersize=4, markeredgecolor=PAPER, linewidth=1.4)
            ends.append((val_at[-1], val[-1], "held out", ORANGE))
        both = np.concatenate([loss, val])
        if both.min() > 0 and both.max() / both.min() > 50:
            top.set_yscale("log")
            top.yaxis.set_major_formatter(FuncFormatter(lambda y, _: number(y)))
        top.set_title("loss", loc="left", color=MUTED, fontsize=10)
        _label_ends(top, ends)
        if len(lr) > 1:
            lr_at, lr = lr_at[:: max(1, len(lr) // 1000)], lr[:: max(1, len(lr) // 1000)]
            panels[1, 0].fill_between(lr_at, lr, color=MUTED, alpha=0.25, linewidth=0)
            panels[1, 0].plot(lr_at, lr, color=MUTED, linewidth=1.2)
            panels[1, 0].set_ylim(0, lr.max() * 1.15 or 1)
            panels[1, 0].set_yticks([0, lr.max()])
            panels[1, 0].set_title("learning rate", loc="left", color=MUTED, fontsize=10)
            panels[1, 0].yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:.2g}"))
        else:
            top.yaxis.set_major_formatter(FuncFormatter(lambda y, _: number(y)))
        _steps(panels[-1, 0])
    return figure


def progress(rows: Rows, domain: str = "") -> Figure | None:
    """Mean return of each evaluation made during training, a line for each target; None with fewer than two evaluations.

    Args:
        rows: the lines of ``metrics.jsonl``.
        domain: whose, of several; their returns have units of their own, and no place in one figure.
    """
    start = f"eval/{domain}/" if domain else "eval/"
    keys = sorted({k for r in rows for k in r if re.fullmatch(rf"{re.escape(start)}.+/mean", k)}, key=_target_of)
    lines = [(k, *series(rows, k)) for k in keys]
    lines = [line for line in lines if len(line[1])]
    if not any(len(at) > 1 for _, at, _ in lines):
        return None
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.2, 3.2), layout="constrained")
        axes = figure.subplots()
        ends = []
        for i, (key, at, mean) in enumerate(lines):
            # From faint to full: the more was asked, the stronger the line.
            strength = 0.35 + 0.65 * (i + 1) / len(lines)
            axes.plot(at, mean, color=BLUE, alpha=strength, marker="o", markersize=4, markeredgecolor=PAPER)
            asked = key.split("/")[-2]
            ends.append((at[-1], mean[-1], f"asked {number(float(asked))}, got" if finite(asked) else "got", BLUE))
        axes.set_title("mean return", loc="left", color=MUTED, fontsize=10)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: number(y)))
        _label_ends(axes, ends)
        _steps(axes)
    return figure


def sweep(targets: Rows, data_range: tuple[float, float] | None = None) -> Figure | None:
    """Asked against got: what return each target brought, the figure a return-conditioned policy is judged by.

    Args:
        targets: the ``targets`` of a Report: ``target`` (None for a policy that is not asked for a return), ``mean``,
            ``ci95 (low, high)``, ``min``, ``max``, and the single ``returns`` where they were kept.
        data_range: smallest and largest episode return in the training data; shaded, because to ask for more is to ask
            for something never seen.

    Returns:
        the figure, or None where there is nothing to show.
    """
    rows = [t for t in targets if finite(t.get("mean"))]
    asked = [t for t in rows if finite(t.get("target"))]
    with matplotlib.rc_context(STYLE):
        if asked:
            return _sweep(sorted(asked, key=lambda t: float(t["target"])), data_range)
        return _spread(rows[0], data_range) if rows else None


def _sweep(rows: Rows, data_range: tuple[float, float] | None) -> Figure:
    figure = Figure(figsize=(8.2, 4.8), layout="constrained")
    axes = figure.subplots()
    x = np.array([float(t["target"]) for t in rows])
    y = np.array([float(t["mean"]) for t in rows])
    every = np.concatenate([x, y, *(f(t) for t in rows for f in (_returns, _interval, _extremes))])
    low, high = min(0.0, every.min()), every.max()
    pad = 0.06 * (high - low or 1)
    left, right = min(0.0, x.min()) - pad, x.max() + 2.2 * pad
    if data_range:
        a, b = max(left, data_range[0]), min(right, data_range[1])
        if a < b:
            axes.axvspan(a, b, color=BAND, linewidth=0)
            axes.annotate("returns in the data", ((a + b) / 2, 0), (0, 7), **_SMALL, xycoords=_X_DATA(axes), ha="center")
    ends = np.array([max(left, low), min(right, high + pad)])
    axes.plot(ends, ends, color=MUTED, linewidth=1, dashes=(4, 3))
    axes.annotate("got = asked", (ends[1], ends[1]), (-6, 2), **_SMALL, ha="right", va="bottom")
    jitter = np.random.default_rng(0)
    spread = 0.012 * (right - left)
    for t, at in zip(rows, x, strict=True):
        got = _returns(t)
        axes.scatter(at + jitter.uniform(-spread, spread, len(got)), got, s=14, color=BLUE, alpha=0.28, linewidths=0)
        if not len(got) and len(ends := _extremes(t)):
            axes.plot([at, at], ends, color=BLUE, linewidth=1, alpha=0.5)
        ci = _interval(t)
        if len(ci):
            axes.plot([at, at], ci, color=BLUE, linewidth=5, alpha=0.45)
    axes.plot(x, y, color=BLUE, linewidth=1.2, alpha=0.6)
    axes.scatter(x, y, s=58, color=BLUE, edgecolors=PAPER, linewidths=1.5, zorder=3)
    if len(x) <= 10:
        _label_means(axes, x, y, (left, right), (low - pad, high + 1.6 * pad))
    axes.set_xlim(left, right)
    axes.set_ylim(low - pad, high + 1.6 * pad)
    axes.set_xticks(x if _apart(x, right - left) else MaxNLocator(7).tick_values(left, right))
    axes.set_xlim(left, right)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda v, _: number(v)))
    axes.set_xlabel("return asked for", loc="left")
    axes.set_title(_got(rows), loc="left", color=MUTED, fontsize=10)
    return figure


def _label_means(axes: Axes, x: np.ndarray, y: np.ndarray, wide: tuple[float, float], high: tuple[float, float]) -> None:
    """Writes each mean beside its dot: away from the diagonal if there is room, and never over another number."""
    corners = {"left above": (-7, 6), "right below": (8, -12), "right above": (8, 6), "left below": (-7, -12)}
    taken: list[tuple[float, float, float]] = []
    for at, mean in zip(x, y, strict=True):
        words = number(mean)
        # About where the dot is in points, and how wide the number will be; exact enough to keep numbers apart.
        spot, tall = 530 * (at - wide[0]) / (wide[1] - wide[0]), 290 * (mean - high[0]) / (high[1] - high[0])
        width = 7.5 * len(words)
        order = ["left above", "right below", "right above", "left below"]
        for corner in order if mean > at else [order[1], order[0], *order[2:]]:
            dx, dy = corners[corner]
            middle, level = spot + dx + (width if dx > 0 else -width) / 2, tall + dy
            if all(abs(middle - m) > (width + w) / 2 or abs(level - v) > 13 for m, v, w in taken):
                break
        taken.append((middle, level, width))
        side = "left" if dx > 0 else "right"
        axes.annotate(words, (at, mean), (dx, dy), ha=side, textcoords="offset points", fontweight="bold", color=INK)


def _got(rows: Rows) -> str:
    """What is drawn of the episodes: all of them where their returns were kept, else from the worst to the best."""
    if any(len(_returns(t)) for t in rows):
        return "return got: every episode, the mean and its 95 % interval"
    if any(len(_extremes(t)) for t in rows):
        return "return got: the mean, its 95 % interval, and from the worst to the best episode"
    return "return got: the mean and its 95 % interval"


def _spread(row: Mapping[str, Any], data_range: tuple[float, float] | None) -> Figure:
    """One policy that is not asked for anything: its episodes on a line."""
    figure = Figure(figsize=(8.2, 1.9), layout="constrained")
    axes = figure.subplots()
    got, ci, mean = _returns(row), _interval(row), float(row["mean"])
    if data_range:
        axes.axvspan(*data_range, color=BAND, linewidth=0)
        axes.annotate("returns in the data", (sum(data_range) / 2, 0), (0, 5), **_SMALL, xycoords=_X_DATA(axes), ha="center")
    axes.scatter(got, np.random.default_rng(0).uniform(-0.25, 0.25, len(got)), s=18, color=BLUE, alpha=0.3, linewidths=0)
    if not len(got) and len(ends := _extremes(row)):
        axes.plot(ends, [0, 0], color=BLUE, linewidth=1, alpha=0.5)
    if len(ci):
        axes.plot(ci, [0, 0], color=BLUE, linewidth=6, alpha=0.45)
    axes.scatter([mean], [0], s=70, color=BLUE, edgecolors=PAPER, linewidths=1.5, zorder=3)
    axes.annotate(number(mean), (mean, 0), (0, 10), textcoords="offset points", ha="center", fontweight="bold", color=INK)
    axes.set_ylim(-0.7, 0.8)
    axes.set_yticks([])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: number(v)))
    axes.set_title(_got([row]), loc="left", color=MUTED, fontsize=10)
    return figure


_SMALL = {"textcoords": "offset points", "fontsize": 9, "color": MUTED}


def _X_DATA(axes: Axes) -> Any:
    """Coordinates with x in data and y from 0 (bottom) to 1 (top) of the axes."""
    return axes.get_xaxis_transform()


def _returns(row: Mapping[str, Any]) -> np.ndarray:
    found = row.get("returns") or []
    return np.array([float(r) for r in found if finite(r)], dtype=np.float64)


def _extremes(row: Mapping[str, Any]) -> np.ndarray:
    ends = [row.get("min"), row.get("max")]
    return np.array(ends, dtype=np.float64) if all(map(finite, ends)) else np.zeros(0)


def _interval(row: Mapping[str, Any]) -> np.ndarray:
    ci = row.get("ci95") or []
    return np.array(ci, dtype=np.float64) if len(ci) == 2 and all(map(finite, ci)) else np.zeros(0)


def _target_of(key: str) -> tuple[float, str]:
    asked = key.split("/")[-2]
    return (float(asked), "") if finite(asked) else (float("-inf"), asked)


def _apart(x: np.ndarray, width: float) -> bool:
    """Whether tick labels at ``x`` leave each other room."""
    return len(x) <= 10 and (len(x) < 2 or float(np.diff(np.unique(x)).min()) > 0.045 * width)


def _smooth(y: np.ndarray) -> np.ndarray:
    """Exponential mean over about a thirtieth of the points, without the pull of its start value."""
    keep = 1 - min(1.0, 30 / max(len(y), 1)) if len(y) > 30 else 0.0
    if keep == 0.0:
        return y
    top, weight, out = 0.0, 0.0, np.empty_like(y)
    for i, value in enumerate(y):
        top, weight = keep * top + value, keep * weight + 1
        out[i] = top / weight
    return out


def _steps(axes: Axes) -> None:
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: number(x)))
    axes.set_xlabel("step", loc="left")


def _label_ends(axes: Axes, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Writes each line's name at its right end, pushed apart where two would touch."""
    axes.margins(x=0.02)
    figure_height = axes.get_figure().get_figheight() * 72 * 0.7
    low, high = axes.get_ylim()
    to_points = axes.transScale + axes.transLimits
    points = [to_points.transform((x, y))[1] * figure_height for x, y, _, _ in ends]
    placed: list[float] = []
    for i in np.argsort(points):
        spot = max(points[i], placed[-1] + 13) if placed else points[i]
        placed.append(spot)
        x, y, words, colour = ends[i]
        axes.annotate(
            f"{words} {number(y)}",
            (x, y),
            (8, spot - points[i] - 3),
            textcoords="offset points",
            color=colour,
            fontsize=9.5,
            annotation_clip=False,
        )
    axes.set_ylim(low, high)
