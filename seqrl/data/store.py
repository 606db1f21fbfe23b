"""The store: episodes as flat, memory-mapped columns that are shared by every reader and cost nothing to open.

A row is an observation, with the action, reward and end flags that followed it; an episode of T steps is T + 1 consecutive
rows, of which the last has zeros where nothing followed. All rows are one Arrow record batch, so a column is a plain numpy
view of the file (and the file a valid ``datasets.Dataset``). A source is converted once, into a folder of the cache that is
named by the content of the source.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from seqrl.core.contracts import Source
from seqrl.core.episode import Episode, EpisodeSpec
from seqrl.core.errors import DataError
from seqrl.data.convert import EPISODES, FACTS, FORMAT, STEPS, TEXTS, columns, convert, read_about
from seqrl.sources._files import Progress, cache_home, one_at_a_time, why

__all__ = ["Episodes", "Progress", "Store", "prepare"]


@dataclass(frozen=True)
class Episodes:
    """The episodes of a store; every array has one entry an episode.

    Args:
        row: first row, int64. length: steps T, int64. total: undiscounted return, float64.
        terminated: whether the last step ended the episode for good, bool.
        seed: the seed it was made with, int64, -1 where unknown. index: its number within the source, int64.
    """

    row: np.ndarray
    length: np.ndarray
    total: np.ndarray
    terminated: np.ndarray
    seed: np.ndarray
    index: np.ndarray

    def __len__(self) -> int:
        return len(self.row)


class Store:
    """A converted source, memory-mapped. Safe to open in any number of processes; pickles as its path."""

    def __init__(self, path: str | Path) -> None:
        """Raises DataError where the folder holds no whole store."""
        self.path = Path(path)
        about = read_about(self.path)
        if about.get("format") != FORMAT:
            raise DataError(f"{self.path}: written as format {about.get('format')}, this seqrl reads {FORMAT}; convert again")
        try:
            self.spec = EpisodeSpec.from_json(about["spec"])
            self.steps, self.rows = int(about["steps"]), int(about["rows"])
            self.fingerprint = str(about["fingerprint"])
            self._layout = columns(self.spec)
            kinds = {n: _arrow(*kind) for n, kind in self._layout.items()}
            self._batch, table = self._map(STEPS, kinds), self._map(EPISODES, FACTS)
            disk = {"total": "float64", "terminated": "bool"}
            facts = {n: _view(table[n], disk.get(n, "int64"), ()) for n in Episodes.__dataclass_fields__}
            self.episodes, self._infos = Episodes(**facts), table["info"]
            # Rows are found by these numbers, so they must be those of one episode behind the other.
            begin, after = np.append(facts["row"], self.rows), np.append(0, facts["row"] + facts["length"] + 1)
            if self._batch.num_rows != self.rows or (facts["length"] < 0).any() or not np.array_equal(begin, after):
                raise ValueError("its episodes are not its rows")
        except DataError as e:
            raise e if str(self.path) in str(e) else DataError(f"{self.path}: {e}") from e
        except Exception as e:
            # What stands in a file that is not ours can be wrong in any way there is.
            raise DataError(f"{self.path}: not a store, or a broken one ({type(e).__name__}: {why(e)})") from e

    def _map(self, name: str, kinds: Mapping[str, pa.DataType]) -> pa.RecordBatch:
        with pa.ipc.open_stream(pa.memory_map(str(self.path / name))) as stream:
            batch = stream.read_next_batch()
        if batch.schema.names != list(kinds) or batch.schema.types != list(kinds.values()) or any(a.offset for a in batch):
            raise DataError(f"{self.path / name}: not a store, or a broken one (other columns than its spec says)")
        batch.validate()
        return batch

    def __reduce__(self) -> tuple[Any, ...]:
        return Store, (self.path,)

    def __len__(self) -> int:
        return len(self.episodes)

    @property
    def names(self) -> tuple[str, ...]:
        """The columns there are."""
        return tuple(self._layout)

    def column(self, name: str) -> np.ndarray:
        """A read-only view ``(rows, *shape)`` of the file; nothing is read before it is looked at.

        Names are ``obs.<name>``, ``act.<name>``, ``reward``, ``terminated``, ``truncated`` (uint8) and ``episode`` (int32). A
        text column holds the int32 numbers of its texts, see ``text``.

        Raises:
            DataError: there is no such column.
        """
        if name not in self._layout:
            raise DataError(f"{self.spec.id}: there is no column '{name}'; there are {', '.join(self._layout)}")
        return _view(self._batch[name], *self._layout[name])

    @cached_property
    def _texts(self) -> dict[str, np.ndarray]:
        try:
            raw = json.loads((self.path / TEXTS).read_text(encoding="utf-8"))
            return {name: np.array(words, np.str_).reshape(len(words)) for name, words in raw.items()}
        except (OSError, ValueError, TypeError, AttributeError, RecursionError) as e:
            raise DataError(f"{self.path / TEXTS}: broken ({why(e)}); convert again") from e

    def texts(self, name: str) -> np.ndarray:
        """``(K,)`` str: every text of column ``name``, once; the numbers in the column count them."""
        if name not in self._texts:
            raise DataError(f"{self.spec.id}: '{name}' is no text column; there are {', '.join(self._texts) or 'none'}")
        return self._texts[name]

    def text(self, name: str, rows: Any) -> np.ndarray:
        """The texts of column ``name`` at ``rows`` (numbers, a slice or a mask), as an array of str."""
        try:
            return self.texts(name)[self.column(name)[rows]]
        except IndexError as e:
            raise DataError(f"{self.path}: a broken store ({name} names texts that are not there); convert again") from e

    def episode(self, i: int) -> Episode:
        """Episode ``i`` exactly as the source gave it; its arrays are views of the file."""
        row, T = int(self.episodes.row[i]), int(self.episodes.length[i])
        obs = {n: self._values(f"obs.{n}", m.dtype, row, T + 1) for n, m in self.spec.obs.items()}
        act = {n: self._values(f"act.{n}", m.dtype, row, T) for n, m in self.spec.act.items()}
        rest = [self._values(n, d, row, T) for n, d in (("reward", "float32"), ("terminated", "bool"), ("truncated", "bool"))]
        return Episode(obs, act, *rest, int(self.episodes.index[i]), self._info(i))

    def _info(self, i: int) -> dict[str, Any]:
        try:
            one = self._infos.slice(i, 1)
            # A wrong offset would be followed wherever it leads.
            one.validate(full=True)
            return dict(json.loads(one[0].as_py()))
        except (pa.ArrowException, ValueError, TypeError, RecursionError) as e:
            raise DataError(f"{self.path / EPISODES}: broken at episode {i} ({why(e)}); convert again") from e

    def _values(self, name: str, dtype: str, row: int, count: int) -> np.ndarray:
        if dtype == "str":
            return self.text(name, slice(row, row + count))
        return self.column(name)[row : row + count].view(dtype)


def _arrow(dtype: str, shape: tuple[int, ...]) -> pa.DataType:
    """The Arrow type of a column's values."""
    kind = pa.from_numpy_dtype(np.dtype(dtype))
    return kind if shape == () else pa.list_(kind, int(np.prod(shape, dtype=np.int64)))


def _view(array: pa.Array, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """An Arrow array as numpy sees it, ``(len(array), *shape)``. Arrow's own ``to_numpy`` imports pandas, half a second."""
    content = array.buffers()[-1]
    count = len(array) * int(np.prod(shape, dtype=np.int64))
    flat = np.frombuffer(content, dtype, count) if count else np.empty(0, dtype)
    return flat.reshape(len(array), *shape)


def prepare(source: Source, progress: Progress | None = None) -> Store:
    """The store of a source: opened where it is in the cache already, converted first where not.

    Args:
        progress: ``progress(done, total)`` in episodes; called only while converting.

    Raises:
        DataError: what the data are accused of, or that the cache cannot be written. A conversion that was stopped by anything
            but the data goes on where it was when it is asked for again.
    """
    fingerprint = source.fingerprint()
    name = hashlib.sha256(f"{FORMAT}:{fingerprint}".encode()).hexdigest()[:32]
    path = cache_home() / "stores" / name
    found = _open(path)
    if found is None:
        with one_at_a_time(path):
            # Another process may have been converting while this one waited.
            found = _open(path)
            if found is None:
                convert(source, path, fingerprint, progress)
                found = Store(path)
        # What a source brought here only to be converted.
        getattr(source, "close", lambda: None)()
    return found


def _open(path: Path) -> Store | None:
    """The store at ``path``, or None where there is none or a broken one (which is then made anew)."""
    try:
        return Store(path) if path.is_dir() else None
    except DataError:
        return None
