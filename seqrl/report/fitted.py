"""A fitted tokenizer as a table: what each slot is made of, its codec, its tokens and codes, and the values they stand for."""

from typing import TYPE_CHECKING

import numpy as np

from seqrl.data.mixture import Mixture
from seqrl.data.slots import SlotCodec
from seqrl.data.tokenizer import Tokenizer
from seqrl.report.spell import write_number

if TYPE_CHECKING:
    from rich.table import Table


def to_table(fitted: Tokenizer | Mixture, colours: tuple[str, ...]) -> "Table":
    """One line a slot, for a terminal; of a mixture under the name of each domain."""
    from rich.table import Table
    from rich.text import Text

    mixed = isinstance(fitted, Mixture)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for title in (*(["domain"] if mixed else []), "slot", "made of", "codec", "tokens", "vocab", "values"):
        table.add_column(title, justify="right" if title in ("tokens", "vocab") else "left", no_wrap=True, overflow="ellipsis")
    for domain, tokenizer in (fitted.domains if mixed else {"": fitted}).items():
        for i, (name, slot) in enumerate(tokenizer.slots.items()):
            lead = [Text("" if i else domain, style="bold")] if mixed else []
            vocab = f"{slot.codec.vocab:,}" if slot.codec.vocab else "–"
            cells = (", ".join(slot.fields), slot.config.kind, f"{slot.codec.tokens:,}", vocab, values(slot))
            table.add_row(*lead, Text(name, style=colours[i % len(colours)]), *map(Text, cells))
    return table


def values(slot: SlotCodec) -> str:
    """What a slot's codes stand for, in units of its values; asked of the codec itself, so that no kind need be known."""
    codec = slot.codec
    if slot.modality.kind == "text":
        return f"at most {codec.width:,} tokens"
    if slot.modality.kind == "image":
        return "×".join(map(str, slot.modality.shape))
    if slot.modality.kind == "discrete":
        if codec.vocab == 1:
            return "always the same"
        return f"{codec.vocab:,} choices" if codec.width == 1 else f"{codec.width} choices of up to {codec.vocab:,}"
    if codec.chunk > 1:
        return f"chunks of {codec.chunk} steps"
    if codec.continuous:
        low, high = (codec.decode(np.full((1, codec.width), end)) for end in (-1.0, 1.0))
        return f"−1 to 1 stands for {write_number(low.min())} to {write_number(high.max())}"
    low, high = (codec.decode(np.full((1, codec.width), code)) for code in (0, codec.vocab - 1))
    return f"{write_number(low.min())} to {write_number(high.max())}"
