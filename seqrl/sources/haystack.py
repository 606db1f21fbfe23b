"""Examples to learn finding needles from: numbers of cities hidden in plain text, and questions about them behind it.

A line is a text of sentences about nothing with needles among them, and then question after question, each with its answer,
of which the answers alone are trained. Many needles and many questions in a text teach sooner than one of each: models learn to
look things up all at once, and the more often they are asked, the earlier (Arora et al. 2023, arXiv 2312.04927). Texts are of
all lengths. Lines are made when they are asked for, each by its number; nothing lies on disk.
"""

import hashlib
import json
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, model_validator

from seqrl.sources._needle_words import Words, sentences

EXAMPLES = True


class Config(Words):
    """Texts with needles."""

    kind: Literal["haystack"] = "haystack"
    examples: int = Field(4000, ge=1)
    """How many there are."""
    words: tuple[int, int] = (48, 1000)
    """Least and most words of an example, about, stops and needles with them."""
    needles: int = Field(16, ge=1)
    """Most needles of an example; and never more than fit."""
    dense: float = Field(0.8, ge=0, le=1)
    """Share of the examples that have at least half as many needles as they could."""
    seed: int = Field(0, ge=0)
    """Decides everything."""

    @model_validator(mode="after")
    def _are_lengths(self) -> "Config":
        if not 8 <= self.words[0] <= self.words[1]:
            raise ValueError(f"words: the least, from 8 on, and the most (got {self.words})")
        return self


def tiny(folder: Path) -> Config:
    """Three short examples, for the tests."""
    return Config(examples=3, words=(40, 60), needles=2, numbers=(10, 19))


class Source:
    """The lines, made one by one."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.id = "haystack"
        asked = [config.hide("x", 0), config.ask("x"), config.say(0)]
        # Words and stops that a needle costs, with its question and its answer.
        self._each = sum(len(text.replace(".", " . ").split()) for text in asked)

    def fingerprint(self) -> str:
        """Hex digest of the settings, from which everything follows."""
        return hashlib.sha256(json.dumps([1, self.config.model_dump()], sort_keys=True).encode()).hexdigest()

    def __len__(self) -> int:
        return self.config.examples

    def place(self, i: int) -> str:
        """What example ``i`` is called in an error."""
        return f"haystack example {i}"

    def example(self, i: int) -> Mapping[str, Any]:
        """The line of a number, in the words of ``sources.jsonl``."""
        c, rng = self.config, np.random.default_rng([self.config.seed, i])
        length = float(np.exp(rng.uniform(np.log(c.words[0]), np.log(c.words[1]))))
        most = max(1, min(c.needles, c.cities, int(length / self._each)))
        least = (most + 1) // 2 if rng.random() < c.dense else 1
        hidden = c.draw(int(rng.integers(least, most + 1)), rng)
        # Eight to a sentence, its stop with them.
        plain = list(islice(sentences(rng), max(1, round((length - len(hidden) * self._each) / 8))))
        for where, (key, value) in zip(rng.integers(0, len(plain) + 1, size=len(hidden)), hidden, strict=True):
            plain.insert(int(where), c.hide(key, value))
        line: dict[str, Any] = {"text": "".join(plain)}
        fields = []
        for n, which in enumerate(rng.permutation(len(hidden)).tolist()):
            key, value = hidden[which]
            line |= {f"question{n}": c.ask(key), f"answer{n}": c.say(value)}
            fields += [f"[question{n}]", f"answer{n}"]
        return {"fields": ",".join(["[text]", *fields]), **line}
