"""The front door: which commands there are, and what a person sees when something goes wrong.

The table ``DOORS`` names every command with its one line of help and where it lives. A command's module is imported when
that command is called (or asked for its own ``--help``) and never before, so ``seqrl --help`` needs no torch and answers
at once. A module offers either a plain function with Typer annotations or a ``typer.Typer`` with commands of its own.

Whoever gives wrong input gets one message and exit code 2; ``--debug``, before or after the command, adds the traceback.
"""

import errno
import importlib
import os
import sys
import traceback
from dataclasses import dataclass
from typing import Annotated, Any

import typer
import typer.core
import typer.main

from seqrl.core.errors import UserError, did_you_mean

ROAD, LOOK = "The road", "Looking around"


@dataclass(frozen=True)
class Door:
    """A command's place ``module:name``, its line in ``seqrl --help``, and the panel the line stands in."""

    at: str
    help: str
    panel: str


DOORS = {
    "demo": Door("seqrl.cli.demo:demo", "Data, training, evaluation and a report on CartPole, in minutes on a CPU.", ROAD),
    "data": Door("seqrl.cli.data:app", "Datasets: list, look into, collect from an environment, import from HDF5.", ROAD),
    "train": Door("seqrl.cli.train:train", "Run a recipe, or go on with a run: --resume DIR.", ROAD),
    "eval": Door("seqrl.cli.eval:evaluate_command", "Play a trained policy in its real environment and score it.", ROAD),
    "dream": Door("seqrl.cli.dream:dream", "Imagined beside real: how long a world model's dreams stay true.", ROAD),
    "generate": Door("seqrl.cli.generate:generate", "A video of a text, how a video goes on, or a text of a video.", ROAD),
    "needle": Door("seqrl.cli.needle:needle", "How surely a model finds one thing again, by length and depth: a map.", ROAD),
    "play": Door("seqrl.cli.play:play", "Step a world model's dream with the keyboard, in a terminal.", ROAD),
    "plan": Door("seqrl.cli.plan:plan_command", "Act in the real environment by planning in a world model's dream.", ROAD),
    "bench": Door("seqrl.cli.bench:bench_command", "A suite of methods, datasets and seeds, and the table of it.", ROAD),
    "push": Door("seqrl.cli.push:push_command", "Publish a run or a dataset: what will change, then one commit.", ROAD),
    "pull": Door("seqrl.cli.pull:pull_command", "A repository of the Hub as a folder: all of it, or nothing.", ROAD),
    "import": Door("seqrl.cli.import_:import_command", "A transformers checkpoint as a bundle that acts the same.", ROAD),
    "hub": Door("seqrl.cli.hub:app", "A practice Hub on this machine, for classes and where there is no network.", ROAD),
    "recipes": Door("seqrl.cli.recipes:app", "The shelf of complete runs: list, show, copy to a file of your own.", LOOK),
    "check": Door("seqrl.cli.train:check", "Every mistake in a recipe at once, each with its file:line.", LOOK),
    "tokens": Door("seqrl.cli.tokens:app", "What the model reads: the interleaved stream in colour.", LOOK),
    "env": Door("seqrl.cli.env:env", "Versions, devices and backends, to paste into a bug report.", LOOK),
}

# Markdown, because square brackets in a help text (as in [key=value ...]) are markup in Typer's "rich" mode and would vanish.
MARKUP = "markdown"


def open_door(name: str) -> Any:
    """The real command behind a name: imports its module.

    Returns:
        a click command or group, as Typer builds it.
    """
    module, _, attribute = DOORS[name].at.partition(":")
    found = getattr(importlib.import_module(module), attribute)
    if isinstance(found, typer.Typer):
        found.rich_markup_mode = MARKUP
        # get_group and not get_command: an app with a single command would otherwise lose that command's name.
        command = typer.main.get_group(found)
        command.no_args_is_help = True
    else:
        alone = typer.Typer(add_completion=False, rich_markup_mode=MARKUP)
        alone.command(name)(found)
        command = typer.main.get_command(alone)
    command.name = name
    return command


class LazyGroup(typer.core.TyperGroup):
    """A group whose entries are closed doors, enough for its own help, and are opened when one is called."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[Any, Any, list[str]]:
        word = args[0]
        if word not in self.commands and not word.startswith("-") and not ctx.resilient_parsing:
            raise UserError(f"no command '{word}'{did_you_mean(word, self.commands)} (there are: {', '.join(self.commands)})")
        name, closed, rest = super().resolve_command(ctx, args)
        return name, closed and open_door(name), rest

    def invoke(self, ctx: Any) -> Any:
        # Caught here, inside Typer's own handling, which differs between its versions in code and in words.
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            say("interrupted")
            raise typer.Exit(130) from None


app = typer.Typer(
    name="seqrl",
    cls=LazyGroup,
    no_args_is_help=True,
    rich_markup_mode=MARKUP,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Trajectories as sequences: from a dataset to a checkpoint that acts.",
    epilog="First time here? `seqrl demo`, then `seqrl recipes ls`. Every command has its own `--help`.",
)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"seqrl {version('seqrl')}")
        raise typer.Exit


@app.callback()
def _root(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error (also: SEQRL_DEBUG=1).")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="The version, and out.")] = False,
) -> None:
    """Holds the options that stand before a command; ``main`` has read ``--debug`` already."""


def _closed() -> None:
    """Stands in for a command until its door is opened."""


for _name, _door in DOORS.items():
    app.command(_name, help=_door.help, rich_help_panel=_door.panel)(_closed)


def say(message: str) -> None:
    """One message on stderr: red on a terminal, and with nothing in it that could steer the terminal."""
    clean = "".join(c if c.isprintable() or c in "\n\t" else "�" for c in f"seqrl: {message}")
    red = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    print(f"\033[31m{clean}\033[0m" if red else clean, file=sys.stderr, flush=True)


def _no_space(error: BaseException) -> bool:
    """Whether the disk was full; HDF5 and safetensors keep the number only inside their text."""
    known = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return known or "No space left on device" in str(error)


def what_to_say(error: Exception) -> str | None:
    """The message for an error that is the world's and not ours, or None for a defect."""
    if isinstance(error, UserError):
        return str(error)
    name = getattr(error, "filename", None)
    if _no_space(error):
        return f"no space left on {f'the disk of {name}' if name else 'the disk'}; free some, then run the same again"
    if isinstance(error, PermissionError) or getattr(error, "errno", None) == errno.EROFS:
        return f"{name or 'a file'}: {error.strerror or 'permission denied'}"
    if isinstance(error, MemoryError):
        return f"out of memory: {error}" if str(error) else "out of memory"
    return None


def _hush() -> None:
    """Whoever read our output has gone (as in ``seqrl recipes ls | head``): write the rest nowhere, without a word."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)


def main(args: list[str] | None = None) -> None:
    """Runs the command line and leaves with its exit code: 0 fine, 1 a defect, 2 wrong input, 130 interrupted."""
    words = list(sys.argv[1:] if args is None else args)
    # Before anything loads OpenMP: threads that wait spin by default, and where another process holds a core, spinning ones
    # cost more than they compute (measured: a third of the speed, at times a sixtieth).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    debug = os.environ.get("SEQRL_DEBUG", "") not in ("", "0")
    if "--debug" in words:
        debug, words = True, [w for w in words if w != "--debug"]
    try:
        try:
            typer.main.get_command(app).main(args=words, prog_name="seqrl")
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        _hush()
        sys.exit(1)
    except Exception as error:
        # An error may know its own exit code: training that was asked to stop has saved and says how to go on.
        code = getattr(error, "exit_code", 0)
        message = str(error) if code else what_to_say(error)
        if debug or message is None:
            traceback.print_exc()
        if message is None:
            say(f"this is a defect of seqrl, not of your input; a report with the output of `seqrl env` helps ({error!r})")
            sys.exit(1)
        say(message)
        sys.exit(code or 2)
