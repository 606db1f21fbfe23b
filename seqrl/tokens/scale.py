"""A number divided by a constant: what Decision Transformers do to returns, so that they stand near one.

The paper's constant is 1000 for the MuJoCo tasks (Chen et al. 2021, code). With ``by: auto`` it is the largest magnitude in
the data, rounded up to a power of ten, which gives the same for those tasks within a factor of ten.
"""

import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from pydantic import field_validator

from seqrl.core.config import Frozen
from seqrl.core.episode import Modality


class Config(Frozen):
    """Settings of the scale codec."""

    kind: Literal["scale"] = "scale"
    by: float | Literal["auto"] = "auto"
    """The divisor, above 0, or ``auto``: the largest magnitude in the data, rounded up to a power of ten."""

    @field_validator("by")
    @classmethod
    def _divides(cls, by: float | str) -> float | str:
        if not isinstance(by, str) and not 0 < by < math.inf:
            raise ValueError(f"a divisor is a finite number above 0 (got {by})")
        return by


class Codec:
    """``(N, dim)`` numbers to ``(N, dim)`` float32 numbers near one, and back."""

    continuous = True
    bounded = False
    vocab = 0
    tokens = 1
    share = ""
    dtype = "float32"
    chunk = 1

    def __init__(self, config: Config, modality: Modality) -> None:
        self.config = config
        self.width = modality.size
        self.by = 1.0 if config.by == "auto" else float(config.by)

    @property
    def tolerance(self) -> float:
        return 1e-6 * abs(self.by)

    def fit(self, values: np.ndarray) -> None:
        if self.config.by == "auto":
            largest = float(np.abs(values).max(initial=0.0))
            self.by = 10.0 ** np.ceil(np.log10(largest)) if largest > 0 else 1.0

    def encode(self, values: np.ndarray) -> np.ndarray:
        return (np.asarray(values, np.float64) / self.by).astype(np.float32)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        return np.asarray(codes, np.float64) * self.by

    def state(self) -> dict[str, Any]:
        return {"by": float(self.by)}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Raises ValueError where this is no divisor."""
        by = float(state["by"])
        if not 0 < by < math.inf:
            raise ValueError(f"codec scale: a divisor is a finite number above 0 (got {by})")
        self.by = by
