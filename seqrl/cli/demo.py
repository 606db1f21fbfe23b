"""``seqrl demo``: the whole road on CartPole, on a CPU, in minutes: data, training, a sweep of targets, a report."""

from pathlib import Path
from typing import Annotated

import typer


def demo(out: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("runs/demo")) -> None:
    """Collects CartPole episodes of six skill levels, trains a return-conditioned policy, and asks it for more and more."""
    typer.echo("CartPole-v1: a pole to be kept upright, 500 points at most. Six laws play it, from coin flips to mastery;")
    typer.echo("one policy learns them all from their returns-to-go, and is then asked for different returns.\n")

    from seqrl.cli.train import show_outcome
    from seqrl.train import recipe as recipes
    from seqrl.train import run

    begun = (out / "recipe.yaml").is_file()
    show_outcome(run.resume(out) if begun else run.start(recipes.load("dt_cartpole"), out))
    typer.echo(f"\nOpen the report in a browser: {(out / 'report.html').absolute().as_uri()}")
    typer.echo(f"Next: seqrl tokens show {out}   seqrl eval {out} --targets 50,250,500   seqrl recipes ls")
