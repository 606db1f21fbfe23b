"""How faithful each codec is on one episode: what comes back of its values when they are encoded and decoded again.

A codec promises its ``tolerance`` for values inside the range it was fitted on. What lies outside is clipped, and shows here
as a share of values and as an error that is larger than promised.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from seqrl.core.stream import Stream
from seqrl.data.slots import SlotCodec
from seqrl.data.tokenizer import Tokenizer
from seqrl.report.spell import write_number

if TYPE_CHECKING:
    from rich.table import Table

HEADS = ("slot", "made of", "codec", "tokens", "vocab", "mean error", "largest", "promised", "outside")
"""The columns of the table."""


@dataclass(frozen=True)
class RoundTrip:
    """A codec's round trip.

    Args:
        slot, fields, kind: the slot, what it is made of, its codec. trained: whether it is in the loss.
        tokens: a value's tokens in this stream. vocab: codes, 0 for numbers.
        exact: of choices, texts and pictures, how many values come back otherwise; None for numbers.
        mean, largest: error in the value's units. tolerance: what the codec promises inside its range.
        outside: share of values outside the fitted range.
    """

    slot: str
    fields: tuple[str, ...]
    kind: str
    tokens: int
    vocab: int
    exact: int | None
    mean: float
    largest: float
    tolerance: float
    outside: float

    def words(self) -> tuple[str, ...]:
        """One cell for each of ``HEADS``."""
        about = (self.slot, ", ".join(self.fields), self.kind, f"{self.tokens:,}", f"{self.vocab:,}" if self.vocab else "–")
        if self.exact is not None:
            return (*about, "exact" if not self.exact else f"{self.exact:,} differ", "", "exact", "")
        # A float32's last digit, or a share of a percent, is said as what it is: nothing to worry about, and not nothing.
        share = f"{100 * self.outside:.2g}%" if self.outside else "none"
        numbers = (f"{x:.2g}" if abs(x) < 1e-3 else write_number(x) for x in (self.mean, self.largest, self.tolerance))
        return (*about, *numbers, share)


def round_trips(tokenizer: Tokenizer, stream: Stream) -> list[RoundTrip]:
    """What comes back of every value of a stream, slot by slot; of a prefix slot, its one value."""
    front = {s.name for s in stream.layout.prefix}
    tokens = {s.name: s.width for s in stream.layout.slots}
    return [
        _measure(name, slot, stream.values[name][: 1 if name in front else None], stream.raw[name], tokens[name])
        for name, slot in tokenizer.slots.items()
    ]


def _measure(name: str, slot: SlotCodec, codes: np.ndarray, raw: np.ndarray, tokens: int) -> RoundTrip:
    codec, raw = slot.codec, raw[: len(codes)]
    back = np.asarray(codec.decode(codes)).reshape(raw.shape)
    # Which kind is a file's name; one of another package is known by its module.
    about: tuple[Any, ...] = (name, slot.fields, getattr(slot.config, "kind", type(codec).__module__), tokens, codec.vocab)
    if slot.modality.kind == "text" or codec.tolerance == 0:
        wrong = int((back != raw).reshape(len(raw), -1).any(1).sum())
        return RoundTrip(*about, wrong, 0.0, 0.0, codec.tolerance, 0.0)
    error = np.abs(back.astype(np.float64) - raw.astype(np.float64))
    out = error > codec.tolerance
    if hasattr(codec, "edges"):
        # Bins of unequal width promise what the widest keeps, and a value just outside a narrow one is within that.
        out = (raw < codec.edges[:, 0]) | (raw > codec.edges[:, -1])
    return RoundTrip(*about, None, float(error.mean()), float(error.max()), codec.tolerance, float(out.mean()))


def to_table(trips: list[RoundTrip], colours: tuple[str, ...], width: int = 120) -> "Table":
    """The round trips as a table for a terminal of ``width`` columns, each slot in its colour."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    # A narrow terminal does without what a slot is made of.
    shown = [i for i, head in enumerate(HEADS) if width >= 100 or head != "made of"]
    for head in (HEADS[i] for i in shown):
        table.add_column(head, justify="left" if head in HEADS[:3] else "right", no_wrap=True, overflow="ellipsis")
    for i, trip in enumerate(trips):
        cells = [Text(word) for word in trip.words()]
        cells[0].stylize(colours[i % len(colours)])
        if trip.outside or trip.exact:
            cells[-1 if trip.outside else 5].stylize("bold dark_orange3")
        table.add_row(*(cells[k] for k in shown))
    return table
