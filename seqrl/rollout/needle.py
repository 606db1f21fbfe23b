"""Needle in a haystack: how surely a model finds one thing again, by how much it has read and how far in front it stood.

Models of token documents are asked as LWM was (Liu et al. 2024, arXiv 2402.08268): a sentence that hides a number stands in a
long text, and behind the text is asked for the number (rollout/_needle_words.py). Policies of packed rows play an environment
in which a pair goes by once and is asked for at the end (rollout/_needle_keys.py). What comes out is the same for both: the
share of the questions answered right, *recall*, for every length and depth.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from seqrl.core.errors import UserError
from seqrl.rollout._needle_config import Job, NeedleConfig
from seqrl.rollout._needle_keys import Keys, played_domain
from seqrl.rollout._needle_words import Prompts, words_of

__all__ = ["Job", "NeedleConfig", "Needles", "measure"]

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Needles:
    """What was found.

    Args:
        config: what was asked. what: ``words`` or ``keys``. trained: tokens of the rows that the model learned on.
        found: ``(D, S)`` how many questions were answered right, by depth and length; total: how many there were in each.
        bases: base of the rotary angles at each length, None where it was the model's own. said: some answers, as they came.
    """

    config: NeedleConfig
    what: str
    trained: int
    found: np.ndarray
    total: int
    bases: tuple[float | None, ...]
    said: tuple[Mapping[str, Any], ...] = ()

    @property
    def recall(self) -> np.ndarray:
        """``(D, S)`` from 0 to 1."""
        return self.found / self.total

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        c = self.config
        cells = [
            {"length": length, "depth": depth, "recall": float(self.recall[d, s]), "found": int(self.found[d, s])}
            for s, length in enumerate(c.lengths)
            for d, depth in enumerate(c.rows)
        ]
        return {
            "what": self.what,
            "needles": c.needles,
            "asked": c.asked,
            "rounds": c.rounds,
            "questions": self.total,
            "seed": c.seed,
            "trained": self.trained,
            "lengths": list(c.lengths),
            "depths": list(c.depths),
            "rope_bases": list(self.bases),
            "recall": self.recall.tolist(),
            "cells": cells,
            "said": [dict(one) for one in self.said],
        }


def measure(bundle: Any, config: NeedleConfig, haystack: str | None = None, progress: Progress | None = None) -> Needles:
    """Hides needles from a bundle's model and asks for them.

    Args:
        bundle: a loaded one (bundle.py). Where a length is beyond its positions, its model is changed for good.
        haystack: a text to hide them in; None makes sentences.

    Raises:
        UserError: a model that cannot be asked, a length that is too short for what is hidden, or one that it has no positions
            for, and no base was given.
    """
    model, tokenizer = bundle.model, bundle.tokenizer
    reading = _reader(bundle, config, haystack)
    own = positions(model)
    check_positions(config, own)
    if config.rope_base is not None and not 1 < config.rope_base < float("inf"):
        raise UserError(f"--rope-base: a number above 1 (got {config.rope_base})")
    for length in config.lengths:
        reading.check(length)
    found, said = np.zeros((len(config.rows), len(config.lengths)), np.int64), []
    # In order of length: once a model is stretched, its own angles are gone.
    order, done, total = (
        np.argsort(config.lengths, kind="stable").tolist(),
        0,
        len(config.rows) * len(config.lengths) * config.rounds,
    )
    stretched = False
    for s in order:
        length = config.lengths[s]
        if length > own and not stretched:
            model.trunk.stretch(max(config.lengths), config.rope_base)
            stretched = True
        for jobs in config.jobs(length):
            for job, answers in zip(jobs, reading(jobs), strict=True):
                found[job.row, s] += sum(bool(a["right"]) for a in answers)
                said += [a | {"length": length, "depths": list(job.depths)} for a in answers if job.number == 0]
            done += len(jobs)
            if progress is not None:
                progress(done, total)
    bases = tuple(config.rope_base if n > own else None for n in config.lengths)
    trained = int(getattr(model.config, "length", tokenizer.length))
    return Needles(config, reading.what, trained, found, config.rounds * config.asked, bases, tuple(said))


def _reader(bundle: Any, config: NeedleConfig, haystack: str | None) -> Any:
    """What asks the bundle's model."""
    model, tokenizer = bundle.model, bundle.tokenizer
    if hasattr(model, "say") and hasattr(model, "ports"):
        return Prompts(model, tokenizer, config, words_of(bundle.recipe), haystack)
    if haystack is not None:
        raise UserError("--haystack is a text for models of texts; this one is asked in an environment")
    if not hasattr(model, "player"):
        kind = bundle.recipe["model"]["kind"]
        raise UserError(
            f"this is {kind}, of which needles are not asked; name a model of token documents (worlds.lwm), or a policy of "
            "packed rows (policies.gato)"
        )
    return Keys(*played_domain(model, tokenizer), config)


def positions(model: Any) -> int:
    """Tokens that a model has positions for: those of the rows it learned on, or what its body says, if that is more."""
    own = getattr(model.trunk, "max_positions", None)
    return max(int(model.config.length), int(own or 0))


def check_positions(config: NeedleConfig, own: int) -> None:
    """Raises UserError where a length needs another base and there is none, or one is given that nothing needs."""
    beyond = [n for n in config.lengths if n > own]
    if beyond and config.rope_base is None:
        raise UserError(
            f"lengths: this model has positions for {own:,} tokens, and {beyond[0]:,} were asked for; give --rope-base, the "
            "base of its rotary angles for what is longer (larger than the one it learned with), or leave out what is longer"
        )
    if config.rope_base is not None and not beyond:
        raise UserError(f"--rope-base: is for lengths above the {own:,} tokens that this model has positions for; leave it out")
