"""Trajectories published as Parquet (``seqrl push --dataset``): on the Hub by their name, or in a folder.

What is read comes from whoever published it, so nothing in it is executed, no path in it is followed, and the tables must be
what ``spec.json`` says before a row of them is taken. A few kilobytes can repeat one value a billion times: what a row
group takes in memory is reckoned before, and texts, whose length no schema says, lie in memory once until they are asked for.
"""

import json
from collections import OrderedDict
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from seqrl.core.config import Frozen
from seqrl.core.episode import Episode, EpisodeSpec, Modality
from seqrl.core.errors import DataError
from seqrl.sources import _parquet
from seqrl.sources._files import digest, why

# Bytes: of the JSON, and of a row group (or of an episode's texts) in memory.
_SPEC_LIMIT, _GROUP_LIMIT, _GROUPS_KEPT = 64 << 20, 4 << 30, 2


class Config(Frozen):
    """A dataset in Parquet."""

    kind: Literal["parquet"] = "parquet"
    id: str
    """A folder, or a dataset's name on the Hub: ``org/name``, ``org/name@revision``, ``hf://datasets/org/name``."""


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


def find(id: str) -> Path:
    """The folder of a dataset; that of a name is brought into the cache.

    Raises:
        DataError: neither a folder nor a name. HubError: the Hub has none, or cannot be asked.
    """
    from seqrl.remote.names import SCHEME, read_name

    folder = Path(id).expanduser()
    if not id.startswith(SCHEME) and folder.is_dir():
        return folder
    repo = read_name(id)
    local = not id.startswith(SCHEME) and Path(id.split("/")[0] or "/").expanduser().is_dir()
    if repo is None or local:
        known = f"; for a dataset on the Hub write hf://datasets/{id}" if repo else ", and no name on the Hub is like that"
        raise DataError(f"{id}: there is no such folder{known}")
    from seqrl.remote.download import fetch

    def tables(names: Any) -> list[str]:
        return [n for n in names if _parquet.STEPS.fullmatch(n) or _parquet.EPISODES.fullmatch(n)]

    return fetch(replace(repo, kind="dataset"), [_parquet.SPEC], limits={_parquet.SPEC: _SPEC_LIMIT}, more=tables)


class Source:
    """The episodes of one dataset in Parquet."""

    def __init__(self, config: Config) -> None:
        """Raises DataError where it is none, cut off, or contradicts itself."""
        self.id, self.folder = config.id, find(config.id)
        about = self._read_about()
        try:
            self.spec = EpisodeSpec.from_json(about["spec"])
            rows, steps, count = (int(about[k]) for k in ("rows", "steps", "episodes"))
            self._schema = _parquet.schema(self.spec)
        except Exception as e:
            # A stranger's JSON can be wrong in any way there is.
            raise DataError(f"{self.folder / _parquet.SPEC}: this is no spec of episodes ({type(e).__name__}: {why(e)})") from e
        self._steps, self._tables = self._open("steps", self._schema), self._open("episodes", _parquet.episode_schema())
        # (file, group in it, first row, rows) of every row group, in order.
        self._groups: list[tuple[int, int, int, int]] = []
        for f, file in enumerate(self._steps):
            for g in range(file.metadata.num_row_groups):
                start = self._groups[-1][2] + self._groups[-1][3] if self._groups else 0
                self._groups.append((f, g, start, file.metadata.row_group(g).num_rows))
        found = sum(g[3] for g in self._groups)
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
        self._starts, self.lengths = starts[:-1], lengths
        self._kept: OrderedDict[int, dict[str, np.ndarray]] = OrderedDict()

    def _read_about(self) -> dict[str, Any]:
        path = self.folder / _parquet.SPEC
        try:
            if path.stat().st_size > _SPEC_LIMIT:
                raise ValueError("too large")
            about = json.loads(path.read_text(encoding="utf-8"))
            form = about["format"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as e:
            raise DataError(f"{path}: cannot be read ({why(e)}); `seqrl push --dataset` writes such folders") from e
        if form != _parquet.FORMAT:
            raise DataError(f"{path}: written as format {form!r}, this seqrl reads {_parquet.FORMAT}; update seqrl")
        return about

    def _open(self, what: str, schema: Any) -> list[Any]:
        """The files of a table, each with the columns that are expected."""
        import pyarrow as pa
        from pyarrow import parquet

        pattern = _parquet.STEPS if what == "steps" else _parquet.EPISODES
        names = [f"{what}/{p.name}" for p in sorted((self.folder / what).glob("part-*.parquet"))]
        names = [n for n in names if pattern.fullmatch(n)]
        if names != [f"{what}/part-{k:05d}.parquet" for k in range(len(names))] or not names:
            raise DataError(f"{self.folder / what}: a part is missing; {_AGAIN}")
        self._files = [*getattr(self, "_files", []), *(self.folder / n for n in names)]
        opened = []
        texts = [f.name for f in schema if pa.types.is_string(f.type)]
        for name in names:
            try:
                about = parquet.read_metadata(self.folder / name, memory_map=True)
                seen, big = about.schema.to_arrow_schema(), 0
                same = seen.names == schema.names and all(a.type.equals(b.type) for a, b in zip(seen, schema, strict=True))
                if same:
                    big = max((_size(about.row_group(g), schema) for g in range(about.num_row_groups)), default=0)
                    file = parquet.ParquetFile(self.folder / name, metadata=about, memory_map=True, read_dictionary=texts)
            except Exception as e:
                raise DataError(f"{self.folder / name}: cut off or broken ({why(e)}); {_AGAIN}") from e
            if not same:
                raise DataError(f"{self.folder / name}: its columns are not those that {_parquet.SPEC} promises; {_AGAIN}")
            if big > _GROUP_LIMIT:
                raise DataError(f"{self.folder / name}: a row group of {big:,} bytes; write it with smaller ones")
            opened.append(file)
        return opened

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
        return digest(self.folder, [self.folder / _parquet.SPEC, *self._files])

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
        pieces = []
        for k, (_, _, first, count) in enumerate(self._groups):
            if first < stop and start < first + count:
                group = self._group(k)
                pieces.append({n: v[max(0, start - first) : stop - first] for n, v in group.items()})
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
            try:
                table = self._steps[f].read_row_group(g)
                known = {n: (m.dtype, m.shape) for n, (_, _, m) in _parquet.columns(self.spec).items()}
                known |= {n: (d, ()) for n, d in _parquet.FLAGS.items()}
                self._kept[k] = {n: _numpy(table[n], *kind, count) for n, kind in known.items()}
            except Exception as e:
                raise DataError(f"{self._files[f]}: row group {g} cannot be read ({why(e)}); {_AGAIN}") from e
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
