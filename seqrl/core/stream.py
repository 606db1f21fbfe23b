"""Tokenised trajectories: one as a ``Stream`` with all its tracks written out, many as the rows of a ``StreamBatch``.

A row of a ``StreamBatch`` is always right-padded: with causal attention no real token ever sees padding, so no padding mask
is needed anywhere but in the losses. Where every row has the same fixed layout, as in a Decision Transformer, the integer
tracks are the same for all rows and follow from the layout, so they are not stored: the batch holds what was gathered.

Letters: B rows, L tokens in a row, T environment steps, K codes of a slot per step.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from seqrl.core.layout import Layout

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Stream:
    """One tokenised trajectory, every token spelled out; for showing, packing and checking.

    Args:
        layout: the order of slots.
        values: slot -> ``(T, dim)`` float32 where the slot is continuous, ``(T, K)`` int64 codes otherwise.
        tracks: ``slot, time, part, pos`` of ``Layout.tracks`` ``target`` (1 where the token is trained) and ``readout`` (bit
            i: the i-th trained read-out is predicted here), each ``(L,)``.
        raw: slot -> ``(T, …)`` the value as the world gave it, to be read beside its codes.
    """

    layout: Layout
    values: Mapping[str, np.ndarray]
    tracks: Mapping[str, np.ndarray]
    raw: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.tracks["slot"])


@dataclass(frozen=True)
class StreamBatch:
    """B rows of T steps of one fixed layout, right-padded.

    For models that look ahead (world models) the tensors hold T + 1 steps: what comes after the last action is observed too,
    and in the step behind a row's last real one just the observations mean something.

    Args:
        values: slot -> ``[B, T, dim]`` float where the slot is continuous, ``[B, T, K]`` int64 codes otherwise. Padding
            holds real numbers (steps past the end repeat rows of the store), so that no NaN can hide under a mask.
        time: ``[B, T]`` int64, the environment step within its episode.
        length: ``[B]`` int64, real steps of each row, at least 1.
        target: slot -> what its head must answer, where that differs from ``values`` (set before a row is cut).
    """

    values: Mapping[str, "torch.Tensor"]
    time: "torch.Tensor"
    length: "torch.Tensor"
    target: Mapping[str, "torch.Tensor"] = field(default_factory=dict)

    @property
    def mask(self) -> "torch.Tensor":
        """``[B, T]`` bool, true on real steps."""
        import torch

        return torch.arange(self.time.shape[1], device=self.time.device) < self.length[:, None]

    @property
    def seen(self) -> "torch.Tensor":
        """``[B, T + 1]`` bool, true where there is an observation: one more than real steps. For models that look ahead."""
        import torch

        return torch.arange(self.time.shape[1], device=self.time.device) <= self.length[:, None]

    def wanted(self, slot: str) -> "torch.Tensor":
        """What the head of ``slot`` is trained on."""
        return self.target[slot] if slot in self.target else self.values[slot]

    def _map(self, fn: Any) -> "StreamBatch":
        each = {k: {n: fn(t) for n, t in getattr(self, k).items()} for k in ("values", "target")}
        return replace(self, time=fn(self.time), length=fn(self.length), **each)

    def to(self, device: Any) -> "StreamBatch":
        """The same batch on another device; tensors already there are not copied."""
        return self._map(lambda t: t.to(device, non_blocking=True))

    def split(self, pieces: int) -> "list[StreamBatch]":
        """The rows dealt out to ``pieces`` batches of equally many."""
        return [self] if pieces == 1 else [self[i::pieces] for i in range(pieces)]

    def __getitem__(self, rows: Any) -> "StreamBatch":
        """A batch of the chosen rows (a slice, an index tensor or a mask)."""
        return self._map(lambda t: t[rows])
