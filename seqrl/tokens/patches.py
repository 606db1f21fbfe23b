"""Pictures, kept as the bytes they are: how they are cut into tokens is said here, and done by the model.

With ``resnet`` a picture is cut into square patches of ``size`` pixels, row by row from the top left, and each becomes one
token through a small residual block (Gato, Reed et al. 2022, section 2.2 and appendix C). With ``conv`` the whole frame is
one token, read by the three convolutions of the Atari Decision Transformer (Chen et al. 2021, code, after Mnih et al. 2015).
With ``cells`` every cell of a symbolic picture is one, for numbers that are names (BabyAI's kind, colour and state).
Pixels stay uint8 until they reach the model, a quarter of what float32 would take on the way.
"""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from pydantic import Field, ValidationInfo, field_validator, model_validator

from seqrl.core.config import Frozen
from seqrl.core.episode import Modality
from seqrl.core.errors import DataError, RecipeError

# What may be the last (or the first) axis of a picture: grey, colours, colours with transparency or four stacked grey frames.
_CHANNELS = (1, 3, 4)


class Config(Frozen):
    """Settings of the patches codec."""

    kind: Literal["patches"] = "patches"
    size: int | None = Field(16, ge=1)
    """Side of a square patch in pixels, each patch one token; None makes the whole frame one token."""
    encoder: Literal["resnet", "conv", "cells"] = "resnet"
    """What makes tokens: Gato's block a patch, the Decision Transformer's convolutions a frame, or a table a cell."""
    values: int | None = Field(None, ge=1, le=256)
    """Numbers a pixel can take, for conv and cells; None takes the encoder's own (256 and 16)."""

    names: list[list[str | None]] | None = None
    """For cells: what the categories of each channel are called, null where they have no name. A named category's vector is
    that of its word in the domain's text, so that a mission's words mean what is seen. The first channel says what stands in a
    cell: the others count only in cells where that has a name."""

    @model_validator(mode="before")
    @classmethod
    def _whole(cls, raw: Any) -> Any:
        # The default of `size` is for patches; the other encoders have none, whatever was not said.
        return {"size": None, **raw} if isinstance(raw, Mapping) and raw.get("encoder") in ("conv", "cells") else raw

    @field_validator("encoder")
    @classmethod
    def _fits(cls, encoder: str, info: ValidationInfo) -> str:
        if encoder != "resnet" and info.data.get("size") is not None:
            what = "reads the whole frame as one token" if encoder == "conv" else "makes a token of every cell"
            raise ValueError(f"'{encoder}' {what}: leave 'size' out, or take 'resnet'")
        return encoder

    @field_validator("values")
    @classmethod
    def _counts(cls, values: int | None, info: ValidationInfo) -> int | None:
        if values is not None and info.data.get("encoder") == "resnet":
            raise ValueError("is for conv and cells; 'resnet' reads bytes of 0 to 255")
        return values

    @field_validator("names")
    @classmethod
    def _of_cells(cls, names: list[list[str | None]] | None, info: ValidationInfo) -> list[list[str | None]] | None:
        if names is not None and info.data.get("encoder") != "cells":
            raise ValueError("are for cells; the other encoders know no categories")
        return names


def _shape(modality: Modality) -> tuple[tuple[int, int, int], bool]:
    """Height, width and channels of a picture, and whether its channels stand first; raises RecipeError if it is none."""
    shape = modality.shape
    if modality.kind != "image" or modality.dtype != "uint8":
        raise RecipeError(
            f"codec patches: this is a {modality.kind} value of {modality.dtype}, and patches are cut from pictures of uint8"
        )
    if len(shape) == 2:
        return (*shape, 1), False
    if len(shape) == 3 and shape[2] in _CHANNELS:
        return shape, False
    if len(shape) == 3 and shape[0] in _CHANNELS:
        return (shape[1], shape[2], shape[0]), True
    raise RecipeError(
        f"codec patches: shape {shape} is none of (H, W), (H, W, C) and (C, H, W) with C one of "
        f"{', '.join(map(str, _CHANNELS))} (a slot takes one picture; choose it with 'from')"
    )


class Codec:
    """``(N, H*W*C)`` uint8 pictures to the same bytes, channels last, and back; nothing is fitted.

    Attributes:
        image: ``{"shape": [H, W, C], "size": side of a patch or None, "encoder": name}`` and ``"values"`` where they are given:
            plain JSON, for the model. A square frame that is one patch has that side as its size.
    """

    reads = ("image",)
    continuous = True
    bounded = False
    vocab = 0
    share = ""
    dtype = "uint8"
    chunk = 1
    fits = False
    tolerance = 0.0

    def __init__(self, config: Config, modality: Modality) -> None:
        """Raises RecipeError where the value is no picture, or where patches of this size do not tile it."""
        self.config = config
        (high, wide, channels), self._first = _shape(modality)
        size = config.size
        if size and (high % size or wide % size):
            fits = [str(s) for s in range(1, min(high, wide) + 1) if high % s == 0 == wide % s]
            raise RecipeError(
                f"codec patches: size {size} does not divide a picture of {high}x{wide} pixels; "
                f"these do: {', '.join(fits)} (or null, the whole frame as one token)"
            )
        if config.encoder == "cells":
            self.tokens = high * wide
        else:
            self.tokens = (high // size) * (wide // size) if size else 1
        self.width = high * wide * channels
        self._hwc = (high, wide, channels)
        if config.encoder == "resnet" and high == wide:
            size = size or high
        self.image = {"shape": [high, wide, channels], "size": size, "encoder": config.encoder}
        if config.values is not None:
            self.image["values"] = config.values
        if config.names is not None:
            if len(config.names) > channels:
                raise RecipeError(f"codec patches: names for {len(config.names)} channels, and a cell has {channels}")
            self.image["names"] = [list(channel) for channel in config.names]

    def fit(self, values: np.ndarray) -> None:
        self._check(values)

    def _check(self, values: np.ndarray) -> np.ndarray:
        values = np.asarray(values)
        if values.dtype != np.uint8:
            raise DataError(f"codec patches: pictures are uint8 of 0 to 255, and these are {values.dtype}")
        if values.shape[-1] != self.width:
            raise DataError(
                f"codec patches: a picture of {self._hwc} has {self.width} bytes, and these have {values.shape[-1]}"
            )
        return values

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Raises DataError on values of another dtype or size: a picture of floats has lost its range already."""
        values = self._check(values)
        if not self._first:
            return values
        high, wide, channels = self._hwc
        return np.moveaxis(values.reshape(-1, channels, high, wide), 1, 3).reshape(values.shape)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Bytes as they were; what a model painted, numbers of any kind, is rounded and clipped to bytes."""
        codes = np.asarray(codes)
        if codes.dtype != np.uint8:
            codes = np.clip(np.rint(codes), 0, 255).astype(np.uint8)
        return np.moveaxis(codes.reshape(-1, *self._hwc), 3, 1).reshape(codes.shape) if self._first else codes

    def state(self) -> dict[str, Any]:
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        pass
