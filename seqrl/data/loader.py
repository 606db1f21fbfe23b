"""Batches of windows: one gather, nothing per sample in Python. (data/packing.py makes those of packed rows.)"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from seqrl.core.stream import StreamBatch
from seqrl.data.columns import last_rows
from seqrl.data.dataset import Dataset
from seqrl.data.slots import SlotCodec
from seqrl.data.tables import Tables, store_columns
from seqrl.data.tokenizer import Tokenizer, take_fields
from seqrl.data.windows import Starts, Windows

SAMPLE = 1 << 18
"""Steps that means are learned from where there are more than ``most``: each is then known to a 500th of a deviation."""


def fit(tokenizer: Tokenizer, dataset: Dataset, most: int = 2_000_000) -> None:
    """Fits the tokenizer on the training episodes' real steps: all of them, or an even sample where there are too many.

    A sample is of ``most`` steps at most, and smaller where means alone are learned. Of texts it then is every one there is: a
    codec must know the longest.
    """
    names = {f for s in tokenizer.slots.values() for f in s.fields}
    strides = {n: _stride(dataset.steps, s, most) for n, s in tokenizer.slots.items()}
    parts: list[dict[str, dict[str, np.ndarray]]] = []
    for i in range(len(dataset.stores)):
        here = dataset.train.pick(dataset.train.store == i)
        columns, last = store_columns(dataset, i, names), last_rows(dataset.stores[i])
        seen = {k: _every(k, here.row - dataset.first_row[i], here.length) for k in set(strides.values())}
        part = {}
        for n, s in tokenizer.slots.items():
            if s.modality.kind == "text" and strides[n] > 1:
                part[n] = {s.fields[0]: columns[s.fields[0]].all()}
                continue
            rows = seen[strides[n]]
            rows = rows[_worth_seeing(s, columns, rows)]
            part[n] = take_fields(s, columns, rows, last[rows])
        parts.append(part)
    columns = {n: {f: _joined([p[n][f] for p in parts]) for f in s.fields} for n, s in tokenizer.slots.items()}
    config = dataset.config
    told = {n: getattr(config, n) for n in ("discount", "delayed", "termination_penalty")}
    tokenizer.fit(columns, asked_returns(dataset), **told)


def _stride(steps: int, slot: SlotCodec, most: int) -> int:
    """One step in how many the codec of a slot sees."""
    if steps <= most:
        return 1
    return -(-steps // (min(SAMPLE, most) if getattr(slot.codec, "learns", "all") == "means" else most))


def _every(stride: int, row: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Every so many of the rows of episodes that begin at ``row`` and have ``length`` steps, ``(N,)``."""
    until = np.cumsum(length)
    step = np.arange(0, int(until[-1]) if len(until) else 0, stride)
    episode = np.searchsorted(until, step, side="right")
    return row[episode] + step - (until - length)[episode]


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _worth_seeing(slot: SlotCodec, columns: Mapping[str, Any], rows: np.ndarray) -> Any:
    """Which of ``rows`` a codec learns from: a picture has nothing to teach, and a text teaches once. The others see all.

    Pictures of all steps would fill any memory.
    """
    if not getattr(slot.codec, "fits", True):
        return slice(0, 1)
    if slot.modality.kind == "text":
        return np.sort(np.unique(columns[slot.fields[0]].numbers(rows), return_index=True)[1])
    return slice(None)


def asked_returns(dataset: Dataset) -> np.ndarray:
    """``(episodes,)`` float64: the return-to-go at the first step of each training episode, which is what an agent is asked.

    Without a discount these are the returns themselves; so they are with delayed rewards, where an agent spends nothing.
    """
    train = dataset.train
    config = dataset.config
    if config.discount == 1.0 and not config.termination_penalty:
        return train.total
    asked = np.empty(len(train))
    for i in range(len(dataset.stores)):
        here = train.store == i
        asked[here] = store_columns(dataset, i, {"return"})["return"][train.row[here] - dataset.first_row[i]]
    return asked


class Loader:
    """Serves StreamBatches of the training windows, and of fixed validation windows."""

    def __init__(
        self,
        dataset: Dataset,
        tokenizer: Tokenizer,
        device: Any = "cpu",
        budget: float | None = None,
        ahead: bool = False,
    ) -> None:
        """
        Args:
            device: where batches are made; the tables live there when they fit.
            budget: bytes the tables may take; None allows half of the memory that is free on ``device``.
            ahead: batches hold one step more than the context, for the observation after the last action.
        """
        self.dataset, self.tokenizer, self.device = dataset, tokenizer, torch.device(device)
        self.context = tokenizer.context
        self.rows, self.ahead = self.context + ahead, int(ahead)
        full = tokenizer.config.windows == "full"
        self.train = Windows(dataset.train, self.context, full)
        self.held_out = Windows(dataset.held_out, self.context, full) if len(dataset.held_out) else None
        self.tables = Tables(dataset, tokenizer, device, budget)

    def _send(self, starts: Starts) -> tuple[torch.Tensor, ...]:
        """Row, time and length of each window on the device, ``(B,)`` int64 each."""
        facts = (starts.row, starts.time, starts.length)
        if self.device.type != "cuda":
            return tuple(torch.from_numpy(f).to(self.device) for f in facts)
        # One copy from pinned memory, which the device takes when it comes to it: three from ordinary memory wait for it.
        return torch.from_numpy(np.stack(facts)).pin_memory().to(self.device, non_blocking=True).unbind(0)

    def _read(self, starts: Starts) -> dict[str, torch.Tensor]:
        """The windows from the memory-mapped columns; padding repeats the last row that exists."""
        rows = starts.row[:, None] + np.minimum(np.arange(self.rows), starts.length[:, None] - 1 + self.ahead)
        made = self.tables.read(rows, set(self.tables.codecs))
        return {n: torch.from_numpy(v).to(self.device) for n, v in made.items()}

    def batch(self, starts: Starts) -> StreamBatch:
        """The StreamBatch of drawn windows, on the loader's device."""
        row, first, length = self._send(starts)
        values: Mapping[str, torch.Tensor] = self.tables.windows(row, self.rows) if self.tables.resident else self._read(starts)
        return StreamBatch(values, first[:, None] + torch.arange(self.rows, device=self.device), length)

    def draw(self, seed: int, step: int, rows: int, rank: int = 0, world: int = 1) -> StreamBatch:
        """The training batch of a step: a pure function of its arguments."""
        return self.batch(self.train.draw(seed, step, rows, rank, world))

    def validation(self, windows: int, batch: int) -> Iterator[StreamBatch]:
        """``windows`` fixed windows of the held-out episodes, ``batch`` at a time; none where nothing is held out."""
        if self.held_out is None:
            return
        starts = self.held_out.spread(windows)
        for i in range(0, windows, batch):
            yield self.batch(type(starts)(*(getattr(starts, f)[i : i + batch] for f in starts.__dataclass_fields__)))
