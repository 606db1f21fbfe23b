"""Examples of token documents: what fields make of an episode or a line, as ids and whether each of them is trained.

An example is ``<bos> field field ... <eos>``. A video is its opening mark, K codes and an end for each frame, and its closing
mark; behind a frame's end stand the words of the action taken there, where the field is joined with actions. A mark of a video
is trained when its field is; ``<bos>`` is not, and ``<eos>`` is. Frames and texts of many examples are encoded at once.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from seqrl.core.documents import DocumentPorts
from seqrl.core.errors import RecipeError
from seqrl.data.documents_config import Joined
from seqrl.data.documents_tokenizer import DocumentTokenizer


@dataclass(frozen=True)
class Example:
    """One example.

    Args:
        ids: ``(n,)`` int64. trained: ``(n,)`` bool.
        split: where its second half begins, if it is text and video (or the other way round); 0 where it is not.
        unit: the episode or line it is from.
    """

    ids: np.ndarray
    trained: np.ndarray
    split: int
    unit: int


@dataclass(frozen=True)
class Span:
    """A field with its values: a text, a video or a mark.

    Args:
        trained: whether its tokens are.
        text: of a text. mark: id of a mark.
        frames, codes: of a video, ``(F, H*W*C)`` pictures or ``(F, K)`` codes.
        after: what stands behind each frame but the last, and ``after_trained`` whether that is trained; None is nothing.
    """

    trained: bool
    text: str | None = None
    frames: np.ndarray | None = None
    codes: np.ndarray | None = None
    after: Sequence[str] | None = None
    after_trained: bool = True
    mark: int | None = None

    @property
    def kind(self) -> str:
        return "mark" if self.mark is not None else "text" if self.text is not None else "vision"


def pick(choices: int, number: int) -> int:
    """Which of several choices of fields the example of a number takes: always the same, and in no order."""
    return 0 if choices == 1 else int(np.random.SeedSequence(number).generate_state(1)[0]) % choices


def swaps(choices: Sequence[tuple[Joined, ...]], kinds: Callable[[str], str]) -> None:
    """Raises RecipeError where text and video of a choice cannot change places, for they stand mixed.

    Args:
        kinds: ``kinds(name)`` says whether a field of this name is ``text`` or ``vision``.
    """
    for fields in choices:
        runs = [kinds(f.parts[0].name) for f in fields if not f.mark]
        turns = sum(a != b for a, b in pairwise(runs))
        if turns > 1 or (turns and any(f.mark for f in fields)):
            said = ",".join("+".join(p.name for p in f.parts) for f in fields)
            raise RecipeError(
                f"tokens.documents.swap: text and video stand mixed in '{said}', so they have no places to change"
            )


def frames_of(count: int, most: int | None, take: str) -> list[np.ndarray]:
    """The frames of each example that a video of ``count`` makes, by number."""
    if most is None or count <= most:
        return [np.arange(count)]
    if take == "spread":
        return [np.linspace(0, count - 1, most).astype(np.int64)]
    if take == "first":
        return [np.arange(most)]
    # Each begins where the one before ended, so that every step is in one of them.
    stride = max(most - 1, 1)
    return [np.arange(at, min(at + most, count)) for at in range(0, count - (most > 1), stride)]


# ---- ids --------------------------------------------------------------------------------------------------------------


def finish(tokenizer: DocumentTokenizer, made: list[tuple[int, list[Span]]]) -> list[Example]:
    """Examples of spans, all frames and all texts encoded at once."""
    first = [_prepended(tokenizer.documents.prepend, spans) for _, spans in made]
    pictures = [s.frames for spans in first for s in spans if s.frames is not None]
    if pictures:
        codes = tokenizer.codec.encode(np.concatenate(pictures)).astype(np.int64)
        ends = iter(np.split(codes, np.cumsum([len(p) for p in pictures])[:-1]))
        first = [[replace(s, codes=next(ends)) if s.frames is not None else s for s in spans] for spans in first]
    said = dict.fromkeys(t for spans in first for s in spans for t in ([s.text] if s.text is not None else s.after or ()))
    known = dict(zip(said, tokenizer.texts(said), strict=True))
    return [_example(tokenizer, spans, known, unit) for (unit, _), spans in zip(made, first, strict=True)]


def _prepended(words: str, spans: list[Span]) -> list[Span]:
    at = next((i for i, s in enumerate(spans) if s.text is not None), None) if words else None
    return [replace(s, text=f"{words}{s.text}") if i == at else s for i, s in enumerate(spans)]


def _example(tokenizer: DocumentTokenizer, spans: list[Span], known: Mapping[str, list[int]], unit: int) -> Example:
    ports = tokenizer.ports()
    ids: list[np.ndarray] = [np.array([ports.bos])]
    trained: list[np.ndarray] = [np.zeros(1, bool)]
    kinds, split, length = [s.kind for s in spans], 0, 1
    turns = [i for i in range(1, len(kinds)) if kinds[i] != kinds[i - 1]]
    for i, span in enumerate(spans):
        if turns == [i] and "mark" not in kinds:
            split = length
        for more, counts in _pieces(ports, span, known):
            ids.append(np.asarray(more, np.int64))
            trained.append(np.full(len(more), counts))
            length += len(more)
    ids.append(np.array([ports.eos]))
    trained.append(np.ones(1, bool))
    return Example(np.concatenate(ids), np.concatenate(trained), split, unit)


def _pieces(ports: DocumentPorts, span: Span, known: Mapping[str, list[int]]) -> Iterator[tuple[Any, bool]]:
    """Ids of a span in order, some at a time, each with whether they are trained."""
    if span.mark is not None:
        yield [span.mark], span.trained
    elif span.text is not None:
        yield known[span.text], span.trained
    else:
        yield ports.opens, span.trained
        ends = np.full((len(span.codes), 1), ports.frame_end)
        ends[-1] = ports.video_end
        frames = np.concatenate([span.codes + ports.text, ends], 1)
        if span.after is None:
            yield frames.ravel(), span.trained
        else:
            for frame, word in zip(frames, (*span.after, None), strict=True):
                yield frame, span.trained
                if word is not None:
                    yield known[word], span.after_trained
        yield ports.closes, span.trained
