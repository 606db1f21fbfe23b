"""What examples of token documents are made of: episodes of a store, or lines that hold texts and codes already.

Both answer ``chunks``: examples in order, some hundreds at a time, from any episode or line on.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from seqrl.core.episode import EpisodeSpec
from seqrl.core.errors import DataError, RecipeError, did_you_mean
from seqrl.data.documents_config import Joined, Part, choices_of
from seqrl.data.documents_examples import Example, Span, finish, frames_of, pick, swaps
from seqrl.data.documents_tokenizer import DocumentTokenizer, check_text
from seqrl.data.store import Store

_FRAMES, _UNITS = 1024, 256
"""Frames, and episodes or lines, that are encoded at once, about."""


def resolve(name: str, spec: EpisodeSpec) -> tuple[str, str]:
    """``(what it is, the data's name for it)`` of a field's name: ``text``, ``vision``, ``choice`` or ``action``.

    Raises:
        RecipeError: the data have no such field, several, or one that is no text, picture or choice.
    """
    known = {**spec.obs, **spec.act}
    only = {"task": "text", "vision": "image"}
    field = name
    if name not in known:
        fitting = [n for n, m in spec.obs.items() if m.kind == only.get(name)]
        fitting = list(spec.act) if name in ("action", "actions") else fitting
        if len(fitting) > 1:
            raise RecipeError(f"tokens.documents.fields: '{name}' may be {' or '.join(fitting)} in {spec.id}; name one")
        if not fitting:
            said = f"{spec.id} has no field '{name}'{did_you_mean(name, known)} (it has {', '.join(known)})"
            raise RecipeError(f"tokens.documents.fields: {said}")
        field = fitting[0]
    m = known[field]
    what = {"text": "text", "image": "vision"}.get(m.kind)
    if m.kind == "discrete" and m.size == 1:
        what = "action" if field in spec.act else "choice"
    if what is None:
        raise RecipeError(
            f"tokens.documents.fields: '{field}' of {spec.id} is {m.kind} of shape {m.shape}; texts, pictures and single "
            "choices become tokens here"
        )
    return what, field


class Trajectories:
    """A store of episodes, as examples: texts and choices are those of the first frame."""

    def __init__(self, store: Store, tokenizer: DocumentTokenizer, fields: str | Sequence[str]) -> None:
        """Raises RecipeError where fields and data do not fit."""
        self.store, self.tokenizer, self.asked = store, tokenizer, tokenizer.documents
        self.choices = choices_of(fields)
        for joined in (f for choice in self.choices for f in choice if not f.mark):
            self._check(joined)
        if self.asked.swap:
            swaps(self.choices, lambda name: "vision" if self._what(name)[0] == "vision" else "text")

    def _what(self, name: str) -> tuple[str, str]:
        return resolve(name, self.store.spec)

    def _check(self, joined: Joined) -> None:
        first, *more = (self._what(p.name)[0] for p in joined.parts)
        said = "+".join(p.name for p in joined.parts)
        if first == "action" or (first != "vision" and "action" in more):
            raise RecipeError(f"tokens.documents.fields: '{said}': actions are joined to a video, as in vision+action")
        if first == "vision":
            if more not in ([], ["action"]):
                raise RecipeError(f"tokens.documents.fields: '{said}': a video is joined with one field of actions, if any")
            if more and self.asked.most_frames and self.asked.take == "spread":
                raise RecipeError(f"tokens.documents.take: '{said}' needs frames that follow each other: first, or pieces")
            if self.tokenizer.codec is None:
                raise RecipeError("tokens.documents.frames: name the codec of pictures, such as {kind: cells}")
        elif "vision" in more or len({p.trained for p in joined.parts}) > 1:
            raise RecipeError(
                f"tokens.documents.fields: '{said}': joined texts are one text; bracket the whole of it or nothing"
            )

    def __len__(self) -> int:
        return len(self.store)

    def chunks(self, first: int = 0) -> Iterator[tuple[int, list[Example]]]:
        """``(the next episode, examples)`` from episode ``first`` on, some hundreds at a time."""
        lengths, at = self.store.episodes.length, first
        while at < len(self):
            end = at + 1
            while end < min(len(self), at + _UNITS) and int(lengths[at : end + 1].sum()) + end + 1 - at <= _FRAMES:
                end += 1
            yield end, finish(self.tokenizer, [made for i in range(at, end) for made in self._spans(i)])
            at = end

    def _spans(self, i: int) -> list[tuple[int, list[Span]]]:
        choice = self.choices[pick(len(self.choices), i)]
        row, T = int(self.store.episodes.row[i]), int(self.store.episodes.length[i])
        videos = any(self._what(f.parts[0].name)[0] == "vision" for f in choice if not f.mark)
        windows = frames_of(T + 1, self.asked.most_frames, self.asked.take) if videos else [np.arange(1)]
        return [(i, [self._span(joined, row, frames) for joined in choice]) for frames in windows]

    def _span(self, joined: Joined, row: int, frames: np.ndarray) -> Span:
        if joined.mark:
            return _mark(self.tokenizer, joined.parts[0])
        what, field = self._what(joined.parts[0].name)
        trained = joined.parts[0].trained
        if what != "vision":
            said = [self._words(self._what(p.name)[1], row + frames[:1])[0] for p in joined.parts]
            return Span(trained, text=" ".join(said))
        pictures = self.store.column(f"obs.{field}")[row + frames]
        span = Span(trained, frames=pictures.reshape(len(frames), -1))
        if len(joined.parts) == 1:
            return span
        action = joined.parts[1]
        after = self._words(self._what(action.name)[1], row + frames[:-1])
        return replace(span, after=after, after_trained=action.trained)

    def _words(self, field: str, rows: np.ndarray) -> list[str]:
        """What a text or a choice says at some rows."""
        spec = self.store.spec
        acted = field in spec.act
        m = spec.act[field] if acted else spec.obs[field]
        column = f"{'act' if acted else 'obs'}.{field}"
        if m.kind == "text":
            return [str(t) for t in self.store.text(column, rows)]
        start, known = (m.start or (0,))[0], self.asked.words.get(field)
        if known is not None and len(known) != m.n[0]:
            raise RecipeError(f"tokens.documents.words.{field}: {m.n[0]} choices need a word each (got {len(known)})")
        values = self.store.column(column)[rows].reshape(-1).tolist()
        return [known[v - start] if known else str(v) for v in values]


class Lines:
    """A source of ready lines (sources/jsonl.py), as examples. A field whose name contains ``vision`` holds codes."""

    def __init__(self, source: Any, tokenizer: DocumentTokenizer, fields: str | Sequence[str]) -> None:
        self.source, self.tokenizer, self.asked = source, tokenizer, tokenizer.documents
        self.fields = fields

    def __len__(self) -> int:
        return len(self.source)

    def chunks(self, first: int = 0) -> Iterator[tuple[int, list[Example]]]:
        """``(the next line, examples)`` from line ``first`` on, some hundreds at a time."""
        for at in range(first, len(self), _UNITS):
            end = min(at + _UNITS, len(self))
            yield end, finish(self.tokenizer, [made for i in range(at, end) for made in self._spans(i)])

    def _spans(self, i: int) -> list[tuple[int, list[Span]]]:
        line, place = self.source.example(i), self.source.place(i)
        try:
            said = line.get("fields", self.fields)
            choices = _choices(said if isinstance(said, str) else tuple(said))
            if self.asked.swap:
                swaps(choices, lambda name: "vision" if "vision" in name else "text")
            choice = choices[pick(len(choices), i)]
            spans = [self._span(joined, line) for joined in choice]
            lengths = {len(s.codes) for s in spans if s.codes is not None}
            if self.asked.take == "pieces" and len(lengths) > 1:
                raise DataError("videos of unequal length cannot be taken in pieces")
            count = max(lengths, default=1)
            if self.asked.take == "pieces":
                return [(i, [_cut(s, f) for s in spans]) for f in frames_of(count, self.asked.most_frames, "pieces")]
            return [(i, [_cut(s, self._frames(s)) for s in spans])]
        except (DataError, RecipeError, ValueError) as e:
            raise DataError(f"{place}: {e}") from e

    def _span(self, joined: Joined, line: Mapping[str, Any]) -> Span:
        if joined.mark:
            return _mark(self.tokenizer, joined.parts[0])
        for part in joined.parts:
            if part.name not in line:
                said = f"(fields say '{line.get('fields', self.fields)}')"
                raise DataError(f"there is no field '{part.name}'{did_you_mean(part.name, line)} {said}")
        first, *more = joined.parts
        if "vision" not in first.name:
            said = [line[p.name] for p in joined.parts]
            if wrong := next((p.name for p, t in zip(joined.parts, said, strict=True) if not isinstance(t, str)), None):
                raise DataError(f"field '{wrong}' is no text (got {type(line[wrong]).__name__})")
            check_text(*said)
            return Span(first.trained, text=" ".join(said))
        codes = self._codes(first.name, line[first.name])
        if not more:
            return Span(first.trained, codes=codes)
        words = line[more[0].name]
        if len(more) > 1 or not isinstance(words, list) or not all(isinstance(w, str) for w in words):
            raise DataError(f"field '{more[0].name}' is no list of words, one for each action")
        check_text(*words)
        if len(words) != len(codes) - 1:
            raise DataError(
                f"field '{more[0].name}': {len(codes)} frames have {len(codes) - 1} actions between them (got {len(words)})"
            )
        if self.asked.take == "spread" and self.asked.most_frames and len(codes) > self.asked.most_frames:
            raise RecipeError("tokens.documents.take: actions need frames that follow each other: first, or pieces")
        return Span(first.trained, codes=codes, after=words, after_trained=more[0].trained)

    def _frames(self, span: Span) -> np.ndarray | None:
        return None if span.codes is None else frames_of(len(span.codes), self.asked.most_frames, self.asked.take)[0]

    def _codes(self, name: str, value: Any) -> np.ndarray:
        K, V = self.tokenizer.frame, self.tokenizer.colours
        if not K:
            raise RecipeError("tokens.documents.frames: these data hold videos; say {vocab: 8192, tokens: 256} of their codes")
        try:
            codes = np.array(value)
        except ValueError as e:
            raise DataError(f"field '{name}': its frames are of unequal length") from e
        if codes.dtype.kind not in "iu" or not codes.size or codes.size % K or (codes.ndim > 1 and codes.shape[-1] != K):
            raise DataError(f"field '{name}': a frame is {K} codes, and these are {codes.size} of type {codes.dtype}")
        if not 0 <= codes.min() <= codes.max() < V:
            raise DataError(f"field '{name}': a code is 0 to {V - 1} (got {codes.min()} to {codes.max()})")
        return codes.reshape(-1, K).astype(np.int64)


@lru_cache(maxsize=1024)
def _choices(fields: str | tuple[str, ...]) -> tuple[tuple[Joined, ...], ...]:
    return choices_of(fields)


def _cut(span: Span, frames: np.ndarray | None) -> Span:
    """The same with these frames alone; a text as it is."""
    if span.codes is None:
        return span
    after = None if span.after is None else [span.after[f] for f in frames[:-1].tolist()]
    return replace(span, codes=span.codes[frames], after=after)


def _mark(tokenizer: DocumentTokenizer, part: Part) -> Span:
    return Span(part.trained, mark=tokenizer.bos if part.name == "<|bos|>" else tokenizer.eos)
