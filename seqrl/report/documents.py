"""An example of token documents, drawn: its words, a ``[frame]`` for each of a video's, and in colour what is trained."""

import html
from typing import TYPE_CHECKING

import numpy as np

from seqrl.core.errors import DataError

if TYPE_CHECKING:
    from rich.text import Text

    from seqrl.data.documents import DocumentLoader

Piece = tuple[str, bool]
"""Words, and whether they are trained."""


def pieces(loader: "DocumentLoader", unit: int = 0, frames: int = 8) -> tuple[str, list[Piece]]:
    """What the example of an episode or a line is, in a sentence, and its pieces in order.

    Args:
        unit: its number, through all sources. frames: how many of a video are spelled out.

    Raises:
        DataError: there is no such episode or line.
    """
    at, stores = unit, loader.stores
    which = next((i for i in range(len(stores)) if unit < sum(s.units for s in stores[: i + 1])), len(stores) - 1)
    at, store = unit - sum(s.units for s in stores[:which]), stores[which]
    found = np.flatnonzero(store.unit == at)
    if unit < 0 or not len(found):
        raise DataError(f"--episode {unit}: there are 0 to {sum(s.units for s in stores) - 1}")
    ids, trained = store.example(int(found[0]))
    vision, ends = ids >= loader.ports.text, (loader.ports.frame_end, loader.ports.video_end)
    about = f"{store.source}, {at}: {len(ids):,} tokens, {int(vision.sum()):,} of vision, {int(trained.sum()):,} trained"
    about += f"; the first of {len(found)} pieces" if len(found) > 1 else ""
    made: list[Piece] = []
    number, start = 0, 0
    borders = np.flatnonzero((np.diff(vision) != 0) | (np.diff(trained) != 0) | np.isin(ids[:-1], ends)) + 1
    for end in (*borders.tolist(), len(ids)):
        here, counts = ids[start:end], bool(trained[start])
        last = here[-1] == ends[1]
        if vision[start]:
            number += 1
            if number <= frames:
                made.append((f"[frame {number}{', the last' if last else ''}]", counts))
            elif last:
                made.append((f" ... [frame {number}, the last]", counts))
        elif number <= frames:
            made.append((loader.tokenizer.words(here), counts))
        number = 0 if last else number
        start = end
    return about, made


def to_text(made: list[Piece]) -> "Text":
    """For a terminal: green is trained, grey is read."""
    from rich.text import Text

    return Text.assemble(*((words, "green" if counts else "bright_black") for words, counts in made))


def to_html(about: str, made: list[Piece]) -> str:
    """A page that needs no other file."""
    spans = "".join(f'<span class="{"t" if counts else "r"}">{html.escape(words)}</span>' for words, counts in made)
    style = "body{font:15px/1.6 system-ui;max-width:60em;margin:2em auto}.t{color:#176b37;background:#e7f4ea}.r{color:#777}"
    style += "p{white-space:pre-wrap}"
    said = f"<h3>{html.escape(about)}</h3><p>{spans}</p><p class=r>green is trained, grey is read</p>"
    return f'<!doctype html><meta charset="utf-8"><title>documents</title><style>{style}</style>{said}'
