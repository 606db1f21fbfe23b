"""Needles in words: which sentences hide a number, how it is asked for, and plain sentences to hide them among.

The test is LWM's (Liu et al. 2024, arXiv 2402.08268; after Kamradt's needle in a haystack, 2023): somewhere in a long text
stands a sentence that gives a city a number, and behind the text somebody asks for it. The sentences are settings, so that a
small model of few words and a large one are asked in the words they know.
"""

import re
from collections.abc import Iterator

import numpy as np
from pydantic import Field, model_validator

from seqrl.core.config import Frozen

_CITIES = """
Amman Athens Berlin Bern Cairo Dakar Delhi Dublin Hanoi Havana Kyiv Lima Lisbon London Madrid Manila
Minsk Moscow Nairobi Oslo Paris Prague Quito Riga Rome Seoul Sofia Tokyo Tunis Vienna Warsaw Zagreb
"""
# Who, how and what things are, and what was done with them.
_PLAIN = """
baker child doctor farmer friend girl king man neighbour painter poet sailor teacher woman
blue cold dark green happy heavy little long old quiet red small tall warm white young
bought carried drew found hid kept lost made missed painted saw sold took wanted
apple bag boat book box chair clock coat cup door flower hat horse lamp map ring
"""
CITIES = _CITIES.split()
_WHO, _HOW, _DID, _WHAT = (line.split() for line in _PLAIN.strip().splitlines())


class Words(Frozen):
    """The sentences of a needle. ``{key}`` stands for a city, ``{value}`` for its number."""

    needle: str = "\nThe magic number of {key} is {value}.\n"
    """What is hidden."""
    question: str = "\nWhat is the magic number of {key}? Say the number and nothing else. The magic number of {key} is"
    """What is asked behind the text."""
    answer: str = " {value}"
    """What goes on with the question when it is right."""
    numbers: tuple[int, int] = (1_000_000, 9_999_999)
    """Least and largest number."""
    cities: int = Field(len(CITIES), ge=1, le=len(CITIES))
    """How many there are."""

    @model_validator(mode="after")
    def _says_both(self) -> "Words":
        for name, text, wanted in (
            ("needle", self.needle, ("key", "value")),
            ("question", self.question, ("key",)),
            ("answer", self.answer, ("value",)),
        ):
            found = set(re.findall(r"{(\w*)}", text))
            if found != set(wanted):
                said = " and ".join(f"{{{w}}}" for w in wanted)
                raise ValueError(f"{name}: a sentence with {said} and nothing else in braces (got '{text}')")
        if not 0 <= self.numbers[0] < self.numbers[1]:
            raise ValueError(f"numbers: the least, and a larger one (got {self.numbers})")
        return self

    def draw(self, needles: int, rng: np.random.Generator) -> list[tuple[str, int]]:
        """``(city, number)`` of some needles, no city twice."""
        chosen = rng.permutation(self.cities)[:needles]
        values = rng.integers(self.numbers[0], self.numbers[1] + 1, size=needles)
        return [(CITIES[c], int(v)) for c, v in zip(chosen, values, strict=True)]

    def hide(self, key: str, value: int) -> str:
        return self.needle.replace("{key}", key).replace("{value}", str(value))

    def ask(self, key: str) -> str:
        return self.question.replace("{key}", key)

    def say(self, value: int) -> str:
        return self.answer.replace("{value}", str(value))


def is_right(said: str, value: int) -> bool:
    """Whether a number stands in what was said, whole and with or without commas."""
    return str(value) in re.findall(r"\d+", re.sub(r"(?<=\d),(?=\d{3})", "", said))


def sentences(rng: np.random.Generator) -> Iterator[str]:
    """Endless sentences about nothing, seven words and a stop each, with the space in front of them."""
    parts = (_HOW, _WHO, _DID, _HOW, _WHAT)
    while True:
        drawn = np.stack([rng.integers(len(p), size=256) for p in parts], 1)
        for row in drawn.tolist():
            a, who, did, b, what = (p[i] for p, i in zip(parts, row, strict=True))
            yield f" The {a} {who} {did} the {b} {what}."


def every_word(words: Words) -> list[str]:
    """Texts that hold every word of needles and of sentences, for whoever makes a tokenizer of them (tokens._train_text)."""
    hidden = [words.hide(c, n) + words.ask(c) for c in CITIES[: words.cities] for n in words.numbers]
    said = [words.say(n) for n in range(words.numbers[0], words.numbers[1] + 1)]
    return [
        *hidden,
        *said,
        *(f" The {a} the {b}." for part in (_HOW, _WHO, _DID, _WHAT) for a, b in zip(part, part[::-1], strict=True)),
    ]
