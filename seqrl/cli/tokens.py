"""``seqrl tokens show``: what the model reads, as an interleaved stream in colour."""

from typing import Annotated

import typer

from seqrl.core.errors import UserError

app = typer.Typer(help="Streams: what the model reads.")


@app.command()
def show(
    name: Annotated[str, typer.Argument(metavar="RECIPE|BUNDLE", help="A recipe (fitted on its data), or a bundle or run.")],
    episode: Annotated[int, typer.Option(help="Which episode of the data.")] = 0,
    steps: Annotated[int, typer.Option(min=1, help="How many steps of it.")] = 8,
    start: Annotated[int, typer.Option(min=0, help="From which step on.")] = 0,
) -> None:
    """Slots, positions, values and codes of one episode, and which tokens are trained."""
    from rich.console import Console

    from seqrl.report.stream import to_text
    from seqrl.train.view import stream_of

    stream, about = stream_of(name, episode)
    last = len(stream.values[stream.layout.step[0].name]) - 1
    if start > last:
        raise UserError(f"--start {start}: this episode has steps 0 to {last}")
    console = Console()
    console.print(about, style="bold", highlight=False)
    console.print(to_text(stream, steps, console.width, start))
