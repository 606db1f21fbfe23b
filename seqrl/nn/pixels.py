"""From pictures to vectors: three encoders, for whoever wants tokens of a picture instead of its numbers.

``Patches`` cuts a picture into squares and makes a token of each, as Gato does. ``Frame`` makes one token of the whole, as
the Decision Transformer for Atari does. ``Grid`` is for symbolic pictures, whose numbers are names (BabyAI's kind, colour and
state of a cell) and not brightness: a token a cell, found in tables. All take pictures as they lie in a stream, flat uint8
in the order rows, columns, channels, and answer ``[..., K, D]`` with the K tokens in reading order.

Letters: N pictures, H, W, C rows, columns and channels of one, P the side of a patch, K tokens of a picture, D width.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqrl.core.errors import RecipeError, did_you_mean
from seqrl.nn.linear import Linear

ENCODERS = ("resnet", "conv", "cells")
# Strides and kernels of Frame, largest first: the Atari network's own, then the same with less and less striding.
_STRIDES = (((4, 8), (2, 4), (1, 3)), ((2, 4), (2, 4), (1, 3)), ((2, 4), (1, 3), (1, 3)))


class _Places(nn.Module):
    """Learned vectors of a token's row and column within the picture, added to the token."""

    def __init__(self, rows: int, columns: int, width: int) -> None:
        super().__init__()
        self.rows, self.columns = nn.Embedding(rows, width), nn.Embedding(columns, width)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, rows * columns, D]`` to the same."""
        return x + (self.rows.weight[:, None] + self.columns.weight).flatten(0, 1)


class Patches(nn.Module):
    """Gato's embedding of images (Reed et al. 2022, arXiv 2205.06175, section 2.2 and appendix C.2).

    Numbers are brought to [-1, 1] and divided by the square root of the patch's side. A 3x3 convolution and one residual
    block with the normalisation in front (ResNet v2, with GroupNorm and GELU) are the same for all patches and see one patch
    at a time; then a matrix, and a vector for the patch's row and its column. Two things are ours: the first convolution
    takes every second pixel where patches are 4 pixels wide or wider, a quarter of the work; and the 96 channels of the
    paper's width of 2048 become 12, 24 or 48 for widths below 192, 384 and 768. A group has 3 channels, as in the paper.

    Args:
        shape: (H, W, C).
        size: P, the side of a patch.
        width: D.
    """

    def __init__(self, shape: Sequence[int], size: int, width: int) -> None:
        super().__init__()
        self.shape, self.size = tuple(shape), size
        rows, columns = shape[0] // size, shape[1] // size
        self.tokens = rows * columns
        channels = next(c for c in (96, 48, 24, 12) if c == 12 or 8 * c <= width)
        stride = 2 if size >= 4 else 1
        self.stem = nn.Conv2d(shape[2], channels, 3, stride, padding=1)
        self.norm1, self.norm2 = nn.GroupNorm(channels // 3, channels), nn.GroupNorm(channels // 3, channels)
        self.conv1, self.conv2 = nn.Conv2d(channels, channels, 3, padding=1), nn.Conv2d(channels, channels, 3, padding=1)
        self.out = Linear(channels * (-(-size // stride)) ** 2, width)
        self.places = _Places(rows, columns, width)

    def forward(self, images: Tensor) -> Tensor:
        """``[..., H*W*C]`` in [0, 255] to ``[..., K, D]``."""
        (H, W, C), P = self.shape, self.size
        x = images.reshape(-1, H // P, P, W // P, P, C).transpose(2, 3).reshape(-1, P, P, C)
        # As they lie here, channels are innermost ("channels last"), with which the products behind are twice as fast.
        x = ((x.to(self.stem.weight.dtype) - 127.5) / (127.5 * P**0.5)).permute(0, 3, 1, 2)
        x = self.stem(x)
        h = self.conv1(F.gelu(self.norm1(x)))
        x = x + self.conv2(F.gelu(self.norm2(h)))
        x = self.out(x.permute(0, 2, 3, 1).flatten(1)).unflatten(0, (-1, self.tokens))
        return self.places(x).unflatten(0, images.shape[:-1])


class Frame(nn.Module):
    """One token of a whole picture: the Decision Transformer's network for Atari (Chen et al. 2021, appendix A; Mnih 2015).

    Convolutions with 32, 64 and 64 channels and relu, a matrix, tanh. On 84x84 pixels they are 8x8 in strides of 4, 4x4 in
    strides of 2, and 3x3. Smaller pictures take smaller strides: of (4, 2, 1), (2, 2, 1) and (2, 1, 1) the first that leaves
    at least 3 cells a side (kernels twice the stride, and 3 where that is 1); pictures for which none does, those below 16
    pixels a side, keep their size through three padded 3x3 convolutions.

    Args:
        shape: (H, W, C).
        width: D.
        values: V, numbers a pixel can take; they are divided by V - 1.
    """

    tokens = 1

    def __init__(self, shape: Sequence[int], width: int, values: int = 256) -> None:
        super().__init__()
        self.shape, self.top = tuple(shape), max(values - 1, 1)
        layers = next((s for s in _STRIDES if min(_cells(side, s) for side in shape[:2]) >= 3), None)
        sides = [_cells(side, layers) if layers else side for side in shape[:2]]
        inputs = (shape[2], 32, 64)
        self.convs = nn.ModuleList(
            nn.Conv2d(i, o, kernel, stride, padding=0 if layers else 1)
            for i, o, (stride, kernel) in zip(inputs, (32, 64, 64), layers or 3 * ((1, 3),), strict=True)
        )
        self.out = Linear(64 * sides[0] * sides[1], width)

    def forward(self, images: Tensor) -> Tensor:
        """``[..., H*W*C]`` in [0, V) to ``[..., 1, D]``."""
        x = images.reshape(-1, *self.shape).permute(0, 3, 1, 2)
        x = x.to(self.convs[0].weight.dtype) / self.top
        for conv in self.convs:
            x = conv(x).relu()
        return torch.tanh(self.out(x.permute(0, 2, 3, 1).flatten(1))).unflatten(0, (*images.shape[:-1], 1))


def _cells(side: int, layers: Sequence[tuple[int, int]]) -> int:
    """What unpadded convolutions leave of ``side`` pixels."""
    for stride, kernel in layers:
        side = (side - kernel) // stride + 1
    return side


class Grid(nn.Module):
    """A token for each cell of a symbolic picture: a vector for each channel's category, one for its row, one for its column.

    Args:
        shape: (H, W, C).
        width: D.
        values: V, categories of a channel; the last stands for all beyond it too.
        words: channel -> category -> number of the word that names it, -1 for none. A named category has its word's vector in
            place of one of its own. What the first channel says stands in a cell; the others count only where that has a name.
    """

    def __init__(
        self, shape: Sequence[int], width: int, values: int = 16, words: Sequence[Sequence[int]] | None = None
    ) -> None:
        """Raises RecipeError on more names than categories."""
        super().__init__()
        longest = max(map(len, words), default=0) if words else 0
        if longest > values:
            raise RecipeError(f"image: names for {longest} categories, and a channel has {values}; raise values")
        padded = [[*channel, *[-1] * (values - len(channel))] for channel in words or ()]
        self.words = [n for channel in padded for n in channel] + [-1] * (values * (shape[2] - len(padded)))
        self._named: dict[torch.device, Tensor] = {}
        self.shape, self.values, self.tokens = tuple(shape), values, shape[0] * shape[1]
        self.cells = nn.Embedding(shape[2] * values, width)
        # As of a matrix on C ones and C (V - 1) zeros (see nn/embed.py).
        self.cells.in_features = shape[2]
        self.places = _Places(shape[0], shape[1], width)

    def forward(self, images: Tensor, words: Tensor | None = None) -> Tensor:
        """``[..., H*W*C]``, whole numbers, to ``[..., K, D]``; ``words [C * V, D]`` are the named categories' vectors."""
        codes = images.reshape(-1, self.shape[2]).long().clamp(max=self.values - 1)
        codes = codes + torch.arange(0, self.cells.num_embeddings, self.values, device=codes.device)
        weight, counted = self.cells.weight, None
        if words is not None:
            named = self._named.get(weight.device)
            if named is None:
                with torch.inference_mode(False):
                    named = self._named[weight.device] = torch.tensor(self.words, device=weight.device) >= 0
            weight = torch.where(named[:, None], words.to(weight.dtype), weight)
            # An empty cell's colour is a nought that means nothing, and must not look red.
            there = named[codes[:, 0]].to(weight.dtype)
            told = named.view(self.shape[2], -1).any(1)
            counted = torch.where(told & (torch.arange(self.shape[2], device=weight.device) > 0), there[:, None], 1.0)
        # Sums the C vectors as it finds them, five times faster than finding all and summing then.
        x = F.embedding_bag(codes, weight, mode="sum", per_sample_weights=counted)
        return self.places(x.unflatten(0, (-1, self.tokens))).unflatten(0, images.shape[:-1])


def make_pixels(image: Mapping[str, Any], width: int) -> Patches | Frame | Grid:
    """The encoder of a slot of pictures; its ``tokens`` says how many a picture becomes.

    Args:
        image: as in ``Ports.images``: ``shape`` [H, W, C]; ``encoder``: resnet (``Patches``), conv (``Frame``) or cells
            (``Grid``); ``size``: the side of a patch, or None for encoders without patches; ``values``: if given, how many
            numbers a pixel can take (conv, cells).
        width: D.

    Raises:
        RecipeError: an unknown encoder, or sizes that do not fit.
    """
    shape, size, encoder = list(image["shape"]), image.get("size"), image.get("encoder", "resnet")
    if encoder not in ENCODERS:
        near = did_you_mean(encoder, ENCODERS)
        raise RecipeError(f"image: unknown encoder '{encoder}'{near} (there are: {', '.join(ENCODERS)})")
    if len(shape) != 3 or min(shape) < 1:
        raise RecipeError(f"image: an encoder takes pictures of rows, columns and channels (got the shape {shape})")
    values = {"values": image["values"]} if image.get("values") and encoder != "resnet" else {}
    if encoder == "conv":
        return Frame(shape, width, **values)
    if encoder == "cells":
        if size not in (None, 1):
            raise RecipeError(f"image: encoder cells makes a token of every cell, so no size {size}; leave size out")
        return Grid(shape, width, **values, words=image.get("words"))
    fitting = [p for p in range(2, min(shape[:2]) + 1) if shape[0] % p == shape[1] % p == 0]
    if size not in fitting:
        fix = f"try size {' or '.join(map(str, fitting[-3:]))}" if fitting else "use encoder: conv (one token a picture)"
        if size == 1:
            fix += ", or encoder: cells where every cell is a token"
        raise RecipeError(f"image: patches of size {size} do not tile {shape[0]} x {shape[1]} pixels; {fix}")
    return Patches(shape, size, width)
