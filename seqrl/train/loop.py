"""The only supervised loop: draw, forward, weigh, backward, step. It knows losses by name and nothing of what made them.

Losses are reduced by sum and count over the pieces of a batch and over processes, so that cutting a batch differently, for
memory or for more processes, trains the same weights. Nothing is read back from the device between two lines of metrics, but
for packed rows one number a step: how many places of a row are asked for.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from seqrl.core.errors import UserError
from seqrl.core.stream import StreamBatch
from seqrl.data.loader import Loader
from seqrl.train.adapters import adapted, merged
from seqrl.train.engine import Engine
from seqrl.train.optim import Average, learning_rate
from seqrl.train.recipe import TrainConfig


class Tally:
    """Sums and counts of losses since the last line of metrics, kept on the device."""

    def __init__(self) -> None:
        self._sums: dict[str, list[torch.Tensor]] = {}

    def add(self, sums: "Sums") -> None:
        for name, (total, count) in sums.items():
            if name in self._sums:
                self._sums[name][0] += total.detach()
                self._sums[name][1] += count
            else:
                self._sums[name] = [total.detach().clone(), count.clone()]

    def tensors(self) -> dict[str, torch.Tensor]:
        """What was added since the last line of metrics, to be saved with a checkpoint; ``restore`` is the inverse."""
        return {
            f"tally/{n}": torch.stack([t.double(), c.double(), torch.full_like(t, not c.is_floating_point()).double()])
            for n, (t, c) in self._sums.items()
        }

    def restore(self, tensors: Mapping[str, torch.Tensor], device: torch.device) -> None:
        for key, kept in tensors.items():
            if key.startswith("tally/"):
                # Counts are whole numbers, or the weights of packed rows; files of before have no third number, and whole ones.
                total, count, whole = (*kept, kept.new_ones(())) if len(kept) == 2 else kept
                count = count.long() if whole else count.float()
                self._sums[key.removeprefix("tally/")] = [total.float().to(device), count.to(device)]

    def finite(self) -> bool:
        """Whether every sum so far is a number; reads from the device."""
        return all(bool(t.isfinite()) for t, _ in self._sums.values())

    def means(self, engine: Engine, weights: Mapping[str, float], prefix: str = "") -> dict[str, float]:
        """``loss`` (weighted) and ``loss/<name>``; one read from the device for all."""
        names = list(self._sums)
        both = torch.stack([torch.stack([t.float(), c.float()]) for t, c in self._sums.values()])
        both = engine.total(both).tolist()
        each = {n: total / max(count, 1) for n, (total, count) in zip(names, both, strict=True)}
        self._sums.clear()
        return {f"{prefix}loss": sum(weights[n] * v for n, v in each.items())} | {
            f"{prefix}loss/{n}": v for n, v in each.items()
        }


class Foresight:
    """How much of what comes next a model's heads explain: R^2 of continuous slots, one step ahead, over held-out windows."""

    def __init__(self) -> None:
        self._sums: dict[str, torch.Tensor] = {}

    def add(self, predictions: Mapping[str, tuple[torch.Tensor, torch.Tensor, torch.Tensor]]) -> None:
        """Slot -> prediction ``[..., A]``, truth ``[..., A]``, whether it counts ``[...]``."""
        for name, (said, truth, mask) in predictions.items():
            said, truth = said[mask].double(), truth[mask].double()
            sums = torch.stack([torch.ones_like(truth).sum(0), truth.sum(0), (truth**2).sum(0), ((said - truth) ** 2).sum(0)])
            self._sums[name] = self._sums.get(name, 0) + sums

    def r2(self) -> dict[str, float]:
        """``val/r2/<slot>``: 1 - error / variance, averaged over the slot's numbers; those that never move are left out."""
        found = {}
        for name, (n, total, squares, error) in self._sums.items():
            spread = squares - total**2 / n
            moves = spread > 1e-9 * n
            if moves.any():
                found[f"val/r2/{name}"] = float((1 - error[moves] / spread[moves]).mean())
        return found


Sums = Mapping[str, tuple[torch.Tensor, torch.Tensor]]


def weigh(sums: Sums, counts: Mapping[str, torch.Tensor], weights: Mapping[str, float]) -> torch.Tensor:
    """The number to descend: each term's sum over its count in the whole global batch, weighted by the recipe."""
    if set(sums) != set(weights):
        raise UserError(f"train.losses names {sorted(weights)}, but the model answers {sorted(sums)}; make them agree")
    return sum(weights[n] * total / counts[n].clamp(min=1) for n, (total, _) in sums.items())


class Trainer:
    """One model, one optimiser, one loader: takes steps, and looks at held-out windows."""

    def __init__(self, config: TrainConfig, engine: Engine, model: Any, optimizer: Any, loader: Loader, first: int = 0) -> None:
        """
        Args:
            optimizer: of the model's parameters, or what makes one of a model (needed where weights are dealt out).
            first: the step its schedule begins at.

        Raises:
            UserError: the batch does not divide over processes and pieces, or its rows over those that share them.
        """
        share = engine.mesh.data_ranks * config.accumulate
        if config.batch % share:
            shared = f" (each row is shared by {engine.how.sequence} processes)" if engine.how.sequence > 1 else ""
            raise UserError(f"train.batch={config.batch} must be a multiple of processes x accumulate = {share}{shared}")
        self.config, self.engine, self.loader, self.first = config, engine, loader, first
        self.rows = config.batch // share
        engine.check_rows(self.rows, getattr(loader, "length", None))
        self.model, self.optimizer = engine.prepare(model, optimizer, config.clip, config.accumulate)
        self.bare = engine.bare(self.model)
        self.parameters = [p for p in self.bare.parameters() if p.requires_grad]
        self.average = Average(self.bare, config.ema) if config.ema else None
        self.tally, self._norm, self._filled = Tally(), None, None

    def step(self, step: int) -> None:
        """Optimiser step number ``step`` (from 0)."""
        config, engine, mesh = self.config, self.engine, self.engine.mesh
        batch = self.loader.draw(config.seed, step, config.batch // mesh.data_ranks, mesh.data_rank, mesh.data_ranks)
        pieces = batch.split(config.accumulate)
        self._filled = getattr(batch, "pack", None)
        counts = self._counts(batch) if config.accumulate > 1 else None
        for i, piece in enumerate(pieces):
            engine.reseed(step, i)
            sums = engine.sums(self.model, engine.share(piece))
            if counts is None:
                counts = engine.totals({n: c.detach() for n, (_, c) in sums.items()})
            self.tally.add(sums)
            # Gradients are averaged over processes; the counts are already those of all of them.
            loss = weigh(sums, counts, config.losses) * engine.world
            engine.backward(loss, self.model, last=i == len(pieces) - 1)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(config, step - self.first) * group.get("scale", 1.0)
        self._norm = engine.place.step(self.model, self.optimizer, self.parameters, config.clip)
        if self.average:
            self.average.update(self.bare, step - self.first)

    def _counts(self, batch: StreamBatch) -> dict[str, torch.Tensor]:
        """How many elements each loss will count in the whole batch, known before any piece of it is computed."""
        # Those who share rows all see them whole; one of them counts.
        once = int(self.engine.mesh.sequence_rank == 0)
        return self.engine.totals({n: c * once for n, c in self.bare.counts(batch).items()})

    def measured(self) -> dict[str, float]:
        """Losses since the last call, the last gradient's norm, and how much of the last packed rows was tokens."""
        self.check()
        means = self.tally.means(self.engine, self.config.losses)
        if self._filled is not None:
            means["packing"] = float((self._filled >= 0).float().mean())
        return means | ({"grad_norm": float(self._norm)} if self._norm is not None else {})

    def check(self) -> None:
        """Stops the run where the losses are no numbers any more, so that no such weights are ever saved."""
        if not self.tally.finite():
            raise UserError(
                "the loss became NaN; lower train.lr, set train.clip, or train in fp32; the last checkpoint is from before"
            )

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Losses on the held-out episodes' fixed windows, with the weights that would be published."""
        if self.loader.held_out is None:
            return {}
        tally, engine = Tally(), self.engine
        self.model.eval()
        with self.averaged():
            foresight = Foresight()
            for batch in self.loader.validation(self.config.validate_windows, self.config.batch):
                pieces, counts = self._dealt(batch)
                for piece in pieces:
                    sums = engine.sums(self.model, engine.share(piece))
                    tally.add({n: (total * counts, count * counts) for n, (total, count) in sums.items()})
                if hasattr(self.bare, "predictions"):
                    foresight.add(self.bare.predictions(batch))
        self.model.train()
        return tally.means(self.engine, self.config.losses, prefix="val/") | foresight.r2()

    def _dealt(self, batch: Any) -> tuple[list[Any], int]:
        """What of a held-out batch this process looks at, and whether that counts; windows are small, and all look at all."""
        mesh, rows = self.engine.mesh, len(batch.pack) if hasattr(batch, "pack") else 0
        if self.engine.world == 1 or not rows:
            return [batch], 1
        share = mesh.data_ranks * self.config.accumulate
        if rows % share:
            return [batch], int(mesh.data_rank == 0)
        return batch.split(share)[mesh.data_rank :: mesh.data_ranks], 1

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """A context in which the model holds the weights that are published: the average, where there is one."""
        swap = self.average.swap if self.average else lambda _: None
        swap(self.bare)
        try:
            yield
        finally:
            swap(self.bare)

    @contextmanager
    def published(self) -> Iterator[Any]:
        """The model with the weights that are published, whole and without adapters; where they are dealt out a copy, and None
        on all processes but the first. Everyone must ask."""
        with self.averaged():
            if adapted(self.bare):
                yield copy_of(self.bare, merged(self.bare))
                return
            if not self.engine.place.sharded:
                yield self.bare
                return
            weights = self.engine.place.weights(self.bare)
            yield copy_of(self.bare, weights) if self.engine.main else None


def copy_of(model: Any, weights: Mapping[str, torch.Tensor]) -> Any:
    """A model of the same config with these weights, on the host."""
    with torch.device("meta"):
        made = type(model)(model.config)
    made.load_state_dict(weights, strict=True, assign=True)
    return made.train(model.training)


class Clock:
    """Steps per second between lines of metrics, with pauses (saving, evaluating) left out."""

    def __init__(self) -> None:
        self.began, self.paused, self.steps = time.perf_counter(), 0.0, 0

    def pause(self, work: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        try:
            return work()
        finally:
            self.paused += time.perf_counter() - start

    def rate(self) -> float:
        """Steps per second since the last call."""
        spent = time.perf_counter() - self.began - self.paused
        rate = self.steps / max(spent, 1e-9)
        self.began, self.paused, self.steps = time.perf_counter(), 0.0, 0
        return rate
