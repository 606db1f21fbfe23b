"""A run from its recipe to its last checkpoint, in a folder that can always be gone on from.

``start`` makes a new run, ``resume`` goes on with one; both end in the same ``_go``. The folder holds ``recipe.yaml``
(resolved), ``metrics.jsonl``, ``checkpoints/``, and after evaluation ``eval.json`` and ``clip.gif`` (of a world model
``dream.json`` and ``dream.gif``) and ``report.html``.
"""

import copy
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from seqrl import bundle
from seqrl.core import kinds
from seqrl.core.config import read_text
from seqrl.core.errors import BundleError, EnvError, RecipeError, UserError
from seqrl.data.mixture import Mixture, read_tokenizer
from seqrl.data.tokenizer import Tokenizer
from seqrl.rollout.evaluate import rehearse
from seqrl.rollout.players import domains_of, plan
from seqrl.train import adapters, begin, checkpoint, dreams, progress
from seqrl.train.check import inhabits
from seqrl.train.clockwork import Clockwork, Outcome
from seqrl.train.disk import alone_in, write_whole
from seqrl.train.engine import Engine, bodies_of, span_of
from seqrl.train.imagination import DreamTrainer
from seqrl.train.loop import Trainer
from seqrl.train.optim import make_optimizer
from seqrl.train.prepare import Data, inherited, loader_for, open_data, open_world, settled
from seqrl.train.recipe import ImaginationConfig, Recipe, parse
from seqrl.train.reshard import check_goes_on, check_same_run, restore
from seqrl.train.saved import TrainerState
from seqrl.train.settings import StageConfig


def start(recipe: Recipe, out: Path) -> Outcome:
    """Trains a recipe in a new folder; raises UserError where the folder already holds a run."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; --out names the folder of the run")
    _check_empty(out)
    return _go(recipe, out, None, new=True)


def _check_empty(out: Path) -> None:
    if (out / "recipe.yaml").exists():
        raise UserError(f"{out} already holds a run; go on with it: seqrl train --resume {out}, or choose another --out")


def resume(out: Path, overrides: Sequence[str] = ()) -> Outcome:
    """Goes on with a run from its last complete checkpoint (from the beginning, where it has none yet).

    Args:
        out: the run folder.
        overrides: ``key=value`` words for its recipe: of what may change on the way, such as ``engine=fsdp``.

    Raises:
        UserError: no run there, or its recipe was changed in a way that would not continue the same run.
    """
    path = out / "recipe.yaml"
    if not path.is_file():
        raise UserError(f"{out}: there is no run to go on with (no recipe.yaml in it)")
    text = read_text(path)
    recipe, last = parse(text, str(path), overrides), checkpoint.last(out)
    if overrides:
        check_same_run(recipe, parse(text, str(path)), f"{path} with {' '.join(overrides)}")
    if last is not None:
        before = last / "bundle" / "recipe.yaml"
        check_same_run(recipe, parse(read_text(before), str(before)), str(path))
    return _go(recipe, out, last)


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


@torch.no_grad()
def _fill(model: Any, state: TrainerState) -> None:
    """Puts a checkpoint's weights into a model, one at a time; raises BundleError where they are not its own."""
    own = model.state_dict()
    saved = [name.removeprefix("model/") for name in state.tensors if name.startswith("model/")]
    if odd := sorted({*own} ^ {*saved}):
        raise BundleError(f"the weights of the checkpoint and those of the model differ in {', '.join(odd[:5])}")
    for name in saved:
        if (found := state.tensors[f"model/{name}"]).shape != own[name].shape:
            raise BundleError(
                f"{name} has shape {tuple(found.shape)} in the checkpoint and {tuple(own[name].shape)} in the model"
            )
        own[name].copy_(found)


def _go(recipe: Recipe, out: Path, last: Path | None, new: bool = False) -> Outcome:
    recipe = settled(recipe) if last is None else recipe
    config = recipe.train
    engine = Engine(config.device, config.precision, config.seed, recipe.tokens.pack is not None, recipe.engine)
    with engine.company.watched(), alone_in(out) if engine.main else nullcontext():
        if engine.main:
            _look_again(out, last, new)
        with progress.bar("converting", "episode", quiet=not engine.main) as report:
            data = open_data(recipe, report)
        while True:
            # Every stage begins as a run that goes on would, from the checkpoint that the one before left.
            if (outcome := _stage(recipe, out, last, engine, data)) is not None:
                break
            last = checkpoint.last(out)
        engine.wait()
    engine.company.part()
    return outcome


def _look_again(out: Path, last: Path | None, new: bool) -> None:
    """Raises UserError where another process was at work in the folder since it was looked at."""
    if new:
        _check_empty(out)
    elif checkpoint.last(out) != last:
        raise UserError(f"{out}: another process has gone on with this run in the meantime; look, and do the same again")


def _stage(recipe: Recipe, out: Path, last: Path | None, engine: Engine, data: Data) -> Outcome | None:
    """Trains the stage that a checkpoint (none: the beginning) lies in, to its end; None where another one follows."""
    state = checkpoint.load(last, engine.rank) if last else None
    if state:
        check_goes_on(out, state, engine, data)
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
        _fill(model, state)
    if dreams.dreams(recipe.model["kind"]) and (recipe.evaluate.every or recipe.evaluate.at_end):
        dreams.check_room(model, tokenizer, data, recipe.evaluate)
    loader = loader_for(now, data, tokenizer, engine.device)
    if inhabits(recipe.model["kind"]):
        trainer: Any = DreamTrainer(now.train, recipe.imagination or ImaginationConfig(), engine, model, loader)
    else:
        trainer = Trainer(now.train, engine, model, lambda m: make_optimizer(m, now.train), loader, span.first)
    if state and not fresh:
        restore(trainer, state, last)
    if engine.main:
        out.mkdir(parents=True, exist_ok=True)
        write_whole(out / "recipe.yaml", recipe.dump())
    return Clockwork(recipe, out, engine, data, tokenizer, trainer, step, span, lineage).go()
