"""Batches: one gather, nothing per sample in Python.

When the encoded data fit, they are one float table (and one integer table for codes) on the training device, a row a step.
A window of T rows is then T*F numbers in a piece, so a batch is a block copy out of a strided view of the table. Data too
large for that stay memory-mapped, and each batch is cut from the mapped columns and encoded on its way.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from seqrl.core.stream import StreamBatch
from seqrl.data.dataset import Dataset
from seqrl.data.returns import delayed_rewards, returns_to_go
from seqrl.data.slots import COMPUTED
from seqrl.data.store import Store
from seqrl.data.tokenizer import Tokenizer
from seqrl.data.windows import Starts, Windows

_BLOCK = 262_144
"""Rows encoded at a time while the tables are made."""


def store_columns(dataset: Dataset, i: int, names: set[str]) -> dict[str, np.ndarray]:
    """The raw fields of store ``i``, each ``(rows, *shape)``; computed ones included."""
    store: Store = dataset.stores[i]
    reward = store.column("reward")
    if dataset.config.delayed:
        reward = delayed_rewards(reward, store.episodes)
    made: dict[str, Callable[[], np.ndarray]] = {
        "return": lambda: returns_to_go(reward, store.episodes, dataset.config.discount),
        "reward": lambda: reward,
        "done": lambda: store.column("terminated").astype(np.int64),
    }
    place = {n: f"obs.{n}" for n in dataset.spec.obs} | {n: f"act.{n}" for n in dataset.spec.act}
    return {n: made[n]() if n in COMPUTED else store.column(place[n]) for n in sorted(names)}


def fit(tokenizer: Tokenizer, dataset: Dataset, most: int = 2_000_000) -> None:
    """Fits the tokenizer on the training episodes' real steps (evenly thinned beyond ``most`` steps)."""
    names = {f for s in tokenizer.slots.values() for f in s.fields}
    stride = max(1, -(-dataset.steps // most))
    parts: list[dict[str, np.ndarray]] = []
    for i in range(len(dataset.stores)):
        here = dataset.train.pick(dataset.train.store == i)
        first = np.repeat(here.row - dataset.first_row[i], here.length)
        inner = np.arange(len(first)) - np.repeat(np.cumsum(here.length) - here.length, here.length)
        rows = (first + inner)[::stride]
        parts.append({n: c[rows] for n, c in store_columns(dataset, i, names).items()})
    columns = {n: np.concatenate([p[n] for p in parts]) for n in names}
    config = dataset.config
    tokenizer.fit(columns, asked_returns(dataset), config.discount, config.delayed)


def asked_returns(dataset: Dataset) -> np.ndarray:
    """``(episodes,)`` float64: the return-to-go at the first step of each training episode, which is what an agent is asked.

    Without a discount these are the returns themselves; so they are with delayed rewards, where an agent spends nothing.
    """
    train = dataset.train
    if dataset.config.discount == 1.0 or dataset.config.delayed:
        return train.total
    asked = np.empty(len(train))
    for i in range(len(dataset.stores)):
        here = train.store == i
        asked[here] = store_columns(dataset, i, {"return"})["return"][train.row[here] - dataset.first_row[i]]
    return asked


class Loader:
    """Serves StreamBatches of the training windows, and of fixed validation windows."""

    def __init__(self, dataset: Dataset, tokenizer: Tokenizer, device: Any = "cpu", budget: float | None = None) -> None:
        """
        Args:
            device: where batches are made; the tables live there when they fit.
            budget: bytes the tables may take; None allows half of the memory that is free on ``device``.
        """
        self.dataset, self.tokenizer, self.device = dataset, tokenizer, torch.device(device)
        self.context = tokenizer.context
        self.train = Windows(dataset.train, self.context)
        self.held_out = Windows(dataset.held_out, self.context) if len(dataset.held_out) else None
        self._codecs = {n: s.codec for n, s in tokenizer.slots.items()}
        self._spans = {True: self._lay_out(True), False: self._lay_out(False)}
        names = {f for s in tokenizer.slots.values() for f in s.fields}
        self._columns = [store_columns(dataset, i, names) for i in range(len(dataset.stores))]
        need = sum(c.width * (4 if c.continuous else 8) for c in self._codecs.values()) * int(dataset.first_row[-1])
        self.resident = need <= (_free_memory(self.device) / 2 if budget is None else budget)
        self._tables = {c: self._table(c) for c in (True, False)} if self.resident else {}

    def _lay_out(self, continuous: bool) -> dict[str, tuple[int, int]]:
        """slot -> its span of columns in the table of continuous slots, or of codes."""
        spans, at = {}, 0
        for name, codec in self._codecs.items():
            if codec.continuous == continuous:
                spans[name] = (at, at + codec.width)
                at += codec.width
        return spans

    def _table(self, continuous: bool) -> torch.Tensor | None:
        spans = self._spans[continuous]
        if not spans:
            return None
        # A window near the very end reads past the last row: give it rows to read. They are padding, and never counted.
        rows = int(self.dataset.first_row[-1]) + self.context
        table = np.zeros((rows, max(end for _, end in spans.values())), np.float32 if continuous else np.int64)
        for i, columns in enumerate(self._columns):
            # An episode's last row holds no action, and a zero need not be one: let it repeat the row before.
            episodes, rows_here = self.dataset.stores[i].episodes, np.arange(self.dataset.stores[i].rows)
            rows_here[(episodes.row + episodes.length)[episodes.length > 0]] -= 1
            first = int(self.dataset.first_row[i])
            for name, (start, end) in spans.items():
                fields = self.tokenizer.slots[name].fields
                acted = any(f in self.dataset.spec.act for f in fields)
                # In blocks, for codecs compute in float64: a whole column of that may not fit beside the table.
                for at in range(0, len(rows_here), _BLOCK):
                    rows_in = rows_here[at : at + _BLOCK] if acted else slice(at, at + _BLOCK)
                    part = self.tokenizer.encode_slot(name, {f: columns[f][rows_in] for f in fields})
                    table[first + at : first + at + len(part), start:end] = part
        return torch.from_numpy(table).to(self.device)

    def _send(self, starts: Starts) -> tuple[torch.Tensor, ...]:
        """Row, time and length of each window on the device, ``(B,)`` int64 each."""
        facts = (starts.row, starts.time, starts.length)
        if self.device.type != "cuda":
            return tuple(torch.from_numpy(f).to(self.device) for f in facts)
        # One copy from pinned memory, which the device takes when it comes to it: three from ordinary memory wait for it.
        return torch.from_numpy(np.stack(facts)).pin_memory().to(self.device, non_blocking=True).unbind(0)

    def _gather(self, row: torch.Tensor) -> dict[str, torch.Tensor]:
        B, T = len(row), self.context
        values = {}
        for continuous, table in self._tables.items():
            if table is not None:
                F = table.shape[1]
                view = table.as_strided((len(table) - T + 1, T * F), (F, 1))
                block = view.index_select(0, row).view(B, T, F)
                values |= {n: block[..., a:b] for n, (a, b) in self._spans[continuous].items()}
        return values

    def _read(self, starts: Starts) -> dict[str, torch.Tensor]:
        """The same from the memory-mapped columns; padding repeats the last row that exists."""
        B, T = len(starts.row), self.context
        store = np.searchsorted(self.dataset.first_row, starts.row, side="right") - 1
        rows = starts.row[:, None] + np.minimum(np.arange(T), starts.length[:, None] - 1)
        made: dict[str, np.ndarray] = {}
        for i in np.unique(store):
            here = np.flatnonzero(store == i)
            flat = (rows[here] - self.dataset.first_row[i]).ravel()
            # Where nothing need be checked, as all rows exist, taking costs an eighth of indexing.
            columns = {n: c.take(flat, axis=0, mode="clip") for n, c in self._columns[i].items()}
            for name, codec in self._codecs.items():
                part = self.tokenizer.encode_slot(name, columns).reshape(-1, T, codec.width)
                if len(here) == B:
                    made[name] = part
                else:
                    made.setdefault(name, np.empty((B, T, codec.width), part.dtype))[here] = part
        return {n: torch.from_numpy(v).to(self.device) for n, v in made.items()}

    def batch(self, starts: Starts) -> StreamBatch:
        """The StreamBatch of drawn windows, on the loader's device."""
        row, first, length = self._send(starts)
        values: Mapping[str, torch.Tensor] = self._gather(row) if self.resident else self._read(starts)
        return StreamBatch(values, first[:, None] + torch.arange(self.context, device=self.device), length)

    def draw(self, seed: int, step: int, rows: int, rank: int = 0, world: int = 1) -> StreamBatch:
        """The training batch of a step: a pure function of its arguments."""
        return self.batch(self.train.draw(seed, step, rows, rank, world))


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
