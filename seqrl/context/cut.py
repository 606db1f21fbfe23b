"""A batch cut over several ranks: whose token is whose, and where each stands.

Rows are laid one behind the other (every row's beginning begins a document, too), and the places dealt to the ranks by a
layout. Everything that belongs to tokens (embeddings, positions within their documents, targets) is made for whole rows and
then taken from, so that it is right whatever the layout; nothing is shifted afterwards.

Letters: B rows, L tokens in a row, n ranks, N = B * L / n tokens of each.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from seqrl.context.errors import ContextError
from seqrl.context.exchange import Exchange
from seqrl.context.layouts import ring_share
from seqrl.context.plan import Plan, make_plan


@dataclass(frozen=True, eq=False)
class Cut:
    """One rank's piece of a batch.

    Args:
        plan: what this rank computes and exchanges.
        exchange: the way to the other ranks; None where there are none.
        at: ``[N]`` int64, the places of this rank's tokens among B * L, ascending: its order.
        spot: ``[B * L]`` int64, where each place stands in that order; -1 where it is another rank's.
    """

    plan: Plan
    exchange: Exchange | None
    at: Tensor
    spot: Tensor
    calls: int = field(default=0, init=False)
    """How often attention was asked for under this cut, recomputation counted again; the one thing that changes."""

    @property
    def ranks(self) -> int:
        return self.plan.ranks

    @property
    def rank(self) -> int:
        return self.plan.rank

    def take(self, x: Tensor) -> Tensor:
        """This rank's tokens ``[1, N, ...]`` of ``x [B, L, ...]``."""
        return x.flatten(0, 1)[self.at][None]

    def called(self) -> None:
        """Counts one more call."""
        object.__setattr__(self, "calls", self.calls + 1)

    def connected(self) -> Exchange | None:
        """The exchange, which several ranks cannot do without.

        Raises:
            ContextError: there is none.
        """
        if self.exchange is None and self.ranks > 1:
            raise ContextError(f"a cut over {self.ranks} ranks needs an exchange between them (context/exchange.py)")
        return self.exchange


def documents_of(pack: Tensor) -> tuple[int, ...]:
    """Where documents begin in the flattened rows, and the end: wherever ``pack [B, L]`` changes, and every row."""
    begins = torch.ones_like(pack, dtype=torch.bool)
    begins[:, 1:] = pack[:, 1:] != pack[:, :-1]
    return (*begins.flatten().nonzero()[:, 0].tolist(), pack.numel())


def cut_rows(pack: Tensor, exchange: Exchange | None, ranks: int, rank: int, layout: str = "balanced") -> Cut:
    """This rank's piece of rows.

    Args:
        pack: ``[B, L]`` int64, the document of each token; each run of equal numbers within a row is one, padding (-1) too.
            Read once, on the host.
        exchange: of the ranks; None of one rank.
        layout: "balanced", "zigzag" or "contiguous" (layouts.py).

    Raises:
        ContextError: a length that cannot be cut evenly, with the nearest that can.
    """
    ring_share(pack.shape[1], ranks, layout, pack.shape[0])
    plan = make_plan(documents_of(pack.detach().cpu()), ranks, rank, layout)
    at = torch.from_numpy(plan.positions(rank))
    spot = torch.full((pack.numel(),), -1)
    spot[at] = torch.arange(len(at))
    return Cut(plan, exchange, at.to(pack.device), spot.to(pack.device))


def unshard(pieces: Sequence[Tensor], plan: Plan) -> Tensor:
    """The pieces ``[1, N, ...]`` of all ranks put together again: ``[1, B * L, ...]``."""
    places = torch.cat([torch.from_numpy(plan.positions(r)) for r in range(plan.ranks)])
    return torch.cat(tuple(pieces), 1)[:, places.argsort().to(pieces[0].device)]
