"""``seqrl train`` and ``seqrl check``: run a recipe, go on with a run, or only be told what is wrong with a recipe."""

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seqrl.core.errors import UserError

if TYPE_CHECKING:
    from seqrl.train.clockwork import Outcome
    from seqrl.train.recipe import Recipe

Words = Annotated[
    list[str] | None, typer.Argument(help="RECIPE, then any number of key=value overrides", metavar="RECIPE [key=value ...]")
]


def _split(words: list[str] | None) -> tuple[str | None, list[str]]:
    """The recipe's name, if one is given, and the overrides."""
    words = words or []
    named = words[0] if words and "=" not in words[0] else None
    return named, words[1:] if named else words


def _load(name: str, overrides: list[str]) -> "Recipe":
    """The recipe, and whether it evaluates domains that its sources have."""
    from seqrl.data.dataset import domains_of
    from seqrl.rollout.players import check_domains
    from seqrl.train import recipe as recipes

    recipe = recipes.load(name, overrides)
    if not recipes.waits(recipe):
        check_domains(recipe.evaluate, domains_of(recipe.data.sources) if recipe.tokens.pack else ())
    return recipe


def _begun(recipe: "Recipe") -> "tuple[Recipe, list[str]]":
    """A recipe with what it takes from the bundle of its ``init``, and what to print of that.

    Raises:
        UserError: there is no such bundle here, or they do not go together.
    """
    from seqrl.core.errors import HubError
    from seqrl.data.dataset import domains_of
    from seqrl.rollout.players import check_domains
    from seqrl.train import begin
    from seqrl.train import recipe as recipes

    try:
        settled = begin.settle(recipe)
    except HubError as e:
        return recipe, [f"  init    {recipe.init.name}: cannot be had now, so what it gives was not checked ({e})"]
    check_domains(settled.evaluate, domains_of(settled.data.sources) if settled.tokens.pack else ())
    revision = f"@{settled.init.revision[:12]}" if settled.init.revision else ""
    given = [f"model.{n}={v}" for n, v in settled.model.items() if n not in recipe.model]
    given += ["tokens"] if recipes.waits(recipe) else []
    return settled, [f"  init    {settled.init.name}{revision}", f"          gives {', '.join(given) or 'its weights alone'}"]


def train(
    words: Words = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run; runs/NAME where not given.")] = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Go on with a run; engine=... goes on under another engine.")
    ] = None,
) -> None:
    """Trains a recipe (a shelf name or a file) and evaluates it; or goes on with a run from its last checkpoint."""
    name, overrides = _split(words)
    if resume is not None and (name or out):
        raise UserError(f"--resume {resume} goes on with that run as it is; leave out {name or out}")
    if resume is None and name is None:
        raise UserError("name a recipe (seqrl recipes ls) or a run to go on with (--resume DIR)")
    recipe = _load(name, overrides) if name else _of_run(resume, overrides)
    out = out or resume or Path("runs") / recipe.name
    from seqrl.train import around, launch

    if processes := launch.needed(recipe.engine):
        _spread(processes)
        return
    launch.watch_parent()
    # What MPI and SLURM say is told in torch's words from here on.
    around.started()
    with _one_of_several():
        from seqrl.train import run

        outcome = run.resume(resume, overrides) if resume else run.start(recipe, out)
        show_outcome(outcome)
        if outcome.main:
            typer.echo(_next(out))


def _of_run(folder: Path, overrides: list[str]) -> "Recipe":
    from seqrl.core.config import read_text
    from seqrl.train import recipe as recipes

    path = folder / "recipe.yaml"
    if not path.is_file():
        raise UserError(f"{folder}: there is no run to go on with (no recipe.yaml in it)")
    return recipes.parse(read_text(path), str(path), overrides)


def _spread(processes: int) -> None:
    """The same command in several processes; leaves with the exit code of the first."""
    from seqrl.train import launch

    try:
        launch.together([sys.executable, "-m", "seqrl", *sys.argv[1:]], processes)
    except launch.Ended as e:
        if not str(e):
            raise typer.Exit(e.exit_code) from None
        raise


@contextmanager
def _one_of_several() -> Iterator[None]:
    """One of several processes says what went wrong and ends there and then, without taking the interpreter apart."""
    from seqrl.train import launch

    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield
        return
    from seqrl.cli.app import say, what_to_say

    try:
        yield
    except BaseException as error:
        code = getattr(error, "exit_code", None) or (130 if isinstance(error, KeyboardInterrupt) else 0)
        message = "interrupted" if isinstance(error, KeyboardInterrupt) else str(error) if code else what_to_say(error)
        if message is None or os.environ.get("SEQRL_DEBUG", "0") not in ("", "0"):
            traceback.print_exc()
        say(message or f"this is a defect of seqrl, not of your input ({error!r})")
        launch.leave(code or (1 if message is None else 2))
    launch.leave(0)


def _next(out: Path) -> str:
    """What to type next: what acts is played, what dreams or speaks is looked at, what encodes is put to use."""
    from seqrl.core import kinds
    from seqrl.core.config import read_text
    from seqrl.train import recipe as recipes

    recipe = recipes.parse(read_text(out / "recipe.yaml"), str(out / "recipe.yaml"))
    kind = str(recipe.model["kind"])
    room = kind.partition(".")[0]
    if kinds.reads_documents(kind):
        if recipe.tokens.documents.frames is None:
            return f"needle  seqrl needle {out} --lengths {recipe.tokens.pack}"
        film = " --gif video.gif" if "kind" in recipe.tokens.documents.frames else ""
        return f"say     seqrl generate {out} --video 0 --context 1 --frames 4{film}"
    if room == "worlds":
        return f"dream   seqrl dream {out} --gif dream.gif   (step it yourself: seqrl play {out})"
    if room == "encoders":
        return f"use     tokens.slots.image: {{kind: vq, encoder: {out}}}"
    return f"play    seqrl eval {out} --episodes 100"


def show_outcome(outcome: "Outcome") -> None:
    """Prints the scores or the fidelity, if there are any, and where to look."""
    from seqrl.cli._fidelity import print_fidelity
    from seqrl.cli.eval import print_reports
    from seqrl.train.finish import finish

    if not outcome.main:
        return
    if outcome.reports:
        print_reports(outcome.reports)
    for domain, found in outcome.dreams.items():
        print_fidelity(found, domain)
    back = {k.rpartition("/")[2]: v for k, v in outcome.metrics.items() if k.startswith("reconstruction/")}
    if back:
        typer.echo(f"back    {', '.join(f'{k} {v:.4g}' for k, v in back.items())}, on held-out frames")
    page, missing = finish(outcome.run)
    for said in missing:
        typer.echo(said, err=True)
    typer.echo(f"run     {outcome.run}\nreport  {page}")


def check(
    words: Words = None,
    memory: Annotated[
        bool, typer.Option("--memory", help="Plan: memory of a device, speed, longest rows (loads torch).")
    ] = False,
    device: Annotated[
        str | None, typer.Option(metavar="NAME", help="h100, h200, a100, cpu or GiB=80,TFLOPS=989,LINK=50.")
    ] = None,
    processes: Annotated[int | None, typer.Option(metavar="N", help="Devices, where not those of the recipe.")] = None,
) -> None:
    """Says everything that is wrong with a recipe, each mistake with its file:line; reads no data, nor torch without init."""
    from seqrl.cli._memory import check_flags, show_memory

    check_flags(memory, device, processes)
    name, overrides = _split(words)
    if name is None:
        raise UserError("name a recipe: a shelf name (seqrl recipes ls) or a file")
    from seqrl.data.slots import WINDOW

    recipe = _load(name, overrides)
    recipe, begun = _begun(recipe) if recipe.init else (recipe, [])
    sources = ", ".join(str(s.get("id") or s.get("path") or s.get("env") or s["kind"]) for s in recipe.data.sources)
    pack, unit = recipe.tokens.pack, "rows" if recipe.tokens.pack else "windows"
    span = f"packed rows of {pack:,} tokens" if pack else f"{recipe.tokens.context or WINDOW} steps"
    how = f"{recipe.train.steps:,} steps of {recipe.train.batch} {unit}, {recipe.train.precision}"
    if recipe.stages:
        how = f"{recipe.train.steps:,} steps in {len(recipe.stages)} stages, {recipe.train.precision}"
    layouts = {n: d.layout for n, d in recipe.tokens.domains.items() if d.layout}
    order = recipe.tokens.documents.fields if recipe.tokens.documents else recipe.tokens.layout
    stream = f"as {recipe.world} reads it" if recipe.world else f"{order}, {span}"
    typer.echo(f"{name}: fine\n  data    {sources}\n  stream  {stream}")
    for domain, layout in layouts.items():
        typer.echo(f"          {domain}: {layout}")
    typer.echo(f"  model   {recipe.model['kind']}\n  train   {how}")
    for line in begun:
        typer.echo(line)
    if (engine := recipe.engine).wanted or engine.kind != "auto":
        kind = "ddp" if engine.kind == "auto" else engine.kind
        shared = f", each row cut over {engine.sequence} of them" if engine.sequence > 1 else ""
        typer.echo(f"  engine  {kind}, {engine.wanted or 'as many as are started'} processes{shared}")
    if memory:
        show_memory(recipe, device or "h100", processes)
