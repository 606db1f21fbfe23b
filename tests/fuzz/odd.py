"""Values that readers trip over, and words that mean something to some of them; what a mutation puts in another's place."""

import json
import random
from typing import Any

_DEEP, _LONG = 5000, 70_000
# What no JSON or YAML value is dumped as, so it is put into the text afterwards.
RAW = {
    "huge": "1" + "0" * 5000,
    "far": "1e999",
    "nan": "NaN",
    "minus": "-Infinity",
    "yaml nan": ".nan",
    "yaml inf": "-.inf",
    "deep list": "[" * _DEEP + "]" * _DEEP,
    "deep mapping": '{"a":' * _DEEP + "1" + "}" * _DEEP,
    "open": "[" * _DEEP,
    "twice": '{"kind": 1, "kind": 2}',
    "half": '"\\ud800"',
    "zero byte": '"\\u0000"',
    "hex": "0x7fffffffffffffff",
    "sexagesimal": "190:20:30",
    "date": "2001-12-14 21:59:43.10 -5",
    "tag": "!!python/object/apply:os.getcwd []",
    "binary": "!!binary aGVsbG8=",
    "set": "!!set {a, b}",
    "alias": "*nothing",
    "anchor": "&a [*a, *a]",
    "merge": "{<<: [{a: 1}, {b: 2}], c: 3}",
    "date 0": "0000-00-00",
    "bomb": "[&a [1, 2, 3], &b [*a, *a, *a, *a, *a, *a, *a, *a, *a], &c [*b, *b, *b, *b, *b, *b, *b, *b, *b], "
    "&d [*c, *c, *c, *c, *c, *c, *c, *c, *c], &e [*d, *d, *d, *d, *d, *d, *d, *d, *d], "
    "&f [*e, *e, *e, *e, *e, *e, *e, *e, *e], &g [*f, *f, *f, *f, *f, *f, *f, *f, *f], *g]",
}
_MARK = "\u2063raw {}\u2063"
NUMBERS = [0, -1, 1, 2, 3, 7, 255, 2**15, 2**16, 10**6, 2**31 - 1, 2**31, -(2**31) - 1, 2**32, 2**62, 2**63, 2**64, -(2**63)]
FRACTIONS = [0.0, -0.0, 0.5, -1.5, 1e-320, 1e-30, 1e15, 1e30, 1e308, -1e308, 1.0, 255.0]
WORDS = [
    "",
    " ",
    "0",
    "1",
    "-1",
    "nan",
    "inf",
    "null",
    "true",
    "None",
    "a",
    "A" * 300,
    "é",
    "\u202e",
    "\x00",
    "\x85",
    "\n",
    "a\nb",
]
WORDS += ["../../../etc/passwd", "/dev/zero", "/etc/hostname", "~", "~nobody", ".", "..", "hf://", "hf://a/b", "a/b@c", "C:\\x"]
WORDS += [
    "float16",
    "float32",
    "float64",
    "float128",
    "int8",
    "int64",
    "uint8",
    "bool",
    "str",
    "object",
    "O",
    "V8",
    "complex64",
]
WORDS += ["datetime64[s]", "S4", "bfloat16", "F8_E4M3", "I64", "vector", "discrete", "image", "text", "policies.decision"]
WORDS += ["worlds.rssm", "tokens.vector", "minari", "return state action", "| |", "state >", "> action", "state | action", "%s"]
WORDS += ["{}", "${HOME}", "`", "<script>", "]]>", "*", "&", "a" * _LONG]
SMALL: list[Any] = [
    None,
    True,
    False,
    [],
    {},
    [[]],
    [{}],
    {"a": 1},
    [0],
    [None],
    ["a"],
    [1, "a"],
    {"": None},
    {"kind": "vector"},
]


def raw(word: str) -> str:
    """A text that stands for ``RAW[word]`` until ``spell`` puts that in its place."""
    return _MARK.format(word)


def spell(text: str) -> str:
    """Dumped text with the raw words in it as they are meant."""
    if "raw " not in text:
        return text
    for word, meant in RAW.items():
        for form in (json.dumps(raw(word)), f"'{raw(word)}'", raw(word)):
            text = text.replace(form, meant)
    return text


def value(rng: random.Random, others: list[Any]) -> Any:
    """Something to put in a value's place: a wrong type, a number at an edge, an odd word, or another part of the document."""
    which = rng.random()
    if which < 0.25:
        return rng.choice(NUMBERS)
    if which < 0.35:
        return rng.choice(FRACTIONS)
    if which < 0.5:
        return rng.choice(WORDS)
    if which < 0.65:
        return rng.choice(SMALL)
    if which < 0.8:
        return raw(rng.choice(list(RAW)))
    if which < 0.85:
        return [rng.choice(NUMBERS)] * rng.choice((2, 3, 17, 5000))
    return rng.choice(others) if others else None
