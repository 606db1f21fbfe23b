"""The run under way: what is due around each step of the loop, in the order in which one thing needs another.

Lines of metrics, looks at held-out episodes, evaluations (of what acts in the real environment, of what dreams on held-out
episodes), checkpoints, a polite end. What it saves, train/reshard.py puts back.
"""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from seqrl import bundle
from seqrl.rollout.evaluate import Report, evaluate_all
from seqrl.rollout.fidelity import Fidelity
from seqrl.rollout.result import to_json
from seqrl.train import checkpoint, dreams, progress
from seqrl.train.begin import Lineage
from seqrl.train.disk import writing
from seqrl.train.engine import Engine, Span
from seqrl.train.finish import keep_reports
from seqrl.train.loop import Clock, Trainer
from seqrl.train.metrics import Metrics
from seqrl.train.prepare import Data, fingerprints
from seqrl.train.recipe import Recipe
from seqrl.train.reshard import spread
from seqrl.train.signals import Interrupted, Stop, politely
from seqrl.train.still import take
from seqrl.train.writer import Posts, Writer

_FAILED = 255
"""Larger than any signal: where one process was asked to stop and another could not write, the latter is told."""


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
        self.metrics = self._begin(step) if engine.main else None
        self.clock, self.writer, self.saves = Clock(), Writer(), 0
        # The same at every save, and not quickly said.
        self.text, self.prints = recipe.dump(), fingerprints(data)

    def _begin(self, step: int) -> Metrics:
        """Puts the folder in order after whatever ended the run before."""
        checkpoint.settle(self.out)
        before = checkpoint.facts_of(self.out)
        return Metrics(self.out, self.recipe.train.trackers, step, before.get("lines") if before.get("step") == step else None)

    def go(self) -> Outcome | None:
        """Trains to the end of its stage; what the run left, or None where another stage follows."""
        try:
            self._train()
            self.writer.wait()
            if self.span.stop < self.recipe.train.steps:
                return None
            if self.recipe.evaluate.at_end:
                self._log(self.recipe.train.steps, self._play())
                if self.engine.main:
                    found = {"report": to_json(self.reports)} if self.reports else {}
                    found |= {"dream": dreams.to_json(self.dreams)} if self.dreams else {}
                    checkpoint.add_metrics(self.out, {**self.latest, **found})
        except Exception:
            # What is being written was sound when it was taken; but who waits for a process that is gone waits for nothing.
            self.writer.let_finish(None if self.engine.world == 1 else 5.0)
            raise
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
            asked = self._asked(stop)
            while done < stop_at and not asked:
                self.trainer.step(done)
                done += 1
                self.clock.steps += 1
                self._after(done, done == stop_at)
                show(done, total, f"loss {self.latest['loss']:.4f}" if "loss" in self.latest else "")
                asked = self._asked(stop)
            if asked == _FAILED:
                self.writer.wait()
            if done < total and asked:
                self._save(done)
                self.writer.wait()
                how = f"stopped at step {done:,} of {total:,}; everything is saved. Go on with: seqrl train --resume {self.out}"
                raise Interrupted(how, asked)

    def _asked(self, stop: Stop) -> int:
        """What all processes stop for, the same for all: a signal, or a checkpoint that one of them could not write."""
        return self.engine.agree(_FAILED if self.writer.failed else stop.signal)

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
        # Environments may start processes, and those should not begin in the middle of a write.
        self.writer.wait()
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
        with writing(self.out / "dream.json"):
            dreams.keep(self.out, self.dreams)
        return dreams.metrics(self.dreams)

    def _give_back(self, model: Any) -> dict[str, float]:
        return dreams.judge_encoder(model, self.tokenizer, self.data, self.out)

    def _save(self, step: int) -> None:
        """Takes a checkpoint, to which every process adds what it alone has, and begins to write it."""
        self.trainer.check()
        # One at a time: a disk that is slower than the training holds it up here.
        self.writer.wait()
        engine, still = self.engine, take(self.trainer, self.engine)
        self.saves += 1
        posts = Posts(engine.company, f"{self.span.number}/{self.saves}")
        if not engine.main:
            state = checkpoint.TrainerState(step, still.tensors, {})
            self.writer.begin(lambda: checkpoint.add(self.out, state, engine.rank, posts))
            return
        metrics, began = self.metrics, {"lineage": self.lineage} if self.lineage else {}
        about = {"step": step, **self.latest, **began}
        facts = {"data": self.prints, "lines": metrics.lines, **spread(engine)}

        def write() -> None:
            metrics.flush()
            state = checkpoint.TrainerState(step, still.tensors, facts)
            save = partial(bundle.save, model=still.model, tokenizer=self.tokenizer, recipe=self.text, metrics=about)
            checkpoint.save(self.out, state, save, self.recipe.train.keep, posts)

        self.writer.begin(write)
