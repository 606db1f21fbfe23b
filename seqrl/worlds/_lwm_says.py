"""Rows that are being said: prompts taken in piece by piece, then token after token, each on what a cache holds of the others.

Prompts of different lengths stand side by side and are read in chunks, so that a long one never needs scores of all its places
with all others at once. What to say next is chosen by whoever asks (rollout/generate.py): here are only the scores.

Letters: B rows, L tokens, D width, V ids of a modality.
"""

from typing import Any

import torch
from torch import Tensor


class Saying:
    """B rows and what the model has read of them.

    Args:
        model: a ``worlds.lwm`` model in evaluation mode. rows: B. tokens: room in each row.

    Raises:
        RecipeError: more tokens than the body has positions for.
    """

    def __init__(self, model: Any, rows: int, tokens: int) -> None:
        self._model, trunk = model, model.trunk
        self._cache = trunk.init_cache(rows, tokens)
        weight = trunk.embedding.weight
        # Codes of a frame that has not ended yet.
        self._codes = torch.zeros(rows, dtype=torch.int64, device=weight.device)
        self._last = torch.zeros(rows, trunk.width, dtype=weight.dtype, device=weight.device)

    @property
    def lengths(self) -> Tensor:
        """``[B]`` int64, tokens read of each row."""
        return self._cache.length

    @torch.no_grad()
    def read(self, ids: Tensor, real: Tensor | None = None, chunk: int = 1024) -> None:
        """Goes on with what the rows say, or are told.

        Args:
            ids: ``[B, L]`` int64. real: ``[B]``, how many of them are a row's, from the left; all where None. A row that is
                told nothing stays as it was. chunk: tokens of a pass.
        """
        device = self._last.device
        ids = ids.to(device)
        B, L = ids.shape
        real = torch.full((B,), L, device=device) if real is None else real.to(device)
        start, place = self._cache.length.clone(), self._placed(ids, real)
        for first in range(0, L, chunk):
            piece = ids[:, first : first + chunk]
            at = first + torch.arange(piece.shape[1], device=device)
            places = torch.where(at < real[:, None], start[:, None] + at, -1)
            x = self._model.tables(piece, None if place is None else place[:, first : first + chunk])
            y = self._model.trunk.extend(x, self._cache, places=places)
            last = real - 1 - first
            here = (last >= 0) & (last < piece.shape[1])
            found = y[torch.arange(B, device=device), last.clamp(0, piece.shape[1] - 1)]
            self._last = torch.where(here[:, None], found, self._last)

    def _placed(self, ids: Tensor, real: Tensor) -> Tensor | None:
        """Places of new ids within their frames; remembers how far the last frame has got."""
        place = self._model.tables.place(ids, self._codes)
        if place is not None and ids.shape[1]:
            last = place.gather(1, (real - 1).clamp(min=0)[:, None])[:, 0]
            now = torch.where(last < self._model.ports.frame, last + 1, 0)
            self._codes = torch.where(real > 0, now, self._codes)
        return place

    @torch.no_grad()
    def scores(self, modality: str) -> Tensor:
        """Float32 logits ``[B, V]`` of what comes next, among the ids of one modality."""
        return self._model.tables.scores(self._last, modality)
