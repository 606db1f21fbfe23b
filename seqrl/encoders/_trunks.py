"""What stands between pixels and codes: convolutions over a frame, or a transformer over patches of several.

Both make a grid of vectors out of each frame and a frame out of each grid. How far the convolutions shrink a frame follows
from the grid that is wanted: the ratio of the sides is cut into its prime factors, and each is one layer of that stride, so
that 84 pixels become 7 places by strides of 2, 2 and 3 and 64 become 4 by four strides of 2.

Letters: B rows, T frames, S = h * w places of the grid, D width.
"""

from itertools import zip_longest

from torch import Tensor, nn

from seqrl.core.errors import RecipeError
from seqrl.nn.linear import Linear
from seqrl.nn.spacetime import SpaceTime

Pair = tuple[int, int]
_LARGEST = 7
"""Largest stride of one layer; a larger prime would take a kernel of more than nine pixels."""


def factors(n: int) -> list[int]:
    """The prime factors of ``n``, the smallest first: a large stride next to the pixels paints in strokes as large."""
    found, p = [], 2
    while n > 1:
        while n % p == 0:
            found.append(p)
            n //= p
        p += 1
    return found


def strides(side: Pair, grid: Pair) -> list[Pair]:
    """The strides, height and width, of the layers that turn ``side`` pixels into ``grid`` places.

    Raises:
        RecipeError: a side is no multiple of the grid's, or only by a stride too large for one layer; names the grids that fit.
    """
    pairs = list(zip(side, grid, strict=True))
    if side == grid or any(s % g or max([1, *factors(s // g)]) > _LARGEST for s, g in pairs):
        fits = [[g for g in range(1, s) if s % g == 0 and max(factors(s // g)) <= _LARGEST] for s in side]
        told = [", ".join(map(str, f)) or "none" for f in fits]
        by = told[0] if side[0] == side[1] else f"{told[0]} down and {told[1]} across"
        raise RecipeError(
            f"model.grid: {grid[0]}x{grid[1]} places do not fit a frame of {side[0]}x{side[1]} pixels; these do: {by}"
        )
    return list(zip_longest(*(factors(s // g) for s, g in pairs), fillvalue=1))


class Residual(nn.Module):
    """A 3x3 (or, where places must not mix, 1x1) and a 1x1 convolution on a residual branch (van den Oord et al. 2017,
    section 4.1)."""

    def __init__(self, width: int, kernel: int = 3) -> None:
        super().__init__()
        first = nn.Conv2d(width, width, kernel, padding=kernel // 2)
        self.branch = nn.Sequential(nn.ReLU(), first, nn.ReLU(), nn.Conv2d(width, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


def _widths(stages: int, width: int) -> list[int]:
    """Channels behind each stage: half as many one stage before the last and a quarter before that, at least 16."""
    return [max(width >> min(stages - 1 - i, 2), min(16, width)) for i in range(stages)]


class ConvTrunk(nn.Module):
    """Strided convolutions down to the grid and back; a frame knows nothing of its neighbours in time."""

    def __init__(
        self, shape: tuple[int, int, int], grid: Pair, width: int, layers: int, heads: int, field: str = "wide"
    ) -> None:
        """``field`` own lets a place see its own pixels only, so that its code changes only when they do."""
        super().__init__()
        own = field == "own"
        C, steps = shape[2], strides(shape[:2], grid)
        self.grid, self.frame, widths = grid, shape, _widths(len(steps), width)
        down, up = [], []
        for stride, a, b in zip(steps, [C, *widths], widths, strict=False):
            # A kernel two pixels wider than its stride sees a little of its neighbours, and divides the side exactly.
            kernel = tuple(s + 2 for s in stride)
            last = not up
            down += [nn.Conv2d(a, b, stride, stride) if own else nn.Conv2d(a, b, kernel, stride, padding=1), nn.ReLU()]
            up[:0] = [nn.ConvTranspose2d(b, a, kernel, stride, padding=1)] + ([] if last else [nn.ReLU()])
        self.down = nn.Sequential(*down[:-1], *(Residual(width, 1 if own else 3) for _ in range(layers)), nn.ReLU())
        self.up = nn.Sequential(*(Residual(width) for _ in range(layers)), nn.ReLU(), *up)
        # What is where, for convolutions do not know: the same code may then mean another thing elsewhere.
        self.place_in, self.place_out = (nn.Embedding(grid[0] * grid[1], width) for _ in range(2))

    def encode(self, x: Tensor) -> Tensor:
        """Frames ``[B, T, H, W, C]`` to ``[B, T, S, D]``."""
        made = self.down(x.flatten(0, 1).permute(0, 3, 1, 2)).flatten(2).transpose(1, 2)
        return (made + self.place_in.weight).unflatten(0, x.shape[:2])

    def decode(self, x: Tensor) -> Tensor:
        """``[B, T, S, D]`` to frames ``[B, T, H, W, C]``."""
        made = (x + self.place_out.weight).flatten(0, 1).transpose(1, 2).unflatten(2, self.grid)
        return self.up(made).permute(0, 2, 3, 1).unflatten(0, x.shape[:2])


class PatchTrunk(nn.Module):
    """Genie's: patches in, a transformer over space and time, patches out; sees the frames before in both directions."""

    def __init__(
        self, shape: tuple[int, int, int], grid: Pair, width: int, layers: int, heads: int, field: str = "wide"
    ) -> None:
        super().__init__()
        if any(s % g for s, g in zip(shape[:2], grid, strict=True)):
            fits = [", ".join(str(g) for g in range(1, s + 1) if s % g == 0) for s in shape[:2]]
            by = fits[0] if shape[0] == shape[1] else f"{fits[0]} down and {fits[1]} across"
            raise RecipeError(
                f"model.grid: {grid[0]}x{grid[1]} patches do not tile a frame of {shape[0]}x{shape[1]} pixels; these do: {by}"
            )
        self.grid, self.patch = grid, (shape[0] // grid[0], shape[1] // grid[1], shape[2])
        pixels, S = self.patch[0] * self.patch[1] * shape[2], grid[0] * grid[1]
        self.into, self.out = Linear(pixels, width), Linear(width, pixels)
        self.below, self.above = (SpaceTime(S, width, layers, heads) for _ in range(2))

    def encode(self, x: Tensor) -> Tensor:
        """Frames ``[B, T, H, W, C]`` to ``[B, T, S, D]``."""
        (h, w), (p, q, c), (B, T) = self.grid, self.patch, x.shape[:2]
        patches = x.reshape(B, T, h, p, w, q, c).transpose(3, 4).reshape(B, T, h * w, p * q * c)
        return self.below(self.into(patches))

    def decode(self, x: Tensor) -> Tensor:
        """``[B, T, S, D]`` to frames ``[B, T, H, W, C]``."""
        (h, w), (p, q, c), (B, T) = self.grid, self.patch, x.shape[:2]
        patches = self.out(self.above(x)).reshape(B, T, h, w, p, q, c)
        return patches.transpose(3, 4).reshape(B, T, h * p, w * q, c)


TRUNKS = {"conv": ConvTrunk, "st_vit": PatchTrunk}
