"""``seqrl import``: somebody's checkpoint made into a bundle that acts the same, or into a body to train from."""

from pathlib import Path
from typing import Annotated

import typer

from seqrl.core.errors import UserError


def import_command(
    name: Annotated[str, typer.Argument(metavar="ORG/NAME|DIR", help="A repository, or a folder of transformers' files.")],
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="The folder to make; else imported and its name.")] = None,
    revision: Annotated[str | None, typer.Option(metavar="R", help="A branch, tag or commit of the repository.")] = None,
    env: Annotated[str | None, typer.Option(metavar="ID", help="What a policy plays, where its name does not tell.")] = None,
    targets: Annotated[str | None, typer.Option(metavar="R,R", help="Returns to ask a policy for, such as 3600,1800.")] = None,
    context: Annotated[int | None, typer.Option(min=1, help="Steps in a policy's window.")] = None,
    scale: Annotated[float | None, typer.Option(help="What a policy's returns are divided by (1000 in the paper).")] = None,
    statistics: Annotated[Path | None, typer.Option(metavar="FILE", help='JSON with "mean" and "std" of the states.')] = None,
) -> None:
    """Imports a checkpoint of transformers': a Decision Transformer as a bundle, a language model as a body.

    Old pickles are read without running anything in them, or refused. Statistics of the states are read in the card.
    """
    from rich.console import Console
    from rich.markup import escape

    from seqrl.hub.importing import import_model

    asked = None
    if targets is not None:
        try:
            asked = [float(word) for word in targets.split(",")]
        except ValueError as e:
            raise UserError(f"--targets {targets}: numbers with commas between them, such as 3600,1800") from e
    if scale is not None and not scale > 0:
        raise UserError(f"--scale {scale:g}: must be above 0")
    told = {"env": env, "targets": asked, "context": context, "scale": scale, "statistics": statistics}
    made = import_model(name, out, revision, **{k: v for k, v in told.items() if v is not None})
    console = Console(highlight=False)
    console.print(f"[bold]{escape(str(made.folder))}[/]: {escape(made.what)}")
    for line in made.notes:
        console.print(f"  {escape(line)}")
    for line in made.next:
        console.print(f"[dim]next[/]    {escape(line)}", soft_wrap=True)
