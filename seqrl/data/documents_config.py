"""What a recipe says of token documents: ``tokens.documents``, and the grammar of its fields.

``fields`` is a line of LWM's data format (Liu et al. 2024, arXiv 2402.08268): fields separated by commas stand one behind the
other, ``[task]`` is read and trains nothing, ``a+b`` is joined to one. Joined texts are one text. A video joined with actions,
``vision+action``, has behind each frame's end the words of the action that was taken there, and behind them the frame it led
to; ``vision+[action]`` says them without training them. ``<|bos|>`` and ``<|eos|>`` are the marks themselves.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, field_validator

from seqrl.core.config import Frozen
from seqrl.core.errors import RecipeError

MARKS = ("<|bos|>", "<|eos|>")
_PART = re.compile(r"\[([^\[\]]*)\]|([^\[\]]*)")


@dataclass(frozen=True)
class Part:
    """One of the names that are joined to a field, and whether its tokens are trained."""

    name: str
    trained: bool


@dataclass(frozen=True)
class Joined:
    """A field of an example: the parts that ``+`` joins, at least one."""

    parts: tuple[Part, ...]

    @property
    def mark(self) -> bool:
        """Whether it is ``<|bos|>`` or ``<|eos|>``."""
        return self.parts[0].name in MARKS


def parse_fields(text: str) -> tuple[Joined, ...]:
    """The fields of one choice; raises RecipeError where a bracket is open or a name is missing."""
    return tuple(_joined(field.strip(), text) for field in text.split(","))


def _joined(field: str, text: str) -> Joined:
    whole = field.startswith("[") and field.endswith("]") and field.find("]") == len(field) - 1
    parts = []
    for said in (field[1:-1] if whole else field).split("+"):
        found = _PART.fullmatch(said.strip())
        name = "" if found is None else (found[1] if found[1] is not None else found[2]).strip()
        if not name:
            raise RecipeError(f"fields '{text}': '{field or text}' is no field; write names as in [task],vision+action")
        parts.append(Part(name, not whole and found[1] is None))
    if len(parts) > 1 and any(p.name in MARKS for p in parts):
        raise RecipeError(f"fields '{text}': a mark stands alone, between commas")
    return Joined(tuple(parts))


class TextConfig(Frozen):
    """How texts become ids."""

    tokenizer: str = "missions"
    """A name on the shelf, the path of a ``tokenizer.json`` or of a folder with one, or ``owner/name`` on the Hub."""
    new: list[str] = []
    """Words that become one id each, behind the tokenizer's own, such as ``<vision>``; a pretrained body has to learn them."""
    bos: str | None = None
    """The word in front of an example; null takes what such tokenizers call it, or adds ``<s>``."""
    eos: str | None = None
    """The word behind an example; null takes what such tokenizers call it, or adds ``</s>``."""


class DocumentsConfig(Frozen):
    """How examples are made of texts, videos and actions."""

    fields: str | list[str] = "[task],vision"
    """What stands in an example, in LWM's words (see data/documents_config.py); of several choices one is picked for each
    example by its number. Names are the data's own; ``task``, ``vision`` and ``action`` mean the only text, picture and action.
    A source, and a line of ``jsonl``, may have fields of its own."""
    text: TextConfig = TextConfig()
    """How texts become ids."""
    frames: dict[str, Any] | None = None
    """How a picture becomes codes: ``kind`` and settings of a codec (``vq``, ``cells``), or ``{vocab: 8192, tokens: 256}`` for
    data that hold codes already. Null is for texts alone."""
    most_frames: int | None = Field(None, ge=1)
    """Most frames of a video; null takes all."""
    take: Literal["spread", "first", "pieces"] = "spread"
    """Which, of a longer one: evenly spread over it (LWM), the first, or all of it as several examples, each of which begins
    with the last frame of the one before. Actions need frames that follow each other: ``first`` or ``pieces``."""
    swap: float = Field(0.0, ge=0, le=1)
    """Share of the drawn examples in which text and video change places."""
    words: dict[str, list[str]] = {}
    """Field of choices -> the word for each of them, such as ``action: [left, right, forward]``; otherwise they are numbers."""
    prepend: str = ""
    """Stands in front of an example's first text, joined to it."""
    marks: tuple[str, str] = ("<vision>", "</vision>")
    """Texts that stand in front of a video and behind it."""
    weigh: Literal["examples", "tokens"] = "examples"
    """What counts the same in a modality's loss: every example, as if each were a row alone (LWM: a trained token counts 1 over
    those of its modality in its example), or every trained token."""
    mode: Literal["pack", "pad"] = "pack"
    """Several examples in a row, each seeing only itself, or one in each."""

    @field_validator("fields")
    @classmethod
    def _are_fields(cls, fields: str | list[str]) -> str | list[str]:
        choices_of(fields)
        return fields


def choices_of(fields: str | Sequence[str]) -> tuple[tuple[Joined, ...], ...]:
    """The choices of ``fields``; raises ValueError where one of them is none."""
    said = [fields] if isinstance(fields, str) else list(fields)
    if not said or not all(isinstance(text, str) for text in said):
        raise ValueError("name at least one choice of fields, such as '[task],vision'")
    try:
        return tuple(parse_fields(text) for text in said)
    except RecipeError as e:
        raise ValueError(str(e)) from e
