"""Every row of a dataset, encoded: one table for each kind of number, on the training device where they fit.

Data too large for that stay memory-mapped, and what a batch asks for is cut from the mapped columns and encoded on its way.
A row is an observation with what followed it; an episode's last row has no action, so there the row before is repeated.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from seqrl.data.columns import Terms, done, last_rows, returns, rewards
from seqrl.data.dataset import Dataset
from seqrl.data.slots import COMPUTED
from seqrl.data.store import Store
from seqrl.data.tokenizer import Tokenizer, take_fields

_BLOCK = 262_144
"""Numbers encoded at a time while the tables are made, in rows of a few tens; fewer rows where they are pictures."""

_MOST = 2 << 30
"""Bytes of tables in this machine's memory, at most."""


class Texts:
    """A column of texts, which a store keeps as numbers: the texts at some rows are looked up when asked for."""

    def __init__(self, store: Store, name: str) -> None:
        self._store, self._name, self.shape = store, name, (store.rows,)

    def __len__(self) -> int:
        return self._store.rows

    def __getitem__(self, rows: Any) -> np.ndarray:
        return self._store.text(self._name, rows)

    def take(self, rows: np.ndarray, axis: int = 0, mode: str = "clip") -> np.ndarray:
        return self._store.text(self._name, rows)

    def all(self) -> np.ndarray:
        """``(K,)`` every text of the column, once."""
        return self._store.texts(self._name)

    def numbers(self, rows: np.ndarray) -> np.ndarray:
        """``(N,)``: which text stands at each row, as a number."""
        return self._store.column(self._name)[rows]


class Rows:
    """A column that is the same everywhere."""

    def __init__(self, rows: int) -> None:
        self.shape = (rows,)

    def __getitem__(self, rows: Any) -> np.ndarray:
        return np.zeros(np.shape(rows) if isinstance(rows, np.ndarray) else len(range(*rows.indices(self.shape[0]))), np.int64)

    def take(self, rows: np.ndarray, axis: int = 0, mode: str = "clip") -> np.ndarray:
        return np.zeros(np.shape(rows), np.int64)


def store_columns(dataset: Dataset, i: int, names: set[str]) -> dict[str, Any]:
    """The raw fields of store ``i``, each ``(rows, *shape)``; computed ones included."""
    store: Store = dataset.stores[i]
    config = dataset.config
    terms = Terms(config.discount, config.termination_penalty, config.delayed)
    made: dict[str, Callable[[], Any]] = {
        "return": lambda: returns(store, terms),
        "reward": lambda: rewards(store, terms),
        "done": lambda: done(store),
        "separator": lambda: Rows(store.rows),
    }
    spec = dataset.spec
    place = {n: f"obs.{n}" for n in spec.obs} | {n: f"act.{n}" for n in spec.act}
    texts = {n for n, m in {**spec.obs, **spec.act}.items() if m.kind == "text"}

    def column(n: str) -> Any:
        return made[n]() if n in COMPUTED else Texts(store, place[n]) if n in texts else store.column(place[n])

    return {n: column(n) for n in sorted(names)}


class Tables:
    """The encoded rows of one dataset, numbered through all its stores."""

    def __init__(self, dataset: Dataset, tokenizer: Tokenizer, device: Any = "cpu", budget: float | None = None) -> None:
        """
        Args:
            device: where the tables live when they fit.
            budget: bytes they may take; None allows half of the memory that is free on ``device``, and in this machine's
                memory two GiB at most: to make larger ones would take minutes, and others want memory as well.
        """
        self.dataset, self.tokenizer, self.device = dataset, tokenizer, torch.device(device)
        self.codecs = {n: s.codec for n, s in tokenizer.slots.items()}
        self.spans = {dtype: self._lay_out(dtype) for dtype in dict.fromkeys(c.dtype for c in self.codecs.values())}
        names = {f for s in tokenizer.slots.values() for f in s.fields}
        self._columns = [store_columns(dataset, i, names) for i in range(len(dataset.stores))]
        self._last = [last_rows(s) for s in dataset.stores]
        need = sum(c.width * np.dtype(c.dtype).itemsize for c in self.codecs.values()) * int(dataset.first_row[-1])
        self.resident = need <= (self._room() if budget is None else budget)
        self.tables = {d: self._table(d) for d in self.spans} if self.resident else {}

    def _room(self) -> float:
        room = _free_memory(self.device) / 2
        return room if self.device.type == "cuda" else min(room, _MOST)

    def _lay_out(self, dtype: str) -> dict[str, tuple[int, int]]:
        """slot -> its span of columns in the table of a dtype."""
        spans, at = {}, 0
        for name, codec in self.codecs.items():
            if codec.dtype == dtype:
                spans[name] = (at, at + codec.width)
                at += codec.width
        return spans

    def _encode(self, name: str, i: int, rows: np.ndarray, last: np.ndarray) -> np.ndarray:
        """Slot ``name`` at rows of store ``i``, whose episodes act for the last time in the rows ``last``."""
        slot = self.tokenizer.slots[name]
        # An episode's last row holds no action, and a zero need not be one: let it repeat the row before.
        acted = any(f in self.dataset.spec.act for f in slot.fields)
        return self.tokenizer.encode_slot(
            name, take_fields(slot, self._columns[i], np.minimum(rows, last) if acted else rows, last)
        )

    def _table(self, dtype: str) -> torch.Tensor:
        spans = self.spans[dtype]
        # A window near the very end reads past the last row: give it rows to read. They are padding, and never counted.
        rows = int(self.dataset.first_row[-1]) + (0 if self.tokenizer.packed else self.tokenizer.context)
        width = max(end for _, end in spans.values())
        table = torch.zeros((rows, width), dtype=getattr(torch, dtype), device=self.device)
        block = max(1, _BLOCK * 32 // max(width, 32))
        for i, store in enumerate(self.dataset.stores):
            first = int(self.dataset.first_row[i])
            for name, (start, end) in spans.items():
                # In blocks, for codecs compute in float64: a whole column of that may not fit beside the table.
                for at in range(0, store.rows, block):
                    here = np.arange(at, min(at + block, store.rows))
                    part = self._encode(name, i, here, self._last[i][here])
                    table[first + at : first + at + len(part), start:end] = torch.from_numpy(part)
        return table

    def windows(self, row: torch.Tensor, steps: int) -> dict[str, torch.Tensor]:
        """slot -> ``[B, steps, width]`` of the rows from ``row [B]`` on; only where the tables are resident.

        A window of T rows is T*F numbers in a piece, so this is a block copy out of a strided view of the table.
        """
        values = {}
        for dtype, table in self.tables.items():
            F = table.shape[1]
            view = table.as_strided((len(table) - steps + 1, steps * F), (F, 1))
            block = view.index_select(0, row).view(len(row), steps, F)
            values |= {n: block[..., a:b] for n, (a, b) in self.spans[dtype].items()}
        return values

    def rows(self, row: np.ndarray, slots: set[str]) -> dict[str, torch.Tensor]:
        """slot -> ``[S, width]`` at the rows ``row (S,)``."""
        if not self.resident:
            made = self.read(row, slots)
            return {n: torch.from_numpy(v).to(self.device) for n, v in made.items()}
        at, values = torch.from_numpy(np.ascontiguousarray(row)).to(self.device), {}
        for dtype, spans in self.spans.items():
            wanted = {n: span for n, span in spans.items() if n in slots}
            if wanted:
                low, high = min(a for a, _ in wanted.values()), max(b for _, b in wanted.values())
                block = self.tables[dtype][:, low:high].index_select(0, at)
                values |= {n: block[:, a - low : b - low] for n, (a, b) in wanted.items()}
        return values

    def read(self, row: np.ndarray, slots: set[str]) -> dict[str, np.ndarray]:
        """The same from the memory-mapped columns, ``row`` of any shape: slot -> ``(*row.shape, width)``."""
        flat = row.ravel()
        store = np.searchsorted(self.dataset.first_row, flat, side="right") - 1
        made: dict[str, np.ndarray] = {}
        for i in np.unique(store):
            here = np.flatnonzero(store == i)
            rows = flat[here] - self.dataset.first_row[i]
            last = self._last[i][rows]
            for name in slots:
                part = self._encode(name, i, rows, last)
                if len(here) == len(flat):
                    made[name] = part
                else:
                    made.setdefault(name, np.empty((len(flat), part.shape[1]), part.dtype))[here] = part
        return {n: v.reshape(*row.shape, v.shape[1]) for n, v in made.items()}


def _free_memory(device: torch.device) -> float:
    """Bytes free on a device, or in this machine."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        with open("/proc/meminfo", encoding="ascii") as f:
            kib = next(int(line.split()[1]) for line in f if line.startswith("MemAvailable"))
        return kib * 1024.0
    except (OSError, StopIteration):
        return 4 * 2.0**30
