"""Recurrent cells of world models: what a latent and an action do to a memory, in the three builds of the Dreamer family.

``plain`` is a GRU (Cho et al. 2014) behind one layer that joins latent and action (Hafner et al. 2019, 2020). ``layer_norm``
normalises all gates together and lets a memory that knows nothing change slowly, by an update gate of ``sigmoid(u - 1)``
(Hafner et al. 2021). ``block`` is the latter with a memory of G blocks whose gates read only their own block, and a layer in
between that reads the rest, so that a wide memory costs a G-th (Hafner et al. 2023, in the code of 2025).

What comes from actions does not depend on the memory, so ``given`` computes it for all steps at once.

Letters: N rows, D numbers of memory, S of a latent, A of an action, G blocks.
"""

import torch
from torch import Tensor, nn

from seqrl.core.errors import RecipeError
from seqrl.nn.blocks import ACTIVATIONS
from seqrl.nn.latents import FromLatent, Latents
from seqrl.nn.linear import Linear
from seqrl.nn.mlp import NORMS, Dense

KINDS = ("plain", "layer_norm", "block")


class BlockLinear(nn.Module):
    """G matrices side by side: ``[N, G * in]`` to ``[N, G * out]``, each block by its own."""

    def __init__(self, inputs: int, outputs: int, blocks: int) -> None:
        """Raises RecipeError where the widths are no multiples of ``blocks``."""
        super().__init__()
        if blocks < 1 or inputs % blocks or outputs % blocks:
            raise RecipeError(f"model.blocks={blocks}: must divide {inputs} and {outputs}")
        self.weight = nn.Parameter(torch.empty(blocks, inputs // blocks, outputs // blocks))
        nn.init.normal_(self.weight, std=(inputs // blocks) ** -0.5)
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.blocks = blocks

    def forward(self, x: Tensor) -> Tensor:
        y = torch.bmm(x.unflatten(-1, (self.blocks, -1)).transpose(0, 1), self.weight)
        return y.transpose(0, 1).flatten(1) + self.bias


def _gated(h: Tensor, reset: Tensor, new: Tensor, update: Tensor) -> Tensor:
    """The next memory ``[N, D]``; nothing is forgotten where ``update`` is small, and at first it is."""
    return torch.lerp(h, (reset.sigmoid() * new).tanh(), (update - 1).sigmoid())


class _Behind(nn.Module):
    """The norm and the activation behind a sum."""

    def __init__(self, width: int, activation: str, norm: str) -> None:
        super().__init__()
        self.norm, self.act = nn.Identity() if NORMS[norm] is None else NORMS[norm](width), ACTIVATIONS[activation]

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(x))


class Plain(nn.Module):
    """A GRU behind one layer."""

    def __init__(self, latent: Latents, action: int, deter: int, hidden: int, activation: str, norm: str) -> None:
        super().__init__()
        self.latent, self.action = FromLatent(latent, hidden), Linear(action, hidden)
        self.join = _Behind(hidden, activation, norm)
        self.gru = nn.GRUCell(hidden, deter)

    def given(self, action: Tensor) -> Tensor:
        """What actions ``[..., A]`` contribute, for ``forward``."""
        return self.action(action)

    def forward(self, h: Tensor, s: Tensor, given: Tensor) -> Tensor:
        """Memory ``[N, D]``, latent ``[N, S]`` and what ``given`` made of the action to the next memory."""
        return self.gru(self.join(self.latent(s) + given), h)


class Normed(nn.Module):
    """A GRU whose gates are normalised together, behind one layer; methods as of ``Plain``."""

    def __init__(self, latent: Latents, action: int, deter: int, hidden: int, activation: str, norm: str) -> None:
        super().__init__()
        self.latent, self.action = FromLatent(latent, hidden), Linear(action, hidden)
        self.join = _Behind(hidden, activation, norm)
        self.gates, self.norm = Linear(hidden + deter, 3 * deter, False), nn.LayerNorm(3 * deter)

    def given(self, action: Tensor) -> Tensor:
        return self.action(action)

    def forward(self, h: Tensor, s: Tensor, given: Tensor) -> Tensor:
        x = self.join(self.latent(s) + given)
        return _gated(h, *self.norm(self.gates(torch.cat((x, h), -1))).chunk(3, -1))


class Blocks(nn.Module):
    """A GRU in G blocks, behind one layer for each input and one, in blocks, for all; methods as of ``Plain``."""

    def __init__(
        self, latent: Latents, action: int, deter: int, hidden: int, activation: str, norm: str, blocks: int = 8
    ) -> None:
        super().__init__()
        own = (activation, norm)
        self.memory, self.action = Dense(deter, hidden, 1, *own), Dense(action, hidden, 1, *own)
        self.latent, self.join = FromLatent(latent, hidden), _Behind(hidden, *own)
        # Every block reads all of the three: matrices of the blocks for a common input are one matrix.
        self.own, self.common = BlockLinear(deter, deter, blocks), Linear(2 * hidden, deter, False)
        self.done = Linear(hidden, deter, False)
        self.behind, self.gates, self.blocks = _Behind(deter, *own), BlockLinear(deter, 3 * deter, blocks), blocks

    def given(self, action: Tensor) -> Tensor:
        return self.done(self.action(action))

    def forward(self, h: Tensor, s: Tensor, given: Tensor) -> Tensor:
        common = self.common(torch.cat((self.memory(h), self.join(self.latent(s))), -1))
        x = self.behind(self.own(h) + common + given)
        # Each block has its three gates side by side.
        parts = self.gates(x).unflatten(-1, (self.blocks, 3, -1)).unbind(2)
        return _gated(h, *(p.flatten(1) for p in parts))


def make_cell(
    kind: str, latent: Latents, action: int, deter: int, hidden: int, blocks: int, activation: str, norm: str
) -> nn.Module:
    """The cell of a kind; arguments are what is drawn, the widths A and D, that of the layers in front, and G."""
    sizes = (latent, action, deter, hidden, activation, norm)
    return Blocks(*sizes, blocks) if kind == "block" else {"plain": Plain, "layer_norm": Normed}[kind](*sizes)
