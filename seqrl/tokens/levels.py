"""Numbers that take few values, each value a code: rewards of -1, 0 and 1, say, of which bins would miss the rare ones.

The codes are the distinct values of the fitted data, in rising order, in each dimension. A value that was never seen gets the
code of the nearest one.
"""

import hashlib
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from pydantic import Field

from seqrl.core.config import Frozen
from seqrl.core.episode import Modality
from seqrl.core.errors import RecipeError

_WIDEST = 1 << 16


class Config(Frozen):
    """Settings of the levels codec."""

    kind: Literal["levels"] = "levels"
    most: int = Field(1024, ge=2, le=65536)
    """Most distinct values a dimension may have; with more of them, bins are what is wanted."""


class Codec:
    """``(N, dim)`` numbers to ``(N, dim)`` codes in ``[0, V)``, V that of the dimension with the most values; and back."""

    continuous = False
    bounded = False
    dtype = "int64"
    chunk = 1

    def __init__(self, config: Config, modality: Modality) -> None:
        self.config = config
        self.width = self.tokens = modality.size
        if self.width > _WIDEST:
            raise RecipeError(f"codec levels: {self.width:,} dimensions are too many to keep the values of each; take bins")
        self.levels = [np.zeros(1) for _ in range(self.width)]

    @property
    def vocab(self) -> int:
        # A slot has at least two codes, so that there is something to learn a distribution over.
        return max(2, *(len(each) for each in self.levels))

    @property
    def share(self) -> str:
        known = hashlib.sha256(b"|".join(each.tobytes() for each in self.levels)).hexdigest()
        return f"levels-{known[:12]}"

    @property
    def tolerance(self) -> float:
        gaps = [float(np.diff(each).max()) for each in self.levels if len(each) > 1]
        return max(gaps, default=0.0) / 2 * (1 + 1e-6) + 1e-9

    def fit(self, values: np.ndarray) -> None:
        """Raises RecipeError where a dimension has more values than ``most``."""
        flat = np.asarray(values, np.float64).reshape(-1, self.width)
        found = [np.unique(column) for column in flat.T]
        count = max(len(each) for each in found)
        if count > self.config.most:
            raise RecipeError(
                f"codec levels: the data have {count} distinct values, and at most {self.config.most} are allowed "
                "(most); for numbers like these use bins, or vector"
            )
        self.levels = found

    def encode(self, values: np.ndarray) -> np.ndarray:
        values = np.asarray(values, np.float64)
        flat = values.reshape(-1, self.width)
        codes = [self._code(flat[:, d], each) for d, each in enumerate(self.levels)]
        return np.stack(codes, -1).reshape(values.shape).astype(np.int64)

    @staticmethod
    def _code(column: np.ndarray, levels: np.ndarray) -> np.ndarray:
        return np.searchsorted((levels[1:] + levels[:-1]) / 2, column)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        codes = np.asarray(codes)
        flat = codes.reshape(-1, self.width)
        return np.stack([each[flat[:, d].clip(0, len(each) - 1)] for d, each in enumerate(self.levels)], -1).reshape(
            codes.shape
        )

    def state(self) -> dict[str, Any]:
        return {"levels": [each.tolist() for each in self.levels]}

    def load_state(self, state: Mapping[str, Any]) -> None:
        levels = [np.array(each, np.float64) for each in state["levels"]]
        for each in levels:
            rising = each.ndim == 1 and np.isfinite(each).all() and (np.diff(each) > 0).all()
            if not (rising and 0 < len(each) <= self.config.most):
                raise ValueError("codec levels: the values of a dimension are finite numbers in rising order")
        if len(levels) != self.width:
            raise ValueError(f"codec levels: values of {self.width} dimensions (got {len(levels)})")
        self.levels = levels
