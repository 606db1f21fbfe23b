"""Texts as the ids of a tokenizer, filled up to one length: missions, instructions, captions.

Codes are exactly the ids of a ``tokenizers`` library tokenizer, so that a pretrained language model's embeddings fit them, and
one more: the last code is padding. The tokenizer is a name on the shelf, a file, or one of the Hub; once fitted it
travels whole inside the saved state, so a bundle needs no other file and asks nobody for one. Texts of a trajectory repeat
at every step, so each different one is encoded once and remembered.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from seqrl.core import shelf
from seqrl.core.config import Frozen, read_text
from seqrl.core.episode import Modality
from seqrl.core.errors import DataError, RecipeError
from seqrl.tokens import _rows

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_HUB = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(?<!\.json)")
# Texts kept with their codes. An endless run of new texts must not fill the memory.
_REMEMBERED = 65536


class Config(Frozen):
    """Settings of the text codec."""

    kind: Literal["text"] = "text"
    tokenizer: str = "missions"
    """A name on the shelf, the path of a ``tokenizer.json`` or of a folder with one, or ``owner/name`` on the Hub."""
    length: int | None = Field(None, ge=1, le=65536)
    """Codes per text, K; None takes the longest text of the data."""


def load(name: str) -> tuple["Tokenizer", str]:
    """The tokenizer behind a name, and its JSON.

    A name on the shelf comes first, then what lies at that path, then the Hub, which is asked only for ``owner/name``.

    Raises:
        RecipeError: there is none, with the closest name of the shelf, or what is there is no such tokenizer.
    """
    file = Path(name).expanduser()
    on_shelf = name in shelf.names("tokenizers", ".json")
    if not on_shelf and file.is_dir():
        file /= "tokenizer.json"
        if not file.is_file():
            raise RecipeError(f"tokenizer '{name}': there is no tokenizer.json in this folder")
    elif not on_shelf and not file.is_file() and _HUB.fullmatch(name):
        return _hub(name)
    else:
        file = shelf.find("tokenizers", name, ".json")
    try:
        return _rows.read(read_text(file))
    except ValueError as e:
        raise RecipeError(f"tokenizer '{name}': {e}") from e


def _hub(name: str) -> tuple["Tokenizer", str]:
    from transformers import AutoTokenizer

    try:
        found = AutoTokenizer.from_pretrained(name, use_fast=True, trust_remote_code=False)
        return _rows.read(found.backend_tokenizer.to_str())
    except Exception as e:  # the Hub, its files and the library each raise their own
        said = next(iter(str(e).splitlines()), "") or type(e).__name__
        raise RecipeError(f"tokenizer '{name}': neither a file nor a tokenizer to be had from the Hub: {said}") from e


class Codec:
    """``(N, 1)`` or ``(N,)`` texts to ``(N, K)`` codes in ``[0, V)``, and back to ``(N, 1)``.

    A round trip is exact where the tokenizer keeps every character, as the shelf's do (they fall back to bytes); one that
    lower-cases gives back lower case. Special tokens are not added, and where a text spells one out it is taken for it.
    Nothing is read before ``fit``: a saved codec is built first and given its tokenizer by ``load_state``.

    Attributes:
        width: K, codes per text; 0 before ``fit`` where the settings leave it open.
        vocab: ids of the tokenizer and one; 0 before ``fit``.
    """

    reads = ("text",)
    continuous = False
    bounded = False
    dtype = "int64"
    chunk = 1
    tolerance = 0.0

    def __init__(self, config: Config, modality: Modality) -> None:
        """Raises RecipeError where the value is not one text."""
        if modality.kind != "text" or modality.size != 1:
            what = "several texts" if modality.kind == "text" else f"a {modality.kind} value of shape {modality.shape}"
            raise RecipeError(f"codec text: this is {what}, and a slot takes one text; choose it with 'from'")
        self.config = config
        self.width, self.vocab, self.share = config.length or 0, 0, ""
        self._tokenizer: Tokenizer | None = None
        self._json = ""
        self._known: dict[str, np.ndarray] = {}

    @property
    def tokens(self) -> int:
        """K, padding included; a packed stream takes the ``lengths`` of them."""
        return self.width

    @property
    def pad(self) -> int:
        """The code that fills up; no text contains it."""
        return self.vocab - 1

    def _take(self, tokenizer: "Tokenizer", text: str) -> None:
        self._tokenizer, self._json, self._known = tokenizer, text, {}
        self.vocab, self.share = _rows.count(tokenizer) + 1, f"text-{_rows.digest(text)}"

    def _ids(self, texts: Iterable[str]) -> list[list[int]]:
        """Codes of each text, neither cut nor filled up; raises DataError on what is no text."""
        texts = list(texts)
        for text in texts:
            # A half of a surrogate pair is a Python str and no text: it cannot be written in any encoding.
            if not isinstance(text, str) or any("\ud800" <= c <= "\udfff" for c in text):
                raise DataError(f"codec text: {text!r} is no text")
        try:
            with _rows.told("this tokenizer fails at a text of these"):
                return [found.ids for found in self._tokenizer.encode_batch(texts, add_special_tokens=False)]
        except ValueError as e:
            raise DataError(f"codec text: {e}") from e

    def fit(self, values: np.ndarray) -> None:
        """Loads the tokenizer and, where ``length`` is open, takes the longest text's.

        Raises:
            RecipeError: there is no such tokenizer.
            DataError: a text is longer than ``length``; the message says what would do.
        """
        self._take(*load(self.config.tokenizer))
        texts = list(dict.fromkeys(_flat(values)))
        counts = [len(ids) for ids in self._ids(texts)]
        longest = max(counts, default=1)
        if self.config.length is not None and longest > self.config.length:
            text = texts[counts.index(longest)]
            shown = text if len(text) <= 80 else f"{text[:77]}..."
            raise DataError(
                f"codec text: '{shown}' takes {longest} tokens, and 'length' is {self.config.length}; "
                f"set it to {longest} or leave it out"
            )
        self.width = self.config.length or max(longest, 1)

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Texts to codes. While playing, a text longer than any of the data is cut at K; an empty one is one padding code.

        Raises:
            DataError: something in ``values`` is no text.
        """
        if self._tokenizer is None:
            raise RuntimeError("codec text: fit or load_state comes before encode")
        texts = _flat(values)
        # A dictionary finds the different ones of a million rows faster than sorting them would.
        place = {text: i for i, text in enumerate(dict.fromkeys(texts))}
        new = [t for t in place if t not in self._known]
        if len(self._known) + len(new) > _REMEMBERED:
            self._known, new = {}, list(place)
        self._known.update(zip(new, _rows.fill(self._ids(new), self.width, self.pad), strict=True))
        table = np.array([self._known[t] for t in place], np.int64).reshape(-1, self.width)
        shape = np.shape(values)
        out = table[[place[t] for t in texts]] if texts else table
        return out.reshape(*(shape[:-1] if len(shape) > 1 else shape), self.width)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Any codes to ``(..., 1)`` texts; a text ends at its first padding."""
        codes = np.asarray(codes)
        flat = np.clip(codes.reshape(-1, codes.shape[-1]), 0, self.pad)
        rows = [row[:n].tolist() if row[0] != self.pad else [] for row, n in zip(flat, self.lengths(flat), strict=True)]
        texts = self._tokenizer.decode_batch(rows, skip_special_tokens=False)
        return np.array(texts, np.str_).reshape(*codes.shape[:-1], 1)

    def lengths(self, codes: np.ndarray) -> np.ndarray:
        """``(N, K)`` codes to ``(N,)``: the tokens to feed of each; 1 for an empty text, whose one token is padding."""
        return _rows.lengths(codes, self.pad)

    def state(self) -> dict[str, Any]:
        return {"tokenizer": self._json, "length": self.width}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Raises ValueError where the tokenizer is broken or the length is none."""
        if type(state["length"]) is not int or not 1 <= state["length"] <= 65536:
            raise ValueError(f"the length of a text is a number of codes above 0 (got {state['length']!r})")
        # Kept as it was written: another version of the library would word it differently, and `share` with it.
        self._take(_rows.read(state["tokenizer"])[0], state["tokenizer"])
        self.width = state["length"]


def _flat(values: np.ndarray) -> list[str]:
    """The texts of ``(..., 1)`` or ``(N,)`` as a list."""
    values = np.asarray(values)
    if values.ndim > 1 and values.shape[-1] != 1:
        raise DataError(f"codec text: a slot takes one text, and these are {values.shape[-1]} side by side")
    return values.ravel().tolist()
