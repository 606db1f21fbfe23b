"""A video of a model of documents, drawn: as a GIF, and as a strip of its frames beside each other.

Frames are pictures as the tokenizer gives them back, enlarged by whole pixels, or grids of cells in a plain palette. What
really happened, where it is known, stands above what was said; frames that were given have a grey edge, those said an orange
one.
"""

from pathlib import Path
from typing import Any

import numpy as np

from seqrl.rollout._grids import draw_grid, is_grid, shows_agent
from seqrl.rollout.clip import write_gif

_SIDE, _GAP, _HEAD = 168, 8, 18
_GIVEN, _SAID, _REAL = (150, 150, 150), (222, 122, 36), (40, 40, 40)


def draw(frames: np.ndarray) -> list[Any]:
    """Pictures ``(T, H, W, C)`` as Pillow's, all of one size."""
    from PIL import Image

    if is_grid(frames):
        # Who is not shown anywhere is whose view this is.
        return [draw_grid(f, max(8, _SIDE // max(f.shape[:2])), not shows_agent(frames)) for f in frames]
    if frames.shape[-1] not in (1, 3):
        frames = frames[..., :1]
    frames = frames.repeat(3, -1) if frames.shape[-1] == 1 else frames
    size = max(1, _SIDE // max(frames.shape[1:3]))
    wanted = (frames.shape[2] * size, frames.shape[1] * size)
    return [Image.fromarray(np.ascontiguousarray(f, np.uint8)).resize(wanted, Image.Resampling.NEAREST) for f in frames]


def _panel(picture: Any, words: str, colour: tuple[int, int, int]) -> Any:
    from PIL import Image, ImageDraw

    out = Image.new("RGB", (picture.width + 2 * _GAP, picture.height + _HEAD + _GAP), "white")
    pen = ImageDraw.Draw(out)
    pen.text((_GAP, 3), words, fill=colour)
    out.paste(picture, (_GAP, _HEAD))
    pen.rectangle((_GAP - 2, _HEAD - 2, _GAP + picture.width + 1, _HEAD + picture.height + 1), outline=colour, width=2)
    return out


def _panels(seen: np.ndarray, given: int, real: np.ndarray | None, captions: list[str]) -> list[Any]:
    """One picture a frame: the real one, if there is one, above the one said."""
    from PIL import Image

    drawn = draw(seen)
    true = draw(real) if real is not None else []
    out = []
    for t, picture in enumerate(drawn):
        word = f" {captions[t]}" if t < len(captions) and captions[t] else ""
        parts = [_panel(picture, f"{'given' if t < given else 'said'} {t + 1}{word}", _GIVEN if t < given else _SAID)]
        if true:
            shown = _panel(true[min(t, len(true) - 1)], "real" + (" (over)" if t >= len(true) else ""), _REAL)
            parts.insert(0, shown)
        page = Image.new("RGB", (parts[0].width, sum(p.height for p in parts)), "white")
        at = 0
        for p in parts:
            page.paste(p, (0, at))
            at += p.height
        out.append(page)
    return out


def write_film(
    seen: np.ndarray,
    given: int = 0,
    real: np.ndarray | None = None,
    captions: list[str] | None = None,
    gif: Path | None = None,
    png: Path | None = None,
    milliseconds: float = 250,
) -> None:
    """Draws a video ``(T, H, W, C)``.

    Args:
        given: frames that were not said. real: ``(n, H, W, C)`` what happened. captions: of each frame.
        gif, png: files to write, each whole or not at all; the PNG shows all frames beside each other.
    """
    from PIL import Image

    pages = _panels(seen, given, real, captions or [])
    if gif is not None:
        write_gif(gif, [p.quantize(96, dither=Image.Dither.NONE) for p in pages], milliseconds)
    if png is not None:
        strip = Image.new("RGB", (sum(p.width for p in pages), pages[0].height), "white")
        for i, p in enumerate(pages):
            strip.paste(p, (i * pages[0].width, 0))
        aside = png.with_name(f".{png.name}.part")
        strip.save(aside, format="PNG")
        aside.replace(png)
