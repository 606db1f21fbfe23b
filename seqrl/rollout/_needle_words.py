"""Needles in a text: hidden at a sentence's end, asked for behind it, and the number read out of the answer.

The prompt has exactly the length that was asked for, answers included, so that a model of so many positions is just full. Each
question is put when the one before has been answered, over the same cache; answers are the likeliest tokens.

Letters: B rows, R questions of each.
"""

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch

from seqrl.core.errors import UserError
from seqrl.rollout._needle_config import Job, NeedleConfig
from seqrl.sources._needle_words import Words, is_right, sentences

_SPARE = 4
"""Tokens that an answer may have above what it needs."""
_SCORES = 1 << 25
"""Numbers of a mask that are held at once: how much of a prompt is read at a time follows from them."""


def words_of(recipe: Mapping[str, Any]) -> Words:
    """The sentences a model has learned on, where its recipe says them; otherwise those for any language model."""
    for raw in dict(recipe.get("data") or {}).get("sources") or ():
        if raw.get("kind") == "haystack":
            return Words(**{name: raw[name] for name in Words.model_fields if name in raw})
    return Words()


class Haystack:
    """Ids of a text, and where its sentences end.

    Args:
        tokenizer: a ``DocumentTokenizer``. text: a text to cut from, over and over where it is short; None makes sentences.

    Raises:
        UserError: there is nothing in the text.
    """

    def __init__(self, tokenizer: Any, text: str | None) -> None:
        self.tokenizer = tokenizer
        self._ids = None if text is None else np.array(tokenizer.text(text), np.int64)
        if self._ids is not None and not len(self._ids):
            raise UserError("--haystack: there is no text in it")
        self._stops: dict[int, bool] = {}

    def take(self, room: int, rng: np.random.Generator) -> np.ndarray:
        """``(room,)`` ids, up to the end of a sentence."""
        if self._ids is None:
            said, count = sentences(rng), 1 + room // 8
            ids: list[int] = []
            while len(ids) < room:
                made = self.tokenizer.text("".join(islice(said, count)))
                if not made:
                    raise UserError("this model's tokenizer knows none of the words of the text; give --haystack FILE")
                ids += made
            return np.array(ids[len(ids) - room :], np.int64)
        ends = self.ends(self._ids)
        last = int(ends[rng.integers(len(ends))])
        return np.take(self._ids, np.arange(last - room, last), mode="wrap")

    def ends(self, ids: np.ndarray) -> np.ndarray:
        """``(M,)`` places behind a sentence of ``ids``, ascending, and the beginning; where there are none, every place."""
        for new in set(np.unique(ids).tolist()) - self._stops.keys():
            said = self.tokenizer.words([new]).rstrip(" \"'”’)")
            self._stops[new] = said.endswith((".", "!", "?", "\n", "。"))
        known = np.flatnonzero([self._stops[i] for i in ids.tolist()]) + 1
        return np.append(0, known) if len(known) else np.arange(len(ids) + 1)


class Prompts:
    """Asks a model of token documents.

    Args:
        model: with ``say`` (worlds.lwm), in evaluation mode. words: the sentences.

    Raises:
        UserError: there are fewer cities than needles.
    """

    what = "words"

    def __init__(self, model: Any, tokenizer: Any, config: NeedleConfig, words: Words, haystack: str | None) -> None:
        if config.needles > words.cities:
            raise UserError(f"--needles {config.needles}: there are {words.cities} cities to hide numbers of")
        self.model, self.tokenizer, self.config, self.words = model, tokenizer, config, words
        self.haystack = Haystack(tokenizer, haystack)

    def _room(self, length: int, hidden: Sequence[Sequence[int]], asked: Sequence[Sequence[int]], most: int) -> int:
        """Tokens left for the text."""
        return length - 1 - sum(map(len, hidden)) - sum(len(q) + most for q in asked)

    def check(self, length: int) -> None:
        """Raises UserError where a length has no room for a sentence beside what is hidden and asked."""
        try:
            self._prompt(Job(length, 0, (0.5,) * self.config.needles, 0))
        except ValueError as e:
            raise UserError(f"lengths: {length} tokens are too few: needles and questions alone take {e}") from e

    def _prompt(self, job: Job) -> tuple[list[int], list[tuple[str, int]], list[list[int]], int]:
        """Ids up to the first question, the needles that are asked for, the questions, and most tokens of an answer."""
        rng, text = self.config.rng(job.length, job.row, job.number, 1), self.tokenizer.text
        drawn = self.words.draw(len(job.depths), rng)
        hidden = [text(self.words.hide(*one)) for one in drawn]
        wanted = [drawn[i] for i in rng.permutation(len(drawn))[: self.config.asked].tolist()]
        asked = [text(self.words.ask(key)) for key, _ in wanted]
        most = max(len(text(self.words.say(value))) for _, value in wanted) + _SPARE
        room = self._room(job.length, hidden, asked, most)
        if room < 16:
            raise ValueError(job.length - room)
        ids = self.haystack.take(room, rng)
        ends = self.haystack.ends(ids)
        # Back to the end of a sentence, never into one.
        at = ends[np.searchsorted(ends, np.floor(np.array(job.depths) * room), side="right") - 1]
        out, last = [self.model.ports.bos], 0
        for i in np.argsort(at, kind="stable").tolist():
            out += [*ids[last : at[i]].tolist(), *hidden[i]]
            last = int(at[i])
        return [*out, *ids[last:].tolist()], wanted, asked, most

    def __call__(self, jobs: Sequence[Job]) -> list[list[dict[str, Any]]]:
        """Of each try its answers: what was said, and whether it is right."""
        made = [self._prompt(job) for job in jobs]
        length = jobs[0].length
        chunk = max(32, min(1024, _SCORES // (len(jobs) * length)))
        # One more: a row that has said all it may is still told its last token.
        saying = self.model.say(len(jobs), length)
        saying.read(*_padded([prompt for prompt, *_ in made]), chunk)
        answers: list[list[dict[str, Any]]] = [[] for _ in jobs]
        for r in range(self.config.asked):
            saying.read(*_padded([asked[r] for _, _, asked, _ in made]), chunk)
            said = self._say(saying, [most for *_, most in made])
            for row, ids in enumerate(said):
                (key, value), words = made[row][1][r], self.tokenizer.words(ids)
                answers[row].append({"key": key, "value": value, "said": words, "right": is_right(words, value)})
        return answers

    def _say(self, saying: Any, most: Sequence[int]) -> list[list[int]]:
        """The likeliest tokens of each row, up to the end of what it has to say."""
        said: list[list[int]] = [[] for _ in most]
        going = [True] * len(most)
        while any(going):
            chosen = saying.scores("text").argmax(-1).tolist()
            for row, one in enumerate(chosen):
                going[row] = going[row] and one != self.model.ports.eos
                said[row] += [one] if going[row] else []
            saying.read(*_padded([[one] if go else [] for one, go in zip(chosen, going, strict=True)]))
            going = [go and len(ids) < n for go, ids, n in zip(going, said, most, strict=True)]
        return said


def _padded(rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of ids side by side, filled up on the right, and how many are real."""
    real = torch.tensor([len(r) for r in rows])
    ids = torch.zeros(len(rows), max(1, int(real.max())), dtype=torch.int64)
    for row, one in enumerate(rows):
        ids[row, : len(one)] = torch.tensor(one, dtype=torch.int64)
    return ids, real
