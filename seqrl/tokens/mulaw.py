"""Gato's codes for numbers of any size: squashed by the mu-law, clipped to [-1, 1], cut into equal bins.

``F(x) = sign(x) log(|x| mu + 1) / log(M mu + 1)`` with mu = 100, M = 256 and 1024 bins (Reed et al. 2022, appendix B,
equation 3). Nothing is fitted. Values beyond ``M`` fall into the outermost bins, and 1.0 into the last one.
"""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from pydantic import Field

from seqrl.core.config import Frozen
from seqrl.core.episode import Modality


class Config(Frozen):
    """Settings of the mu-law codec; the defaults are Gato's."""

    kind: Literal["mulaw"] = "mulaw"
    bins: int = Field(1024, ge=2, le=65536)
    """Codes per dimension, V."""
    mu: float = Field(100.0, gt=0)
    """Curvature: how much finer small values are cut than large ones."""
    largest: float = Field(256.0, gt=0)
    """M, the magnitude that is mapped to 1."""


class Codec:
    """``(N, dim)`` numbers to ``(N, dim)`` codes in ``[0, V)``; decoded to the middle of the (squashed) bin."""

    continuous = False
    bounded = False
    dtype = "int64"
    chunk = 1

    def __init__(self, config: Config, modality: Modality) -> None:
        self.config = config
        self.width = self.tokens = modality.size
        self.vocab = config.bins
        self.share = f"mulaw{config.bins}"
        self._log = np.log(config.largest * config.mu + 1)

    def _open(self, y: np.ndarray) -> np.ndarray:
        """The inverse of the mu-law, for ``y`` in [-1, 1]."""
        return np.sign(y) * np.expm1(np.abs(y) * self._log) / self.config.mu

    @property
    def tolerance(self) -> float:
        # The outermost bin is the widest: from its middle to its outer edge.
        return float(self._open(np.array(1.0)) - self._open(np.array(1.0 - 1.0 / self.vocab))) * (1 + 1e-6)

    def fit(self, values: np.ndarray) -> None:
        pass

    def encode(self, values: np.ndarray) -> np.ndarray:
        x = np.asarray(values, np.float64)
        y = np.sign(x) * np.log1p(np.abs(x) * self.config.mu) / self._log
        return np.clip(np.floor((y + 1) / 2 * self.vocab), 0, self.vocab - 1).astype(np.int64)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        return self._open((np.clip(codes, 0, self.vocab - 1) + 0.5) / self.vocab * 2 - 1)

    def state(self) -> dict[str, Any]:
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        pass
