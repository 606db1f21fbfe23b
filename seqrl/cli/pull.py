"""``seqrl pull``: a repository of the Hub as a folder of one's own."""

from pathlib import Path
from typing import Annotated

import typer


def pull_command(
    name: Annotated[str, typer.Argument(metavar="ORG/NAME", help="A repository; of a dataset hf://datasets/ORG/NAME.")],
    revision: Annotated[str | None, typer.Option(metavar="R", help="A branch, tag or commit, such as step-2000.")] = None,
    to: Annotated[Path | None, typer.Option(metavar="DIR", help="The folder to make; else the repository's name.")] = None,
) -> None:
    """Copies a whole publication into a folder: all of it, or nothing. (To load one, no copy is needed: its name is enough.)"""
    from seqrl.hub.pull import pull

    folder, commit = pull(name, to, revision)
    typer.echo(f"{folder}  {name} at {commit[:8]}")
