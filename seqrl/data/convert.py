"""Writes a store: every column of a source, one row per observation, in a single Arrow record batch.

The columns grow as flat files while episodes come in, so memory stays small however large the data are; at the end they are
mapped and written side by side. Everything is checked on the way, whole episodes at a time: numbers that are none, and values
outside the bounds the data itself declares. What is found wrong is told with its episode and step.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from seqrl.core.contracts import Source
from seqrl.core.episode import Episode, EpisodeSpec, Modality
from seqrl.core.errors import DataError
from seqrl.sources._files import Progress

FORMAT = 1
"""Raised whenever the files change, so that an older cache is not misread but made anew."""
STEPS, EPISODES, TEXTS, ABOUT = "steps.arrow", "episodes.arrow", "texts.json", "store.json"
TOLERANCE = 1e-4
"""How far an action may leave its bounds by rounding (data are often float32, environments float64)."""
_FIXED = {"reward": "float32", "terminated": "uint8", "truncated": "uint8", "episode": "int32"}


def columns(spec: EpisodeSpec) -> dict[str, tuple[str, tuple[int, ...]]]:
    """column -> (dtype on disk, shape of one value): truth values are bytes, texts are int32 numbers of ``texts.json``."""
    named = {f"obs.{n}": m for n, m in spec.obs.items()} | {f"act.{n}": m for n, m in spec.act.items()}
    disk = {"str": "int32", "bool": "uint8"}
    return {n: (disk.get(m.dtype, m.dtype), m.shape) for n, m in named.items()} | {n: (d, ()) for n, d in _FIXED.items()}


def write_store(source: Source, folder: Path, fingerprint: str, progress: Progress | None = None) -> None:
    """Fills the empty ``folder`` with the store of ``source``.

    Raises:
        DataError: no steps at all, a NaN or infinity, or a value outside its bounds.
    """
    spec, layout = source.spec, columns(source.spec)
    raw = {name: folder / f"{k}.raw" for k, name in enumerate(layout)}
    words: dict[str, dict[str, int]] = {}
    episodes: list[tuple[int, int, float, int, int, int, str]] = []
    rows = 0
    files = {name: path.open("wb", buffering=1 << 20) for name, path in raw.items()}
    try:
        for i in range(len(source)):
            episode = source.episode(i)
            _check(spec, i, episode)
            for name, values in _rows(i, episode, words).items():
                _append(files[name], values, layout[name][0])
            seed = episode.info.get("seed")
            facts = json.dumps(dict(episode.info), sort_keys=True)
            ended = int(len(episode) > 0 and episode.terminated[-1])
            index = episode.id if isinstance(episode.id, int) else i
            episodes.append((rows, len(episode), episode.total, ended, -1 if seed is None else int(seed), index, facts))
            rows += len(episode) + 1
            if progress:
                progress(i + 1, len(source))
    finally:
        for file in files.values():
            file.close()
    steps = rows - len(episodes)
    if not steps:
        raise DataError(f"{spec.id} is empty: it has no steps")
    batch = pa.record_batch({name: _mapped(raw[name], rows, *layout[name]) for name in layout})
    _write(folder / STEPS, batch)
    for path in raw.values():
        path.unlink()
    names = ("row", "length", "total", "terminated", "seed", "index", "info")
    kinds = (pa.int64(), pa.int64(), pa.float64(), pa.uint8(), pa.int64(), pa.int64(), pa.string())
    table = {n: pa.array(v, k) for n, v, k in zip(names, zip(*episodes, strict=True), kinds, strict=True)}
    _write(folder / EPISODES, pa.record_batch(table))
    (folder / TEXTS).write_text(json.dumps({name: list(known) for name, known in words.items()}), encoding="utf-8")
    sizes = {name: (folder / name).stat().st_size for name in (STEPS, EPISODES, TEXTS)}
    about = {"format": FORMAT, "fingerprint": fingerprint, "rows": rows, "steps": steps, "sizes": sizes, "spec": spec.to_json()}
    (folder / ABOUT).write_text(json.dumps(about), encoding="utf-8")


def _rows(i: int, episode: Episode, words: dict[str, dict[str, int]]) -> dict[str, np.ndarray]:
    """The ``T + 1`` rows of an episode, column by column; the last has an observation, and zeros elsewhere."""
    out = {f"obs.{n}": _numbers(f"obs.{n}", v, words) for n, v in episode.obs.items()}
    ended = {f"act.{n}": _numbers(f"act.{n}", v, words) for n, v in episode.act.items()}
    ended |= {"reward": episode.rew, "terminated": episode.terminated, "truncated": episode.truncated}
    for name, values in ended.items():
        out[name] = np.concatenate([values, np.zeros_like(values, shape=(1, *values.shape[1:]))])
    return out | {"episode": np.full(len(episode) + 1, i)}


def _numbers(name: str, values: np.ndarray, words: dict[str, dict[str, int]]) -> np.ndarray:
    """Texts as numbers of a growing dictionary; other values as they are."""
    if values.dtype.kind not in "UO":
        return values
    known = words.setdefault(name, {})
    return np.array([known.setdefault(str(text), len(known)) for text in values], np.int32)


def _append(file: BinaryIO, values: np.ndarray, dtype: str) -> None:
    file.write(np.ascontiguousarray(values, dtype))


def _mapped(path: Path, rows: int, dtype: str, shape: tuple[int, ...]) -> pa.Array:
    """A raw file as an Arrow array, without reading it."""
    kind, size = pa.from_numpy_dtype(dtype), int(np.prod(shape, dtype=np.int64))
    content = pa.memory_map(str(path)).read_buffer() if path.stat().st_size else pa.py_buffer(b"")
    flat = pa.Array.from_buffers(kind, rows * size, [None, content])
    return flat if shape == () else pa.Array.from_buffers(pa.list_(kind, size), rows, [None], children=[flat])


def _write(path: Path, batch: pa.RecordBatch) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)


def _check(spec: EpisodeSpec, i: int, episode: Episode) -> None:
    """Raises DataError where an episode is not what its spec says."""
    for what, modalities, values in (("obs", spec.obs, episode.obs), ("act", spec.act, episode.act)):
        if set(modalities) != set(values):
            raise DataError(f"{spec.id}: episode {i} has {what} {', '.join(values)}, but the spec {', '.join(modalities)}")
        for name, m in modalities.items():
            place = f"{what}.{name}"
            if m.kind != "text" and (values[name].dtype != m.dtype or values[name].shape[1:] != m.shape):
                found = f"{values[name].dtype} of shape {values[name].shape[1:]}"
                raise DataError(f"{spec.id}: episode {i}: {place} is {found}, but the spec says {m.dtype} of shape {m.shape}")
            _check_finite(spec, i, place, values[name])
            _check_bounds(spec, i, place, m, values[name])
    _check_finite(spec, i, "reward", episode.rew)


def _check_finite(spec: EpisodeSpec, i: int, place: str, values: np.ndarray) -> None:
    if values.dtype.kind != "f" or np.isfinite(values).all():
        return
    step, name, value = _first(~np.isfinite(values), place, values)
    advice = "one such number would spoil every weight, so repair that episode or leave it out"
    raise DataError(f"{spec.id}: episode {i}, step {step}: {name} is {value}; {advice}")


def _check_bounds(spec: EpisodeSpec, i: int, place: str, m: Modality, values: np.ndarray) -> None:
    """Discrete values everywhere, and vectors where they are actions: observations leave their box in many environments."""
    if m.kind == "discrete":
        low = np.reshape(m.start or (0,) * m.size, m.shape)
        high = low + np.reshape(m.n, m.shape) - 1
    elif m.kind == "vector" and place.startswith("act.") and m.low is not None:
        low, high = (np.reshape(b, m.shape) for b in (m.low, m.high))
    else:
        return
    slack = 0 if m.kind == "discrete" else TOLERANCE
    outside = (values < low - slack) | (values > high + slack)
    if not outside.any():
        return
    step, name, value = _first(outside, place, values)
    where = np.argwhere(outside)[0][1:]
    ends = f"[{low[tuple(where)]:g}, {high[tuple(where)]:g}]"
    what = "action" if place.startswith("act.") else "observation"
    raise DataError(
        f"{spec.id}: wrong {what} bounds: episode {i}, step {step}: {name} is {value:g}, outside {ends}; "
        f"either the {what} space of the data is wrong, or the {what}s have another scale"
    )


def _first(wrong: np.ndarray, place: str, values: np.ndarray) -> tuple[int, str, Any]:
    """The first place where ``wrong`` is true: its step, ``act.action[2]``, and the value there."""
    where = tuple(np.argwhere(wrong)[0].tolist())
    dims = f"[{', '.join(map(str, where[1:]))}]" if len(where) > 1 else ""
    return where[0], f"{place}{dims}", values[where]


def read_about(folder: Path) -> Mapping[str, Any]:
    """What ``store.json`` says, once the sizes of the files agree with it.

    Raises:
        DataError: a file is missing, cut or unreadable.
    """
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        for name, size in about["sizes"].items():
            found = (folder / name).stat().st_size
            if found != size:
                raise DataError(f"{folder / name}: cut off ({found} of {size} bytes)")
        return about
    except (OSError, ValueError, KeyError, AttributeError) as e:
        raise DataError(f"{folder}: not a store, or a broken one ({e})") from e
