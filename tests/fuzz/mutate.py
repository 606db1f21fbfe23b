"""Valid files made wrong, the same way for the same random numbers: bytes, words, and the values of a document.

``mutate`` chooses by the kind of file. A document (JSON, JSON lines, YAML, the head of a safetensors file) is mostly parsed and
one of its values changed, because a reader that refuses broken syntax has not been asked anything yet; HDF5, Arrow and Parquet
are mostly written anew with one part changed (``containers``). What was done is told in a few words.
"""

import json
import random
import re
import struct
from collections.abc import Callable
from typing import Any

import yaml

from tests.fuzz import containers, odd

Changed = tuple[bytes, str]
_EDGES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**62, 2**63 - 1, 2**63, 2**64 - 1)


def mutate(content: bytes, name: str, rng: random.Random, pool: list[bytes]) -> Changed:
    """A wrong form of a file, and what was done.

    Args:
        content, name: the valid file; its name tells its kind.
        rng: what decides everything.
        pool: contents of other files, to splice with.
    """
    said = []
    for turn in range(rng.choice((1, 1, 1, 2, 3))):
        how = _choose(name, rng)
        # Arrow itself ends the process at some broken files, and here it is not Arrow that is tried.
        how = _bytes if how is _container and turn else how
        try:
            content, told = how(content, name, rng, pool)
        except Exception as e:  # what an earlier mutation left cannot always be parsed any more
            content, told = _bytes(content, name, rng, pool)
            told += f" (after {type(e).__name__})"
        said.append(told)
    return content, "; ".join(said)


def _choose(name: str, rng: random.Random) -> Callable[[bytes, str, random.Random, list[bytes]], Changed]:
    which, ends = rng.random(), name.rpartition(".")[2]
    if ends in ("json", "yaml", "yml"):
        return _document if which < 0.6 else _words if which < 0.85 else _bytes
    if ends == "jsonl":
        return _line if which < 0.6 else _words if which < 0.8 else _bytes
    if ends in ("md", "html", "txt"):
        return _words if which < 0.7 else _bytes
    if ends == "safetensors":
        return _head if which < 0.6 else _bytes
    return _container if ends in containers.KINDS and which < 0.5 else _bytes


# ---- bytes --------------------------------------------------------------------------------------------------------------


def _bytes(content: bytes, name: str, rng: random.Random, pool: list[bytes]) -> Changed:
    made, size = bytearray(content), len(content)
    at = rng.randrange(size) if size else 0
    # The first bytes of a file say most about the rest of it.
    at = min(at, rng.randrange(512)) if rng.random() < 0.4 else at
    long = rng.choice((1, 2, 4, 8, 16, 64, 512, 4096))
    which = rng.randrange(11)
    if which == 0 or not size:
        told = "flipped bits"
        for _ in range(rng.choice((1, 1, 2, 8, 64)) if size else 0):
            made[rng.randrange(size)] ^= 1 << rng.randrange(8)
    elif which == 1:
        told, made = f"cut at {at}", made[:at]
    elif which == 2:
        told, made[at : at + long] = f"took {long} bytes at {at}", b""
    elif which == 3:
        told, made[at:at] = f"repeated {long} bytes at {at}", made[at : at + long] * rng.choice((1, 1, 9))
    elif which == 4:
        told, made[at:at] = f"put {long} random bytes at {at}", rng.randbytes(long)
    elif which == 5:
        told, made[at : at + long] = f"wrote {long} random bytes at {at}", rng.randbytes(long)
    elif which in (6, 7, 8):
        form = rng.choice("BHIQ")
        number = rng.choice((*_EDGES, size, size - 1, size + 1, at)) % (1 << 8 * struct.calcsize(form))
        put = struct.pack(rng.choice("<>") + form, number)
        told, made[at : at + len(put)] = f"wrote {number} in {len(put)} bytes at {at}", put
    elif which == 9:
        other = rng.choice(pool) if pool else b""
        cut = rng.randrange(len(other) + 1)
        told, made[at:] = f"went on with another file at {at}", other[cut:]
    else:
        told, made[at : at + long] = f"zeroed {long} bytes at {at}", bytes(long)
    return bytes(made), told


# ---- words --------------------------------------------------------------------------------------------------------------

_WORD = re.compile(r"[-+]?\d[\d._eE+-]*|[A-Za-z_][\w./-]*|[][{}:,#&*!|>'\"%@`-]")


def _words(content: bytes, name: str, rng: random.Random, pool: list[bytes]) -> Changed:
    text = content.decode("utf-8", "surrogateescape")
    lines, which = text.split("\n"), rng.randrange(8)
    i, j = rng.randrange(len(lines)), rng.randrange(len(lines))
    if which == 0:
        told, lines[i] = f"line {i + 1} moved", " " * rng.randrange(9) + lines[i].lstrip()
    elif which == 1:
        told = f"line {i + 1} stands at {j + 1} too"
        lines.insert(j, lines[i])
    elif which == 2:
        told = f"line {i + 1} is gone"
        del lines[i]
    elif which == 3:
        told, lines[i], lines[j] = f"lines {i + 1} and {j + 1} changed places", lines[j], lines[i]
    if which < 4:
        return "\n".join(lines).encode("utf-8", "surrogateescape"), told
    found = list(_WORD.finditer(text))
    if not found:
        return _bytes(content, name, rng, pool)
    at, other = rng.choice(found), rng.choice(found)
    new = {
        4: lambda: str(rng.choice(odd.NUMBERS)),
        5: lambda: rng.choice(list(odd.RAW.values())),
        6: lambda: rng.choice(odd.WORDS),
        7: lambda: other[0],
    }[which]()
    return (text[: at.start()] + new + text[at.end() :]).encode("utf-8", "surrogatepass"), f"{at[0][:40]!r} is {new[:60]!r}"


# ---- documents ----------------------------------------------------------------------------------------------------------


def _document(content: bytes, name: str, rng: random.Random, pool: list[bytes]) -> Changed:
    text = content.decode("utf-8")
    if name.endswith("json"):
        made, told = edit(json.loads(text), rng)
        return odd.spell(json.dumps(made)).encode("utf-8", "surrogatepass"), told
    made, told = edit(yaml.load(text, yaml.CSafeLoader), rng)
    dumped = yaml.dump(made, Dumper=yaml.CSafeDumper, sort_keys=False, allow_unicode=rng.random() < 0.5)
    return odd.spell(dumped).encode("utf-8", "surrogatepass"), told


def _line(content: bytes, name: str, rng: random.Random, pool: list[bytes]) -> Changed:
    lines = content.decode("utf-8").split("\n")
    i = rng.randrange(len(lines))
    made, told = edit(json.loads(lines[i] or "{}"), rng)
    lines[i] = odd.spell(json.dumps(made)).replace("\n", " ")
    return "\n".join(lines).encode("utf-8", "surrogatepass"), f"line {i + 1}: {told}"


def _head(content: bytes, name: str, rng: random.Random, pool: list[bytes]) -> Changed:
    long = struct.unpack("<Q", content[:8])[0]
    made, told = edit(json.loads(content[8 : 8 + long]), rng)
    head = odd.spell(json.dumps(made)).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(head)) + head + content[8 + long :], f"head: {told}"


def places(raw: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every value of a document, a few of each long list."""
    found = [path]
    if isinstance(raw, dict):
        for key in raw:
            found += places(raw[key], (*path, key))
    elif isinstance(raw, list):
        for i in range(min(len(raw), 4)):
            found += places(raw[i], (*path, i))
    return found


def edit(raw: Any, rng: random.Random) -> tuple[Any, str]:
    """A document with one value changed, taken away, renamed, doubled or put elsewhere, and what was done."""
    ways = places(raw)
    way, other = rng.choice(ways), rng.choice(ways)
    said, which = ".".join(map(str, way)) or "everything", rng.random()
    others = [_at(raw, w) for w in rng.sample(ways, min(len(ways), 8))]
    if not way or which < 0.6:
        new = odd.value(rng, others)
        # A number a little off is believed longer than a word.
        old = _at(raw, way)
        if type(old) is int and rng.random() < 0.5:
            new = old + rng.choice((-1, 1, 2, 100, -old, old))
        return put(raw, way, new), f"{said} = {str(new)[:80]!r}"
    above, key = _at(raw, way[:-1]), way[-1]
    if which < 0.75:
        del above[key]
        return raw, f"{said} is gone"
    if which < 0.82:
        return put(raw, way, [_at(raw, way)]), f"{said} in a list"
    if which < 0.88:
        return put(raw, way, json.dumps(_at(raw, way), default=str)), f"{said} as a text"
    if which < 0.94 and isinstance(above, dict):
        new = rng.choice((*odd.WORDS, "extra"))
        above[new] = above.pop(key)
        return raw, f"{said} is called {new[:40]!r}"
    return put(raw, way, _at(raw, other)), f"{said} is that of {'.'.join(map(str, other))}"


def _at(raw: Any, way: tuple[Any, ...]) -> Any:
    for key in way:
        raw = raw[key]
    return raw


def put(raw: Any, way: tuple[Any, ...], new: Any) -> Any:
    if not way:
        return new
    _at(raw, way[:-1])[way[-1]] = json.loads(json.dumps(new, default=str)) if isinstance(new, list | dict) else new
    return raw


def _container(content: bytes, name: str, rng: random.Random, pool: list[bytes]) -> Changed:
    return containers.change(content, name, rng)
