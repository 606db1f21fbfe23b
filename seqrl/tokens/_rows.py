"""What codecs of unequal length share: rows filled up with padding, their real lengths, and tokenizers read from JSON.

A row of codes ends at its first ``pad``, the last code of the vocabulary. A value without any code is one ``pad``, the mark
of "nothing", so that every value feeds a model at least one token.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# More ids than any vocabulary has: a broken file could ask for an embedding of four thousand million rows.
_MOST = 1 << 24


def fill(rows: Sequence[Sequence[int]], width: int, pad: int) -> np.ndarray:
    """Lists of codes to ``(len(rows), width)`` int64, filled up with ``pad`` on the right, cut where they are longer."""
    out = np.full((len(rows), width), pad, np.int64)
    for line, row in zip(out, rows, strict=True):
        line[: len(row)] = row[:width]
    return out


def lengths(codes: np.ndarray, pad: int) -> np.ndarray:
    """``(..., K)`` codes to ``(...)`` int64: the tokens before the first ``pad``, and 1 where that is none."""
    codes = np.asarray(codes)
    ends = codes == pad
    found = np.where(ends.any(-1), ends.argmax(-1), codes.shape[-1])
    return np.maximum(found, 1)


def count(tokenizer: "Tokenizer") -> int:
    """Ids of a tokenizer: one more than the largest, added tokens included (some number theirs with gaps)."""
    return max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1


@contextmanager
def told(what: str) -> Iterator[None]:
    """Turns whatever the library throws, plain Exceptions and the panics of its Rust, into a ValueError that opens so."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as e:  # a panic stands beside Exception, not below it
        raise ValueError(f"{what} ({e})") from e


def read(text: Any) -> tuple["Tokenizer", str]:
    """A tokenizer from its JSON, and its JSON in the form that compares: no cutting and no padding of its own.

    The JSON is data to the library, whoever wrote it: nothing in it is imported or run.

    Raises:
        ValueError: it is no text, no tokenizer of the ``tokenizers`` library, or one without tokens or with far too many.
    """
    from tokenizers import Tokenizer

    if not isinstance(text, str):
        raise ValueError(f"a tokenizer is JSON in a text, and this is {type(text).__name__}")
    with told("this is no tokenizer.json of the tokenizers library"):
        made = Tokenizer.from_str(text)
    if not 0 < count(made) <= _MOST:
        raise ValueError(f"this tokenizer numbers its tokens up to {count(made):,}; 1 to {_MOST:,} are possible")
    made.no_truncation()
    made.no_padding()
    return made, made.to_str()


def digest(text: str) -> str:
    """The first 12 hex digits of a text's sha256: tokenizers with the same digest mean the same by their ids."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]
