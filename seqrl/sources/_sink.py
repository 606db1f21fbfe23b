"""A file that HDF5 may write to although the disk may fill up.

HDF5 cannot bear a failing write: it keeps the piece, tries again when each of its objects dies, fills the terminal with
tracebacks and in the end crashes the process. So it is never told. The first error is kept, what follows is thrown away, and
``check`` raises it where Python can deal with it.
"""

from pathlib import Path
from types import TracebackType
from typing import Any


class Sink:
    """What ``h5py.File`` asks of a file object, around the file ``path``, which is made anew."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w+b", buffering=1 << 20)
        self._error: BaseException | None = None

    def __enter__(self) -> "Sink":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._try(self._file.close)
        if error is None:
            self.check()

    def check(self) -> None:
        """Raises the first error there was."""
        if self._error is not None:
            raise self._error

    def _try(self, operation: Any, *args: Any) -> Any:
        if self._error is not None:
            return None
        try:
            return operation(*args)
        except BaseException as e:  # Ctrl-C as well: HDF5 would take it for a failing disk.
            self._error = e
            return None

    def write(self, data: Any) -> int:
        self._try(self._file.write, data)
        return len(data)

    def read(self, size: int = -1) -> bytes:
        return self._try(self._file.read, size) or b""

    def readinto(self, buffer: Any) -> int:
        return self._try(self._file.readinto, buffer) or len(buffer)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._try(self._file.seek, offset, whence) or 0

    def tell(self) -> int:
        return self._try(self._file.tell) or 0

    def truncate(self, size: int | None = None) -> int:
        return self._try(self._file.truncate, size) or 0

    def flush(self) -> None:
        self._try(self._file.flush)
