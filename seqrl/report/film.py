"""A dream as a GIF: what was imagined beside what really came, frame by frame.

Pictures stand side by side, enlarged by whole pixels. Of vectors the numbers are drawn as lines that grow with time, the real
one and the imagined one in one chart. The steps that were observed before the dream began are marked as such.
"""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from seqrl.report.ink import BAND, GRID, INK, MUTED, ORANGE
from seqrl.rollout.clip import write_gif
from seqrl.rollout.reel import Reel

_SIDE, _GAP, _HEAD, _FOOT = 224, 12, 22, 40
_WIDE, _TALL, _LABEL, _LINES = 460, 62, 118, 6
_FINE = 2
"""Lines are drawn so many times larger and then shrunk, which smooths them."""


def write(reel: Reel, path: Path, milliseconds: float = 120) -> None:
    """Draws a reel and writes it as a GIF, whole or not at all."""
    draw = _pictures if reel.seen.ndim == 4 else _lines
    frames = [draw(reel, t).quantize(96, dither=Image.Dither.NONE) for t in range(len(reel.seen))]
    write_gif(path, frames, milliseconds)


def _font(size: int) -> Any:
    return ImageFont.load_default(size)


def _caption(reel: Reel, t: int) -> tuple[str, str]:
    """Two lines under a frame: when it is, and what was got."""
    h = t - reel.context + 1
    total = len(reel.seen) - reel.context
    if h <= 0:
        return f"observed {t + 1} of {reel.context}", ""
    first = f"imagined {h} of {total}   goes on {reel.cont[h - 1]:.0%}"
    said = f"reward {reel.reward[h - 1]:.3g}   return {reel.reward[:h].sum():.4g}"
    if reel.real_reward is None:
        return first, said
    if h > len(reel.real_reward):
        return first, f"{said}   (really: over, return {reel.real_reward.sum():.4g})"
    return first, f"{said}   (really {reel.real_reward[h - 1]:.3g}, {reel.real_reward[:h].sum():.4g})"


def _page(width: int, height: int, reel: Reel, t: int) -> tuple[Any, Any]:
    out = Image.new("RGB", (width, height + _HEAD + _FOOT), "white")
    pen = ImageDraw.Draw(out)
    for i, (words, colour) in enumerate(zip(_caption(reel, t), (INK, MUTED), strict=True)):
        pen.text((_GAP, height + _HEAD + 4 + 17 * i), words, fill=colour, font=_font(13))
    return out, pen


def _pictures(reel: Reel, t: int) -> Any:
    """The real picture and the imagined one."""
    h, w = reel.seen.shape[1:3]
    size = max(1, _SIDE // max(h, w))
    panels = [("dream" if t >= reel.context else "observed", ORANGE if t >= reel.context else MUTED, reel.seen[t])]
    if reel.real is not None:
        over = t >= len(reel.real)
        panels.insert(0, ("real" + (" (over)" if over else ""), INK, reel.real[min(t, len(reel.real) - 1)]))
    width = max(_GAP + len(panels) * (w * size + _GAP), 340)
    out, pen = _page(width, h * size + _GAP, reel, t)
    x = _GAP
    for name, colour, picture in panels:
        pen.text((x, 3), name, fill=colour, font=_font(14))
        frame = Image.fromarray(np.ascontiguousarray(picture)).resize((w * size, h * size), Image.Resampling.NEAREST)
        if "over" in name:
            frame = Image.blend(frame, Image.new("RGB", frame.size, "white"), 0.6)
        out.paste(frame, (x, _HEAD))
        pen.rectangle((x - 2, _HEAD - 2, x + w * size + 1, _HEAD + h * size + 1), outline=colour, width=2)
        x += w * size + _GAP
    return out


def _lines(reel: Reel, t: int) -> Any:
    """Each number against time."""
    spread = reel.seen.std(0) if reel.real is None else reel.real.std(0)
    few = np.sort(np.argsort(-spread, kind="stable")[:_LINES]) if reel.seen.shape[1] > _LINES else np.arange(reel.seen.shape[1])
    width, height = _LABEL + _WIDE + 2 * _GAP, len(few) * _TALL
    out, pen = _page(width, height, reel, t)
    for x, name, colour in ((_LABEL, "real", INK), (_LABEL + 48, "dream", ORANGE)):
        if name == "dream" or reel.real is not None:
            pen.text((x, 3), name, fill=colour, font=_font(14))
    if len(few) < reel.seen.shape[1]:
        pen.text((_LABEL + 120, 4), f"{len(few)} of {reel.seen.shape[1]} numbers", fill=MUTED, font=_font(12))
    big = Image.new("RGB", (_WIDE * _FINE, height * _FINE), "white")
    chart = ImageDraw.Draw(big)
    last = len(reel.seen) - 1

    def across(step: float) -> float:
        return _FINE * (4 + (_WIDE - 12) * step / max(last, 1))

    for i, d in enumerate(few):
        top, base = _FINE * (i * _TALL + 7), _FINE * ((i + 1) * _TALL - 7)
        every = reel.seen[:, d] if reel.real is None else np.concatenate([reel.seen[:, d], reel.real[:, d]])
        low, high = float(every.min()), float(every.max())
        room = max(high - low, 0.0 if reel.spread is None else float(reel.spread[d])) or 1.0
        low, high = (low + high - room) / 2, (low + high + room) / 2

        def up(y: float, top: int = top, base: int = base, low: float = low, room: float = room) -> float:
            return base - (base - top) * (y - low) / room

        chart.rectangle((0, top - 6, across(reel.context - 1), base + 6), fill=BAND)
        chart.line((0, base + 8, _WIDE * _FINE, base + 8), fill=GRID, width=_FINE)
        if reel.real is not None:
            _line(chart, [(across(s), up(y)) for s, y in enumerate(reel.real[: t + 1, d])], INK)
        begun = 0 if reel.real is None else reel.context - 1
        if t > begun or reel.real is None:
            _line(chart, [(across(begun + s), up(y)) for s, y in enumerate(reel.seen[begun : t + 1, d])], ORANGE)
        y = _HEAD + i * _TALL
        pen.text((_GAP, y + _TALL // 2 - 15), reel.names[d][:16], fill=INK, font=_font(12))
        pen.text((_GAP, y + _TALL // 2 + 1), f"{low:.3g} to {high:.3g}", fill=MUTED, font=_font(11))
    out.paste(big.resize((_WIDE, height), Image.Resampling.LANCZOS), (_LABEL, _HEAD))
    return out


def _line(pen: Any, points: list[tuple[float, float]], colour: str) -> None:
    if len(points) > 1:
        pen.line(points, fill=colour, width=2 * _FINE, joint="curve")
    x, y = points[-1]
    r = 3 * _FINE
    pen.ellipse((x - r, y - r, x + r, y + r), fill=colour)
