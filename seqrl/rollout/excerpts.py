"""Excerpts of real episodes: some observed steps a dream begins with, and what really came after them.

An excerpt is an address until it is read. Its context is C observations; the action at the last of them is the first that is
imagined, so step h of a dream is compared with the observation h rows further, and with what followed the row before that. An
excerpt ends with its episode, or after H steps: rows behind that repeat the last real one and are masked.

N or B excerpts, C observed steps, H steps after them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from seqrl.core.errors import DataError
from seqrl.data.dataset import Dataset
from seqrl.data.tables import Tables, store_columns
from seqrl.data.tokenizer import Tokenizer


@dataclass(frozen=True)
class Places:
    """Where excerpts lie; every array is ``(N,)`` int64.

    Args:
        row: first observed row. last: the last row of the episode. time: the step of ``row`` within it.
        length: steps that really followed the context, at least 1 and at most H. horizon: H. context: C.
    """

    row: np.ndarray
    last: np.ndarray
    time: np.ndarray
    length: np.ndarray
    context: int
    horizon: int

    def __len__(self) -> int:
        return len(self.row)

    def pick(self, which: Any) -> "Places":
        return Places(*(getattr(self, n)[which] for n in ("row", "last", "time", "length")), self.context, self.horizon)

    @property
    def rows(self) -> np.ndarray:
        """``(N, C + H)``: the rows from the first observed one on."""
        return np.minimum(self.row[:, None] + np.arange(self.context + self.horizon), self.last[:, None])

    @property
    def mask(self) -> np.ndarray:
        """``(N, H)`` bool: which steps really happened."""
        return np.arange(self.horizon) < self.length[:, None]


@dataclass(frozen=True)
class Excerpt:
    """B excerpts, read.

    Args:
        front: slot -> ``[B, width]``. seen: observed slot -> ``[B, C + H, width]``. action: ``[B, C + H, A]``, encoded.
        reward: ``(B, H)`` float64. done: ``(B, H)`` bool, ended for good. mask: ``(B, H)`` bool, really happened.
    """

    front: Mapping[str, torch.Tensor]
    seen: Mapping[str, torch.Tensor]
    action: torch.Tensor
    reward: np.ndarray
    done: np.ndarray
    mask: np.ndarray

    def context(self, C: int) -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
        """What a dream begins with: slot -> ``[B, C, width]``, the action that led to each ``[B, C, A]`` (the first means
        nothing), and the actions to imagine ``[B, H, A]``."""
        before = torch.cat((torch.zeros_like(self.action[:, :1]), self.action[:, : C - 1]), 1)
        return {n: v[:, :C] for n, v in self.seen.items()}, before, self.action[:, C - 1 : -1]


class Excerpts:
    """The excerpts of some of a dataset's episodes."""

    def __init__(self, dataset: Dataset, tokenizer: Tokenizer, bridge: Any, held_out: bool = True) -> None:
        """
        Args:
            bridge: of the world that reads them (``rollout.worlds.Bridge``): which slots, and on which device.
            held_out: from episodes kept aside, and not from those it was trained on.

        Raises:
            DataError: no episodes were kept aside.
        """
        self.dataset, self.tokenizer, self.bridge = dataset, tokenizer, bridge
        self.episodes = dataset.held_out if held_out else dataset.train
        if not len(self.episodes):
            raise DataError(
                f"{dataset.spec.id}: no episodes were held out of training, so there is nothing a dream could be compared "
                "with; train with data.held_out=0.1"
            )
        self.tables = Tables(dataset, tokenizer, bridge.device, budget=0)
        self._answers = [store_columns(dataset, i, {"reward", "done"}) for i in range(len(dataset.stores))]

    @property
    def longest(self) -> int:
        """Steps of the longest of these episodes."""
        return int(self.episodes.length.max())

    def places(self, count: int, context: int, horizon: int, seed: int = 0, exactly: bool = False) -> Places:
        """``count`` excerpts spread evenly over all steps they can begin at (all of them where there are not so many).

        Args:
            seed: moves each a little.
            exactly: just so many, drawn one by one, and in no order.

        Raises:
            DataError: no episode is as long as the context.
        """
        e = self.episodes
        room = np.maximum(e.length - context + 1, 0)
        total = int(room.sum())
        if not total:
            raise DataError(
                f"{self.dataset.spec.id}: the longest held-out episode has {self.longest} steps, and {context} are to be "
                f"observed first; lower the context (--context, evaluate.dream.context) to {self.longest} or less"
            )
        rng = np.random.default_rng(seed)
        if exactly:
            mass = rng.integers(total, size=count)
        else:
            noise = rng.random(min(count, total))
            mass = np.unique(((np.arange(len(noise)) + noise) / len(noise) * total).astype(np.int64).clip(0, total - 1))
        episode = np.searchsorted(np.cumsum(room), mass, side="right")
        time = mass - (np.cumsum(room) - room)[episode]
        left = e.length[episode] - (time + context - 1)
        row = e.row[episode]
        return Places(row + time, row + e.length[episode], time, np.minimum(left, horizon), context, horizon)

    def read(self, places: Places) -> Excerpt:
        """The excerpts at some places."""
        rows, C = places.rows, places.context
        # An action stands in the row it was done in, and there is none in an episode's last.
        acted = np.minimum(rows, places.last[:, None] - 1)
        tensor = self.bridge.tensor
        values = {n: tensor(v) for n, v in self.tables.read(rows, set(self.bridge.seen)).items()}
        action = tensor(self.tables.read(acted, {"action"})["action"])
        front = {n: tensor(v) for n, v in self.tables.read(rows[:, 0], set(self.bridge.front)).items()}
        followed = rows[:, C - 1 : -1]
        reward, done = (self._answer(n, followed) for n in ("reward", "done"))
        mask = places.mask
        return Excerpt(front, values, action, np.where(mask, reward, 0.0), done.astype(bool) & mask, mask)

    def _answer(self, name: str, rows: np.ndarray) -> np.ndarray:
        return self._cut(rows, lambda i: self._answers[i][name]).astype(np.float64)

    def rewards(self, episodes: Any) -> np.ndarray:
        """``(steps,)`` every reward of some episodes (a ``Selection``)."""
        first = np.repeat(episodes.row, episodes.length)
        inner = np.arange(len(first)) - np.repeat(np.cumsum(episodes.length) - episodes.length, episodes.length)
        return self._answer("reward", first + inner)

    def raw(self, field: str, rows: np.ndarray) -> np.ndarray:
        """An observation as the world gave it, at rows of any shape: ``(*rows.shape, *shape)``."""
        m = self.dataset.spec.obs[field]
        if m.kind == "text":
            return self._cut(rows, lambda i: _Texts(self.dataset.stores[i], f"obs.{field}"))
        return self._cut(rows, lambda i: self.dataset.stores[i].column(f"obs.{field}")).astype(m.dtype, copy=False)

    def _cut(self, rows: np.ndarray, column: Any) -> np.ndarray:
        flat = rows.ravel()
        store = np.searchsorted(self.dataset.first_row, flat, side="right") - 1
        parts = {i: np.asarray(column(i)[flat[store == i] - self.dataset.first_row[i]]) for i in np.unique(store)}
        out = np.empty((len(flat), *next(iter(parts.values())).shape[1:]), next(iter(parts.values())).dtype)
        for i, part in parts.items():
            out[store == i] = part
        return out.reshape(*rows.shape, *out.shape[1:])


class _Texts:
    def __init__(self, store: Any, name: str) -> None:
        self.store, self.name = store, name

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        return self.store.text(self.name, rows).astype(object)
