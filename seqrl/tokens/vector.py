"""Continuous values as they are, up to one affine map per dimension: standardised, or stretched to [-1, 1] by their bounds.

``standard`` is what every Decision Transformer does to states, ``(x - mean) / std`` (Chen et al. 2021, code); ``bounds``
serves actions, so that a tanh head covers them exactly; ``none`` passes values through.
"""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from pydantic import Field

from seqrl.core.config import Frozen
from seqrl.core.episode import Modality
from seqrl.core.errors import RecipeError

# Dimensions that never move (or by less than float32 can tell) are centred but not stretched.
_STILL = 1e-6


class Config(Frozen):
    """Settings of the vector codec."""

    kind: Literal["vector"] = "vector"
    scale: Literal["standard", "bounds", "none"] = "standard"
    """How values are mapped: by their mean and deviation, by their bounds to [-1, 1], or not at all."""
    clip: float | None = Field(None, gt=0)
    """Largest magnitude of an encoded value; None leaves it open."""


class Codec:
    """``(N, dim)`` numbers to ``(N, dim)`` float32 numbers, and back."""

    continuous = True
    vocab = 0
    tokens = 1
    share = ""
    dtype = "float32"
    chunk = 1
    # A sample of the data will do to fit it.
    learns = "means"

    def __init__(self, config: Config, modality: Modality) -> None:
        self.config = config
        self.width = modality.size
        self.center = np.zeros(self.width)
        self.spread = np.ones(self.width)
        if config.scale == "bounds":
            low, high = np.array(modality.low or [-np.inf]), np.array(modality.high or [np.inf])
            if not (np.isfinite(low).all() and np.isfinite(high).all()):
                raise RecipeError("codec vector: scale 'bounds' needs finite bounds, and this space is open; use 'standard'")
            self.center, self.spread = (low + high) / 2, np.where(high > low, (high - low) / 2, 1.0)

    @property
    def bounded(self) -> bool:
        """Whether every encoded value lies in [-1, 1]."""
        return self.config.scale == "bounds" or (self.config.clip is not None and self.config.clip <= 1)

    @property
    def tolerance(self) -> float:
        # Encoded numbers are float32: seven digits of what lies within ten deviations.
        return float(2e-6 * (np.abs(self.center) + 10 * self.spread).max(initial=1e-6))

    def fit(self, values: np.ndarray) -> None:
        if self.config.scale == "standard":
            self.center = values.mean(0, dtype=np.float64)
            std = values.std(0, dtype=np.float64)
            self.spread = np.where(std > _STILL, std, 1.0)

    def encode(self, values: np.ndarray) -> np.ndarray:
        out = ((values - self.center) / self.spread).astype(np.float32)
        return out if self.config.clip is None else np.clip(out, -self.config.clip, self.config.clip)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        return np.asarray(codes, np.float64) * self.spread + self.center

    def state(self) -> dict[str, Any]:
        return {"center": self.center.tolist(), "spread": self.spread.tolist()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Raises ValueError where these are not the statistics of such values."""
        center, spread = np.array(state["center"], float), np.array(state["spread"], float)
        finite = center.shape == spread.shape == (self.width,) and np.isfinite([center, spread]).all()
        if not finite or (spread <= 0).any():
            raise ValueError(f"codec vector: center and spread are {self.width} finite numbers each, spread above 0")
        self.center, self.spread = center, spread
