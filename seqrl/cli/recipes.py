"""``seqrl recipes``: the shelf of complete runs. Look at one, copy it to a file of your own, change what you like.

What the table shows is read from each recipe's header, so it cannot drift from the file.
"""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from seqrl.core import shelf
from seqrl.core.errors import RecipeError

app = typer.Typer(help="The shelf of complete runs: list, show, copy to a file of your own.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="A name on the shelf (see `seqrl recipes ls`), or a file.")]


@app.command("ls")
def ls() -> None:
    """Every recipe on the shelf, with the result to expect and the minutes it takes."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    table.add_column("recipe", style="cyan", no_wrap=True)
    table.add_column("what it is", ratio=3)
    table.add_column("expected", ratio=2)
    table.add_column("minutes", justify="right")
    for name in shelf.names("recipes"):
        said = shelf.header(shelf.text("recipes", name))
        # Text and not str: a bracket in somebody's header is a bracket, not markup.
        table.add_row(*(Text(words) for words in (name, *(said.get(key, "") for key in ("title", "expected", "minutes")))))
    console = Console(highlight=False)
    console.print(table)
    console.print("\n[dim]seqrl recipes show NAME · seqrl recipes cp NAME FILE · seqrl train NAME[/dim]")


@app.command("show")
def show(name: Name) -> None:
    """A recipe as it stands on disk; in colour on a terminal, unchanged into a pipe."""
    words = shelf.text("recipes", name)
    if not sys.stdout.isatty():
        sys.stdout.write(words)
        return
    from rich.console import Console
    from rich.syntax import Syntax

    Console().print(Syntax(words, "yaml", theme="ansi_dark", background_color="default"))


@app.command("cp")
def cp(
    name: Name,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write it; a folder keeps the name.")],
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
) -> None:
    """Copy a recipe to a file of your own."""
    source = shelf.find("recipes", name)
    target = file / source.name if file.is_dir() else file
    words = _with_schema(shelf.text("recipes", name), source, target)
    write_new(target, words, force)
    typer.echo(f"{target}\nnext: seqrl check {target}")


def _with_schema(words: str, source: Path, target: Path) -> str:
    """The recipe with its editor line pointing at the shelf's schema from wherever the copy will lie."""
    schema = source.resolve().parent / "schema.json"
    if target.resolve().parent == schema.parent or not schema.is_file():
        return words
    return words.replace("$schema=schema.json", f"$schema={schema.as_posix()}", 1)


def write_new(target: Path, words: str, force: bool) -> None:
    """Writes a text file whole or not at all.

    Raises:
        RecipeError: the file is there and ``force`` is not given, or its folder is missing.
    """
    if target.exists() and not force:
        raise RecipeError(f"{target} is there already; choose another name, or write over it with --force")
    if not target.parent.is_dir():
        raise RecipeError(f"{target}: there is no folder {target.parent}")
    part = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        part.write_text(words, encoding="utf-8")
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
