"""What a world model sees and shows: observed slots to one vector, and a feature back to the slots.

Pictures go through convolutions of stride 2 that halve them until few cells are left, and come back by the same way
(Ha and Schmidhuber 2018; Hafner et al. 2019, appendix A, with 32 to 256 channels). Numbers, and codes as one-hot vectors, go
through fully connected layers together.

Letters: D width of the joint vector, F numbers of a feature, H, W, C rows, columns and channels of a picture, K codes, V
vocabulary.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqrl.core.contracts import Ports
from seqrl.core.errors import RecipeError
from seqrl.nn.blocks import ACTIVATIONS
from seqrl.nn.linear import Linear
from seqrl.nn.mlp import Dense
from seqrl.nn.outcomes import symexp, symlog

# Cells a side at which halving stops.
_FEW = 6
COMING = ("return", "reward", "done")
"""Slots that tell what follows an action."""


def _sides(shape: Sequence[int]) -> list[tuple[int, int]]:
    """Rows and columns before and after each halving."""
    sides = [(shape[0], shape[1])]
    while max(sides[-1]) > _FEW and min(sides[-1]) >= 4:
        sides.append((sides[-1][0] // 2, sides[-1][1] // 2))
    return sides


class PictureIn(nn.Module):
    """``[..., H*W*C]`` uint8 to ``[..., D]``."""

    def __init__(self, shape: Sequence[int], width: int, channels: int, activation: str) -> None:
        super().__init__()
        self.shape, self.act, self.sides = tuple(shape), ACTIVATIONS[activation], _sides(shape)
        counts = [shape[2], *(channels * 2 ** min(i, 3) for i in range(len(self.sides) - 1))]
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 4, 2, 1) for a, b in pairwise(counts))
        rows, columns = self.sides[-1]
        self.out = Linear(counts[-1] * rows * columns, width)

    def forward(self, images: Tensor) -> Tensor:
        x = images.reshape(-1, *self.shape).permute(0, 3, 1, 2)
        x = x.to(self.out.weight.dtype) / 255 - 0.5
        for conv in self.convs:
            x = self.act(conv(x))
        return self.out(x.flatten(1)).unflatten(0, images.shape[:-1])


class PictureOut(nn.Module):
    """``[..., F]`` to brightness ``[..., H*W*C]``, 0 to 1 where it is right (it is not forced to be)."""

    def __init__(self, shape: Sequence[int], inputs: int, channels: int, activation: str) -> None:
        super().__init__()
        self.shape, self.act, sides = tuple(shape), ACTIVATIONS[activation], _sides(shape)
        n = len(sides) - 1
        counts = [shape[2], *(channels * 2 ** min(i, 3) for i in range(n))]
        self.cells = (counts[-1], *sides[-1])
        self.inner = Linear(inputs, counts[-1] * sides[-1][0] * sides[-1][1])
        self.convs = nn.ModuleList(
            # An odd side lost its last row when it was halved; it is grown again.
            nn.ConvTranspose2d(counts[i], counts[i - 1], 4, 2, 1, output_padding=(sides[i - 1][0] % 2, sides[i - 1][1] % 2))
            for i in range(n, 0, -1)
        )

    def forward(self, feat: Tensor) -> Tensor:
        x = self.inner(feat).reshape(-1, *self.cells)
        for i, conv in enumerate(self.convs):
            x = conv(self.act(x) if i else x)
        return 0.5 + x.permute(0, 2, 3, 1).flatten(1).unflatten(0, feat.shape[:-1])


class Sensors(nn.Module):
    """Observed slots of a step to one vector ``[..., D]``."""

    def __init__(
        self,
        ports: Ports,
        slots: Sequence[str],
        width: int,
        hidden: int = 256,
        layers: int = 2,
        channels: int = 32,
        activation: str = "silu",
        norm: str = "rms",
        squash: bool = False,
    ) -> None:
        """
        Args:
            slots: which are seen. hidden, layers: of the layers for numbers. channels: of the first convolution.
            squash: take the ``symlog`` of numbers (Hafner et al. 2023).
        """
        super().__init__()
        self.slots, self.squash = tuple(slots), squash
        self.vocabs = {n: ports.vocabs[n] for n in slots}
        pictures = [n for n in slots if n in ports.images]
        self.plain = [n for n in slots if n not in ports.images]
        self.pictures = nn.ModuleDict({n: PictureIn(ports.images[n]["shape"], hidden, channels, activation) for n in pictures})
        numbers = sum(ports.widths[n] * max(ports.vocabs[n], 1) for n in self.plain)
        self.numbers = Dense(numbers, hidden, layers, activation, norm) if self.plain else None
        self.out = Linear(hidden * (len(pictures) + bool(self.plain)), width)

    def forward(self, values: Mapping[str, Tensor]) -> Tensor:
        """slot -> ``[..., width]`` to ``[..., D]``."""
        parts = [net(values[n]) for n, net in self.pictures.items()]
        if self.numbers is not None:
            flat = [self._plain(n, values[n]) for n in self.plain]
            parts.append(self.numbers(flat[0] if len(flat) == 1 else torch.cat(flat, -1)))
        return self.out(parts[0] if len(parts) == 1 else torch.cat(parts, -1))

    def _plain(self, slot: str, value: Tensor) -> Tensor:
        if self.vocabs[slot]:
            return F.one_hot(value, self.vocabs[slot]).flatten(-2).to(self.out.weight.dtype)
        return symlog(value) if self.squash else value


class Screens(nn.Module):
    """A feature ``[..., F]`` back to the slots, each with its own network."""

    def __init__(
        self,
        ports: Ports,
        slots: Sequence[str],
        inputs: int,
        hidden: int = 256,
        layers: int = 2,
        channels: int = 32,
        activation: str = "silu",
        norm: str = "rms",
        squash: bool = False,
    ) -> None:
        """As for ``Sensors``; ``inputs`` is F. Raises RecipeError where there is nothing to show."""
        super().__init__()
        if not slots:
            raise RecipeError("train.losses: name at least one observed slot, which the world model learns to show")
        self.slots, self.squash = tuple(slots), squash
        self.vocabs = {n: ports.vocabs[n] for n in slots}
        self.images = [n for n in slots if n in ports.images]
        self.bodies, self.outs = nn.ModuleDict(), nn.ModuleDict()
        for n in slots:
            if n in ports.images:
                self.outs[n] = PictureOut(ports.images[n]["shape"], inputs, channels, activation)
                continue
            self.bodies[n] = Dense(inputs, hidden, layers, activation, norm)
            self.outs[n] = Linear(self.bodies[n].width, ports.widths[n] * max(ports.vocabs[n], 1))

    def say(self, slot: str, feat: Tensor) -> Tensor:
        """What is shown in a slot, as its network says it: brightness, (squashed) numbers, or logits ``[..., K, V]``."""
        y = self.outs[slot](self.bodies[slot](feat) if slot in self.bodies else feat).float()
        return y.unflatten(-1, (-1, self.vocabs[slot])) if self.vocabs[slot] else y

    def loss(self, slot: str, feat: Tensor, value: Tensor) -> Tensor:
        """``[..., F]`` and encoded values ``[..., width]`` to ``[...]``: squared errors (of brightness, of numbers) or
        cross-entropies, summed over the slot."""
        y = self.say(slot, feat)
        if self.vocabs[slot]:
            each = F.cross_entropy(y.flatten(0, -2), value.flatten(), reduction="none").view(value.shape)
        else:
            wanted = value.float() / 255 if slot in self.images else symlog(value) if self.squash else value
            each = (y - wanted) ** 2
        return each.sum(-1)

    def show(self, feat: Tensor) -> dict[str, Tensor]:
        """``[..., F]`` to encoded values, slot -> ``[..., width]``: uint8, float32 or codes."""
        return {n: self._shown(n, self.say(n, feat)) for n in self.slots}

    def _shown(self, slot: str, y: Tensor) -> Tensor:
        if self.vocabs[slot]:
            return y.argmax(-1)
        if slot in self.images:
            return (255 * y).round().clamp(0, 255).to(torch.uint8)
        return symexp(y) if self.squash else y


def observed(ports: Ports, step: Sequence[str]) -> list[str]:
    """The slots of a step that are seen: those in front of the action.

    Raises:
        RecipeError: the layout has no action, nothing in front of it, or there what is only known after it.
    """
    if "action" not in step or step.index("action") == 0:
        raise RecipeError(
            f"layout '{ports.layout}': a world's step is what is seen, then 'action', as in 'image action > reward'"
        )
    seen = list(step[: step.index("action")])
    if late := [n for n in seen if n in COMING]:
        raise RecipeError(
            f"layout '{ports.layout}': '{late[0]}' follows an action and stands behind it, as in 'state action > reward done'"
        )
    return seen


def heed(prev_action: Tensor, begun: Tensor) -> Tensor:
    """``[B, T, A]`` without the first action of rows that have not begun (``begun [B]``): it may be any number, or none."""
    return torch.cat((prev_action[:, :1].where(begun[:, None, None], 0), prev_action[:, 1:]), 1)


class ActionIn(nn.Module):
    """Encoded actions ``[..., A]`` to numbers ``[..., width]``: numbers as they are, codes as one-hot vectors side by side."""

    def __init__(self, ports: Ports) -> None:
        super().__init__()
        self.vocab = ports.vocabs["action"]
        self.width = ports.widths["action"] * max(self.vocab, 1)

    def forward(self, action: Tensor) -> Tensor:
        if self.vocab:
            # A policy's gradient may come through what stands in for a code: then it is one-hot already.
            return action if action.is_floating_point() else F.one_hot(action, self.vocab).flatten(-2).float()
        return action
