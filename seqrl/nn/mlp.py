"""A stack of fully connected layers with a norm behind each, as the Dreamer family builds all its parts from."""

from itertools import pairwise

from torch import Tensor, nn

from seqrl.nn.blocks import ACTIVATIONS
from seqrl.nn.linear import Linear

NORMS = {"none": None, "layer": nn.LayerNorm, "rms": nn.RMSNorm}


class Dense(nn.Module):
    """``[..., D]`` to ``[..., width]``: a matrix, a norm and an activation, ``layers`` times; nothing where that is 0.

    Args:
        inputs: D. norm: none, layer or rms. Matrices have a bias even so: without one, a norm behind the first would leave of a
            few numbers their direction alone, and how large they are would be lost.
    """

    def __init__(self, inputs: int, width: int, layers: int, activation: str = "silu", norm: str = "rms") -> None:
        super().__init__()
        self.act, make = ACTIVATIONS[activation], NORMS[norm]
        sizes = [inputs, *[width] * layers]
        self.layers = nn.ModuleList(Linear(a, b) for a, b in pairwise(sizes))
        self.norms = nn.ModuleList(nn.Identity() if make is None else make(width) for _ in range(layers))
        self.width = sizes[-1]

    def forward(self, x: Tensor, plus: Tensor | None = None) -> Tensor:
        """``[..., D]`` to ``[..., width]``; ``plus [..., width]`` is added to the first product: what other inputs, multiplied
        elsewhere, have to say."""
        for i, (layer, norm) in enumerate(zip(self.layers, self.norms, strict=True)):
            y = layer(x)
            x = self.act(norm(y if plus is None or i else y + plus))
        return x
