"""Writes a store: every column of a source, one row per observation, in a single Arrow record batch.

The columns grow on disk while episodes come in (data/partial.py), so memory stays small however large the data are, and what
stops a conversion costs it little. Everything is checked on the way, whole episodes at a time: numbers that are none, and
values outside the bounds the data itself declares. What is found wrong is told with its episode and step.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from seqrl.core.contracts import Source
from seqrl.core.episode import Episode, EpisodeSpec, Modality
from seqrl.core.errors import DataError
from seqrl.data.partial import STEPS, Partial, clear, put
from seqrl.sources._files import Progress, flush, one_at_a_time, passing, why

FORMAT = 1
"""Raised whenever the files change, so that an older cache is not misread but made anew."""
EPISODES, TEXTS, ABOUT = "episodes.arrow", "texts.json", "store.json"
FACTS = {n: pa.int64() for n in ("row", "length")} | {"total": pa.float64(), "terminated": pa.uint8()}
FACTS |= {"seed": pa.int64(), "index": pa.int64(), "info": pa.string()}
"""The columns of ``episodes.arrow``."""
TOLERANCE = 1e-4
"""How far an action may leave its bounds by rounding (data are often float32, environments float64)."""
_FIXED = {"reward": "float32", "terminated": "uint8", "truncated": "uint8", "episode": "int32"}


def columns(spec: EpisodeSpec) -> dict[str, tuple[str, tuple[int, ...]]]:
    """column -> (dtype on disk, shape of one value): truth values are bytes, texts are int32 numbers of ``texts.json``."""
    named = {f"obs.{n}": m for n, m in spec.obs.items()} | {f"act.{n}": m for n, m in spec.act.items()}
    disk = {"str": "int32", "bool": "uint8"}
    return {n: (disk.get(m.dtype, m.dtype), m.shape) for n, m in named.items()} | {n: (d, ()) for n, d in _FIXED.items()}


def convert(source: Source, path: Path, fingerprint: str, progress: Progress | None = None) -> None:
    """Makes the store of ``source`` at ``path``, or goes on where an interrupted conversion left off.

    Call it under ``one_at_a_time(path)``. A source that has ``walk(first)`` (its episodes from that one on) and ``expected()``
    (how many there are, as far as it knows) is read so, any other by ``len`` and ``episode(i)``. One whose id others may have
    too, such as a folder's name, says by ``place`` where it lies.

    Raises:
        DataError: no steps at all, a NaN or infinity, a value outside its bounds (nothing is left behind); or the disk is full
            or cannot be written, or the source cannot be read for now (what is converted is kept).
    """
    folder = path.parent / f".{path.name}.partial"
    partial = None
    try:
        if not (folder / ABOUT).exists():
            spec = source.spec
            texts = [f"{part}.{n}" for part in ("obs", "act") for n, m in getattr(spec, part).items() if m.kind == "text"]
            # Written by columns, so bounds and names that changed with seqrl itself begin anew as well.
            about = {"store": FORMAT, "fingerprint": fingerprint, "spec": spec.to_json()}
            partial = Partial(folder, columns(spec), texts, about, [spec.id, str(getattr(source, "place", ""))])
            if not partial.episodes:
                _forget(partial)
            _fill(partial, source, progress)
            _finish(partial, spec, fingerprint)
        clear(folder)
        flush(folder)
        if path.exists():
            shutil.rmtree(path)
        folder.rename(path)
        flush(path.parent)
    except BaseException as e:
        # Broken data stay broken; everything else may pass.
        broken = isinstance(e, DataError)
        kept = partial.leave(keep=not broken or passing(e)) if partial else 0
        said = f"{kept:,} episodes are kept, so doing it again goes on from there" if kept else "nothing was left behind"
        if isinstance(e, OSError):
            raise DataError(f"{path}: could not be written: {why(e)}; {said}") from e
        if broken and kept:
            raise DataError(f"{e}; {said}") from e
        raise


def _seed(value: Any) -> int:
    """A seed as its column holds it; -1 where there is none, or one that no column holds (the episode's info keeps it)."""
    return int(value) if isinstance(value, int | np.integer) and -(1 << 63) <= value < 1 << 63 else -1


def _fill(partial: Partial, source: Source, progress: Progress | None) -> None:
    """Adds the episodes that are not there yet."""
    if partial.whole:
        return
    for episode in _episodes(source, partial.episodes):
        i = partial.episodes
        _check(source.spec, i, episode)
        facts = {
            "length": len(episode),
            "total": episode.total,
            "terminated": len(episode) > 0 and episode.terminated[-1],
            "seed": _seed(episode.info.get("seed")),
            "index": episode.id if isinstance(episode.id, int) else i,
        }
        partial.add(_rows(i, episode, partial), facts, json.dumps(dict(episode.info), sort_keys=True))
        if progress:
            progress(i + 1, max(i + 1, source.expected() if hasattr(source, "expected") else len(source)))
    if partial.rows == partial.episodes:
        raise DataError(f"{source.spec.id} is empty: it has no steps")
    partial.commit(whole=True)


def _episodes(source: Source, first: int) -> Iterator[Episode]:
    try:
        if hasattr(source, "walk"):
            yield from source.walk(first)
        else:
            for i in range(first, len(source)):
                yield source.episode(i)
    except OSError as e:
        raise DataError(f"{source.spec.id}: cannot be read: {why(e)}") from e


def _finish(partial: Partial, spec: EpisodeSpec, fingerprint: str) -> None:
    """Makes the files of the store; the last one written, ``store.json``, says that all are there."""
    folder, rows = partial.folder, partial.rows
    partial.move()
    facts, infos = partial.facts()
    table = {n: pa.array(np.ascontiguousarray(facts[n]), kind) for n, kind in FACTS.items() if n != "info"}
    with pa.OSFile(str(folder / EPISODES), "wb") as sink:
        batch = pa.record_batch(table | {"info": infos})
        with pa.ipc.new_stream(sink, batch.schema) as writer:
            writer.write_batch(batch)
    put(folder / TEXTS, json.dumps({name: list(known) for name, known in partial.words.items()}))
    flush(folder / EPISODES)
    sizes = {name: (folder / name).stat().st_size for name in (STEPS, EPISODES, TEXTS)}
    about = {"format": FORMAT, "fingerprint": fingerprint, "rows": rows, "steps": rows - partial.episodes, "sizes": sizes}
    put(folder / ABOUT, json.dumps(about | {"spec": spec.to_json()}))


def _forget(ours: Partial) -> None:
    """Removes interrupted conversions of other contents of the same dataset: nobody will go on with them."""
    for folder in ours.folder.parent.glob(".*.partial"):
        if folder != ours.folder and Partial.origin_of(folder) == ours.origin:
            # One that is under way in another process is locked.
            with suppress(DataError), one_at_a_time(folder.parent / folder.name[1 : -len(".partial")], wait=False):
                shutil.rmtree(folder, ignore_errors=True)


def _rows(i: int, episode: Episode, partial: Partial) -> dict[str, np.ndarray]:
    """The ``T + 1`` rows of an episode, column by column; the last has an observation, and zeros elsewhere."""

    def numbers(name: str, values: np.ndarray) -> np.ndarray:
        return partial.numbers(name, values) if name in partial.words else values

    out = {f"obs.{n}": numbers(f"obs.{n}", v) for n, v in episode.obs.items()}
    ended = {f"act.{n}": numbers(f"act.{n}", v) for n, v in episode.act.items()}
    ended |= {"reward": episode.rew, "terminated": episode.terminated, "truncated": episode.truncated}
    for name, values in ended.items():
        out[name] = np.concatenate([values, np.zeros_like(values, shape=(1, *values.shape[1:]))])
    return out | {"episode": np.full(len(episode) + 1, i)}


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
            if m.kind != "text" and values[name].dtype.kind not in "biuf":
                raise DataError(f"{spec.id}: episode {i}: {place} holds {values[name].dtype} and no numbers")
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
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as e:
        raise DataError(f"{folder}: not a store, or a broken one ({e})") from e
