"""Tables of rows in files of anybody's making, Parquet or Arrow, read a bounded piece at a time and believed in nothing.

A column becomes numpy of one shape and dtype, whatever mixture of lists it is stored as; where it cannot, the message names
file, row and column.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from seqrl.core.errors import DataError
from seqrl.sources._files import passing, why

ENDS = (".parquet", ".arrow", ".feather")
_PIECE, _ROW = 16 << 20, 64 << 20
"""Bytes that are read at a time, and that one row may have at most."""
_BOMB, _RATIO = 1 << 30, 1000
"""Bytes in memory that a piece which has to be taken at once may be, and how many times those of the file beyond that."""
_MOST_ROWS = 1 << 16
_NUMBERS = {f"{u}int{b}": f"{u}int{b}" for u in ("", "u") for b in (8, 16, 32, 64)}
_NUMBERS |= {"halffloat": "float16", "float": "float32", "double": "float64"}
"""Arrow's names of kinds of numbers, and numpy's."""


@dataclass(frozen=True)
class Shape:
    """What a column holds: numpy dtype (``str`` for texts) and the shape of one value."""

    dtype: str
    shape: tuple[int, ...]


class Table:
    """One file of rows."""

    def __init__(self, path: Path, label: str) -> None:
        """Raises DataError where it cannot be opened. Args: label: what the file is called in messages."""
        import pyarrow as pa
        from pyarrow import parquet

        self.label, self._path = label, path
        try:
            if path.suffix == ".parquet":
                self._file = parquet.ParquetFile(path, memory_map=True)
                self.schema, self.rows = self._file.schema_arrow, self._file.metadata.num_rows
            else:
                self._file = None
                with pa.memory_map(str(path)) as content:
                    self._kept = content.read_buffer(6).to_pybytes() == b"ARROW1"
                reader = self._reader()
                self.schema = reader.schema
                self.rows = reader.count_rows() if self._kept else sum(map(len, self._batches(self.schema.names[:1])))
            # Names are decoded when they are looked at, and may be in no encoding.
            _ = self.schema.names
        except Exception as e:
            said = "cannot be read" if passing(e) else "cut off or broken, or neither Parquet nor Arrow"
            raise DataError(f"{label}: {said} ({why(e)})") from e

    def _reader(self, columns: Sequence[str] = ()) -> Any:
        """A reader of an Arrow file, of some of its columns or of all."""
        import pyarrow as pa

        content = pa.memory_map(str(self._path))
        wanted = [self.schema.names.index(n) for n in columns] if columns else None
        opened = pa.ipc.open_file if self._kept else pa.ipc.open_stream
        return opened(content, options=pa.ipc.IpcReadOptions(included_fields=wanted))

    def _batches(self, columns: Sequence[str]) -> Iterator[Any]:
        """The batches of an Arrow file, one after the other: views of the file, or, where it is compressed, one in memory."""
        reader, packed = self._reader(columns), self._path.stat().st_size
        batches = map(reader.get_batch, range(reader.num_record_batches)) if self._kept else iter(reader)
        for batch in batches:
            if batch.nbytes > _BOMB and batch.nbytes > packed * _RATIO:
                raise DataError(f"{self.label}: {batch.nbytes:,} bytes packed into {packed:,}; write it with smaller batches")
            yield batch

    def has(self, column: str) -> bool:
        return column in self.schema.names

    def holds(self, column: str) -> str | None:
        """The dtype of a column's numbers (``str`` for texts), or None where it holds neither."""
        if self.schema.names.count(column) != 1:
            raise DataError(f"{self.label}: there is more than one column '{column}' in it, or none")
        return _dtype(self.schema.field(column).type)

    def pieces(self, columns: Sequence[str], first: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
        """``(row, column -> Arrow array)`` from row ``first`` on, so many rows at a time as are a few megabytes.

        Raises:
            DataError: a column is missing or broken.
        """
        columns = list(dict.fromkeys(columns))
        for name in columns:
            if self.schema.names.count(name) != 1:
                known = ", ".join(self.schema.names[:30])
                raise DataError(f"{self.label}: there is no column '{name}' in it, or more than one; it has {known}")
        try:
            at = 0
            for batch in self._read(columns, first):
                count = len(batch)
                begin = max(0, first - at)
                for start in range(begin, count, step := self._step(batch)):
                    part = batch.slice(start, min(step, count - start))
                    part.validate(full=True)
                    yield at + start, {n: part.column(n) for n in columns}
                at += count
        except DataError:
            raise
        except Exception as e:
            raise DataError(f"{self.label}: from row {at} on: cannot be read ({why(e)})") from e

    def _read(self, columns: list[str], first: int) -> Iterator[Any]:
        if self._file is None:
            yield from self._batches(columns)
            return
        meta = self._file.metadata
        groups = [meta.row_group(g) for g in range(meta.num_row_groups)]
        width = max((self._width(g, columns) for g in groups), default=1)
        # Groups that end before the first row are passed over; who counts is told so by empty pieces of their length.
        at = 0
        for g, group in enumerate(groups):
            if at + group.num_rows <= first:
                yield _Passed(group.num_rows)
            else:
                size = max(1, min(_MOST_ROWS, _PIECE // width))
                yield from self._file.iter_batches(size, row_groups=[g], columns=columns, use_threads=False)
            at += group.num_rows

    def _width(self, group: Any, columns: list[str]) -> int:
        """Bytes of a row of a group in memory; raises DataError where a few bytes of the file would fill the memory."""
        total = packed = 0
        for c in range(group.num_columns):
            leaf = group.column(c)
            if leaf.path_in_schema in columns or any(leaf.path_in_schema.startswith(f"{n}.") for n in columns):
                size = {"BOOLEAN": 1, "INT32": 4, "FLOAT": 4}.get(leaf.physical_type, 8)
                total += max(leaf.num_values * size, leaf.total_uncompressed_size)
                packed += leaf.total_compressed_size
        if total > _BOMB and total > packed * _RATIO:
            raise DataError(f"{self.label}: {total:,} bytes packed into {packed:,}; write it with smaller row groups")
        width = total // max(1, group.num_rows)
        if width > _ROW:
            raise DataError(f"{self.label}: a row of {width:,} bytes; no row has more than {_ROW:,}")
        return max(1, width)

    def _step(self, batch: Any) -> int:
        return (
            max(1, min(_MOST_ROWS, _PIECE * max(1, len(batch)) // max(1, batch.nbytes))) if self._file is None else _MOST_ROWS
        )


class _Passed:
    """Rows that nobody looks at."""

    nbytes = 0

    def __init__(self, rows: int) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return self._rows


def _dtype(kind: Any) -> str | None:
    """What a column of an Arrow type becomes: a numpy dtype, ``str``, or None."""
    import pyarrow as pa

    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    if pa.types.is_dictionary(kind):
        return _dtype(kind.value_type) if pa.types.is_string(kind.value_type) else None
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        inner = _dtype(kind.value_type)
        return inner if inner != "str" else None
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return "str"
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return "bool" if pa.types.is_boolean(kind) else _NUMBERS[str(kind)]
    return None


def values(array: Any, place: str, row: int, expected: Shape | None = None) -> np.ndarray:
    """A column's values ``(N, *shape)``, texts as ``str``.

    Args:
        array: an Arrow array. place: ``file: column`` for messages. row: its first row in the file.
        expected: raises where it is something else.

    Raises:
        DataError: a value is missing, lists differ in length, or it holds neither numbers nor texts.
    """
    import pyarrow as pa

    def wrong(flat: int, each: int, said: str) -> DataError:
        file, _, column = place.partition("\0")
        return DataError(f"{file}: row {row + flat // max(1, each)}: column '{column}' {said}")

    count, shape, each = len(array), [], 1
    while True:
        if isinstance(array.type, pa.BaseExtensionType):
            array = array.storage
        if array.null_count:
            raise wrong(int(np.argmax(np.array(array.is_null().to_pylist()))), each, "has no value there")
        if pa.types.is_dictionary(array.type):
            array = array.dictionary_decode()
        kind = array.type
        if pa.types.is_fixed_size_list(kind):
            size = kind.list_size
        elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
            lengths = np.diff(_flat(array.offsets, "int64" if pa.types.is_large_list(kind) else "int32"))
            wanted = expected.shape[len(shape)] if expected and len(expected.shape) > len(shape) else None
            size = int(lengths[0]) if wanted is None and len(lengths) else wanted or 0
            if (lengths != size).any():
                at = int(np.argmax(lengths != size))
                raise wrong(at, each, f"has {int(lengths[at])} values, and {size} elsewhere; all rows must have as many")
        else:
            break
        shape.append(size)
        each *= size
        array = array.flatten()
    dtype = _dtype(array.type)
    found = Shape(str(dtype), tuple(shape))
    if dtype is None or (dtype == "str" and shape):
        raise wrong(0, each, f"holds {array.type}, which is no number and no text; name another")
    if expected is not None and found != expected:
        raise wrong(0, each, f"holds {found.dtype} of shape {found.shape}, and {expected.dtype} of {expected.shape} before")
    if dtype == "str":
        texts = array.to_pylist()
        if 4 * len(texts) * max(map(len, texts), default=0) > _BOMB:
            raise wrong(0, each, "holds texts of more than a gigabyte")
        return np.array(texts, np.str_).reshape(count)
    if dtype == "bool":
        array = array.cast(pa.uint8())
    return _flat(array, dtype).reshape(count, *shape)


def _flat(array: Any, dtype: str) -> np.ndarray:
    """Plain numbers as numpy sees them. Arrow's own ``to_numpy`` imports pandas, half a second."""
    if not len(array):
        return np.empty(0, dtype)
    return np.frombuffer(array.buffers()[1], dtype, len(array), array.offset * np.dtype(dtype).itemsize)
