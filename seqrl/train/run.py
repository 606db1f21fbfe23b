"""A run from its recipe to its last checkpoint, in a folder that can always be gone on from.

``start`` makes a new run, ``resume`` goes on with one; both end in the same ``_go``. The folder holds ``recipe.yaml``
(resolved), ``metrics.jsonl``, ``checkpoints/``, and after evaluation ``eval.json``, ``clip.gif`` and ``report.html``.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from seqrl import bundle
from seqrl.core import kinds
from seqrl.core.errors import DataError, EnvError, RecipeError, UserError
from seqrl.data.dataset import Dataset, open_dataset
from seqrl.data.loader import Loader, fit
from seqrl.data.tokenizer import Tokenizer
from seqrl.rollout import envs
from seqrl.rollout.evaluate import Report, choose_targets, evaluate, readable
from seqrl.rollout.face import Face
from seqrl.train import checkpoint, progress
from seqrl.train.engine import Engine
from seqrl.train.finish import keep_report, write_whole
from seqrl.train.loop import Clock, Trainer
from seqrl.train.metrics import Metrics
from seqrl.train.optim import make_optimizer
from seqrl.train.recipe import Recipe, parse
from seqrl.train.signals import Interrupted, politely

# What may change between stopping and going on without changing what was already learnt.
_FREE = (
    "train.log_every",
    "train.validate_every",
    "train.validate_windows",
    "train.save_every",
    "train.keep",
    "train.trackers",
    "train.device",
)


@dataclass(frozen=True)
class Outcome:
    """What a finished run left: its folder, its last metrics, and the report of its last evaluation, if there was one."""

    run: Path
    metrics: dict[str, float]
    report: Report | None
    main: bool = True
    """Whether this process is the one that speaks and writes, of all that trained together."""


def start(recipe: Recipe, out: Path) -> Outcome:
    """Trains a recipe in a new folder; raises UserError where the folder already holds a run."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; --out names the folder of the run")
    if (out / "recipe.yaml").exists():
        raise UserError(f"{out} already holds a run; go on with it: seqrl train --resume {out}, or choose another --out")
    return _go(recipe, out, None)


def resume(out: Path) -> Outcome:
    """Goes on with a run from its last complete checkpoint (from the beginning, where it has none yet).

    Raises:
        UserError: no run there, or its recipe.yaml was changed in a way that would not continue the same run.
    """
    path = out / "recipe.yaml"
    if not path.is_file():
        raise UserError(f"{out}: there is no run to go on with (no recipe.yaml in it)")
    recipe = parse(path.read_text(encoding="utf-8"), str(path))
    last = checkpoint.last(out)
    if last is not None:
        before = last / "bundle" / "recipe.yaml"
        _same_run(recipe, parse(before.read_text(encoding="utf-8"), str(before)), path)
    return _go(recipe, out, last)


def _flat(raw: Any, at: str = "") -> dict[str, Any]:
    if isinstance(raw, dict) and raw:
        return {k: v for key, value in raw.items() for k, v in _flat(value, f"{at}.{key}" if at else str(key)).items()}
    return {at: raw}


def _same_run(recipe: Recipe, before: Recipe, path: Path) -> None:
    # Both parsed by this seqrl, so that a setting that came to be since then has its default on both sides.
    old, new = (_flat(r.model_dump(mode="json")) for r in (before, recipe))
    changed = [k for k in sorted({*old, *new}) if old.get(k) != new.get(k) and k not in _FREE and not k.startswith("evaluate.")]
    if recipe.train.decay == "none" and new["train.steps"] > old["train.steps"]:
        changed = [k for k in changed if k != "train.steps"]
    if changed:
        told = "\n".join(f"  {k}: was {old.get(k)!r}, is {new.get(k)!r}" for k in changed)
        raise RecipeError(
            f"{path}: the recipe was changed since the last checkpoint, so this would be another run:\n{told}\n"
            "put it back, or start anew with --out"
        )


def build_model(recipe: Recipe, tokenizer: Tokenizer, seed: int) -> Any:
    """A fresh model of the recipe for the tokenizer's data; weights follow from the seed."""
    module = kinds.load(recipe.model["kind"])
    settings = {k: v for k, v in recipe.model.items() if k != "kind"}
    torch.manual_seed(seed)
    if "losses" in kinds.settings(recipe.model["kind"]):
        settings["losses"] = list(recipe.train.losses)
    config = module.Config.for_ports(tokenizer.ports(), tokenizer.context, **settings)
    return module.Model(config)


def preflight(recipe: Recipe, tokenizer: Tokenizer) -> None:
    """Finds out before step 0 what would otherwise fail after hours: the environment and the targets of the evaluation."""
    if recipe.evaluate.every or recipe.evaluate.at_end:
        choose_targets(tokenizer, recipe.evaluate.targets)
        spec = readable(tokenizer)
        try:
            made = envs.make(recipe.evaluate.env or spec, 1, spec)
        except EnvError as e:
            raise EnvError(f"{e}\n(to train without playing: evaluate.at_end=false evaluate.every=null)") from e
        try:
            Face.of(made[0], spec)
        finally:
            made[0].close()


def _go(recipe: Recipe, out: Path, last: Path | None) -> Outcome:
    config = recipe.train
    engine = Engine(config.device, config.precision, config.seed)
    with progress.bar("converting", "episode", quiet=not engine.main) as report:
        dataset = open_dataset(recipe.data, report)
    state = checkpoint.load(last) if last else None
    if state and state.facts["data"] != dataset.fingerprints():
        raise DataError(
            f"{out}: the data are not those this run began with ({dataset.spec.id} was changed); start a new run with --out"
        )
    if last:
        tokenizer = Tokenizer.load(last / "bundle")
    else:
        tokenizer = Tokenizer(recipe.tokens, dataset.spec)
        fit(tokenizer, dataset)
    preflight(recipe, tokenizer)
    model = build_model(recipe, tokenizer, config.seed)
    loader = Loader(dataset, tokenizer, engine.device)
    trainer = Trainer(config, engine, model, make_optimizer(model, config), loader)
    if state:
        _restore(trainer, state, last)
    if engine.main:
        out.mkdir(parents=True, exist_ok=True)
        write_whole(out / "recipe.yaml", recipe.dump())
    run = _Run(recipe, out, engine, dataset, tokenizer, trainer, state.step if state else 0)
    return run.go()


def _restore(trainer: Trainer, state: checkpoint.TrainerState, last: Path) -> None:
    raw = {k.removeprefix("model/"): v for k, v in state.tensors.items() if k.startswith("model/")}
    trainer.bare.load_state_dict(raw)
    checkpoint.unpack_optimizer(trainer.optimizer.optimizer, trainer.bare, state.tensors)
    if trainer.engine.main:
        # The sums of all processes are added up when they are told, so only one may bring the old ones back.
        trainer.tally.restore(state.tensors, trainer.engine.device)
    if trainer.average:
        for name, weight in trainer.average.weights.items():
            weight.copy_(state.tensors[f"average/{name}"])


class _Run:
    """The run under way: the loop's clockwork around ``Trainer.step``."""

    def __init__(
        self, recipe: Recipe, out: Path, engine: Engine, dataset: Dataset, tokenizer: Tokenizer, trainer: Trainer, step: int
    ):
        self.recipe, self.out, self.engine, self.tokenizer, self.trainer = recipe, out, engine, tokenizer, trainer
        self.dataset, self.first = dataset, step
        self.latest: dict[str, float] = {}
        self.report: Report | None = None
        self.metrics = Metrics(out, recipe.train.trackers, step) if engine.main else None
        self.clock = Clock()

    def go(self) -> Outcome:
        try:
            self._train()
            if self.recipe.evaluate.at_end:
                self._log(self.recipe.train.steps, self._play())
                if self.engine.main and (last := checkpoint.last(self.out)):
                    bundle.add_metrics(last / "bundle", {**self.latest, "report": self.report.to_json()})
        finally:
            if self.metrics:
                self.metrics.close()
        return Outcome(self.out, self.latest, self.report, self.engine.main)

    def _train(self) -> None:
        """Every step that is left; raises Interrupted, with all saved, when asked to stop."""
        total, done = self.recipe.train.steps, self.first
        if done == total:
            return
        self.trainer.model.train()
        with politely() as stop, progress.bar("training", "step", quiet=not self.engine.main) as show:
            show(done, total)
            while done < total and not stop:
                self.trainer.step(done)
                done += 1
                self.clock.steps += 1
                self._after(done, done == total)
                show(done, total, f"loss {self.latest['loss']:.4f}" if "loss" in self.latest else "")
            if done < total:
                self._save(done)
                how = f"stopped at step {done:,} of {total:,}; everything is saved. Go on with: seqrl train --resume {self.out}"
                raise Interrupted(how, stop.signal)

    def _after(self, done: int, over: bool) -> None:
        """What is due after ``done`` steps, in the order in which one thing needs another."""
        config, every = self.recipe.train, self.recipe.evaluate.every
        if over or done % config.log_every == 0:
            rate = {"lr": self.trainer.optimizer.param_groups[0]["lr"], "steps_per_second": self.clock.rate()}
            self._log(done, self.trainer.measured() | rate)
        if over or done % config.validate_every == 0:
            self._log(done, self.clock.pause(self.trainer.validate))
        if every and done % every == 0 and not over:
            self._log(done, self.clock.pause(self._play))
        if over or done % config.save_every == 0:
            self.clock.pause(lambda: self._save(done))

    def _log(self, step: int, values: dict[str, float]) -> None:
        self.latest |= values
        if self.metrics and values:
            self.metrics.write(step, values)

    def _play(self) -> dict[str, float]:
        """Evaluates in the environment with the weights that would be published; the other processes wait."""
        played = self._evaluate() if self.engine.main else {}
        self.engine.wait()
        return played

    def _evaluate(self) -> dict[str, float]:
        with self.trainer.published() as model:
            model.eval()
            with progress.bar("evaluating", "episode") as show:
                self.report = evaluate(model, self.tokenizer, self.recipe.evaluate, show)
            model.train()
        keep_report(self.out, self.report)
        flat = {}
        for t in self.report.to_json()["targets"]:
            name = "all" if t["target"] is None else f"{t['target']:g}"
            flat |= {f"eval/{name}/mean": t["mean"]} | (
                {f"eval/{name}/normalized": t["normalized"]} if t["normalized"] is not None else {}
            )
        return flat

    def _save(self, step: int) -> None:
        self.trainer.check()
        if self.engine.main:
            self._write(step)
        self.engine.wait()

    def _write(self, step: int) -> None:
        trainer, bare = self.trainer, self.trainer.bare
        tensors = {f"model/{n}": t.clone() for n, t in bare.state_dict().items()}
        tensors |= checkpoint.pack_optimizer(trainer.optimizer.optimizer, bare) | trainer.tally.tensors()
        if trainer.average:
            tensors |= {f"average/{n}": t for n, t in trainer.average.weights.items()}
        facts = {"data": self.dataset.fingerprints(), "world": self.engine.world}

        def write(folder: Path) -> None:
            with trainer.published() as model:
                bundle.save(folder, model, self.tokenizer, self.recipe.dump(), {"step": step, **self.latest})

        checkpoint.save(self.out, checkpoint.TrainerState(step, tensors, facts), write, self.recipe.train.keep)
