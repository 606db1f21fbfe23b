"""Going on with a run: what a checkpoint must agree with, and putting back what it holds, under whatever engine there is now.

An engine decides who keeps which piece of what, and the number of processes who draws which rows of the same batch. Neither
changes what is learned, so a run may go on under another engine or in another number of processes: under the same all bits are
the same, under another the losses that follow are those of the undisturbed run but for rounding. Only what is random in a
forward pass differs then (dropout, dreams): its seed has the process in it.
"""

import sys
from pathlib import Path
from typing import Any

import torch

from seqrl.core.errors import DataError, RecipeError, UserError
from seqrl.train.engine import Engine
from seqrl.train.moments import Moments
from seqrl.train.prepare import Data, fingerprints, names
from seqrl.train.recipe import Recipe
from seqrl.train.saved import Kept, TrainerState, of_all

# What may change between stopping and going on without changing what was already learnt.
_FREE = (
    "train.accumulate",
    "train.log_every",
    "train.validate_every",
    "train.validate_windows",
    "train.save_every",
    "train.keep",
    "train.trackers",
    "train.device",
)
_FREE_PARTS = ("engine.", "evaluate.")
"""Who trains together, and what is looked at."""


def _flat(raw: Any, at: str = "") -> dict[str, Any]:
    if isinstance(raw, dict) and raw:
        return {k: v for key, value in raw.items() for k, v in _flat(value, f"{at}.{key}" if at else str(key)).items()}
    return {at: raw}


def check_same_run(recipe: Recipe, before: Recipe, path: str) -> None:
    """Raises RecipeError where a recipe would not continue the run that another began; ``path`` names it in the message."""
    # Both parsed by this seqrl, so that a setting that came to be since then has its default on both sides.
    old, new = (_flat(r.model_dump(mode="json")) for r in (before, recipe))
    changed = [k for k in sorted({*old, *new}) if old.get(k) != new.get(k) and k not in _FREE and not k.startswith(_FREE_PARTS)]
    if recipe.train.decay == "none" and new["train.steps"] > old["train.steps"]:
        changed = [k for k in changed if k != "train.steps"]
    if changed:
        told = "\n".join(f"  {k}: was {old.get(k)!r}, is {new.get(k)!r}" for k in changed)
        raise RecipeError(
            f"{path}: the recipe was changed since the last checkpoint, so this would be another run:\n{told}\n"
            "put it back, or start anew with --out"
        )


def spread(engine: Engine) -> dict[str, Any]:
    """Who keeps which moments, and who draws which rows: the facts a checkpoint is saved with."""
    return {"engine": engine.kind, "world": engine.world, "sequence": engine.how.sequence}


def _before(state: TrainerState) -> dict[str, Any]:
    """``spread`` of who saved it; runs of before engines had names were of DDP, or of one process."""
    known = {"engine": "ddp", "world": 1, "sequence": 1}
    return {n: state.facts.get(n, known[n]) for n in known}


def check_goes_on(out: Path, state: TrainerState, engine: Engine, data: Data) -> None:
    """Says so, once, where a run goes on otherwise than it was saved.

    Raises:
        DataError: the checkpoint is of other data.
    """
    if state.facts["data"] != fingerprints(data):
        changed = f"the data are not those this run began with ({names(data)} was changed)"
        raise DataError(f"{out}: {changed}; start a new run with --out")
    was, now = _before(state), spread(engine)
    if was != now and engine.main:
        told = f"seqrl: {out} was saved by {_told(was)} and goes on under {_told(now)}: the same rows and the same losses"
        print(f"{told}, but for rounding; dropout and other noise are drawn anew", file=sys.stderr, flush=True)


def _told(spread: dict[str, Any]) -> str:
    many = "one process" if spread["world"] == 1 else f"{spread['engine']} over {spread['world']} processes"
    return many + (f", {spread['sequence']} to a row" if spread["sequence"] > 1 else "")


def restore(trainer: Any, state: TrainerState, checkpoint: Path) -> None:
    """Puts back what a checkpoint holds, but for the weights, which a model must have before they are dealt out.

    Args:
        trainer: a ``Trainer`` or its like.
        state: of ``checkpoint``, for this process.

    Raises:
        BundleError: moments that are not of this model, or lack pieces.
        UserError: moments of an earlier seqrl, which cannot be dealt out otherwise.
    """
    engine, was, now = trainer.engine, _before(state), spread(trainer.engine)
    files = of_all(checkpoint)
    _restore_moments(trainer, files, was, now, checkpoint)
    if was["world"] == now["world"]:
        trainer.tally.restore(state.tensors, engine.device)
    else:
        trainer.tally.restore(_together(files, engine.main), engine.device)
    if trainer.average:
        for name, weight in trainer.average.weights.items():
            weight.copy_(state.tensors[f"average/{name}"])


def _restore_moments(trainer: Any, files: list[Kept], was: dict[str, Any], now: dict[str, Any], checkpoint: Path) -> None:
    engine, optimizer = trainer.engine, trainer.optimizer
    order = engine.place.order(optimizer) if was["engine"] == "fsdp" else None
    moments = Moments(files, engine.sizes, order, str(checkpoint))
    if moments.numbered and (was["engine"], was["world"]) != (now["engine"], now["world"]):
        raise UserError(
            f"{checkpoint} was saved by {_told(was)} with an earlier seqrl, which did not say what its pieces are of: go on "
            f"with engine={was['engine']} engine.processes={was['world']} until its next checkpoint, and from there under "
            f"{_told(now)}"
        )
    engine.place.restore(optimizer, moments)


def _together(files: list[Kept], mine: bool) -> dict[str, torch.Tensor]:
    """The sums of all processes for one of them, and nothing, by the same names, for the others."""
    found: dict[str, torch.Tensor] = {}
    for file in files:
        for name in (n for n in file if n.startswith("tally/")):
            # Sum and count, and what kind of number the count is.
            kept = file[name].clone()
            if name in found:
                kept[:2] += found[name][:2]
            found[name] = kept
    if not mine:
        for kept in found.values():
            kept[:2] = 0
    return found
