"""Prepared examples on disk: ids and whether each is trained, in memory-mapped shards, and a table of where examples stand.

A source is prepared once for a tokenizer and its fields, into a folder of the cache that is named by the content of all three.
A shard is whole or not there, so a preparation that was interrupted is taken up behind its last one, and two preparations of
the same write the same bytes.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from seqrl.core.documents import DocumentPorts
from seqrl.core.errors import DataError
from seqrl.data.documents_examples import Example
from seqrl.sources._files import Progress, cache_home, one_at_a_time, why

FORMAT = 1
"""Raised whenever ids or files change, so that an older folder is not misread but made anew."""
SHARD = 1 << 24
"""Tokens of a shard, about; what is lost of an interrupted preparation is less than one."""
ABOUT, TABLE = "documents.json", "examples.npy"
_COLUMNS = ("shard", "start", "length", "split", "unit")


class Origin(Protocol):
    """What examples are made of: episodes of a store, or lines."""

    def __len__(self) -> int: ...

    def chunks(self, first: int = 0) -> Iterator[tuple[int, list[Example]]]: ...


class DocumentStore:
    """Prepared examples, memory-mapped; opening reads nothing but ``documents.json``.

    Attributes:
        shard, start, length, split, unit: ``(N,)`` int64 views, one entry an example: where its tokens stand, how many they
            are, where its second half begins (0: it has none), and the episode or line it is from.
        units: episodes or lines there are; tokens: ids there are; vision, trained: how many of them are.
    """

    def __init__(self, path: Path) -> None:
        """Raises DataError where the folder holds no whole preparation."""
        self.path = path
        try:
            about = json.loads((path / ABOUT).read_text(encoding="utf-8"))
            if about["format"] != FORMAT:
                raise DataError(f"{path}: written as format {about['format']}, this seqrl reads {FORMAT}")
            for name, size in about["sizes"].items():
                if (path / name).stat().st_size != size:
                    raise DataError(f"{path / name}: cut off")
            self.shard, self.start, self.length, self.split, self.unit = np.load(path / TABLE, mmap_mode="r")
            self.units, self.tokens, self.dtype = int(about["units"]), int(about["tokens"]), str(about["dtype"])
            self.vision, self.trained = int(about["vision"]), int(about["trained"])
            self.source: str = about["source"]
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as e:
            raise DataError(f"{path}: no prepared documents, or broken ones ({e})") from e
        self._shards: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def __len__(self) -> int:
        return len(self.length)

    def tracks(self, shard: int) -> tuple[np.ndarray, np.ndarray]:
        """``(n,)`` ids and ``(n,)`` uint8 whether they are trained, of a shard; read-only views of the files."""
        if shard not in self._shards:
            names = ((f"ids-{shard:05d}.bin", self.dtype), (f"trained-{shard:05d}.bin", "uint8"))
            self._shards[shard] = tuple(np.memmap(self.path / n, d, "r") for n, d in names)
        return self._shards[shard]

    def example(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """``(n,)`` int64 ids and ``(n,)`` bool whether they are trained, of one example."""
        ids, trained = self.tracks(int(self.shard[i]))
        here = slice(int(self.start[i]), int(self.start[i] + self.length[i]))
        return ids[here].astype(np.int64), trained[here].astype(bool)


def prepare(
    origin: Origin, source: str, key: list[Any], ports: DocumentPorts, progress: Progress | None = None
) -> DocumentStore:
    """The prepared examples of an origin: opened where they are in the cache, made first where not.

    Args:
        source: what the data are called. key: plain JSON that says which data, which tokenizer and which fields.
        ports: which ids there may be, and which are text's.
        progress: ``progress(done, total)`` in episodes or lines; called only while preparing.

    Raises:
        DataError: what the data are accused of, or that the cache cannot be written.
    """
    name = hashlib.sha256(json.dumps([FORMAT, *key], sort_keys=True).encode()).hexdigest()[:32]
    path = cache_home() / "documents" / name
    found = _open(path)
    if found is None:
        with one_at_a_time(path):
            # Another process may have been preparing while this one waited.
            found = _open(path)
            if found is None:
                try:
                    _write(origin, source, path, ports, progress)
                except OSError as e:
                    said = "what is prepared so far is kept, so doing it again goes on from there"
                    raise DataError(f"{path}: could not be written: {why(e)}; {said}") from e
                found = DocumentStore(path)
    return found


def _open(path: Path) -> DocumentStore | None:
    try:
        return DocumentStore(path) if path.is_dir() else None
    except DataError:
        return None


def _write(origin: Origin, source: str, path: Path, ports: DocumentPorts, progress: Progress | None) -> None:
    partial = path.parent / f".{path.name}.partial"
    partial.mkdir(parents=True, exist_ok=True)
    dtype = "uint16" if ports.total <= 1 << 16 else "uint32"
    tables, first = _shards(partial)
    waiting: list[Example] = []
    tokens = 0
    for after, made in origin.chunks(first):
        waiting += made
        tokens += sum(len(e.ids) for e in made)
        if tokens >= SHARD or after == len(origin):
            tables.append(_shard(partial, len(tables), waiting, dtype, ports.total, after))
            waiting, tokens = [], 0
        if progress:
            progress(after, len(origin))
    _save(partial / TABLE, np.concatenate(tables, 1))
    for file in partial.glob("table-*.npy"):
        file.unlink()
    # What a preparation that was killed left half written is replaced by what is written now, and is no part of it.
    sizes = {p.name: p.stat().st_size for p in sorted(partial.iterdir()) if p.name != ABOUT and ".part" not in p.suffixes}
    counts = {"tokens": 0, "vision": 0, "trained": 0}
    for k in range(len(tables)):
        ids, trained = (np.fromfile(partial / f"{n}-{k:05d}.bin", d) for n, d in (("ids", dtype), ("trained", "uint8")))
        found = {"tokens": ids.size, "vision": np.count_nonzero(ids >= ports.text), "trained": np.count_nonzero(trained)}
        counts = {name: n + int(found[name]) for name, n in counts.items()}
    about = {"format": FORMAT, "source": source, "units": len(origin), **counts, "dtype": dtype, "sizes": sizes}
    _put(partial / ABOUT, json.dumps(about).encode())
    if path.exists():
        shutil.rmtree(path)
    partial.rename(path)


def _shards(partial: Path) -> tuple[list[np.ndarray], int]:
    """The tables of the whole shards that are there, and the first episode or line that is in none of them."""
    tables, first = [], 0
    while True:
        file = partial / f"table-{len(tables):05d}.npy"
        try:
            table = np.load(file)
            tokens = int(table[2].sum())
            if (partial / f"trained-{len(tables):05d}.bin").stat().st_size != tokens:
                return tables, first
        except (OSError, ValueError, IndexError):
            return tables, first
        # The last column is no example: it says behind which episode the shard ends.
        tables.append(table[:, :-1])
        first = int(table[4, -1])


def _shard(partial: Path, number: int, made: list[Example], dtype: str, total: int, after: int) -> np.ndarray:
    """Writes a shard and, last, its table, by which it is known to be whole; the ``(5, N)`` table."""
    ids = np.concatenate([e.ids for e in made]) if made else np.empty(0, np.int64)
    if ids.size and not 0 <= ids.min() <= ids.max() < total:
        raise AssertionError(f"an id of {ids.min()} to {ids.max()}, where there are {total}")
    trained = np.concatenate([e.trained for e in made]) if made else np.empty(0, bool)
    length = np.array([len(e.ids) for e in made], np.int64)
    columns = {
        "shard": np.full(len(made), number),
        "start": np.cumsum(length) - length,
        "length": length,
        "split": np.array([e.split for e in made], np.int64),
        "unit": np.array([e.unit for e in made], np.int64),
    }
    table = np.stack([columns[n] for n in _COLUMNS])
    _put(partial / f"ids-{number:05d}.bin", ids.astype(dtype).tobytes())
    _put(partial / f"trained-{number:05d}.bin", trained.astype(np.uint8).tobytes())
    _save(partial / f"table-{number:05d}.npy", np.append(table, [[0], [0], [0], [0], [after]], 1))
    return table


def _save(path: Path, table: np.ndarray) -> None:
    aside = path.with_suffix(".part.npy")
    np.save(aside, table)
    os.replace(aside, path)


def _put(path: Path, content: bytes) -> None:
    """Writes a file that is whole or not there, even where the power fails."""
    aside = path.with_suffix(".part")
    with aside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)
