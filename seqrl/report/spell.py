"""A stream spelled out: what each slot of each step says, as words, codes, numbers or the colours of patches.

Everything here is facts without form; ``report/stream.py`` draws them for a terminal and ``report/stream_html.py`` for a page.
"""

import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from seqrl.core.contracts import Codec
from seqrl.core.layout import Layout, Slot
from seqrl.core.stream import Stream

_WRITTEN = 6
"""Numbers written out where there is no room for all."""
_IN_FULL = 32
"""Numbers written out where there is."""
_STRIPES = 16
"""Stripes of a picture whose shape nobody knows."""


@dataclass(frozen=True)
class Row:
    """What one slot says at one step.

    Args:
        slot, name: the slot's number in the layout, and its name. time: step, -1 in the prefix.
        pos: positions in the stream; of a read-out, the token it is read at behind an arrow.
        trained: whether it is in the loss.
        values: ``(n,)`` numbers or codes, padding left out.
        given: the value as the world gave it, in words; in_full: more of them.
        words: each token as a word (codes, pieces of a text, cells of a picture), None where tokens are numbers.
        patches: ``(n, 3)`` uint8, mean colour of each patch of a picture, None where it is none.
        across: patches in a line of the picture.
    """

    slot: int
    name: str
    time: int
    pos: str
    trained: bool
    values: np.ndarray
    given: str
    in_full: str
    words: tuple[str, ...] | None = None
    patches: np.ndarray | None = None
    across: int = 1


def trained_names(stream: Stream) -> tuple[str, ...]:
    """The slots in the loss, read-outs included."""
    slot, target = np.asarray(stream.tracks["slot"]), np.asarray(stream.tracks["target"])
    fed = [name for i, name in enumerate(stream.layout.names) if target[slot == i].any()]
    asked = int(np.bitwise_or.reduce(readout(stream), initial=0))
    return (*fed, *(s.name for i, s in enumerate(stream.layout.readout) if asked >> i & 1))


def readout(stream: Stream) -> np.ndarray:
    """``(L,)`` int64: bit i is set where the i-th read-out is answered and trained; zeros where nobody said."""
    return np.asarray(stream.tracks.get("readout", np.zeros(len(stream), np.int64)))


def drawing(stream: Stream) -> str:
    """The layout's picture of one step, with a slot of K tokens drawn as one cell ``name×K``."""
    slots = {s.name: Slot(s.name if s.width == 1 else f"{s.name}×{s.width}") for s in stream.layout.slots}
    parts = [tuple(slots[s.name] for s in part) for part in (stream.layout.prefix, stream.layout.step, stream.layout.readout)]
    return textwrap.dedent(Layout(*parts).drawing(tuple(slots[name].name for name in trained_names(stream))))


def counted(stream: Stream) -> str:
    """How many tokens there are, how many are trained, and how many answers are read out."""
    read = sum(int((readout(stream) >> i & 1).sum()) for i in range(len(stream.layout.readout)))
    trained = int(np.sum(stream.tracks["target"]))
    if not read:
        return f"{len(stream):,} tokens, {trained:,} trained (*)"
    return f"{len(stream):,} tokens; trained (*): " + (f"{trained:,} of them and " if trained else "") + f"{read:,} read out"


def rows(stream: Stream, start: int, steps: int, codecs: Mapping[str, Codec] | None = None) -> Iterator[Row]:
    """Every slot of steps ``start`` to ``start + steps``, and of the prefix where the drawing begins at step 0.

    Args:
        codecs: slot -> its codec, so that texts are spelled in words and pictures in colours.
    """
    slot, time, target = (np.asarray(stream.tracks[k]) for k in ("slot", "time", "target"))
    names, codecs, said = stream.layout.names, codecs or {}, trained_names(stream)
    spots = np.flatnonzero((time >= (-1 if start == 0 else start)) & (time < start + steps))
    if not len(spots):
        return
    cuts = np.flatnonzero(np.diff(slot[spots] * (time.max() + 3) + time[spots])) + 1
    groups = np.split(spots, cuts)
    for at, after in zip(groups, [*groups[1:], None], strict=True):
        number, t = int(slot[at[0]]), int(time[at[0]])
        pos = np.asarray(stream.tracks["pos"])[at]
        where = f"{pos[0]}" if len(at) == 1 else f"{pos[0]}–{pos[-1]}"
        yield _row(stream, number, t, where, bool(target[at].any()), codecs)
        if t >= 0 and (after is None or time[after[0]] != t):
            first = len(names) - len(stream.layout.readout)
            for i, name in enumerate(names[first:], first):
                yield _row(stream, i, t, f"↑{pos[-1]}", name in said, codecs)


def _row(stream: Stream, number: int, t: int, where: str, trained: bool, codecs: Mapping[str, Codec]) -> Row:
    name = stream.layout.names[number]
    codec = codecs.get(name)
    values = np.atleast_1d(stream.values[name][max(t, 0)]).ravel()
    raw = np.atleast_1d(stream.raw[name][max(t, 0)]).ravel()
    given, in_full = written(raw), written(raw, _IN_FULL)
    across = 1
    if values.dtype == np.uint8:
        image = getattr(codec, "image", None)
        words, patches, across = _picture(values, image)
        shape = "×".join(map(str, image["shape"] if image else [len(raw)]))
        given = in_full = f"{shape} bytes, {raw.min()} to {raw.max()}, mean {write_number(raw.mean())}"
    else:
        if hasattr(codec, "lengths"):
            values = values[: int(codec.lengths(values[None])[0])]
        words, patches = _words(values, codec), None
    return Row(number, name, t, where, trained, values, given, in_full, words, patches, across)


def _words(values: np.ndarray, codec: Codec | None) -> tuple[str, ...] | None:
    """Codes as words: those of a text as what they spell, others as numbers; None for values that are no codes."""
    if not np.issubdtype(values.dtype, np.integer):
        return None
    if codec is None or "text" not in getattr(codec, "reads", ()):
        return tuple(str(v) for v in values)
    # One at a time: the library would join them. A space in front belongs to the word and is not worth showing.
    texts = codec.decode(values[:, None])[:, 0].tolist()
    return tuple("∅" if code == codec.pad else text.strip() or "␣" for code, text in zip(values, texts, strict=True))


def _picture(values: np.ndarray, image: Mapping[str, Any] | None) -> tuple[tuple[str, ...] | None, np.ndarray | None, int]:
    """A picture's bytes as the cells it is made of, or as the mean colour of each of its patches, and how many a line has."""
    if image is None:
        stripes = [part.mean() for part in np.array_split(values, min(_STRIPES, len(values)))]
        return None, np.repeat(np.rint(stripes).astype(np.uint8)[:, None], 3, 1), len(stripes)
    high, wide, channels = image["shape"]
    if image["encoder"] == "cells":
        return tuple("·".join(map(str, cell)) for cell in values.reshape(-1, channels)), None, wide
    tall, broad = (image["size"],) * 2 if image["size"] else (high, wide)
    whole = values.reshape(high // tall, tall, wide // broad, broad, channels).mean((1, 3)).reshape(-1, channels)
    colours = whole if channels == 3 else np.repeat(whole.mean(1, keepdims=True), 3, 1)
    return None, np.rint(colours).astype(np.uint8), wide // broad


def write_number(x: Any) -> str:
    """One value in few characters: text as it is, whole numbers whole, others to three digits."""
    if isinstance(x, str | np.str_):
        return str(x)
    x = float(x)
    if not np.isfinite(x):
        return str(x)
    return f"{x:,.0f}" if abs(x) < 1e6 and (x == round(x) or abs(x) >= 1000) else f"{x:.3g}"


def written(values: np.ndarray, most: int = _WRITTEN) -> str:
    """The first ``most`` values in words, and how many there are where that is not all."""
    words = " ".join(write_number(v) for v in values[:most])
    return words if len(values) <= most else f"{words} … ({len(values)})"
