"""A run as it stands at one step, copied to the host's memory, so that it can be written while training goes on.

All processes take it together, because weights that are dealt out are gathered for it; from then on nobody needs another until
the files are there. It costs the host's memory once more what a checkpoint weighs, until that is written.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from seqrl.train.adapters import adapted
from seqrl.train.engine import Engine
from seqrl.train.moments import pack_optimizer
from seqrl.train.writer import copies


class _Model:
    """What ``bundle.save`` asks of a model."""

    def __init__(self, config: Any, weights: Mapping[str, Tensor]) -> None:
        self.config, self._weights = config, weights

    def state_dict(self) -> Mapping[str, Tensor]:
        return self._weights


@dataclass(frozen=True)
class Still:
    """One moment of a run, as one of its processes has it."""

    model: Any
    """For ``bundle.save``: the config and the weights that are published; None on all processes but the first."""
    tensors: Mapping[str, Tensor]
    """For ``trainer/``: of the first process everything that is the whole run's, of each what it alone has."""


def take(trainer: Any, engine: Engine) -> Still:
    """Copies a run's weights, moments and sums; everyone must ask.

    Args:
        trainer: with ``model``, ``bare``, ``optimizer``, ``tally``, ``average`` and ``published``.
    """
    own = copies(trainer.tally.tensors() | engine.place.shards(trainer.optimizer))
    # Copies already, but perhaps on the device.
    weights = {n: t.cpu() for n, t in engine.place.weights(trainer.bare).items()}
    published = weights
    if trainer.average or adapted(trainer.bare):
        with trainer.published() as model:
            published = copies(model.state_dict()) if engine.main else {}
    if not engine.main:
        return Still(None, own)
    tensors = {f"model/{n}": t for n, t in weights.items()} | own
    if trainer.average:
        tensors |= copies({f"average/{n}": t for n, t in trainer.average.weights.items()})
    if engine.kind == "ddp":
        tensors |= copies(pack_optimizer(trainer.optimizer, trainer.bare))
    # The name of the class goes into the bundle's config.
    named = type(type(trainer.bare).__name__, (_Model,), {})
    return Still(named(copy.deepcopy(trainer.bare.config), published), tensors)
