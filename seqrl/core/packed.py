"""Packed rows: spans of episodes, of any length and of several domains, laid one behind the other into rows of L tokens.

A *domain* is a group of datasets with the same spaces and the same layout. A *document* is what sees itself and nothing
else: a span of one episode, perhaps with a prompt in front. What is stored is ragged and has one entry an environment step
(S of them), for a step's tokens stand side by side: its values, and the place where its first token stands. Everything else
about a token (its slot, which of the slot's K tokens, what predicts it) follows from the layout and is never stored.

Letters: B rows, L tokens in a row, S steps and N spans of one domain in the batch, K tokens of a slot per step.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Part:
    """All of one domain's steps in a batch.

    Args:
        values: slot -> ``[S, width]`` numbers or codes of a slot that comes every step (fed or read out); ``[N, width]`` of
            one that stands in front.
        at: ``[S]`` int64, where the step's first token stands in the flattened rows (``b * L + l``).
        time: ``[S]`` int64, the environment step within its episode.
        weight: ``[S]`` float32, what the step counts in the loss; 0 in a prompt.
        front: ``[N]`` int64, where the span begins in the flattened rows, with its first prefix token if it has one.
        lengths: prefix slot -> ``[N]`` int64, real tokens; only those stand in the row.
        front_weight: ``[N]`` float32, what the prefix counts in the loss.
    """

    values: Mapping[str, "torch.Tensor"]
    at: "torch.Tensor"
    time: "torch.Tensor"
    weight: "torch.Tensor"
    front: "torch.Tensor"
    lengths: Mapping[str, "torch.Tensor"]
    front_weight: "torch.Tensor"
    prefix: frozenset[str] = frozenset()
    """The slots of ``values`` that stand in front."""
    joint: bool = False
    """Whether the tokens of a slot share the weight of their step (or span) among them; otherwise each of them has it."""

    def map(self, steps: Callable[[Any], Any], spans: Callable[[Any], Any]) -> "Part":
        """The same with ``steps`` applied to every tensor over S, and ``spans`` to every one over N."""
        values = {n: (spans if n in self.prefix else steps)(v) for n, v in self.values.items()}
        fixed = {n: steps(getattr(self, n)) for n in ("at", "time", "weight")}
        fixed |= {n: spans(getattr(self, n)) for n in ("front", "front_weight")}
        return replace(self, values=values, lengths={n: spans(v) for n, v in self.lengths.items()}, **fixed)


@dataclass(frozen=True)
class PackedBatch:
    """B rows of L tokens.

    Args:
        parts: domain -> its steps; domains without any are left out.
        pack: ``[B, L]`` int64, number of the token's document within its row, -1 where there is no token.
        pos: ``[B, L]`` int64, position within the document.
        cut: where rows are cut over several processes, this one's piece of them (context/cut.py); the batch itself is whole.
    """

    parts: Mapping[str, Part]
    pack: "torch.Tensor"
    pos: "torch.Tensor"
    cut: Any = None

    @property
    def efficiency(self) -> float:
        """Share of the rows' places that hold a token."""
        return float((self.pack >= 0).float().mean())

    def to(self, device: Any) -> "PackedBatch":
        """The same batch on another device; tensors already there are not copied."""

        def move(t: Any) -> Any:
            return t.to(device, non_blocking=True)

        parts = {d: p.map(move, move) for d, p in self.parts.items()}
        return replace(self, parts=parts, pack=move(self.pack), pos=move(self.pos))

    def split(self, pieces: int) -> list["PackedBatch"]:
        """The rows dealt out to ``pieces`` batches of equally many."""
        B, L = self.pack.shape
        return [self._rows(b, B // pieces, L) for b in range(0, B, B // pieces)]

    def _rows(self, first: int, count: int, L: int) -> "PackedBatch":
        parts = {}
        for name, part in self.parts.items():
            mine, spans = (((t // L) >= first) & ((t // L) < first + count) for t in (part.at, part.front))
            if bool(mine.any()):
                cut = part.map(lambda t, mine=mine: t[mine], lambda t, spans=spans: t[spans])
                parts[name] = replace(cut, at=cut.at - first * L, front=cut.front - first * L)
        return PackedBatch(parts, self.pack[first : first + count], self.pos[first : first + count])
