"""What a learned image tokenizer keeps of pictures it was not trained on: a sheet to look at, and numbers.

The sheet shows real frames, what came back of them, and how far the two are apart. A mean over all pixels hides what matters
most, the small things that move, so the numbers also say how much of what differs from the usual picture came back.
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from seqrl.core.errors import DataError
from seqrl.rollout.pixels import psnr, ssim

_COLUMNS, _BANDS, _SIDE, _GAP = 8, 2, 180, 4
_STANDS_OUT = 25
"""Bytes by which a pixel differs from the usual picture where something stands in front of it."""


def there_and_back(model: Any, frames: np.ndarray, block: int = 128) -> tuple[np.ndarray, np.ndarray]:
    """Frames through an encoder.

    Args:
        model: a model of the room ``encoders`` in eval mode, or a codec ``vq``: ``encode``, ``decode`` and ``shape``.
        frames: ``(N, H*W*C)`` uint8, channels last.
        block: frames at a time.

    Returns:
        codes ``(N, K)`` int64, and frames ``(N, H*W*C)`` uint8.
    """
    codes, back = [], []
    for at in range(0, len(frames), block):
        rows: Any = frames[at : at + block]
        if hasattr(model, "parameters"):
            import torch

            rows = torch.tensor(rows, device=next(model.parameters()).device)
        found = model.encode(rows)
        seen = model.decode(found)
        codes.append(np.asarray(found.cpu() if hasattr(found, "cpu") else found))
        back.append(np.asarray(seen.cpu() if hasattr(seen, "cpu") else seen))
    return np.concatenate(codes), np.concatenate(back)


def measure(real: np.ndarray, back: np.ndarray, codes: np.ndarray, vocab: int) -> dict[str, float]:
    """Numbers of frames ``(N, H, W, C)`` that went through codes ``(N, K)`` and back.

    ``psnr`` (decibels, mean over frames), ``ssim``; ``codes_used`` of ``vocab``, and their ``perplexity`` (how many there would
    be if all used ones were used alike); ``small_recall``: of the pixels that stand out from the median frame, the share that
    came back nearer to what they are than to the median; ``small_precision``: of those that stand out in what came back, the
    share that stand out really. Either is left out where there are no such pixels.
    """
    counts = np.bincount(codes.ravel(), minlength=vocab)
    share = counts[counts > 0] / counts.sum()
    numbers = {
        "frames": len(real),
        "psnr": float(psnr(real, back).mean()),
        "ssim": float(ssim(real, back).mean()),
        "tokens": int(codes.shape[1]),
        "vocab": int(vocab),
        "codes_used": int((counts > 0).sum()),
        "perplexity": float(np.exp(-(share * np.log(share)).sum())),
    }
    usual = np.median(real, 0).astype(np.int16)
    off, said = np.abs(real - usual), np.abs(back - usual)
    stands, told = off > _STANDS_OUT, said > _STANDS_OUT
    if stands.any():
        found = np.abs(back.astype(np.int16) - real) < said
        numbers["small_recall"] = float((found & stands).sum() / stands.sum())
    if told.any():
        numbers["small_precision"] = float((told & stands).sum() / told.sum())
    return numbers


def sheet(real: np.ndarray, back: np.ndarray) -> np.ndarray:
    """Some of the frames ``(N, H, W, C)``, spread evenly: real above what came back above their distance; uint8 RGB."""
    at = np.unique(np.linspace(0, len(real) - 1, _COLUMNS * _BANDS).astype(int))
    size = max(1, _SIDE // max(real.shape[1:3]))
    bands = []
    for start in range(0, len(at), _COLUMNS):
        chosen = at[start : start + _COLUMNS]
        a, b = real[chosen], back[chosen]
        distance = np.abs(a.astype(np.int16) - b).astype(np.uint8)
        bands.append(np.stack([_colours(x).repeat(size, 1).repeat(size, 2) for x in (a, b, distance)]))
    H, W = bands[0].shape[2:4]
    picture = np.full(((H + _GAP) * 3 * len(bands) + _GAP * len(bands), (W + _GAP) * len(bands[0][0]), 3), 255, np.uint8)
    for i, band in enumerate(bands):
        for j, row in enumerate(band):
            top = i * (3 * (H + _GAP) + _GAP) + j * (H + _GAP)
            for k, frame in enumerate(row):
                picture[top : top + H, k * (W + _GAP) : k * (W + _GAP) + W] = frame
    return picture


def _colours(frames: np.ndarray) -> np.ndarray:
    """``(N, H, W, C)`` to ``(N, H, W, 3)``: colours as they are, of anything else the last channel in grey."""
    return frames if frames.shape[-1] == 3 else frames[..., -1:].repeat(3, -1)


def write_reconstruction(model: Any, frames: np.ndarray, folder: Path) -> dict[str, float]:
    """Writes ``reconstruction.png`` and ``reconstruction.json`` into a run folder, each in one step for whoever reads.

    Args:
        model: as in ``there_and_back``.
        frames: held-out ones, ``(..., H*W*C)`` or ``(..., H, W, C)`` uint8, channels last; at least one.
        folder: it exists.

    Returns:
        the numbers of ``measure``.

    Raises:
        DataError: frames of another shape or dtype, or none.
    """
    H, W, C = model.shape
    frames = np.asarray(frames)
    if frames.dtype != np.uint8 or frames.size == 0 or frames.size % (H * W * C):
        raise DataError(f"reconstruction: frames of {H}x{W}x{C} bytes are wanted (got {frames.shape} of {frames.dtype})")
    flat = frames.reshape(-1, H * W * C)
    codes, back = there_and_back(model, flat)
    real, back = flat.reshape(-1, H, W, C), back.reshape(-1, H, W, C)
    numbers = measure(real, back, codes, model.vocab)
    part = folder / "reconstruction.png.part"
    Image.fromarray(sheet(real, back)).save(part, format="PNG")
    os.replace(part, folder / "reconstruction.png")
    part = folder / "reconstruction.json.part"
    part.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    os.replace(part, folder / "reconstruction.json")
    return numbers
