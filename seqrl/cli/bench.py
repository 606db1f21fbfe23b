"""``seqrl bench``: a suite of methods, datasets and seeds, run in parallel, and the table of what they got."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seqrl.core.errors import UserError

if TYPE_CHECKING:
    from seqrl.bench.plan import Suite
    from seqrl.bench.results import Results

Words = Annotated[
    list[str] | None, typer.Argument(help="SUITE, then any number of key=value overrides", metavar="SUITE [key=value ...]")
]


def bench_command(
    words: Words = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="How many seeds, in place of the suite's.")] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Runs at a time; as many as there are cores if not given.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of all benchmarks.")] = Path("runs/bench"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say which cells there are and how long they take.")] = False,
    take: Annotated[Path | None, typer.Option(metavar="DIR", help="First move finished runs from DIR into the cells.")] = None,
) -> None:
    """Runs a suite (a shelf name or a file) and writes its table; typed again, it goes on, and runs only what is missing."""
    name, overrides = (words[0], words[1:]) if words and "=" not in words[0] else (None, words or [])
    from seqrl.bench import plan
    from seqrl.bench.jobs import cores, threads
    from seqrl.bench.protocol import mixed
    from seqrl.bench.show import plain
    from seqrl.bench.suite import SHELF
    from seqrl.core import shelf

    if name is None:
        raise UserError(f"name a suite: {', '.join(shelf.names(SHELF))}, or a file")
    if dry_run and take is not None:
        raise UserError("--dry-run only says what there is, and --take moves runs; leave one of them out")
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; --out names the folder of all benchmarks")
    suite = plan.load(name, overrides, seeds)
    at_once = jobs or max(1, cores() // threads())
    from seqrl.bench import run

    if take is not None:
        for line in run.take(suite, out, take):
            typer.echo(plain(line))
    if dry_run:
        _show_plan(suite, out, at_once)
        return
    results, failed = run.bench(suite, out, at_once, _again(sys.argv[1:]))
    _show(results)
    for line in mixed(results):
        typer.echo(plain(line), err=True)
    home = out / suite.config.name
    for file in run.WRITTEN if results.runs else ():
        if (home / file).is_file():
            typer.echo(f"{file.partition('.')[0]:<8}{home / file}")
    if failed:
        cells = f"{len(failed)} of {len(suite.cells)} cells"
        typer.echo(f"{cells} failed; the same command tries them again", err=True)
        raise typer.Exit(1)


def _again(words: Sequence[str]) -> str:
    """The command that goes on: what was typed, without ``--take DIR``, whose runs have been taken."""
    kept = [w for i, w in enumerate(words) if not w.startswith("--take=") and "--take" not in words[max(i - 1, 0) : i + 1]]
    return shlex.join(["seqrl", *kept])


def _show_plan(suite: "Suite", out: Path, at_once: int) -> None:
    """The cells by method and dataset, what is there of them, and how long the rest takes."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from seqrl.bench import folder as folders
    from seqrl.bench import run
    from seqrl.bench.cost import Costs
    from seqrl.bench.show import plain
    from seqrl.train.progress import spell

    found, costs = run.survey(suite, out, fetch=False), Costs(suite.config)
    costs.look((j.cell, j.folder) for j in found.jobs)
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    for column, side in (("method", "left"), ("dataset", "left"), ("seed", "right"), ("steps", "right"), ("", "left")):
        table.add_column(column, justify=side)
    states = {j.cell.label: folders.state_of(j.cell, j.folder) for j in found.jobs}
    left = []
    for cell in suite.cells:
        steps, state = cell.recipe.train.steps, states.get(cell.label)
        words = {"finished": "finished", "other": "in the way: another run"}
        if state is None or state.kind != "finished":
            left.append((cell, state.step if state else 0))
        if state is None:
            told = "to do, no data"
        else:
            told = words.get(state.kind, f"begun, {state.step:,} steps" if state.kind == "begun" else "to do")
        table.add_row(Text(plain(cell.method)), Text(plain(cell.dataset)), str(cell.seed), f"{steps:,}", told)
    console = Console(highlight=False)
    console.print(table)
    for why in dict.fromkeys(found.missing.values()):
        typer.echo(plain(f"no data  {why}"))
    seconds, done = costs.left(left, at_once), len(suite.cells) - len(left)
    how = "nobody knows how long they take" if seconds is None else f"about {spell(seconds)}, {at_once} at a time"
    rest = f"{len(left)} are left, {how}" if left else "none is left"
    typer.echo(f"\n{done} of {len(suite.cells)} cells are finished; {rest}")


def _show(results: "Results") -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from seqrl.bench import table as tables
    from seqrl.bench.show import plain

    if not results.rows:
        return
    shown = Table(title=results.suite.name, title_justify="left")
    published = bool(results.suite.published)
    for i, column in enumerate(tables.HEAD[: 8 if published else 7]):
        shown.add_column(column, justify="left" if i in (0, 1, 7) else "right")
    for row in results.rows:
        shown.add_row(*(Text(plain(w)) for w in tables.cells(results, row)[: 8 if published else 7]))
    console = Console()
    if not console.is_terminal:
        console = Console(width=max(console.width, Console(width=500).measure(shown).maximum))
    console.print(shown)
    for w in results.wholes:
        ends = f" ({tables.interval(w.ci)})" if w.ci else ""
        typer.echo(plain(f"{w.method}: IQM {tables.one(w.iqm)}{ends} over {len(w.tasks)} datasets"))
    for line in tables.legend(results):
        typer.echo(plain(line))
