"""Which episodes a run trains on: several stores joined, the best share kept, some held out for validation.

Nothing is copied here: an episode is its store, its first row and its length, in flat arrays. Rows are counted through all
stores, so one number names a row of the whole.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import Field

from seqrl.core import kinds
from seqrl.core.config import Frozen, validate
from seqrl.core.contracts import Source
from seqrl.core.errors import DataError, RecipeError
from seqrl.data.store import Progress, Store, prepare

_OWN = ("weight", "top")


class DataConfig(Frozen):
    """What a run learns from."""

    sources: list[dict[str, Any]] = Field(min_length=1)
    """One entry a dataset: ``kind`` and its settings; ``weight`` (share of the windows) and ``top`` may stand beside."""
    top: float | None = Field(None, gt=0, le=1)
    """Keep only the best episodes by return that hold this share of the steps (%BC, Chen et al. 2021, section 5.1)."""
    held_out: float = Field(0.05, ge=0, lt=1)
    """Share of the episodes kept aside for validation."""
    discount: float = Field(1.0, gt=0, le=1)
    """Discount of the returns-to-go; the papers use 1."""
    delayed: bool = False
    """Give the whole return at the last step of the episode (Chen et al. 2021, section 5.7)."""


@dataclass(frozen=True)
class Episodes:
    """A set of episodes; every array has one entry an episode.

    Args:
        store: which store. row: first row, counted through all stores. length: steps. total: undiscounted return.
        weight: how often each of its steps is drawn, relative to the others.
        index: position within its store.
    """

    store: np.ndarray
    row: np.ndarray
    length: np.ndarray
    total: np.ndarray
    weight: np.ndarray
    index: np.ndarray

    def __len__(self) -> int:
        return len(self.row)

    def pick(self, which: np.ndarray) -> "Episodes":
        return Episodes(*(getattr(self, f)[which] for f in self.__dataclass_fields__))


def best_share(total: np.ndarray, length: np.ndarray, share: float) -> np.ndarray:
    """Bool ``(N,)``: the best episodes by return that together hold ``share`` of the steps, at least one."""
    order = np.argsort(-total, kind="stable")
    taken = np.cumsum(length[order]) - length[order] < share * length.sum()
    keep = np.zeros(len(total), bool)
    keep[order[taken]] = True
    return keep


class Dataset:
    """The stores of a run and its training and held-out episodes."""

    def __init__(self, stores: Sequence[Store], config: DataConfig) -> None:
        """Raises DataError where stores do not share their spaces or nothing is left to train on."""
        self.stores, self.config, self.spec = list(stores), config, stores[0].spec
        for store in stores[1:]:
            for what in ("obs", "act"):
                ours, theirs = getattr(self.spec, what), getattr(store.spec, what)
                if {n: (m.kind, m.shape, m.n) for n, m in ours.items()} != {
                    n: (m.kind, m.shape, m.n) for n, m in theirs.items()
                }:
                    raise DataError(
                        f"{self.spec.id} and {store.spec.id} differ in their {what} spaces, so they cannot be one dataset"
                    )
        self.first_row = np.concatenate([[0], np.cumsum([s.rows for s in stores])])
        parts = []
        for i, (store, raw) in enumerate(zip(stores, config.sources, strict=True)):
            e = store.episodes
            here = np.full(len(e.row), i)
            part = Episodes(here, e.row + self.first_row[i], e.length, e.total, np.ones(len(e.row)), np.arange(len(e.row)))
            if raw.get("top"):
                part = part.pick(best_share(part.total, part.length, raw["top"]))
            if raw.get("weight"):
                part = Episodes(
                    part.store,
                    part.row,
                    part.length,
                    part.total,
                    np.full(len(part), raw["weight"] / part.length.sum()),
                    part.index,
                )
            parts.append(part)
        if any(raw.get("weight") for raw in config.sources) and not all(raw.get("weight") for raw in config.sources):
            raise RecipeError("data.sources: give every source a weight, or none")
        every = Episodes(*(np.concatenate([getattr(p, f) for p in parts]) for f in Episodes.__dataclass_fields__))
        every = every.pick(every.length > 0)
        if config.top:
            every = every.pick(best_share(every.total, every.length, config.top))
        if not len(every):
            raise DataError(f"{self.spec.id}: no episode with a step in it, so there is nothing to train on")
        # Chosen by a fixed permutation, so that resuming, validating and reporting all mean the same episodes.
        order = np.random.Generator(np.random.PCG64(0)).permutation(len(every))
        aside = min(int(np.ceil(config.held_out * len(every))) if config.held_out else 0, len(every) - 1)
        self.train, self.held_out = every.pick(np.sort(order[aside:])), every.pick(np.sort(order[:aside]))

    @property
    def steps(self) -> int:
        """Steps one trains on."""
        return int(self.train.length.sum())

    def fingerprints(self) -> list[str]:
        """What was trained on, exactly: the content hash of every store."""
        return [s.path.name for s in self.stores]


def open_dataset(config: DataConfig, progress: Progress | None = None) -> Dataset:
    """Builds the sources, converts what is not converted yet, and joins them."""
    return Dataset([prepare(_source(raw, i), progress) for i, raw in enumerate(config.sources)], config)


def _source(raw: dict[str, Any], i: int) -> Source:
    place = f"data.sources.{i}"
    if "kind" not in raw:
        raise RecipeError(f"{place}: name its kind ({', '.join(kinds.names('sources'))})")
    module = kinds.load(raw["kind"], "sources")
    return module.Source(validate(module.Config, {k: v for k, v in raw.items() if k not in _OWN}, {}, place))
