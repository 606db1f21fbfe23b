"""One Arrow record batch out of flat files, a column each, without a second copy of them on the disk.

Columns are moved to their place from behind, and each file is shortened by what has arrived. So the disk holds the data once,
whatever stops the move costs nothing, and the length of what is left says where to go on. The bytes are those that Arrow would
have written: Arrow itself is asked for them, with columns that are only holes and are never looked at.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from seqrl.sources._files import flush

_BLOCK, _PIECE = 256 << 20, 8 << 20
"""Bytes that are moved before a file is shortened, and that are in memory at a time."""

Layout = Mapping[str, tuple[str, tuple[int, ...]]]
"""column -> (dtype on disk, shape of one value)."""


def bytes_of(dtype: str, shape: tuple[int, ...]) -> int:
    """Bytes of one value of a column."""
    return np.dtype(dtype).itemsize * int(np.prod(shape, dtype=np.int64))


def gather(target: Path, files: Mapping[str, Path], layout: Layout, rows: int) -> None:
    """Moves flat files into ``target``, one record batch; or goes on with a move that was stopped.

    Args:
        files: column -> its file, ``rows`` values in the order of C; shorter where a move was stopped.
    """
    sizes = {n: rows * bytes_of(*kind) for n, kind in layout.items()}
    with os.fdopen(os.open(target, os.O_RDWR | os.O_CREAT, 0o644), "r+b", buffering=0) as out:
        flush(target.parent)
        at, places = 0, {}
        for piece in _pieces(target.with_suffix(".holes.raw"), layout, rows):
            if isinstance(piece, str):
                places[piece] = at
                at += sizes[piece]
            else:
                os.pwrite(out.fileno(), piece, at)
                at += len(piece)
        os.ftruncate(out.fileno(), at)
        for name, place in places.items():
            _move(files[name], out.fileno(), place)
        os.fsync(out.fileno())


def _move(path: Path, out: int, at: int) -> None:
    """Moves a file to ``at`` of another, from behind. Its first block stays as well, to begin with if this is stopped."""
    with path.open("r+b", buffering=0) as file:
        left = os.fstat(file.fileno()).st_size
        while left:
            start = (left - 1) // _BLOCK * _BLOCK
            for piece in range(start, left, _PIECE):
                content = os.pread(file.fileno(), min(_PIECE, left - piece), piece)
                done = 0
                while done < len(content):
                    done += os.pwrite(out, content[done:], at + piece + done)
            if start:
                # Not before it has arrived for good: here it is lost.
                os.fsync(out)
                os.ftruncate(file.fileno(), start)
            left = start


def _pieces(holes: Path, layout: Layout, rows: int) -> Iterator[bytes | str]:
    """What the file is made of: bytes of Arrow's, and between them the names of the columns that stand there."""
    sizes = {n: size for n, kind in layout.items() if (size := rows * bytes_of(*kind))}
    with holes.open("wb") as file:
        file.truncate(max(sizes.values(), default=1))
    content = pa.memory_map(str(holes)).read_buffer()
    batch = pa.record_batch({n: _column(content, rows, *kind) for n, kind in layout.items()})
    seen = _Seen()
    with pa.PythonFile(seen, "w") as sink, pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    holes.unlink()
    found = [p for p in seen.pieces if isinstance(p, int)]
    if found != list(sizes.values()):
        raise AssertionError(f"Arrow laid out {found} bytes for {sizes}")
    names = iter(sizes)
    yield from (next(names) if isinstance(p, int) else p for p in seen.pieces)


class _Seen:
    """A file that keeps what Arrow writes of its own, and of a column only how long it is."""

    closed = False

    def __init__(self) -> None:
        self.pieces: list[bytes | int] = []
        self._at = 0

    def write(self, data: Any) -> int:
        size = data.size if isinstance(data, pa.Buffer) else len(data)
        if size:
            self.pieces.append(size if isinstance(data, pa.Buffer) else bytes(data))
        self._at += size
        return size

    def tell(self) -> int:
        return self._at

    def flush(self) -> None: ...

    def close(self) -> None: ...


def _column(content: pa.Buffer, rows: int, dtype: str, shape: tuple[int, ...]) -> pa.Array:
    """A column of a record batch, whatever is in it."""
    kind, size = pa.from_numpy_dtype(dtype), int(np.prod(shape, dtype=np.int64))
    flat = pa.Array.from_buffers(kind, rows * size, [None, content.slice(0, rows * bytes_of(dtype, shape))])
    return flat if shape == () else pa.Array.from_buffers(pa.list_(kind, size), rows, [None], children=[flat])
