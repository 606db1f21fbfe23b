"""How long a dream stays true, for the page: error against steps ahead, with the baselines beside it, drawn and in words.

Facts come from ``dream.json`` and are not trusted to be complete: whatever is missing is left out.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from seqrl.report.folder import as_dict, as_list
from seqrl.report.ink import BLUE, MUTED, ORANGE, PAPER, STYLE, number
from seqrl.report.plots import finite

SAID = {
    "r2": "r2 (1 is perfect, 0 the mean)",
    "rmse": "root mean squared error",
    "psnr": "peak signal-to-noise ratio, dB",
    "ssim": "structural similarity",
    "accuracy": "codes that are right",
    "changed": "changed codes that are right",
}
_WHO = {"model": ("dream", BLUE), "copy": ("copy last", ORANGE), "marginal": ("marginal", MUTED)}
# Below this an r2 says no more than that it is bad, and the rest of the curve would be a line at the top.
_FLOOR = -0.5


def horizons_of(found: Mapping[str, Any]) -> list[int]:
    return [h for h in as_list(found.get("horizons")) if isinstance(h, int) and not isinstance(h, bool) and h > 0]


def panels(found: Mapping[str, Any]) -> list[tuple[str, str, dict[str, list[float]]]]:
    """(slot, measure, who -> a number a horizon, NaN where there is none) of everything that was measured; the file is not
    trusted."""
    count, out = len(horizons_of(found)), []
    for slot, of in as_dict(found.get("errors")).items():
        for measure, who in as_dict(of).items():
            lines = {w: [float(v) if finite(v) else np.nan for v in as_list(as_dict(who).get(w))] for w in _WHO}
            if measure in SAID and all(len(v) == count for v in lines.values()) and np.isfinite(lines["model"]).any():
                out.append((str(slot), measure, lines))
    return out


def curve(found: Mapping[str, Any]) -> Figure | None:
    """Every measure of a fidelity (``Fidelity.to_json``) against the horizon; None where there is nothing to draw."""
    at, drawn = horizons_of(found), panels(found)
    if not at or not drawn:
        return None
    rows = -(-len(drawn) // 2)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.2, 2.7 * rows + 0.3), layout="constrained")
        grid = figure.subplots(rows, min(2, len(drawn)), squeeze=False)
        slots = {slot for slot, _, _ in drawn}
        for axes, (slot, measure, lines) in zip(grid.flat, drawn, strict=False):
            _panel(axes, at, measure, lines)
            axes.set_title((f"{slot}: " if len(slots) > 1 else "") + SAID[measure], loc="left", color=MUTED, fontsize=10)
        for axes in list(grid.flat)[len(drawn) :]:
            axes.set_visible(False)
        for axes in grid[-1]:
            axes.set_xlabel("steps ahead", loc="left")
    return figure


def _panel(axes: Axes, at: Sequence[int], measure: str, lines: Mapping[str, list[float]]) -> None:
    ends = []
    for who, (name, colour) in reversed(_WHO.items()):
        values = np.array(lines[who])
        if measure == "r2":
            told, values = values, np.maximum(values, _FLOOR)
            # What lies below the panel is said, not drawn as if it lay on its edge.
            for x, y in [(x, y) for x, y in zip(at, told, strict=True) if y < _FLOOR]:
                axes.annotate(f"▼ {number(y)}", (x, _FLOOR), (0, 6), textcoords="offset points", ha="center", color=colour)
        there = np.isfinite(values)
        if not there.any():
            continue
        mark = {"marker": "o", "markersize": 4, "markeredgecolor": PAPER}
        style = mark if who == "model" else {"linewidth": 1.3, "dashes": (4, 2)}
        axes.plot(np.array(at)[there], values[there], color=colour, **style)
        ends.append((values[there][-1], name, colour))
    axes.set_xscale("log")
    axes.set_xticks(at)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.0f}"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: number(y)))
    axes.set_xlim(at[0] * 0.92, at[-1] * (2.1 if len(at) > 1 else 3))
    low, high = axes.get_ylim()
    placed: list[float] = []
    for y, name, colour in sorted(ends):
        # Names that would touch are pushed apart: a line of text is about a tenth of the panel.
        spot = max(y, placed[-1] + 0.11 * (high - low)) if placed else y
        placed.append(spot)
        axes.annotate(name, (at[-1], spot), (7, -3), textcoords="offset points", color=colour, fontsize=9.5)


def spoken(found: Mapping[str, Any]) -> str:
    """The figure in words, for those who cannot see it."""
    at = horizons_of(found)
    return "; ".join(
        f"{slot} {measure}: " + ", ".join(f"{v:.3g} at {h}" for h, v in zip(at, lines["model"], strict=True) if np.isfinite(v))
        for slot, measure, lines in panels(found)
    )


def fidelities(found: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """domain -> its part of dream.json, "" for a plain model; empty where there is nothing in it."""
    several = found.get("domains")
    parts = {str(n): as_dict(p) for n, p in several.items()} if isinstance(several, dict) else {"": as_dict(found)}
    return {name: part for name, part in parts.items() if panels(part) and horizons_of(part)}


def headline(found: Mapping[str, Any]) -> dict[str, str] | None:
    """The number on top: the measure that says most, ten steps ahead or as far as it goes."""
    drawn, at = panels(found), horizons_of(found)
    if not drawn:
        return None
    order = ["changed", "r2", "psnr", "accuracy", "ssim", "rmse"]
    slot, measure, lines = min(drawn, key=lambda p: order.index(p[1]))
    i = max(k for k, h in enumerate(at) if h <= 10 or k == 0)
    if not np.isfinite(lines["model"][i]):
        return None
    others = [f"{name} {_say(lines[w][i])}" for w, (name, _) in _WHO.items() if w != "model" and np.isfinite(lines[w][i])]
    unit = f"{SAID[measure].partition(' (')[0].partition(',')[0]} of {slot}, {at[i]} step{'s' if at[i] > 1 else ''} ahead"
    sentence = "On episodes kept out of training" + (f" (baselines: {', '.join(others)})." if others else ".")
    return {"number": _say(lines["model"][i]), "unit": unit, "sentence": sentence}


def facts(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a fidelity says besides its curves, line by line."""
    lines = []
    for key, name in (("reward", "reward"), ("done", "ends")):
        for when, words in (("one_step", "one step ahead"), ("open_loop", "open loop")):
            lines.append((f"{name}, {words}", _events(as_dict(as_dict(found.get(key)).get(when)))))
    for slot, c in as_dict(found.get("control")).items():
        c = as_dict(c)
        if finite(c.get("true")) and finite(c.get("other")):
            told = f"{c.get('measure')} {_say(c['true'])} under the right ones, {_say(c['other'])} under others'"
            lines.append((f"actions, {slot}", f"{told}, {c.get('horizon')} steps ahead"))
    returns, latent = as_dict(found.get("returns")), as_dict(found.get("latent"))
    if finite(returns.get("real")) and finite(returns.get("dream")):
        alike = f", correlation {_say(returns['correlation'])}" if finite(returns.get("correlation")) else ""
        lines.append(("return", f"real {_say(returns['real'])}, dream {_say(returns['dream'])}{alike}"))
    if finite(latent.get("effective_rank")):
        lines.append(("latent", f"varies in {number(float(latent['effective_rank']))} of {latent.get('width')} directions"))
    if finite(found.get("steps_per_second")):
        lines.append(("speed", f"{number(round(float(found['steps_per_second'])))} imagined steps per second"))
    return [(key, value) for key, value in lines if value]


def says(found: Mapping[str, Any]) -> str:
    """How it was measured, in a sentence."""
    told = [found.get(k) for k in ("starts", "episodes", "context", "horizon")]
    if not all(isinstance(x, int) for x in told):
        return ""
    starts, episodes, context, horizon = told
    return (
        f"{starts:,} dreams begun in {episodes:,} episodes kept out of training: {context} steps are observed, then {horizon} "
        "imagined under the actions that were really done. Two baselines on the same excerpts: copy last, in which the last "
        "observed step stays as it is; and marginal, the mean (or the most frequent code) of the training episodes."
    )


def _events(of: Mapping[str, Any]) -> str:
    if finite(of.get("precision")) and finite(of.get("recall")):
        return f"precision {_say(of['precision'])}, recall {_say(of['recall'])}, {of.get('happened')} happened"
    if "precision" not in of and finite(of.get("rmse")):
        return f"off by {_say(of['rmse'])}" + (f", r2 {_say(of['r2'])}" if finite(of.get("r2")) else "")
    return f"{of['happened']} happened, {of.get('told')} told" if isinstance(of.get("happened"), int) else ""


def _say(x: Any) -> str:
    return f"{float(x):.3g}" if abs(float(x)) < 1000 else f"{float(x):,.0f}"
