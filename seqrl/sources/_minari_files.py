"""The two ways Minari lays episodes on disk, read directly and bit for bit.

HDF5: one file, a group per episode, a dataset per leaf of the spaces. Arrow and Parquet: one folder per episode, a row per
observation, the last row padded where actions and rewards have ended. Minari's own readers are right but slow for many short
episodes (HDF5), and pair episodes with record batches that pyarrow may cut (Arrow, above 131,072 rows), so the files are
opened here without it. What Minari would answer is the yardstick of the tests.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from seqrl.core.errors import DataError
from seqrl.core.plain import read_json
from seqrl.sources._files import why
from seqrl.sources._hdf5 import array_in, open_file
from seqrl.sources._spaces import Leaf

FLAGS = ("rewards", "terminations", "truncations")
MARKS = {"unfinished": True, "final_observation": "unknown"}
"""What an episode's ``info`` may say of its end (see ``sources/d4rl.py``); kept as attributes of its HDF5 group."""


@dataclass(frozen=True)
class Raw:
    """An episode as it lies on disk: leaf name -> array, rewards and flags, its seed if one was kept, and its ``MARKS``."""

    obs: dict[str, np.ndarray]
    act: dict[str, np.ndarray]
    rewards: np.ndarray
    terminations: np.ndarray
    truncations: np.ndarray
    seed: int | None
    marks: dict[str, Any] = field(default_factory=dict)


class Reader(Protocol):
    """Reads episodes of one dataset by number."""

    def length(self, i: int) -> int: ...

    def read(self, i: int) -> Raw: ...


@contextmanager
def _plainly(what: Path, i: int | None = None) -> Iterator[None]:
    """Turns the many ways in which a broken file shows into one DataError that names file and episode."""
    try:
        yield
    except (OSError, LookupError, ValueError, RuntimeError, TypeError, AttributeError, ArithmeticError, MemoryError) as e:
        where = f"{what}" if i is None else f"{what}: episode {i}"
        reason = why(e).strip("\"'")
        raise DataError(f"{where}: truncated or corrupt ({reason}); fetch or make this dataset again") from e


class Hdf5Reader:
    """Minari's HDF5 layout: ``episode_7/observations/image`` and so on."""

    def __init__(self, folder: Path, obs: list[Leaf], act: list[Leaf], jpeg: bool) -> None:
        """Raises DataError where the file is missing, cut, no HDF5, or refers to other files."""
        self.path = folder / "main_data.hdf5"
        self._jpeg = jpeg
        with _plainly(self.path):
            self._file = open_file(self.path)
        parts = (("observations", obs), ("actions", act))
        self._ways = [(leaf, "/".join((root, *steps_to(leaf)))) for root, part in parts for leaf in part]
        self._observed = len(obs)

    def length(self, i: int) -> int:
        with _plainly(self.path, i):
            group = self._file[f"episode_{i}"]
            known = group.attrs.get("total_steps")
            return _count(group["rewards"].shape[0] if known is None else known)

    def read(self, i: int) -> Raw:
        with _plainly(self.path, i):
            name = f"episode_{i}"
            # Observations and actions may share names, so they are told apart by their order.
            values = [(leaf, self._value(f"{name}/{way}", leaf)) for leaf, way in self._ways]
            flags = [self._numbers(f"{name}/{flag}") for flag in FLAGS]
            attrs = self._file[name].attrs
            seed = attrs.get("seed")
            marks = {k: v for k, v in MARKS.items() if k in attrs and attrs[k] == v}
            obs, act = ({leaf.name: v for leaf, v in part} for part in (values[: self._observed], values[self._observed :]))
            return Raw(obs, act, *flags, None if seed is None else int(seed), marks)

    def _value(self, path: str, leaf: Leaf) -> np.ndarray:
        import h5py

        if leaf.modality.kind == "text":
            return np.array(h5py.Dataset(self._array(path)).asstr()[()], dtype=np.str_)
        if self._jpeg and leaf.jpeg:
            return _pictures(h5py.Dataset(self._array(path))[()])
        return self._numbers(path)

    def _array(self, path: str) -> Any:
        found = array_in(self._file, path)
        if not found.rank:
            raise TypeError(f"{path} is a single value, a row a step was expected")
        return found

    def _numbers(self, path: str) -> np.ndarray:
        from h5py import h5s

        found = self._array(path)
        if found.dtype.kind not in "biuf" or found.dtype.itemsize > 8:
            raise TypeError(f"{path} holds no numbers")
        out = np.empty(found.shape, found.dtype)
        if out.size:
            found.read(h5s.ALL, h5s.ALL, out)
        return out


def _count(steps: Any) -> int:
    """A number of steps that could be one; raises ValueError."""
    if not 0 <= int(steps) <= 1 << 40:
        raise ValueError(f"an episode of {str(steps)[:30]} steps")
    return int(steps)


def steps_to(leaf: Leaf) -> list[str]:
    return [f"_index_{k}" if isinstance(k, int) else k for k in leaf.keys]


class ArrowReader:
    """Minari's Arrow and Parquet layouts: ``<folder>/7/part-0.arrow`` beside ``<folder>/7/metadata.json``."""

    def __init__(self, folder: Path, obs: list[Leaf], act: list[Leaf], jpeg: bool, suffix: str) -> None:
        self.folder, self._jpeg, self._suffix = folder, jpeg, suffix
        self._parts = (("observations", obs), ("actions", act))

    def _about(self, i: int) -> dict[str, Any]:
        return read_json((self.folder / str(i) / "metadata.json").read_text(encoding="utf-8"))

    def length(self, i: int) -> int:
        with _plainly(self.folder, i):
            return _count(self._about(i)["total_steps"])

    def read(self, i: int) -> Raw:
        with _plainly(self.folder, i):
            table = self._table(i)
            T = len(table) - 1
            obs, act = (
                {leaf.name: _arrow_value(_descend(table, root, leaf), leaf, self._jpeg, count) for leaf in part}
                for count, (root, part) in zip((T + 1, T), self._parts, strict=True)
            )
            flags = [_descend(table, flag, None).to_numpy(zero_copy_only=False)[:T] for flag in FLAGS]
            seed = self._about(i).get("seed")
            return Raw(obs, act, *flags, None if seed is None else int(seed))

    def _table(self, i: int) -> Any:
        import pyarrow as pa

        parts = sorted((self.folder / str(i)).glob(f"part-*.{self._suffix}"), key=lambda p: int(p.stem.split("-")[1]))
        if not parts:
            raise KeyError("its file is missing")
        if self._suffix == "parquet":
            from pyarrow import parquet

            return pa.concat_tables([parquet.read_table(p, partitioning=None) for p in parts])
        found = [pa.ipc.open_file(pa.memory_map(str(p))).read_all() for p in parts]
        for table in found:
            # Arrow follows a wrong offset wherever it leads, and ends the process where lengths contradict each other.
            table.validate(full=True)
        return pa.concat_tables(found)


def _descend(table: Any, root: str, leaf: Leaf | None) -> Any:
    """The column ``root``, and within it the field that a leaf names, as one contiguous array."""
    import pyarrow as pa

    found = table[root].combine_chunks()
    found = pa.concat_arrays(found.chunks) if isinstance(found, pa.ChunkedArray) else found
    for key in leaf.keys if leaf else ():
        found = found.field(str(key))
    return found


def _arrow_value(found: Any, leaf: Leaf, jpeg: bool, count: int) -> np.ndarray:
    m = leaf.modality
    if m.kind == "text":
        return np.array(found.to_pylist()[:count], dtype=np.str_)
    if jpeg and leaf.jpeg:
        return _pictures(found.to_pylist()[:count])
    flat = found.flatten() if hasattr(found.type, "list_size") else found
    return flat.to_numpy(zero_copy_only=False)[: count * m.size].reshape(count, *m.shape)


def _pictures(codes: Any) -> np.ndarray:
    """JPEG texts to ``(N, H, W[, C])`` uint8; raises ValueError for anything else."""
    from PIL import Image

    def decode(code: Any) -> np.ndarray:
        # Left to itself, Pillow takes dozens of formats, some of which read other files or start programs.
        return np.array(Image.open(io.BytesIO(bytes(code)), formats=["JPEG", "PNG"]), np.uint8)

    try:
        return np.stack([decode(c) for c in codes])
    except Exception as e:  # Pillow's decoders raise many kinds; DecompressionBombError is none that others know.
        raise ValueError(f"a picture cannot be read: {why(e)}") from e


def reader(form: str, folder: Path, obs: list[Leaf], act: list[Leaf], jpeg: bool) -> Reader:
    """The reader of a dataset's ``data_format``; raises DataError for one that is unknown."""
    if form == "hdf5":
        return Hdf5Reader(folder, obs, act, jpeg)
    if form in ("arrow", "parquet"):
        return ArrowReader(folder, obs, act, jpeg, form)
    raise DataError(f"{folder}: written as '{form}'; hdf5, arrow and parquet can be read")
