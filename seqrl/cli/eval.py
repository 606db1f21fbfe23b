"""``seqrl eval``: play a trained policy in its real environment, for one or more targets, and score it."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seqrl.core.errors import UserError

if TYPE_CHECKING:
    from seqrl.rollout.evaluate import Report


def _numbers(text: str | None) -> list[float] | None:
    if text is None:
        return None
    try:
        return [float(word) for word in text.split(",")]
    except ValueError as e:
        raise UserError(f"--targets {text}: numbers with commas between, such as --targets 3600,1800") from e


def evaluate_command(
    bundle: Annotated[str, typer.Argument(metavar="BUNDLE|RUN", help="A bundle, or a run (its last checkpoint is meant).")],
    env: Annotated[str | None, typer.Option(metavar="ID", help="Another environment than the data's.")] = None,
    targets: Annotated[str | None, typer.Option(metavar="R,R", help="Target returns, such as 3600,1800.")] = None,
    episodes: Annotated[int | None, typer.Option(min=1, help="Episodes for each target.")] = None,
    envs: Annotated[int | None, typer.Option(min=1, help="Environments played at once.")] = None,
    seed: Annotated[int | None, typer.Option(help="Decides the episodes and every draw of the policy.")] = None,
    mode: Annotated[str | None, typer.Option(help="exact: recompute the window; cached: keep keys and values.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the report as JSON.")] = None,
    gif: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a clip of one episode.")] = None,
) -> None:
    """Plays a policy for each target return and prints the scores, raw and normalised, with what they may be compared to."""
    if mode not in (None, "exact", "cached"):
        raise UserError(f"--mode {mode}: exact or cached")
    for file in (json_file, gif):
        if file is not None and file.is_dir():
            raise UserError(f"{file} is a folder; name a file in it")
        if file is not None and not file.absolute().parent.is_dir():
            raise UserError(f"{file}: there is no folder {file.absolute().parent} to write it in")
    wanted: dict[str, Any] = {
        "env": env,
        "targets": _numbers(targets),
        "episodes": episodes,
        "envs": envs,
        "seed": seed,
        "mode": mode,
    }

    from seqrl.bundle import load
    from seqrl.rollout.evaluate import config_for, evaluate
    from seqrl.train.progress import bar

    loaded = load(bundle)
    config = config_for(loaded.recipe, {k: v for k, v in wanted.items() if v is not None})
    with bar("evaluating", "episode") as show:
        report = evaluate(loaded.model, loaded.tokenizer, config, show)
    print_report(report)
    # What took long is kept first; a picture that cannot be drawn must not cost it.
    if json_file is not None:
        json_file.write_text(json.dumps(report.to_json(), indent=1) + "\n", encoding="utf-8")
    run = Path(bundle)
    if (run / "recipe.yaml").is_file() and (run / "checkpoints").is_dir():
        from seqrl.report.page import write_report
        from seqrl.train.finish import keep_report

        keep_report(run, report)
        typer.echo(f"report  {write_report(run)}")
    if gif is not None:
        from seqrl.rollout.clip import record

        record(loaded.model, loaded.tokenizer, config, gif)
        typer.echo(f"clip    {gif}")


def print_report(report: "Report") -> None:
    """The scores as a table, and under it what the normalised ones mean."""
    from rich.console import Console
    from rich.table import Table

    facts = report.to_json()
    table = Table(title=f"{facts['env']}, seed {facts['seed']}, {facts['mode']}", title_justify="left")
    for name in ("target", "episodes", "mean", "± sd", "IQM", "95 % interval", "normalised"):
        table.add_column(name, justify="right")
    for t in facts["targets"]:
        asked = "–" if t["target"] is None else f"{t['target']:g}"
        low, high = t["ci95"]
        scored = "–" if t["normalized"] is None else f"{t['normalized']:.1f}"
        table.add_row(
            asked,
            str(t["episodes"]),
            f"{t['mean']:.1f}",
            f"{t['std']:.1f}",
            f"{t['iqm']:.1f}",
            f"{low:.1f} to {high:.1f}",
            scored,
        )
    console = Console()
    console.print(table)
    one = facts["targets"][0]
    if one["normalized"] is not None:
        verdict = "may" if one["comparable"] else "not to"
        console.print(f"normalised: reference {one['reference']}", style="dim", highlight=False)
        console.print(f"{verdict} be compared with D4RL papers' tables: {report.why}", style="dim", highlight=False)
    console.print(f"{facts['env_steps_per_second']:,.0f} environment steps per second", style="dim", highlight=False)
