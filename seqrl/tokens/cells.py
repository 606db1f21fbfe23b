"""Symbolic pictures as codes, one a cell: what stands in it, in which colour and state, in a single number.

The numbers of a cell's channels are names (BabyAI's kind, colour and state), and few of them occur, so a cell is one of
``n_1 n_2 ... n_C`` codes, where channel ``c`` takes the values 0 to ``n_c - 1``. Nothing is lost, and combinations that were
never seen have a code too. The encoder ``cells`` of the codec ``patches`` reads such pictures as vectors, for models that only
look at them; this one is for models that are to say them.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from seqrl.core.config import Frozen
from seqrl.core.episode import Modality
from seqrl.core.errors import DataError, RecipeError
from seqrl.tokens import patches


class Config(Frozen):
    """Settings of the cells codec."""

    kind: Literal["cells"] = "cells"
    values: list[int] | None = None
    """Values each channel can take, such as [11, 6, 3]; None counts up to the largest that the data have."""
    most: int = Field(4096, ge=2)
    """Most codes a cell may have; a photograph has millions."""


class Codec:
    """``(N, H*W*C)`` uint8 pictures to ``(N, H*W)`` int64 codes, row by row from the top left, and back without loss."""

    reads = ("image",)
    continuous = False
    bounded = False
    dtype = "int64"
    chunk = 1
    tolerance = 0.0

    def __init__(self, config: Config, modality: Modality) -> None:
        """Raises RecipeError where the value is no picture, or ``values`` is not one number above 0 for each channel."""
        self.config = config
        self._pictures = patches.Codec(patches.Config(size=None), modality)
        high, wide, channels = self._pictures.image["shape"]
        self.width = self.tokens = high * wide
        if config.values is not None and (len(config.values) != channels or min(config.values) < 1):
            raise RecipeError(f"codec cells: a cell has {channels} channels; give values for each (got {config.values})")
        self._sizes = np.array(config.values or [1] * channels, np.int64)
        self._check()

    def _check(self) -> None:
        if self.vocab > self.config.most:
            raise RecipeError(
                f"codec cells: a cell of {' x '.join(map(str, self._sizes))} values has {self.vocab:,} codes, and at most "
                f"{self.config.most:,} are allowed (most); pictures of pixels are for the codec vq"
            )

    @property
    def vocab(self) -> int:
        # A slot has at least two codes, so that there is something to learn a distribution over.
        return max(2, math.prod(self._sizes.tolist()))

    @property
    def share(self) -> str:
        return f"cells{'x'.join(map(str, self._sizes))}"

    def fit(self, values: np.ndarray) -> None:
        """Raises RecipeError where cells have more codes than ``most``."""
        if self.config.values is None:
            cells = self._pictures.encode(values).reshape(-1, len(self._sizes))
            self._sizes = cells.max(0).astype(np.int64) + 1
            self._check()

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Raises DataError on a value beyond those of its channel, or on pictures of another dtype or size."""
        rows = self._pictures.encode(values)
        cells = rows.reshape(*rows.shape[:-1], self.width, len(self._sizes))
        most = cells.reshape(-1, len(self._sizes)).max(0, initial=0)
        if (most >= self._sizes).any():
            c = int(np.argmax(most >= self._sizes))
            raise DataError(f"codec cells: channel {c} of a cell is 0 to {self._sizes[c] - 1}, and {most[c]} is there")
        out = np.zeros(cells.shape[:-1], np.int64)
        for c, size in enumerate(self._sizes):
            out = out * size + cells[..., c]
        return out

    def decode(self, codes: np.ndarray) -> np.ndarray:
        codes, out = np.clip(codes, 0, int(np.prod(self._sizes)) - 1), []
        for size in self._sizes[::-1]:
            out.append(codes % size)
            codes = codes // size
        cells = np.stack(out[::-1], -1).astype(np.uint8)
        return self._pictures.decode(cells.reshape(*cells.shape[:-2], -1))

    def state(self) -> dict[str, Any]:
        return {"sizes": self._sizes.tolist()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        sizes = [int(n) for n in state["sizes"]]
        if len(sizes) != len(self._sizes) or min(sizes) < 1:
            raise ValueError(f"codec cells: sizes of {len(self._sizes)} channels, each at least 1 (got {sizes})")
        self._sizes = np.array(sizes, np.int64)
        self._check()


def tiny(folder: Path, modality: Modality) -> Config:
    """Settings under which any picture is one of cells, for the contract tests."""
    return Config(most=1 << 24)
