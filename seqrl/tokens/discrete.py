"""Values that are already choices: one code per element, counted from zero."""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from seqrl.core.config import Frozen
from seqrl.core.episode import Modality
from seqrl.core.errors import DataError, RecipeError


class Config(Frozen):
    """Settings of the discrete codec; there are none."""

    kind: Literal["discrete"] = "discrete"


class Codec:
    """``(N, K)`` integers of a Discrete, MultiDiscrete or MultiBinary space to codes in ``[0, V)``, and back."""

    continuous = False
    bounded = False
    dtype = "int64"
    chunk = 1
    share = "choice"
    tolerance = 0.0

    def __init__(self, config: Config, modality: Modality) -> None:
        if modality.n is None:
            raise RecipeError(
                f"codec discrete: this is a {modality.kind} value of shape {modality.shape}; use 'vector' or 'bins'"
            )
        self.config = config
        self.sizes = np.array(modality.n, np.int64)
        self.start = np.array(modality.start or (0,) * len(modality.n), np.int64)
        self.width = self.tokens = len(self.sizes)
        self.vocab = int(self.sizes.max())

    def fit(self, values: np.ndarray) -> None:
        self.encode(values)

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Raises DataError on a value outside the space."""
        codes = np.asarray(values).astype(np.int64) - self.start
        wrong = (codes < 0) | (codes >= self.sizes)
        if wrong.any():
            at = tuple(np.argwhere(wrong)[0])
            k = at[-1]
            low, high = self.start[k], self.start[k] + self.sizes[k] - 1
            raise DataError(f"choice {np.asarray(values)[at]} is outside its space ({low} to {high})")
        return codes

    def decode(self, codes: np.ndarray) -> np.ndarray:
        return np.clip(codes, 0, self.sizes - 1) + self.start

    def state(self) -> dict[str, Any]:
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        pass
