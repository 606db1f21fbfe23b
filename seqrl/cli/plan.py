"""``seqrl plan``: act in the real environment by planning in a world model's dream, and score it."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seqrl.cli._scores import print_reports
from seqrl.core.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from seqrl.bundle import Bundle

PLANNERS = ("cem", "icem", "mppi", "random")
OBJECTIVES = ("return", "goal")


def plan_command(
    bundle: Annotated[str, typer.Argument(metavar="BUNDLE|RUN", help="A world model: a bundle, or a run's last checkpoint.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[key=value ...]", help="Other settings of the planner: replan=2 beta=1.")
    ] = None,
    planner: Annotated[str, typer.Option(metavar="NAME", help="cem, icem, mppi or random (shooting).")] = "cem",
    objective: Annotated[str, typer.Option(metavar="NAME", help="return: reward; goal: to be where the goal is.")] = "return",
    goal: Annotated[
        str | None,
        typer.Option(metavar="[FIELD=]X,Y", help="The goal, in units of the data, _ where a number does not matter."),
    ] = None,
    prior: Annotated[str | None, typer.Option(metavar="POLICY", help="A policy bundle that proposes candidates.")] = None,
    target: Annotated[
        float | None, typer.Option(metavar="R", help="What the prior is asked for; its data's best return.")
    ] = None,
    domain: Annotated[str | None, typer.Option(metavar="NAME", help="Which, of a model of several domains.")] = None,
    env: Annotated[str | None, typer.Option(metavar="ID", help="Another environment than the data's.")] = None,
    episodes: Annotated[int, typer.Option(min=1, help="Episodes to play.")] = 10,
    envs: Annotated[int, typer.Option(min=1, help="Environments planned for at once.")] = 10,
    horizon: Annotated[int | None, typer.Option(min=1, help="Steps each candidate is imagined on (15).")] = None,
    candidates: Annotated[int | None, typer.Option(min=2, help="Candidates in each round (128).")] = None,
    iterations: Annotated[int | None, typer.Option(min=1, help="Rounds of drawing and fitting (3).")] = None,
    elites: Annotated[int | None, typer.Option(min=1, help="The best that are fitted to; a tenth of the candidates.")] = None,
    pessimism: Annotated[float | None, typer.Option(min=0, help="Weight of an ensemble's disagreement (0).")] = None,
    seed: Annotated[int, typer.Option(help="Decides the episodes and every draw of the planner.")] = 0,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the report as JSON.")] = None,
    gif: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a clip of the first episode.")] = None,
) -> None:
    """Plays real episodes, each action the first of a plan made in a dream; prints the scores and what a decision costs."""
    for option, word, known in (("planner", planner, PLANNERS), ("objective", objective, OBJECTIVES)):
        if word not in known:
            raise UserError(f"--{option} {word}: there are {', '.join(known)}{did_you_mean(word, known)}")
    for file in (json_file, gif):
        if file is not None and (file.is_dir() or not file.absolute().parent.is_dir()):
            raise UserError(f"{file}: name a file in a folder that is there")
    if goal is not None and objective != "goal":
        raise UserError("--goal: says where to be, so add --objective goal")
    if target is not None and prior is None:
        raise UserError("--target: is what the prior is asked for, and there is none; add --prior POLICY")

    from seqrl.bundle import load
    from seqrl.rollout.evaluate import EvalConfig, choose_targets
    from seqrl.rollout.planned import evaluate_agent, record_agent
    from seqrl.rollout.planner_agent import PlannerAgent
    from seqrl.rollout.worlds import world_of
    from seqrl.train.progress import bar

    named = {"horizon": horizon, "candidates": candidates, "iterations": iterations, "elites": elites, "pessimism": pessimism}
    config = _config({"planner": planner, "objective": objective, **named}, overrides or [])
    loaded = load(bundle)
    world, tokenizer = world_of(loaded.model, loaded.tokenizer, domain)
    how = EvalConfig(episodes=episodes, envs=envs, seed=seed, env=env)
    policy = None if prior is None else load(prior)
    asked = None
    if policy is not None:
        if not hasattr(policy.model, "act") or hasattr(policy.tokenizer, "domains"):
            raise UserError(f"--prior {prior}: name the bundle of a policy of one domain, as seqrl eval plays it")
        asked = choose_targets(policy.tokenizer, None if target is None else [target])[-1]
    made: list[Any] = []

    def make(rows: int) -> Any:
        made.append(PlannerAgent(world, tokenizer, rows, config, seed, _follower(policy, rows, seed), goal))
        return made[-1]

    # Whoever cannot plan says so before an environment is made.
    make(1)
    # Said before the work: a decision of a large world takes seconds, and an episode hundreds of decisions.
    rounds = f"{config.iterations} x {config.candidates} candidates, {config.horizon} steps ahead"
    typer.echo(f"{planner}: {rounds}, in {bundle}")
    with bar("planning", "episode") as show:
        report = evaluate_agent(make, tokenizer, how, asked, show)
    print_reports({"": report})
    cost = made[-1].seconds / max(made[-1].decisions, 1)
    typer.echo(f"{1000 * cost:.1f} ms a decision ({min(envs, episodes)} environments at once)")
    if json_file is not None:
        about = {**config.model_dump(), "goal": goal, "prior": prior, "seconds_per_decision": cost}
        json_file.write_text(json.dumps({**report.to_json(), "plan": about}, indent=1) + "\n", encoding="utf-8")
        typer.echo(f"json    {json_file}")
    if gif is not None:
        record_agent(make, tokenizer, how, gif, asked)
        typer.echo(f"clip    {gif}")


def _config(named: dict[str, Any], overrides: list[str]) -> Any:
    """The planner's settings: options by name, all others as ``key=value``; raises RecipeError where one cannot be."""
    from seqrl.core.config import apply_overrides, validate
    from seqrl.rollout.plan import PlanConfig

    where: dict[Any, str] = {}
    raw = apply_overrides({k: v for k, v in named.items() if v is not None}, overrides, where)
    return validate(PlanConfig, raw, where, "plan")


def _follower(policy: "Bundle | None", rows: int, seed: int) -> Any:
    """An agent of the prior's policy, as its own recipe has it played."""
    if policy is None:
        return None
    from seqrl.rollout.agent import Agent
    from seqrl.rollout.evaluate import config_for, new_agent

    return new_agent(Agent, policy.model, policy.tokenizer, rows, config_for(policy.recipe, {"seed": seed}))
