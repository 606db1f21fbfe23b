"""The run under way: what is due around each step of the loop, in the order in which one thing needs another.

Lines of metrics, looks at held-out episodes, evaluations (of what acts in the real environment, of what dreams on held-out
episodes), checkpoints, a polite end. What it saves, ``restore`` puts back.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from seqrl import bundle
from seqrl.rollout.evaluate import Report, evaluate_all
from seqrl.rollout.fidelity import Fidelity
from seqrl.rollout.result import to_json
from seqrl.train import checkpoint, dreams, progress
from seqrl.train.begin import Lineage
from seqrl.train.engine import Engine, Span
from seqrl.train.finish import keep_reports
from seqrl.train.loop import Clock, Trainer
from seqrl.train.metrics import Metrics
from seqrl.train.prepare import Data, fingerprints
from seqrl.train.recipe import Recipe
from seqrl.train.signals import Interrupted, politely


@dataclass(frozen=True)
class Outcome:
    """What a finished run left: its folder, its last metrics, and the reports of its last evaluation, by domain ("" for a
    plain model); none if there was no evaluation."""

    run: Path
    metrics: dict[str, float]
    reports: dict[str, Report]
    main: bool = True
    """Whether this process is the one that speaks and writes, of all that trained together."""
    dreams: dict[str, Fidelity] = field(default_factory=dict)
    """Of a world model what ``reports`` is of a policy."""

    @property
    def report(self) -> Report | None:
        """That of a plain model; None where there was no evaluation, or there are domains."""
        return self.reports.get("")


def restore(trainer: Trainer, state: checkpoint.TrainerState) -> None:
    """Puts back what ``Clockwork`` saved, but for the weights, which a model must have before they are dealt out."""
    checkpoint.unpack_optimizer(trainer.optimizer, trainer.bare, state.tensors)
    trainer.engine.place.restore(trainer.optimizer, state.tensors)
    trainer.tally.restore(state.tensors, trainer.engine.device)
    if trainer.average:
        for name, weight in trainer.average.weights.items():
            weight.copy_(state.tensors[f"average/{name}"])


def _flat(reports: dict[str, Report]) -> dict[str, float]:
    """Metrics of an evaluation: ``eval/<target or all>/mean`` and more; ``eval/<domain>/<target or all>/mean`` of domains."""
    flat = {}
    for domain, report in reports.items():
        for t in report.targets:
            asked = "all" if t.target is None else f"{t.target:g}"
            found = {"mean": t.mean, "normalized": t.normalized, "solved": t.solved}
            place = "/".join(word for word in ("eval", domain, asked) if word)
            flat |= {f"{place}/{name}": value for name, value in found.items() if value is not None}
    return flat


class Clockwork:
    """The run under way: the loop's clockwork around ``Trainer.step``."""

    def __init__(
        self,
        recipe: Recipe,
        out: Path,
        engine: Engine,
        data: Data,
        tokenizer: Any,
        trainer: Trainer,
        step: int,
        span: Span,
        lineage: Lineage | None = None,
    ):
        """
        Args:
            recipe: the whole run. span: the stage that is under way, and its steps. step: where it begins or goes on.
            lineage: what the run began with; written into every bundle.
        """
        self.recipe, self.out, self.engine, self.tokenizer, self.trainer = recipe, out, engine, tokenizer, trainer
        self.data, self.first, self.span, self.lineage = data, step, span, lineage
        self.latest: dict[str, float] = {}
        self.reports: dict[str, Report] = {}
        self.dreams: dict[str, Fidelity] = {}
        self.metrics = Metrics(out, recipe.train.trackers, step) if engine.main else None
        self.clock = Clock()

    def go(self) -> Outcome | None:
        """Trains to the end of its stage; what the run left, or None where another stage follows."""
        try:
            self._train()
            if self.span.stop < self.recipe.train.steps:
                return None
            if self.recipe.evaluate.at_end:
                self._log(self.recipe.train.steps, self._play())
                if self.engine.main and (last := checkpoint.last(self.out)):
                    found = {"report": to_json(self.reports)} if self.reports else {}
                    found |= {"dream": dreams.to_json(self.dreams)} if self.dreams else {}
                    bundle.add_metrics(last / "bundle", {**self.latest, **found})
        finally:
            if self.metrics:
                self.metrics.close()
        return Outcome(self.out, self.latest, self.reports, self.engine.main, self.dreams)

    def _train(self) -> None:
        """Every step that is left; raises Interrupted, with all saved, when asked to stop."""
        total, stop_at, done = self.recipe.train.steps, self.span.stop, self.first
        if done == stop_at:
            return
        self.trainer.model.train()
        with politely() as stop, progress.bar("training", "step", quiet=not self.engine.main) as show:
            show(done, total)
            asked = self.engine.agree(stop.signal)
            while done < stop_at and not asked:
                self.trainer.step(done)
                done += 1
                self.clock.steps += 1
                self._after(done, done == stop_at)
                show(done, total, f"loss {self.latest['loss']:.4f}" if "loss" in self.latest else "")
                asked = self.engine.agree(stop.signal)
            if done < total and asked:
                self._save(done)
                how = f"stopped at step {done:,} of {total:,}; everything is saved. Go on with: seqrl train --resume {self.out}"
                raise Interrupted(how, asked)

    def _after(self, done: int, over: bool) -> None:
        """What is due after ``done`` steps, in the order in which one thing needs another."""
        config, every = self.recipe.train, self.recipe.evaluate.every
        if over or done % config.log_every == 0:
            group = self.trainer.optimizer.param_groups[0]
            rate = {"lr": group["lr"] / group.get("scale", 1.0), "steps_per_second": self.clock.rate()}
            self._log(done, self.trainer.measured() | rate)
        if over or done % config.validate_every == 0:
            self._log(done, self.clock.pause(self.trainer.validate))
        if every and done % every == 0 and not over:
            self._log(done, self.clock.pause(self._play))
        if over or done % config.save_every == 0:
            self.clock.pause(lambda: self._save(done))

    def _log(self, step: int, values: dict[str, float]) -> None:
        if self.recipe.stages and values:
            values = {"stage": self.span.number + 1, **values}
        self.latest |= values
        if self.metrics and values:
            self.metrics.write(step, values)

    def _play(self) -> dict[str, float]:
        """Evaluates with the weights that would be published; the other processes wait."""
        with self.trainer.published() as model:
            return self.engine.alone(lambda: self._evaluate(model)) or {}

    def _evaluate(self, model: Any) -> dict[str, float]:
        kind = str(self.recipe.model["kind"])
        model.eval()
        look = self._act if dreams.plays(kind) else self._dream if dreams.dreams(kind) else self._give_back
        found = look(model)
        model.train()
        return found

    def _act(self, model: Any) -> dict[str, float]:
        with progress.bar("evaluating", "episode") as show:
            self.reports = evaluate_all(model, self.tokenizer, self.recipe.evaluate, show)
        keep_reports(self.out, self.reports)
        # Who learned in dreams is asked what it gets there.
        gap = getattr(self.trainer, "gap", None)
        more = gap(self.reports[""].targets[0].mean, self.recipe.evaluate.sample) if gap else {}
        return _flat(self.reports) | more

    def _dream(self, model: Any) -> dict[str, float]:
        with progress.bar("dreaming", "excerpt") as show:
            self.dreams = dreams.judge_worlds(model, self.tokenizer, self.data, self.recipe.evaluate, show)
        dreams.keep(self.out, self.dreams)
        return dreams.metrics(self.dreams)

    def _give_back(self, model: Any) -> dict[str, float]:
        return dreams.judge_encoder(model, self.tokenizer, self.data, self.out)

    def _save(self, step: int) -> None:
        """A checkpoint, to which every process adds what it alone has."""
        self.trainer.check()
        trainer, engine = self.trainer, self.engine
        own = trainer.tally.tensors() | engine.place.shards(trainer.optimizer)
        raw = {f"model/{n}": t for n, t in engine.place.weights(trainer.bare).items()}
        if trainer.average:
            raw |= {f"average/{n}": t.clone() for n, t in trainer.average.weights.items()}
        with trainer.published() as model:
            if engine.main:
                self._write(step, model, raw | own)
            else:
                checkpoint.add(self.out, checkpoint.TrainerState(step, own, {}), engine.rank, engine.wait)
        engine.wait()

    def _write(self, step: int, model: Any, tensors: dict[str, torch.Tensor]) -> None:
        trainer, engine = self.trainer, self.engine
        if engine.kind == "ddp":
            tensors |= checkpoint.pack_optimizer(trainer.optimizer, trainer.bare)
        facts = {"data": fingerprints(self.data), **spread(engine)}

        def write(folder: Path) -> None:
            began = {"lineage": self.lineage} if self.lineage else {}
            bundle.save(folder, model, self.tokenizer, self.recipe.dump(), {"step": step, **self.latest, **began})

        state = checkpoint.TrainerState(step, tensors, facts)
        checkpoint.save(self.out, state, write, self.recipe.train.keep, engine.wait)


def spread(engine: Engine) -> dict[str, Any]:
    """What a run can only go on with as it was: whose moments are where, and who drew which rows."""
    return {"engine": engine.kind, "world": engine.world, "sequence": engine.how.sequence}
