"""The recurrence of an RSSM: a memory, and the latent that is drawn at each step from what was seen or from what is expected.

In training and in ``observe`` the loop over steps holds only what depends on the memory: what observations and actions
contribute is multiplied for all steps in front of it, and the prior is computed for all steps behind it.

Letters: B rows, T environment steps, D numbers of memory, S of a latent, P of its parameters, E of an embedded observation,
A of an action.
"""

import torch
from torch import Tensor, nn

from seqrl.nn.cells import make_cell
from seqrl.nn.latents import FromLatent, Latents
from seqrl.nn.linear import Linear
from seqrl.nn.mlp import Dense


class Recurrence(nn.Module):
    """Memory, prior and posterior.

    Args:
        latents: what is drawn. action, embed, deter: A, E and D. hidden: units of each hidden layer.
        gru, blocks: as of ``nn.cells.make_cell``. prior_layers: hidden layers of the prior; the posterior has one.
    """

    def __init__(
        self,
        latents: Latents,
        action: int,
        embed: int,
        deter: int,
        hidden: int,
        gru: str = "layer_norm",
        blocks: int = 8,
        prior_layers: int = 1,
        activation: str = "silu",
        norm: str = "rms",
    ) -> None:
        super().__init__()
        self.latents, self.deter = latents, deter
        self.cell = make_cell(gru, latents, action, deter, hidden, blocks, activation, norm)
        self.expects = Dense(deter, hidden, prior_layers, activation, norm)
        self.prior_out = Linear(hidden, latents.parameters)
        self.knows, self.evidence = Dense(deter, hidden, 1, activation, norm), Linear(embed, hidden, False)
        self.posterior_out = Linear(hidden, latents.parameters)

    def prior(self, h: Tensor) -> Tensor:
        """Memories ``[..., D]`` to the priors' parameters ``[..., P]``."""
        return self.prior_out(self.expects(h))

    def scan(self, h: Tensor, s: Tensor, embed: Tensor, action: Tensor, sample: bool = True) -> tuple[Tensor, Tensor, Tensor]:
        """From memory ``[B, D]`` and latent ``[B, S]`` over T observed steps.

        Args:
            embed: ``[B, T, E]``. action: ``[B, T, A]``, the one that led to each step.
            sample: draw latents; False takes what is likeliest.

        Returns:
            memories ``[B, T, D]``, the posteriors' latents ``[B, T, S]``, and their parameters ``[B, T, P]``.
        """
        hs, ss, raws = [], [], []
        for evidence, given in zip(self.evidence(embed).unbind(1), self.cell.given(action).unbind(1), strict=True):
            h = self.cell(h, s, given)
            raw = self.posterior_out(self.knows(h, evidence))
            s = self.latents.draw(raw, sample)
            hs.append(h)
            ss.append(s)
            raws.append(raw)
        return torch.stack(hs, 1), torch.stack(ss, 1), torch.stack(raws, 1)

    def ahead(
        self, h: Tensor, s: Tensor, action: Tensor, sample: bool = True, temperature: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """Memory ``[B, D]`` and latent ``[B, S]`` after an action ``[B, A]`` whose outcome is imagined."""
        h = self.cell(h, s, self.cell.given(action))
        return h, self.latents.draw(self.prior(h), sample, temperature)


class FromFeat(nn.Module):
    """Layers over features ``[..., D + S]``: memory and latent side by side, each by its own part of the first matrix."""

    def __init__(self, latents: Latents, deter: int, hidden: int, layers: int, activation: str, norm: str) -> None:
        super().__init__()
        self.memory, self.latent = Dense(deter, hidden, layers, activation, norm), FromLatent(latents, hidden)
        self.deter, self.width = deter, hidden

    def forward(self, feat: Tensor) -> Tensor:
        return self.memory(feat[..., : self.deter], self.latent(feat[..., self.deter :]))
