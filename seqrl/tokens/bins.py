"""Continuous numbers as bins, one code per dimension: of equal width, or holding equally many values.

Uniform bins are Gato's and RT-2's; quantile bins are the Trajectory Transformer's (Janner et al. 2021, section 3.1). Ranges
are half-open and the ends are clipped, so the top of the range falls into the last bin and never into a neighbour's codes.
"""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from pydantic import Field, field_validator

from seqrl.core.config import Frozen
from seqrl.core.episode import Modality
from seqrl.core.errors import RecipeError

_MOST = 1 << 25
"""Bins of all dimensions together; each takes sixteen bytes."""


class Config(Frozen):
    """Settings of the bins codec."""

    kind: Literal["bins"] = "bins"
    bins: int = Field(256, ge=2, le=65536)
    """Codes per dimension, V."""
    spacing: Literal["uniform", "quantile"] = "uniform"
    """Bins of equal width over the range, or bins that hold equally many of the fitted values."""
    range: tuple[float, float] | None = None
    """The range of uniform bins; None takes the space's bounds, or the data's where the space is open."""

    @field_validator("range")
    @classmethod
    def _rises(cls, ends: tuple[float, float] | None) -> tuple[float, float] | None:
        if ends and not -np.inf < ends[0] < ends[1] < np.inf:
            raise ValueError(f"a range is two finite numbers, the lower first (got {ends[0]} and {ends[1]})")
        return ends


class Codec:
    """``(N, dim)`` numbers to ``(N, dim)`` codes in ``[0, V)``; decoded to the middle of the bin (its mean for quantiles)."""

    continuous = False
    bounded = False
    dtype = "int64"
    chunk = 1

    def __init__(self, config: Config, modality: Modality) -> None:
        self.config = config
        self.width = self.tokens = modality.size
        self.vocab = config.bins
        self.share = f"bins{config.bins}"
        if self.width * self.vocab > _MOST:
            raise RecipeError(f"codec bins: {self.width:,} dimensions of {self.vocab:,} bins are too many; take fewer")
        low, high = modality.low or (-np.inf,) * self.width, modality.high or (np.inf,) * self.width
        if config.range:
            low, high = ([end] * self.width for end in config.range)
        self._range = np.array([low, high], np.float64)
        self.edges = np.zeros((self.width, self.vocab + 1))
        self.centers = np.zeros((self.width, self.vocab))
        if np.isfinite(self._range).all():
            self._place(np.linspace(*self._range, self.vocab + 1).T)

    def _place(self, edges: np.ndarray) -> None:
        self.edges, self.centers = edges, (edges[:, :-1] + edges[:, 1:]) / 2

    @property
    def tolerance(self) -> float:
        ends = np.stack([self.centers - self.edges[:, :-1], self.edges[:, 1:] - self.centers])
        return float(np.abs(ends).max()) * (1 + 1e-6) + 1e-9

    def fit(self, values: np.ndarray) -> None:
        values = np.asarray(values, np.float64)
        if self.config.spacing == "quantile":
            self._place(np.quantile(values, np.linspace(0, 1, self.vocab + 1), axis=0).T)
            for d in range(self.width):
                codes, column = self._code(values[:, d], d), values[:, d]
                count = np.bincount(codes, minlength=self.vocab)
                mean = np.bincount(codes, column, self.vocab) / np.maximum(count, 1)
                self.centers[d] = np.where(count > 0, np.clip(mean, self.edges[d, :-1], self.edges[d, 1:]), self.centers[d])
        else:
            seen = np.stack([values.min(0), values.max(0)])
            low, high = np.where(np.isfinite(self._range), self._range, seen)
            self._place(np.linspace(low, np.where(high > low, high, low + 1.0), self.vocab + 1).T)

    def _code(self, column: np.ndarray, d: int) -> np.ndarray:
        return np.clip(np.searchsorted(self.edges[d], column, side="right") - 1, 0, self.vocab - 1)

    def encode(self, values: np.ndarray) -> np.ndarray:
        values = np.asarray(values, np.float64)
        flat = values.reshape(-1, self.width)
        return np.stack([self._code(flat[:, d], d) for d in range(self.width)], -1).reshape(values.shape)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        codes = np.clip(codes, 0, self.vocab - 1)
        return self.centers[np.arange(self.width), codes]

    def state(self) -> dict[str, Any]:
        return {"edges": self.edges.tolist(), "centers": self.centers.tolist()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Raises ValueError where these are not the bins of such values."""
        edges, centers = np.array(state["edges"], float), np.array(state["centers"], float)
        shapes = edges.shape == (self.width, self.vocab + 1) and centers.shape == (self.width, self.vocab)
        if not shapes or not (np.isfinite(edges).all() and np.isfinite(centers).all()) or (np.diff(edges) < 0).any():
            raise ValueError(f"codec bins: {self.vocab} bins of {self.width} dimensions are finite numbers in rising order")
        self.edges, self.centers = edges, centers
