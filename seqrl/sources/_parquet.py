"""Trajectories as Parquet, the form in which they are published: a row a step, readable by every tool of the field.

A folder holds ``spec.json`` (the ``EpisodeSpec`` and how much there is), ``steps/part-*.parquet`` and
``episodes/part-*.parquet``. In ``steps`` an episode of T steps is T + 1 rows, sorted: an observation, the action and reward
that followed it, and the two end flags; the last row has an observation alone, zeros elsewhere, and says ``final``. An array
is a list of fixed size in the order of C, whose shape ``spec.json`` has. Every bit comes back.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from seqrl.core.episode import Episode, EpisodeSpec, Modality
from seqrl.core.errors import DataError

FORMAT = 1
"""Raised whenever what is written can no longer be read as it was."""
SPEC = "spec.json"
STEPS = re.compile(r"steps/part-\d{5}\.parquet")
EPISODES = re.compile(r"episodes/part-\d{5}\.parquet")
# Of the numbers as they lie in memory: a group is what a reader has to take at once, a file what is sent at once.
GROUP_BYTES, FILE_BYTES = 16 << 20, 512 << 20
_AT_ONCE = 4096
FLAGS = {"reward": "float32", "terminated": "bool", "truncated": "bool", "final": "bool"}


def columns(spec: EpisodeSpec) -> dict[str, tuple[str, str, Modality]]:
    """Parquet column -> (``obs`` or ``act``, name, modality); names other than ``observation`` follow it after a dot."""
    parts = (("obs", "observation", spec.obs), ("act", "action", spec.act))
    return {root if n == root else f"{root}.{n}": (part, n, m) for part, root, of in parts for n, m in of.items()}


def schema(spec: EpisodeSpec) -> Any:
    """The Arrow schema of the rows in ``steps``."""
    import pyarrow as pa

    def kind(m: Modality) -> Any:
        plain = pa.string() if m.kind == "text" else pa.from_numpy_dtype(np.dtype(m.dtype))
        return plain if m.shape == () else pa.list_(plain, m.size)

    fields = [pa.field("episode", pa.int64()), pa.field("step", pa.int32())]
    fields += [pa.field(name, kind(m)) for name, (_, _, m) in columns(spec).items()]
    return pa.schema([*fields, *(pa.field(n, pa.from_numpy_dtype(np.dtype(d))) for n, d in FLAGS.items())])


def write_parquet(
    episodes: Iterable[Episode], spec: EpisodeSpec, folder: Path, group: int = GROUP_BYTES, file: int = FILE_BYTES
) -> dict[str, Any]:
    """Fills a folder; what is in memory at a time is a group of rows and one episode.

    Args:
        episodes: written as they come.
        group, file: bytes of a row group and of a file, as numbers in memory.

    Returns:
        what ``spec.json`` says.

    Raises:
        DataError: there are no steps.
    """
    import pyarrow as pa

    width = 32 + sum(m.size * (64 if m.kind == "text" else np.dtype(m.dtype).itemsize) for _, _, m in columns(spec).values())
    steps = _Files(folder / "steps", schema(spec), max(1, group // width), max(1, file // width))
    lines = _Files(folder / "episodes", episode_schema(), 1 << 16, 1 << 22)
    rows = count = 0
    told: list[dict[str, Any]] = []
    for episode in episodes:
        for table in _tables(count, episode, spec, steps.group):
            steps.add(table)
        told.append(_facts(count, rows, episode))
        rows, count = rows + len(episode) + 1, count + 1
        if len(told) == _AT_ONCE:
            lines.add(pa.Table.from_pylist(told, lines.schema))
            told = []
    if rows == count:
        raise DataError(f"{spec.id} is empty: it has no steps")
    lines.add(pa.Table.from_pylist(told, lines.schema))
    for written in (steps, lines):
        written.close()
    about = {"format": FORMAT, "seqrl": version("seqrl"), "episodes": count, "steps": rows - count, "rows": rows}
    about["spec"] = spec.to_json()
    (folder / SPEC).write_text(json.dumps(about, indent=1), encoding="utf-8")
    return about


class _Files:
    """Tables written one after the other into ``part-00000.parquet`` and so on."""

    def __init__(self, folder: Path, schema: Any, group: int, file: int) -> None:
        """Args: group, file: rows of a row group and of a file."""
        folder.mkdir(parents=True)
        self.folder, self.schema, self.group, self.file = folder, schema, group, file
        self._wait: list[Any] = []
        self._writer: Any = None
        self._count = self._rows = self._parts = 0

    def add(self, table: Any) -> None:
        self._wait.append(table)
        self._count += len(table)
        if self._count >= self.group:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa
        from pyarrow import parquet

        if self._writer is None:
            path = self.folder / f"part-{self._parts:05d}.parquet"
            texts = [f.name for f in self.schema if pa.types.is_string(f.type)]
            # A dictionary of float vectors' numbers would only cost: hardly any comes twice.
            self._writer = parquet.ParquetWriter(path, self.schema, compression="zstd", use_dictionary=texts)
        if self._wait:
            table = pa.concat_tables(self._wait)
            self._writer.write_table(table, row_group_size=max(1, len(table)))
        self._rows += self._count
        self._wait, self._count = [], 0
        if self._rows >= self.file:
            self._close()

    def _close(self) -> None:
        self._writer.close()
        self._writer, self._rows, self._parts = None, 0, self._parts + 1

    def close(self) -> None:
        """Writes what waits; a folder without rows has one empty file."""
        if self._wait or (self._writer is None and not self._parts):
            self._flush()
        if self._writer is not None:
            self._close()


def _tables(k: int, episode: Episode, spec: EpisodeSpec, most: int) -> Iterator[Any]:
    """The rows of an episode, at most so many at a time."""
    import pyarrow as pa

    T, made = len(episode), schema(spec)
    for start in range(0, T + 1, most):
        stop = min(start + most, T + 1)
        count, ended = stop - start, min(stop, T)
        values: dict[str, np.ndarray] = {"episode": np.full(count, k), "step": np.arange(start, stop, dtype=np.int32)}
        for name, (part, own, _) in columns(spec).items():
            values[name] = getattr(episode, part)[own][start : stop if part == "obs" else ended]
        values |= {"reward": episode.rew[start:ended], "terminated": episode.terminated[start:ended]}
        values |= {"truncated": episode.truncated[start:ended], "final": np.arange(start, stop) == T}
        yield pa.table([_array(_padded(values[f.name], count), f.type) for f in made], schema=made)


def _padded(values: np.ndarray, count: int) -> np.ndarray:
    """With a row of zeros behind, where nothing followed the last observation."""
    if len(values) == count:
        return values
    return np.concatenate([values, np.zeros((1, *values.shape[1:]), values.dtype)])


def _array(values: np.ndarray, kind: Any) -> Any:
    import pyarrow as pa

    if pa.types.is_string(kind):
        return pa.array([str(v) for v in values], kind)
    if not pa.types.is_fixed_size_list(kind):
        return pa.array(np.ascontiguousarray(values), kind)
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(values).ravel(), kind.value_type), kind.list_size)


def episode_schema() -> Any:
    """The Arrow schema of ``episodes``: ``start`` counts rows of ``steps``, ``id`` and ``info`` are JSON."""
    import pyarrow as pa

    whole, flag, text = pa.int64(), pa.bool_(), pa.string()
    named = {"episode": whole, "start": whole, "length": whole, "return": pa.float64(), "terminated": flag, "truncated": flag}
    return pa.schema([pa.field(n, k) for n, k in (named | {"seed": whole, "id": text, "info": text}).items()])


def _facts(k: int, row: int, episode: Episode) -> dict[str, Any]:
    info: Mapping[str, Any] = episode.info
    seed = info.get("seed")
    ends = {n: bool(len(episode) and getattr(episode, n)[-1]) for n in ("terminated", "truncated")}
    told = {"episode": k, "start": row, "length": len(episode), "return": episode.total} | ends
    told |= {"seed": None if seed is None else int(seed), "id": json.dumps(episode.id)}
    return told | {"info": json.dumps(dict(info), sort_keys=True)}
