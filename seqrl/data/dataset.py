"""Which episodes a run trains on: several stores joined, the best share kept, some held out for validation.

Weights are settled last, over the episodes that are left to train on: a source's weight is its share of the windows, however
long it is and whatever ``top`` and the held-out split took of it.

Nothing is copied here: an episode is its store, its first row and its length, in flat arrays. Rows are counted through all
stores, so one number names a row of the whole.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from pydantic import Field, model_validator

from seqrl.core import kinds
from seqrl.core.config import Frozen, validate
from seqrl.core.contracts import Source
from seqrl.core.episode import EpisodeSpec, Modality
from seqrl.core.errors import DataError, RecipeError
from seqrl.data.store import Progress, Store, prepare

OWN = ("weight", "top", "domain", "tokens", "group", "fields")
"""What stands beside a source's own settings."""
MAIN = "main"
"""The domain of sources that name none."""


class DataConfig(Frozen):
    """What a run learns from."""

    sources: list[dict[str, Any]] = Field(min_length=1)
    """One entry a dataset: ``kind`` and its settings. Beside them may stand ``weight`` (share of the windows, or of the tokens
    of packed rows) and ``top``; and for packed rows ``domain`` (sources of one domain have the same spaces and the same layout)
    and ``tokens`` (the most of this source that is used). For token documents there are ``group`` (a row mixes examples of one
    group alone) and ``fields`` (in place of ``tokens.documents.fields``)."""
    top: float | None = Field(None, gt=0, le=1)
    """Keep only the best episodes by return that hold this share of the steps (%BC, Chen et al. 2021, section 5.1)."""
    held_out: float = Field(0.05, ge=0, lt=1)
    """Share of the episodes kept aside for validation."""
    discount: float = Field(1.0, gt=0, le=1)
    """Discount of the returns-to-go; the papers use 1."""
    termination_penalty: float = Field(0.0, ge=0)
    """Taken off the reward of a step that ends its episode for good, so that returns show what falling costs: for planning with
    returns (Janner et al. 2021 take 100). Returns asked for while playing are then lower by as much."""
    delayed: bool = False
    """Give the whole return at the last step of the episode (Chen et al. 2021, section 5.7)."""

    @model_validator(mode="after")
    def _one_of_the_two(self) -> "DataConfig":
        if self.delayed and self.discount < 1:
            raise ValueError("delayed: the return then comes whole at the end; a discount would change what is asked for")
        return self


@dataclass(frozen=True)
class Selection:
    """Episodes chosen from the stores of a run; every array has one entry an episode.

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

    def pick(self, which: np.ndarray) -> "Selection":
        return Selection(*(getattr(self, f)[which] for f in self.__dataclass_fields__))


def best_share(total: np.ndarray, length: np.ndarray, share: float) -> np.ndarray:
    """Bool ``(N,)``: the best episodes by return that together hold ``share`` of the steps, at least one."""
    order = np.argsort(-total, kind="stable")
    taken = np.cumsum(length[order]) - length[order] < share * length.sum()
    keep = np.zeros(len(total), bool)
    keep[order[taken]] = True
    return keep


def _bounds(m: Modality) -> np.ndarray:
    """``(2, size)``: low and high, infinite where the space is open."""
    ends = ((m.low, -np.inf), (m.high, np.inf))
    return np.array([end if end is not None else (far,) * m.size for end, far in ends], np.float64)


def clash(ours: Modality, theirs: Modality, acted: bool) -> str | None:
    """In what two fields of one name differ so that their values would not mean the same; None where they do not."""
    for what in ("kind", "shape", "n"):
        if getattr(ours, what) != getattr(theirs, what):
            return what
    if ours.n and (ours.start or (0,) * len(ours.n)) != (theirs.start or (0,) * len(theirs.n)):
        return "start"
    if acted:
        # What bounds mean is decided once, by the first dataset: actions of the others would be stretched by them.
        floats = all(m.dtype.startswith("float") for m in (ours, theirs))
        if ours.dtype != theirs.dtype and not floats:
            return "dtype"
        # A bound of 0.4 is another number in float32 than in float64.
        if not ours.n and not np.allclose(_bounds(ours), _bounds(theirs), rtol=1e-6, atol=0):
            return "bounds"
    return None


def _check_same(first: EpisodeSpec, other: EpisodeSpec) -> None:
    """Raises DataError where two datasets cannot be one, naming the field and what differs."""
    for what, acted in (("obs", False), ("act", True)):
        ours, theirs = getattr(first, what), getattr(other, what)
        odd = sorted(set(ours) ^ set(theirs))
        if odd:
            raise DataError(f"{first.id} and {other.id} cannot be one dataset: only one of them has {what}.{odd[0]}")
        for name in ours:
            wrong = clash(ours[name], theirs[name], acted)
            if wrong:
                raise DataError(f"{first.id} and {other.id} cannot be one dataset: {what}.{name} differs in {wrong}")


class Dataset:
    """The stores of a run and its training and held-out episodes."""

    def __init__(self, stores: Sequence[Store], config: DataConfig) -> None:
        """Raises DataError where stores do not share their spaces or nothing is left to train on."""
        self.stores, self.config, self.spec = list(stores), config, stores[0].spec
        for store in stores[1:]:
            _check_same(self.spec, store.spec)
        self.first_row = np.concatenate([[0], np.cumsum([s.rows for s in stores])])
        parts = []
        for i, (store, raw) in enumerate(zip(stores, config.sources, strict=True)):
            e = store.episodes
            here = np.full(len(e.row), i)
            part = Selection(here, e.row + self.first_row[i], e.length, e.total, np.ones(len(e.row)), np.arange(len(e.row)))
            if raw.get("top"):
                part = part.pick(best_share(part.total, part.length, raw["top"]))
            parts.append(part)
        every = Selection(*(np.concatenate([getattr(p, f) for p in parts]) for f in Selection.__dataclass_fields__))
        every = every.pick(every.length > 0)
        if config.top:
            every = every.pick(best_share(every.total, every.length, config.top))
        if not len(every):
            raise DataError(f"{self.spec.id}: no episode with a step in it, so there is nothing to train on")
        # Chosen by a fixed permutation, so that resuming, validating and reporting all mean the same episodes.
        order = np.random.Generator(np.random.PCG64(0)).permutation(len(every))
        aside = min(int(np.ceil(config.held_out * len(every))) if config.held_out else 0, len(every) - 1)
        self.train, self.held_out = every.pick(np.sort(order[aside:])), every.pick(np.sort(order[:aside]))
        weights = self._weights()
        if weights is not None:
            self._check_present(weights)
            self.train, self.held_out = (_weighed(part, weights) for part in (self.train, self.held_out))

    def _weights(self) -> np.ndarray | None:
        """``(stores,)`` what each source's share is relative to; None where the recipe gives none."""
        given = [raw.get("weight") for raw in self.config.sources]
        if all(w is None for w in given):
            return None
        if any(w is None for w in given):
            raise RecipeError("data.sources: give every source a weight, or none")
        for i, w in enumerate(given):
            if not isinstance(w, int | float) or not 0 < w < np.inf:
                raise RecipeError(f"data.sources.{i}.weight: a number above 0 (got {w!r}); leave a source out to not use it")
        return np.array(given, np.float64)

    def _check_present(self, weights: np.ndarray) -> None:
        # A share of the windows that nothing can fill would silently go to the others.
        for i in range(len(weights)):
            if not (self.train.store == i).any():
                raise DataError(
                    f"data.sources.{i}: {self.stores[i].spec.id} has a weight, but 'top' and 'held_out' leave none of its "
                    "episodes to train on; raise top, lower held_out or leave the source out"
                )

    @property
    def steps(self) -> int:
        """Steps one trains on."""
        return int(self.train.length.sum())

    def fingerprints(self) -> list[str]:
        """What was trained on, exactly: the content hash of every store."""
        return [s.path.name for s in self.stores]


def _weighed(part: Selection, weights: np.ndarray) -> Selection:
    """The same episodes, each source drawn by its weight, and within it every step equally often."""
    steps = np.bincount(part.store, part.length, len(weights))
    present = steps > 0
    share = np.where(present, weights, 0.0) / max(weights[present].sum(), 1e-300) / np.maximum(steps, 1)
    return replace(part, weight=share[part.store])


def open_dataset(config: DataConfig, progress: Progress | None = None) -> Dataset:
    """Builds the sources, converts what is not converted yet, and joins them."""
    return Dataset([prepare(_source(raw, i), progress) for i, raw in enumerate(config.sources)], config)


def domains_of(sources: Sequence[dict[str, Any]]) -> dict[str, list[int]]:
    """domain -> the numbers of its sources, in the recipe's order."""
    found: dict[str, list[int]] = {}
    for i, raw in enumerate(sources):
        found.setdefault(str(raw.get("domain") or MAIN), []).append(i)
    return found


def open_domains(config: DataConfig, progress: Progress | None = None) -> dict[str, Dataset]:
    """One Dataset a domain, its sources joined; weights between sources are left to whoever draws from all of them.

    Raises:
        DataError: sources of one domain differ in their spaces.
    """
    made = {}
    for name, numbers in domains_of(config.sources).items():
        raw = [{k: v for k, v in config.sources[i].items() if k != "weight"} for i in numbers]
        stores = [prepare(_source(config.sources[i], i), progress) for i in numbers]
        try:
            made[name] = Dataset(stores, config.model_copy(update={"sources": raw}))
        except DataError as e:
            advice = "; give sources of different spaces a 'domain' each" if "cannot be one dataset" in str(e) else ""
            raise DataError(f"domain '{name}': {e}{advice}" if len(numbers) > 1 else str(e)) from e
    return made


def _source(raw: dict[str, Any], i: int) -> Source:
    place = f"data.sources.{i}"
    if "kind" not in raw:
        raise RecipeError(f"{place}: name its kind ({', '.join(kinds.names('sources'))})")
    module = kinds.load(raw["kind"], "sources")
    return module.Source(validate(module.Config, {k: v for k, v in raw.items() if k not in OWN}, {}, place))
