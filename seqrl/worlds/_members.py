"""An ensemble beside a world model: members that foretell the same thing, and differ where the data did not say.

Each is a network of one hidden layer that began with weights of its own. Where they have learned, they agree; what is left of
their difference elsewhere is a measure of not knowing: something to look for (Sekar et al. 2020, Plan2Explore, section 3.2),
or, where only fixed data are there to learn from, something to keep away from.

Letters: M members, I numbers read, E numbers foretold.
"""

from torch import Tensor, nn

from seqrl.nn.blocks import ACTIVATIONS
from seqrl.nn.cells import BlockLinear
from seqrl.nn.linear import Linear


class Members(nn.Module):
    """M networks side by side; the first layers of all are one matrix, for they read the same."""

    def __init__(self, members: int, inputs: int, hidden: int, outputs: int, activation: str) -> None:
        super().__init__()
        self.inner, self.act = Linear(inputs, members * hidden), ACTIVATIONS[activation]
        self.out = BlockLinear(members * hidden, members * outputs, members)
        self.members = members

    def forward(self, x: Tensor) -> Tensor:
        """``[N, I]`` to ``[N, M, E]``."""
        return self.out(self.act(self.inner(x))).unflatten(-1, (self.members, -1)).float()

    def loss(self, x: Tensor, target: Tensor) -> Tensor:
        """``[..., I]`` and ``[..., E]`` to squared errors ``[...]``, averaged over members and numbers."""
        each = (self(x.flatten(0, -2)) - target.flatten(0, -2)[:, None].float()) ** 2
        return each.mean((-2, -1)).view(x.shape[:-1])

    def disagreement(self, x: Tensor) -> Tensor:
        """``[N, I]`` to the members' standard deviation ``[N]``, averaged over numbers."""
        return self(x).std(1, correction=0).mean(-1)
