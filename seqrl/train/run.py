"""A run from its recipe to its last checkpoint, in a folder that can always be gone on from.

``start`` makes a new run, ``resume`` goes on with one; both end in the same ``_go``. The folder holds ``recipe.yaml``
(resolved), ``metrics.jsonl``, ``checkpoints/``, and after evaluation ``eval.json`` and ``clip.gif`` (of a world model
``dream.json`` and ``dream.gif``) and ``report.html``.
"""

import copy
import sys
from pathlib import Path
from typing import Any

import torch

from seqrl import bundle
from seqrl.core import kinds
from seqrl.core.errors import DataError, EnvError, RecipeError, UserError
from seqrl.data.mixture import Mixture, read_tokenizer
from seqrl.data.tokenizer import Tokenizer
from seqrl.rollout.evaluate import rehearse
from seqrl.rollout.players import domains_of, plan
from seqrl.train import adapters, begin, checkpoint, dreams, progress
from seqrl.train.check import inhabits
from seqrl.train.clockwork import Clockwork, Outcome, restore, spread
from seqrl.train.engine import Engine, bodies_of, span_of
from seqrl.train.finish import write_whole
from seqrl.train.imagination import DreamTrainer
from seqrl.train.loop import Trainer
from seqrl.train.optim import make_optimizer
from seqrl.train.prepare import Data, fingerprints, inherited, loader_for, names, open_data, open_world, settled
from seqrl.train.recipe import ImaginationConfig, Recipe, parse
from seqrl.train.settings import StageConfig

# What may change between stopping and going on without changing what was already learnt.
_FREE = (
    "train.log_every",
    "train.validate_every",
    "train.validate_windows",
    "train.save_every",
    "train.keep",
    "train.trackers",
    "train.device",
    "engine.timeout",
    "engine.recompute",
    "engine.chunk",
)


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


def build_model(recipe: Recipe, tokenizer: Tokenizer, seed: int, before: Path | None = None, length: int | None = None) -> Any:
    """A fresh model of the recipe for the tokenizer's data; weights follow from the seed, or are those it begins with.

    Args:
        length: of packed rows, where it is not yet the tokenizer's: a body that is going to be stretched begins with its own.
        before: the bundle of a checkpoint whose weights will be put in: then only its config is read, and no other's weights.
    """
    module = kinds.load(recipe.model["kind"])
    settings = {k: v for k, v in recipe.model.items() if k != "kind"}
    torch.manual_seed(seed)
    if before is not None:
        return module.Model(bundle.read_config(before, recipe.model["kind"]))
    if "losses" in kinds.settings(recipe.model["kind"]):
        settings["losses"] = list(recipe.train.losses)
    weights = None
    if inhabits(recipe.model["kind"]):
        lived_in, weights = open_world(recipe)
        settings |= lived_in
    if kinds.reads_documents(recipe.model["kind"]):
        config = module.Config.for_documents(tokenizer.ports(), length or tokenizer.length, **settings)
    elif tokenizer.packed and isinstance(tokenizer, Mixture):
        config = module.Config.for_domains(tokenizer.ports(), length or tokenizer.length, **settings)
    else:
        config = module.Config.for_ports(tokenizer.ports(), tokenizer.context, **settings)
    model = getattr(module.Model, "begin", module.Model)(config)
    if weights is not None:
        model.world.load_state_dict(weights)
    return model


def preflight(recipe: Recipe, tokenizer: Tokenizer | Mixture, data: Data) -> None:
    """Finds out before step 0 what would otherwise fail after hours: the environments and the targets of the evaluation; of
    what does not act, the episodes it is judged by.

    Raises:
        UserError: the policy of a domain cannot be played as the recipe says, or there is nothing to judge by.
    """
    if not (recipe.evaluate.every or recipe.evaluate.at_end):
        return
    if not dreams.plays(kind := str(recipe.model["kind"])):
        dreams.rehearse(kind, tokenizer, data, recipe.evaluate)
        return
    tokenizers = domains_of(tokenizer)
    for name, config in plan(tokenizer, recipe.evaluate).items():
        try:
            rehearse(tokenizers[name], config)
        except UserError as e:
            if name:
                raise type(e)(f"domain '{name}': {e}\n(to train without playing it: evaluate.domains.{name}.play=false)") from e
            if isinstance(e, EnvError):
                raise EnvError(f"{e}\n(to train without playing: evaluate.at_end=false evaluate.every=null)") from e
            raise


def stretch(model: Any, stage: StageConfig, length: int | None) -> None:
    """Makes a model ready for rows of a stage's length, and its config with it, so that its bundle has them.

    Raises:
        RecipeError: a body that cannot be made longer, or has no rotary base.
    """
    if length is None and stage.rope_base is None:
        return
    whole = getattr(model, "stretch", None)
    bodies = [whole] if whole else [b.stretch for b in bodies_of(model)]
    if not bodies:
        raise RecipeError(f"stages: {type(model).__name__} has no body that can be made longer")
    for body in bodies:
        body(length, stage.rope_base)
    if not whole:
        for name, value in (("length", length), ("rope_base", stage.rope_base)):
            if value is not None and hasattr(model.config, name):
                setattr(model.config, name, value)


def _rehearse_stages(recipe: Recipe, model: Any, engine: Engine) -> None:
    """Finds out before step 0 what a later stage would fail at, on a model that takes no memory."""
    with torch.device("meta"):
        trial = type(model)(copy.deepcopy(model.config))
    for number, stage in enumerate(recipe.stages or ()):
        now, share = recipe.stage(number), engine.mesh.data_ranks * recipe.train.accumulate
        stretch(trial, stage, now.tokens.pack)
        if now.train.batch % share:
            raise RecipeError(
                f"stages.{number}: batch={now.train.batch} must be a multiple of processes x accumulate = {share}"
            )
        engine.check_rows(now.train.batch // share, now.tokens.pack)


def _check_goes_on(out: Path, state: checkpoint.TrainerState, engine: Engine, data: Data) -> None:
    """Raises UserError where a checkpoint is of other data, or of processes that had other parts of it."""
    if state.facts["data"] != fingerprints(data):
        changed = f"the data are not those this run began with ({names(data)} was changed)"
        raise DataError(f"{out}: {changed}; start a new run with --out")
    now = spread(engine)
    # Runs of before engines had names were of DDP, or of one process.
    was = {n: state.facts.get(n, {"engine": "ddp", "sequence": 1}.get(n)) for n in now}
    if was != now:
        told = ", ".join(f"{n} {was[n]} (now {now[n]})" for n in now if was[n] != now[n])
        raise UserError(
            f"{out}: its last checkpoint is of {told}; a run goes on only with the processes and the engine it was saved by. "
            "Its weights are whole in its bundle, for use and for evaluation"
        )


def _go(recipe: Recipe, out: Path, last: Path | None) -> Outcome:
    recipe = settled(recipe) if last is None else recipe
    config = recipe.train
    engine = Engine(config.device, config.precision, config.seed, recipe.tokens.pack is not None, recipe.engine)
    with engine.company.watched():
        with progress.bar("converting", "episode", quiet=not engine.main) as report:
            data = open_data(recipe, report)
        outcome = None
        while outcome is None:
            # Every stage begins as a run that goes on would, from the checkpoint that the one before left.
            outcome = _stage(recipe, out, last, engine, data)
            last = checkpoint.last(out)
        engine.wait()
    engine.company.part()
    return outcome


def _stage(recipe: Recipe, out: Path, last: Path | None, engine: Engine, data: Data) -> Outcome | None:
    """Trains the stage that a checkpoint (none: the beginning) lies in, to its end; None where another one follows."""
    state = checkpoint.load(last, engine.rank) if last else None
    if state:
        _check_goes_on(out, state, engine, data)
    step = state.step if state else 0
    span = span_of(recipe.stages, step, recipe.train.steps)
    now, fresh = recipe.stage(span.number), step == span.first
    # Your own run: whatever its recipe names, you named.
    before = read_tokenizer(last / "bundle" / "tokenizer.json", trust=True) if last else None
    tokenizer, statistics = (before, {}) if last else inherited(now, data)
    if getattr(tokenizer, "length", None) not in (None, now.tokens.pack):
        # Of the same data the same is learned.
        tokenizer, statistics = inherited(now, data, before)
    preflight(recipe, tokenizer, data)
    # The first stage may be longer than the body is before it is stretched.
    most = min(recipe.tokens.pack, now.tokens.pack) if recipe.stages and recipe.tokens.pack and last is None else None
    model = build_model(now, tokenizer, now.train.seed, last and last / "bundle", most)
    lineage = begin.lineage_of(last) if last else begin.fill(model, tokenizer, now) if now.init else None
    if lineage and not last and engine.main:
        begin.tell(lineage, model, statistics)
    if recipe.stages and fresh:
        if last is None:
            _rehearse_stages(recipe, model, engine)
        stretch(model, recipe.stages[span.number], now.tokens.pack)
    adapters.tune(model, now.train, lineage)
    if engine.main and (words := adapters.told(model, now.train)):
        print(words, file=sys.stderr, flush=True)
    if state:
        # Before anything is dealt out; a stage begins with these, and with all else anew.
        model.load_state_dict({k.removeprefix("model/"): v for k, v in state.tensors.items() if k.startswith("model/")})
    if dreams.dreams(recipe.model["kind"]) and (recipe.evaluate.every or recipe.evaluate.at_end):
        dreams.check_room(model, tokenizer, data, recipe.evaluate)
    loader = loader_for(now, data, tokenizer, engine.device)
    if inhabits(recipe.model["kind"]):
        trainer: Any = DreamTrainer(now.train, recipe.imagination or ImaginationConfig(), engine, model, loader)
    else:
        trainer = Trainer(now.train, engine, model, lambda m: make_optimizer(m, now.train), loader, span.first)
    if state and not fresh:
        restore(trainer, state)
    if engine.main:
        out.mkdir(parents=True, exist_ok=True)
        write_whole(out / "recipe.yaml", recipe.dump())
    return Clockwork(recipe, out, engine, data, tokenizer, trainer, step, span, lineage).go()
