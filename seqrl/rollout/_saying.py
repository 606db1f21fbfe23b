"""Rows that are said side by side: how an id is chosen, whose chance is whose, and what a row without its text would say.

With classifier-free guidance (Ho & Salimans 2022, arXiv 2207.12598) each row has a twin that was not told its text, and scores
are ``u + s (c - u)``. A row's draws are its own, so its neighbours make no difference to it.

Letters: B rows, K codes of a frame, V ids of a modality.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seqrl.core.errors import UserError

Words = Sequence[tuple[int, ...]]
"""Ids of each of the words there are for an action."""


@dataclass(frozen=True)
class Draw:
    """How an id is chosen.

    Args:
        temperature: of the draw; 0 takes the likeliest. top_k: only so many of the likeliest; None for all.
    """

    temperature: float = 1.0
    top_k: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise UserError(f"--temperature: a number from 0 on (got {self.temperature})")

    def __call__(self, logits: Tensor, uniform: Tensor) -> Tensor:
        """Ids ``[B]`` of ``logits [B, V]``, drawn with ``uniform [B]`` of [0, 1)."""
        if self.temperature == 0:
            return logits.argmax(-1)
        named = None
        if self.top_k is not None and self.top_k < logits.shape[-1]:
            logits, named = logits.topk(self.top_k, -1)
        cdf = (logits.double() / self.temperature).softmax(-1).cumsum(-1)
        # Above 0, so that an id without any chance is not drawn; up to the sum as it came out, which rounding moves.
        found = (cdf < uniform.clamp(min=2**-25)[:, None] * cdf[:, -1:]).sum(-1).clamp(max=cdf.shape[-1] - 1)
        return found if named is None else named.gather(-1, found[:, None])[:, 0]


@dataclass(frozen=True)
class Manner:
    """How things are said.

    Args:
        guidance: s; 1 is the model itself, more holds a video closer to its text. vision, text: how their ids are chosen.
        seed: decides every draw; a row's draws do not depend on its neighbours. chunk: tokens of a prompt read at once.
    """

    guidance: float = 1.0
    vision: Draw = Draw()
    text: Draw = Draw()
    seed: int = 0
    chunk: int = 1024

    def __post_init__(self) -> None:
        if not 0 <= self.guidance < float("inf"):
            raise UserError(f"--guidance: a number from 0 on (got {self.guidance})")


class _Chance:
    """Numbers of [0, 1) for each row, its own."""

    def __init__(self, seed: int, rows: int) -> None:
        self._rngs = [np.random.default_rng([seed, row]) for row in range(rows)]

    def __call__(self, count: int, device: Any) -> Tensor:
        """``[B, count]``."""
        return torch.tensor(np.stack([rng.random(count, np.float32) for rng in self._rngs]), device=device)


def _padded(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Rows of ids side by side, filled up on the right, and how many are real."""
    real = torch.tensor([len(r) for r in rows])
    ids = torch.zeros(len(rows), max(1, int(real.max())), dtype=torch.int64)
    for row, one in enumerate(rows):
        ids[row, : len(one)] = torch.tensor(one, dtype=torch.int64)
    return ids, real


class Rows:
    """Rows that are said, each perhaps with a twin that was not told its text."""

    def __init__(self, model: Any, prompts: list[list[int]], twins: list[list[int]] | None, room: int, manner: Manner) -> None:
        self.model, self.manner, self.count = model, manner, len(prompts)
        self.twins = twins is not None
        self.saying = model.say(len(prompts) * (2 if self.twins else 1), room)
        self.chance = _Chance(manner.seed, len(prompts))
        self.saying.read(*_padded([*prompts, *(twins or [])]), manner.chunk)

    def scores(self, modality: str) -> Tensor:
        """``[B, V]``, guided."""
        found = self.saying.scores(modality)
        if not self.twins:
            return found
        told, untold = found.split(self.count)
        return untold + self.manner.guidance * (told - untold)

    def tell(self, rows: Sequence[Sequence[int]]) -> None:
        """Ids that each row goes on with, given or said; none where a row is empty."""
        self.saying.read(*_padded([*rows, *rows] if self.twins else rows), self.manner.chunk)

    def frame(self) -> Tensor:
        """Says the K codes of a frame, ``[B, K]``; the last is not told yet."""
        ports, said = self.model.ports, []
        device = self.saying.lengths.device
        uniform = self.chance(ports.frame, device)
        for k in range(ports.frame):
            if k:
                self.tell((said[-1] + ports.text)[:, None].tolist())
            # The ends of a frame and of a video are no codes.
            said.append(self.manner.vision(self.scores("vision")[:, : ports.vision - 2], uniform[:, k]))
        return torch.stack(said, 1)

    def word(self, words: Words) -> list[tuple[int, ...]]:
        """Says one of ``words`` in every row; no word may be the beginning of another."""
        said: list[tuple[int, ...]] = [()] * self.count
        for n in range(max(map(len, words))):
            scores = self.scores("text")
            hidden = torch.full_like(scores, -torch.inf)
            going = [row for row, one in enumerate(said) if one not in words]
            if not going:
                break
            for row in going:
                may = sorted({w[n] for w in words if w[:n] == said[row] and len(w) > n})
                hidden[row, may] = scores[row, may]
            for row in set(range(self.count)) - set(going):
                hidden[row, 0] = 0.0
            chosen = self.manner.text(hidden, self.chance(1, scores.device)[:, 0]).tolist()
            more = [(chosen[row],) if row in going else () for row in range(self.count)]
            said = [one + new for one, new in zip(said, more, strict=True)]
            self.tell(more)
        return said
