"""``seqrl eval``: play a trained policy in its real environments, for one or more targets, and score it."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from seqrl.cli._scores import print_reports
from seqrl.core.errors import UserError

__all__ = ["evaluate_command", "print_reports"]


def _numbers(text: str | None) -> list[float] | None:
    if text is None:
        return None
    try:
        return [float(word) for word in text.split(",")]
    except ValueError as e:
        raise UserError(f"--targets {text}: numbers with commas between, such as --targets 3600,1800") from e


def evaluate_command(
    bundle: Annotated[str, typer.Argument(metavar="BUNDLE|RUN", help="A bundle, or a run (its last checkpoint is meant).")],
    domain: Annotated[str | None, typer.Option(metavar="NAME,NAME", help="Of several domains only these.")] = None,
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
    from seqrl.rollout.evaluate import config_for, evaluate_all
    from seqrl.rollout.players import only, plan
    from seqrl.rollout.result import to_json
    from seqrl.train.progress import bar

    loaded = load(bundle)
    config = config_for(loaded.recipe, {k: v for k, v in wanted.items() if v is not None})
    if domain is not None:
        config = only(config, loaded.tokenizer, [name.strip() for name in domain.split(",")])
    plans = plan(loaded.tokenizer, config)
    with bar("evaluating", "episode") as show:
        reports = evaluate_all(loaded.model, loaded.tokenizer, config, show)
    print_reports(reports)
    # What took long is kept first; a picture that cannot be drawn must not cost it.
    if json_file is not None:
        json_file.write_text(json.dumps(to_json(reports), indent=1) + "\n", encoding="utf-8")
    run = Path(bundle)
    if (run / "recipe.yaml").is_file() and (run / "checkpoints").is_dir():
        from seqrl.report.page import write_report
        from seqrl.train.finish import keep_reports

        keep_reports(run, reports, others=domain is not None)
        typer.echo(f"report  {write_report(run)}")
    if gif is not None:
        _film(loaded, {name: how for name, how in plans.items() if not reports[name].failed}, gif)


def _film(loaded: Any, plans: dict[str, Any], gif: Path) -> None:
    """The clip that was asked for, or one for each domain; raises UserError where one cannot be drawn."""
    from seqrl.train.finish import draw_clips

    # One domain alone has the very name that was asked for.
    if len(plans) == 1:
        from seqrl.rollout.clip import record
        from seqrl.rollout.players import players

        ((name, how),) = plans.items()
        record(*players(loaded.model, loaded.tokenizer)[name], how, gif)
        typer.echo(f"clip    {gif}")
        return
    made, missing = draw_clips(loaded, plans, gif)
    for path in made:
        typer.echo(f"clip    {path}")
    if missing:
        raise UserError("\n".join(missing))
