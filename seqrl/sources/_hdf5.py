"""HDF5 files of strangers, of which nothing is read but what lies in the file itself.

HDF5 lets a file borrow: a link may lead into another file, and an array may lie in any file of the disk (external storage) or
be put together from arrays elsewhere (virtual). Reading such data would copy private files of this machine into a store, and
from there into whatever is shared, so they are refused before a byte of them is read.
"""

import math
from pathlib import Path
from typing import Any

from seqrl.core.errors import DataError

_SMALL, _MOST_PACKED = 64 << 20, 1100
"""Bytes that an array may have anyway, and beyond that how many times what is stored: gzip packs zeros 1,032 times."""


def open_file(path: Path) -> Any:
    """The ``h5py.File``, for reading.

    Raises:
        DataError: a link in it leads out of the file. What HDF5 raises for a broken file is passed on.
    """
    import h5py
    from h5py import h5l

    file = h5py.File(path, "r", locking="best-effort")
    try:
        # Soft links stay within the file: their way goes over the links that are looked at here.
        inside = (h5l.TYPE_HARD, h5l.TYPE_SOFT)
        out = file.id.links.visit(lambda name, info: None if info.type in inside else name, info=True)
    except BaseException:
        file.close()
        raise
    if out is not None:
        file.close()
        raise DataError(f"{path}: '{out.decode(errors='replace')}' is a link to another file, which is refused; {_FIX}")
    return file


def array_in(file: Any, way: str) -> Any:
    """The low-level ``DatasetID`` of the array at ``way``, which costs less than half of an ``h5py.Dataset``.

    Raises:
        DataError: the array lies outside the file, or is larger than what the file holds of it could become. KeyError,
            TypeError: there is no array of this name.
    """
    from h5py import h5d

    found = h5d.open(file.id, way.encode())
    made = found.get_create_plist()
    if made.get_layout() == h5d.VIRTUAL or made.get_external_count():
        raise DataError(f"{file.filename}: '{way}' keeps its values in another file, which is refused; {_FIX}")
    # A file of a few kilobytes can declare an array of terabytes, of which it stores nothing: all of it would be made here.
    wanted, kept = math.prod(found.shape or (0,)) * found.dtype.itemsize, found.get_storage_size()
    if wanted > max(_SMALL, _MOST_PACKED * kept):
        told = f"'{way}' says it has {wanted:,} bytes, and the file holds {kept:,} of it"
        raise DataError(f"{file.filename}: {told}, which cannot be; fetch or make this dataset again")
    return found


_FIX = "write everything into one file (h5repack, or h5py: file[name] = values)"
