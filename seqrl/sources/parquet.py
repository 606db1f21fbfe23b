"""Trajectories published as Parquet (``seqrl push --dataset``): on the Hub by their name, or in a folder.

What is read comes from whoever published it, so nothing in it is executed, no path in it is followed, and the tables must be
what ``spec.json`` says before a row of them is taken. A few kilobytes can repeat one value a billion times: what a row
group takes in memory is reckoned before, and texts, whose length no schema says, lie in memory once until they are asked for.

From the Hub the rows come part by part: one is read, the next is fetched meanwhile, and what was read is let go.
"""

import json
from bisect import bisect_right
from collections import OrderedDict
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from seqrl.core.config import Frozen
from seqrl.core.episode import Episode, EpisodeSpec, Modality
from seqrl.core.errors import DataError
from seqrl.sources import _parquet
from seqrl.sources._files import digest, joint_digest, passing, sha256, why
from seqrl.sources._published import SPEC_LIMIT, find

# Bytes of a row group (or of an episode's texts) in memory, and how many groups are.
_GROUP_LIMIT, _GROUPS_KEPT = 4 << 30, 2


class Config(Frozen):
    """A dataset in Parquet."""

    kind: Literal["parquet"] = "parquet"
    id: str
    """A folder, or a dataset's name on the Hub: ``org/name``, ``org/name@revision``, ``hf://datasets/org/name``."""
    keep: bool = False
    """Whether what was fetched from the Hub stays in its cache; otherwise each part goes once it is converted."""


def tiny(folder: Path) -> Config:
    """The smallest useful dataset, in several row groups and files; for the contract tests."""
    low, high = (-1.0,) * 2, (1.0,) * 2
    obs = {
        "observation": Modality("vector", (3,), "float64", (-np.inf,) * 3, (np.inf,) * 3),
        "mission": Modality("text", (), "str"),
    }
    spec = EpisodeSpec("tiny/rows-v0", obs, {"action": Modality("vector", (2,), "float32", low, high)})
    rng = np.random.default_rng(0)

    def episode(i: int, T: int) -> Episode:
        seen, words = rng.standard_normal((T + 1, 3)), np.array([f"go {k % 2}" for k in range(T + 1)])
        last, act = np.arange(T) == T - 1, rng.uniform(-1, 1, (T, 2)).astype(np.float32)
        rew = seen[1:, 0].astype(np.float32)
        return Episode({"observation": seen, "mission": words}, {"action": act}, rew, last, np.zeros(T, bool), i, {"seed": i})

    target = folder / "parquet"
    target.mkdir()
    _parquet.write_parquet((episode(i, T) for i, T in enumerate((4, 1, 7))), spec, target, group=400, file=800)
    return Config(id=str(target))


class Source:
    """The episodes of one dataset in Parquet."""

    def __init__(self, config: Config) -> None:
        """Raises DataError where it is none, cut off, or contradicts itself."""
        self.id = config.id
        self.folder, self._shards = find(config.id, config.keep)
        self.place = self._shards.repo.id if self._shards else str(self.folder.resolve())
        about = self._read_about()
        try:
            self.spec = EpisodeSpec.from_json(about["spec"])
            rows, steps, count = (int(about[k]) for k in ("rows", "steps", "episodes"))
            self._schema = _parquet.schema(self.spec)
        except Exception as e:
            # A stranger's JSON can be wrong in any way there is.
            raise DataError(f"{self.folder / _parquet.SPEC}: this is no spec of episodes ({type(e).__name__}: {why(e)})") from e
        self._parts, self._lists = self._named("steps"), self._named("episodes")
        # (part, group in it, first row, rows) of every row group that is known, in order.
        self._groups: list[tuple[int, int, int, int]] = []
        self._known = 0
        self._open: dict[int, Any] = {}
        self._noted = self._shards.noted() if self._shards else {}
        while self._shards is None and self._known < len(self._parts):
            self._learn()
        self._tables = [self._file(self.folder / n, _parquet.episode_schema()) for n in self._lists]
        found = self._rows_known if self._shards is None else rows
        listed = sum(file.metadata.num_rows for file in self._tables)
        # First by what the files say of themselves: the list of episodes is read whole.
        if not found == rows == steps + count or listed != count:
            raise DataError(f"{self.id}: {found} rows of {listed} episodes, but it says {rows} of {count}; {_AGAIN}")
        lengths = self._episodes["length"]
        starts = np.concatenate([[0], np.cumsum(lengths + 1)])
        if found != starts[-1] or len(lengths) != count or (lengths < 0).any():
            raise DataError(f"{self.id}: {found} rows, but its {len(lengths)} episodes have {starts[-1]}; {_AGAIN}")
        if not steps:
            raise DataError(f"{self.id} is empty: it has no steps")
        self._starts, self.lengths, self._total = starts[:-1], lengths, rows
        self._kept: OrderedDict[int, dict[str, np.ndarray]] = OrderedDict()

    def _read_about(self) -> dict[str, Any]:
        path = self.folder / _parquet.SPEC
        try:
            if path.stat().st_size > SPEC_LIMIT:
                raise ValueError("too large")
            about = json.loads(path.read_text(encoding="utf-8"))
            form = about["format"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as e:
            raise DataError(f"{path}: cannot be read ({why(e)}); `seqrl push --dataset` writes such folders") from e
        if form != _parquet.FORMAT:
            raise DataError(f"{path}: written as format {form!r}, this seqrl reads {_parquet.FORMAT}; update seqrl")
        return about

    def _named(self, what: str) -> list[str]:
        """The names of the parts of a table, in order."""
        pattern = _parquet.STEPS if what == "steps" else _parquet.EPISODES
        if what == "steps" and self._shards is not None:
            names = [f.path for f in self._shards.files]
        else:
            names = [f"{what}/{p.name}" for p in sorted((self.folder / what).glob("part-*.parquet"))]
            names = [n for n in names if pattern.fullmatch(n)]
        if names != [f"{what}/part-{k:05d}.parquet" for k in range(len(names))] or not names:
            raise DataError(f"{self.folder / what}: a part is missing; {_AGAIN}")
        return names

    def _file(self, path: Path, schema: Any) -> Any:
        """A file of a table, with the columns that are expected."""
        import pyarrow as pa
        from pyarrow import parquet

        texts = [f.name for f in schema if pa.types.is_string(f.type)]
        try:
            about = parquet.read_metadata(path, memory_map=True)
            seen, big = about.schema.to_arrow_schema(), 0
            same = seen.names == schema.names and all(a.type.equals(b.type) for a, b in zip(seen, schema, strict=True))
            if same:
                big = max((_size(about.row_group(g), schema) for g in range(about.num_row_groups)), default=0)
                file = parquet.ParquetFile(path, metadata=about, memory_map=True, read_dictionary=texts)
        except Exception as e:
            said = f"cannot be read ({why(e)})" if passing(e) else f"cut off or broken ({why(e)}); {_AGAIN}"
            raise DataError(f"{path}: {said}") from e
        if not same:
            raise DataError(f"{path}: its columns are not those that {_parquet.SPEC} promises; {_AGAIN}")
        if big > _GROUP_LIMIT:
            raise DataError(f"{path}: a row group of {big:,} bytes; write it with smaller ones")
        return file

    def _part(self, k: int) -> Any:
        """Part ``k`` of the rows, opened; of those from the Hub only one is at a time."""
        if k not in self._open:
            if self._shards is not None:
                self._open.clear()
            path = self.folder / self._parts[k] if self._shards is None else self._shards.path(k)
            self._open[k] = self._file(path, self._schema)
        return self._open[k]

    def _learn(self) -> None:
        """Learns the row groups of the next part, without fetching one that an interrupted conversion was done with."""
        k, name = self._known, self._parts[self._known]
        counts = self._noted.get(name)
        if not (isinstance(counts, list) and all(isinstance(c, int) and c >= 0 for c in counts)):
            about = self._part(k).metadata
            counts = [about.row_group(g).num_rows for g in range(about.num_row_groups)]
            if self._shards is not None:
                self._noted[name] = counts
                self._shards.remember(self._noted)
        for g, count in enumerate(counts):
            self._groups.append((k, g, self._rows_known, count))
        self._known += 1

    def _learn_until(self, stop: int) -> None:
        """Learns parts until ``stop`` rows are known; raises DataError where there are other rows than promised."""
        while self._rows_known < stop and self._known < len(self._parts):
            self._learn()
        done = self._known == len(self._parts)
        if self._rows_known < stop or (done and self._rows_known != self._total):
            raise DataError(f"{self.id}: {self._rows_known} rows, but it says {self._total}; {_AGAIN}")

    @property
    def _rows_known(self) -> int:
        return self._groups[-1][2] + self._groups[-1][3] if self._groups else 0

    def close(self) -> None:
        """Lets go what was fetched only to be converted."""
        self._open.clear()
        if self._shards is not None:
            self._shards.close()

    @cached_property
    def _episodes(self) -> dict[str, np.ndarray]:
        """``length`` of every episode, and its ``id`` and ``info`` as texts of JSON; equal texts lie here once."""
        kinds = {"length": "int64", "id": "str", "info": "str"}
        try:
            read = [f.read(list(kinds)) for f in self._tables]
            found = {k: np.concatenate([_numpy(t[k], kind, (), len(t)) for t in read]) for k, kind in kinds.items()}
            for text in {text for name in ("id", "info") for text in found[name]}:
                json.loads(text)
        except Exception as e:
            raise DataError(f"{self.folder / 'episodes'}: cannot be read ({why(e)}); {_AGAIN}") from e
        return found

    def fingerprint(self) -> str:
        """Hex digest of the content; the same here and on the Hub."""
        here = [self.folder / n for n in (_parquet.SPEC, *self._lists)]
        if self._shards is None:
            return digest(self.folder, [*here, *(self.folder / n for n in self._parts)])
        told = {f.path: str(f.sha256) for f in self._shards.files}
        return joint_digest(told | {str(p.relative_to(self.folder)): sha256(p) for p in here})

    def __len__(self) -> int:
        return len(self.lengths)

    def episode(self, i: int) -> Episode:
        """Episode ``i`` as it was when it was published."""
        start, T = int(self._starts[i]), int(self.lengths[i])
        rows = self._rows(start, start + T + 1)
        parts: dict[str, dict[str, np.ndarray]] = {"obs": {}, "act": {}}
        for name, (part, own, _) in _parquet.columns(self.spec).items():
            parts[part][own] = rows[name] if part == "obs" else rows[name][:T]
        if rows["final"].tolist() != [False] * T + [True]:
            raise DataError(f"{self.id}: the rows of episode {i} are not in order; {_AGAIN}")
        flags = (rows[n][:T] for n in ("reward", "terminated", "truncated"))
        id, info = (json.loads(self._episodes[k][i]) for k in ("id", "info"))
        return Episode(parts["obs"], parts["act"], *flags, id, info)

    def _rows(self, start: int, stop: int) -> dict[str, np.ndarray]:
        """Rows of ``steps``, over as many row groups as they lie in."""
        self._learn_until(start + 1)
        pieces = []
        k = max(0, bisect_right(self._groups, start, key=lambda group: group[2]) - 1)
        while k < len(self._groups) and (first := self._groups[k][2]) < stop:
            if start < first + self._groups[k][3]:
                group = self._group(k)
                pieces.append({n: v[max(0, start - first) : stop - first] for n, v in group.items()})
            k += 1
            # Not before what is here was read: the next part takes its place.
            if k == len(self._groups):
                self._learn_until(stop)
        rows = pieces[0] if len(pieces) == 1 else {n: np.concatenate([p[n] for p in pieces]) for n in pieces[0]}
        return {n: self._texts(v) if v.dtype == object else v for n, v in rows.items()}

    def _texts(self, texts: np.ndarray) -> np.ndarray:
        """Python's texts as NumPy's, of which each takes as much as the longest."""
        size = 4 * len(texts) * max(map(len, texts), default=0)
        if size > _GROUP_LIMIT:
            raise DataError(f"{self.id}: an episode with {size:,} bytes of texts; it cannot be read")
        return np.array(texts, np.str_)

    def _group(self, k: int) -> dict[str, np.ndarray]:
        if k not in self._kept:
            f, g, _, count = self._groups[k]
            part = self._part(f)
            try:
                table = part.read_row_group(g)
                known = {n: (m.dtype, m.shape) for n, (_, _, m) in _parquet.columns(self.spec).items()}
                known |= {n: (d, ()) for n, d in _parquet.FLAGS.items()}
                self._kept[k] = {n: _numpy(table[n], *kind, count) for n, kind in known.items()}
            except Exception as e:
                said = "" if passing(e) else f"; {_AGAIN}"
                raise DataError(f"{self.folder / self._parts[f]}: row group {g} cannot be read ({why(e)}){said}") from e
            # Episodes are mostly read in order, and one may lie in two groups.
            while len(self._kept) > _GROUPS_KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(k)
        return self._kept[k]


def _size(group: Any, schema: Any) -> int:
    """Bytes of a row group in memory, at least; raises ValueError where a column has other rows than the group.

    What the file says of its size is that of the encoded pages, in which equal values lie once.
    """
    import pyarrow as pa

    width = 0
    for c, field in enumerate(schema):
        many = field.type.list_size if pa.types.is_fixed_size_list(field.type) else 1
        values = group.column(c).num_values
        if values != group.num_rows * max(1, many):
            raise ValueError(f"{values:,} values of {field.name} in {group.num_rows:,} rows")
        value = field.type.value_type if pa.types.is_fixed_size_list(field.type) else field.type
        # A text is a reference, and lies in the dictionary, which the encoded size has in it.
        width += many * (8 if pa.types.is_string(value) else max(1, value.bit_width // 8))
    return max(group.total_byte_size, group.num_rows * width)


def _numpy(column: Any, dtype: str, shape: tuple[int, ...], count: int) -> np.ndarray:
    """``(count, *shape)``, texts as objects; Arrow's own ``to_numpy`` would import pandas, half a second."""
    import pyarrow as pa

    if column.null_count:
        raise ValueError("a value is missing")
    if dtype == "str":
        found = [np.array([], object)]
        for chunk in column.chunks:
            entries = np.empty(len(chunk.dictionary), object)
            entries[:] = chunk.dictionary.to_pylist()
            found.append(entries[chunk.indices.to_numpy(zero_copy_only=False)])
        return np.concatenate(found)
    array = pa.concat_arrays(column.chunks) if column.num_chunks != 1 else column.chunk(0)
    flat = array.flatten() if shape else array
    if dtype == "bool":
        flat = flat.cast(pa.uint8())
    size = count * int(np.prod(shape, dtype=np.int64))
    offset = flat.offset * np.dtype(dtype).itemsize
    return np.frombuffer(flat.buffers()[1], dtype, size, offset).reshape(count, *shape)


_AGAIN = "publish it again, or fetch it again"
