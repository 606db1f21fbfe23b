"""Gymnasium spaces as the plain JSON that Minari writes, and the modalities in them; gymnasium itself is not needed.

A nested space is a tree whose leaves are values. Each leaf gets a name (the keys on the way to it, joined with ``/``) and a
``Modality``; the two functions at the end carry values of such a tree apart and together again.
"""

import string
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from seqrl.core.episode import Modality
from seqrl.core.errors import DataError

Space = Mapping[str, Any]


@dataclass(frozen=True)
class Leaf:
    """A value inside a space.

    Args:
        name: what seqrl calls it.
        keys: the way to it: texts through dictionaries, numbers through tuples.
        modality: what sort of value it is.
        jpeg: whether Minari would write it as JPEG when told to (it does so for full-range byte images from 32 x 32 on).
    """

    name: str
    keys: tuple[str | int, ...]
    modality: Modality
    jpeg: bool = False


def leaves(space: Space, root: str) -> list[Leaf]:
    """The leaves of a space in its own order; a space that is itself a value is called ``root``.

    Raises:
        DataError: a kind of space that cannot be stored, or two leaves of one name.
    """
    found = _leaves(space, ())
    named = [Leaf("/".join(map(str, leaf.keys)) or root, leaf.keys, leaf.modality, leaf.jpeg) for leaf in found]
    names = [leaf.name for leaf in named]
    twice = {n for n in names if names.count(n) > 1}
    if twice:
        raise DataError(f"the {root} space has two values called {', '.join(sorted(twice))}")
    return named


def _leaves(space: Space, keys: tuple[str | int, ...]) -> list[Leaf]:
    if space["type"] == "Dict":
        return [leaf for k, s in space["subspaces"].items() for leaf in _leaves(s, (*keys, k))]
    if space["type"] == "Tuple":
        return [leaf for i, s in enumerate(space["subspaces"]) for leaf in _leaves(s, (*keys, i))]
    return [Leaf("", keys, *_modality(space))]


def _modality(space: Space) -> tuple[Modality, bool]:
    """The modality of a leaf, and whether Minari takes it for a JPEG image."""
    kind = space["type"]
    if kind == "Text":
        return Modality("text", (), "str"), False
    if kind == "Discrete":
        return Modality("discrete", (), "int64", n=(int(space["n"]),), start=(int(space.get("start", 0)),)), False
    if kind == "MultiBinary":
        n = space["n"]
        shape = (int(n),) if np.ndim(n) == 0 else tuple(int(k) for k in n)
        return Modality("discrete", shape, "int8", n=(2,) * int(np.prod(shape))), False
    if kind == "MultiDiscrete":
        n = np.asarray(space["nvec"])
        start = np.broadcast_to(space.get("start", 0), n.shape).ravel()
        return Modality("discrete", n.shape, space["dtype"], n=tuple(n.ravel().tolist()), start=tuple(start.tolist())), False
    if kind != "Box":
        known = "Box, Discrete, MultiDiscrete, MultiBinary, Text, Dict and Tuple"
        raise DataError(f"a space of type '{kind}' cannot be read, only {known}")
    shape, dtype = tuple(space["shape"]), space["dtype"]
    low, high = (np.broadcast_to(np.asarray(space[k], np.float64), shape).ravel() for k in ("low", "high"))
    big = len(shape) in (2, 3) and min(shape[:2]) >= 32
    if dtype == "uint8" and (len(shape) == 3 or big):
        return Modality("image", shape, dtype), bool(big and (low == 0).all() and (high == 255).all())
    return Modality("vector", shape, dtype, tuple(low.tolist()), tuple(high.tolist())), False


def space_json(modalities: Mapping[str, Modality], root: str) -> dict[str, Any]:
    """A space that holds these modalities: the value itself if it is called ``root`` and alone, else nested dictionaries."""
    if list(modalities) == [root]:
        return _leaf_json(modalities[root])
    tree: dict[str, Any] = {"type": "Dict", "subspaces": {}}
    for name, modality in modalities.items():
        spot = tree
        *way, last = name.split("/")
        for key in way:
            spot = spot["subspaces"].setdefault(key, {"type": "Dict", "subspaces": {}})
        spot["subspaces"][last] = _leaf_json(modality)
    return tree


def _leaf_json(m: Modality) -> dict[str, Any]:
    if m.kind == "text":
        return {"type": "Text", "max_length": 2**20, "min_length": 0, "charset": "".join(sorted(string.printable))}
    if m.kind == "discrete" and not m.shape:
        return {"type": "Discrete", "dtype": "int64", "start": (m.start or (0,))[0], "n": m.n[0]}
    if m.kind == "discrete":
        n, start = (np.reshape(v, m.shape).tolist() for v in (m.n, m.start or (0,) * m.size))
        return {"type": "MultiDiscrete", "dtype": m.dtype, "nvec": n, "start": start}
    ends = (0, 255) if m.kind == "image" else (-np.inf, np.inf)
    low, high = (np.reshape(v or (e,) * m.size, m.shape).tolist() for v, e in zip((m.low, m.high), ends, strict=True))
    return {"type": "Box", "dtype": m.dtype, "shape": list(m.shape), "low": low, "high": high}


def take_apart(parts: list[Leaf], value: Any) -> dict[str, Any]:
    """A value of the space as ``name -> value of the leaf``."""
    out = {}
    for leaf in parts:
        inner = value
        for key in leaf.keys:
            inner = inner[key]
        out[leaf.name] = inner
    return out


def put_together(space: Space, named: Mapping[str, Any], root: str, keys: tuple[str | int, ...] = ()) -> Any:
    """The inverse of ``take_apart``."""
    if space["type"] == "Dict":
        return {k: put_together(s, named, root, (*keys, k)) for k, s in space["subspaces"].items()}
    if space["type"] == "Tuple":
        return tuple(put_together(s, named, root, (*keys, i)) for i, s in enumerate(space["subspaces"]))
    return named["/".join(map(str, keys)) or root]
