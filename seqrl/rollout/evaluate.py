"""Evaluation: plays a policy in its real environment for a sweep of target returns, and reports what it got.

All targets are played in one batch, with the same episode seeds and the same noise for each, so that what a target gets
does not depend on which others stand beside it. A model of several domains is played in one after the other, and where one
cannot be played the others are all the same.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from seqrl.core.episode import EpisodeSpec
from seqrl.core.errors import UserError
from seqrl.rollout import noise, scores
from seqrl.rollout.envs import make, spec_of
from seqrl.rollout.face import Face
from seqrl.rollout.inputs import Inputs
from seqrl.rollout.players import plan, players, takes_return
from seqrl.rollout.result import Report, TargetResult, commit, summary, versions
from seqrl.rollout.runner import Job, Progress, play
from seqrl.rollout.settings import EvalConfig, config_for

__all__ = ["EvalConfig", "Report", "TargetResult", "config_for", "evaluate", "evaluate_all", "rehearse"]


def evaluate_all(model: Any, tokenizer: Any, config: EvalConfig, progress: Progress | None = None) -> dict[str, Report]:
    """Plays every domain of a model as ``evaluate`` plays one policy.

    Args:
        model, tokenizer: as for ``players.players``.
        config: how, for all and for single domains.
        progress: as for ``evaluate``; counts the episodes of all domains, and names the one that is played.

    Returns:
        domain -> what it got, "" for a plain model. A domain that could not be played has a report without targets, whose
        ``failed`` says why.

    Raises:
        UserError: settings that cannot be, not one domain could be played, or this is no model that acts.
    """
    check_acts(model)
    plans, everyone = plan(tokenizer, config), players(model, tokenizer)
    if "" in plans:
        return {"": evaluate(model, tokenizer, plans[""], progress)}
    totals = {n: how.episodes * len(_targets(everyone[n][1], how)) for n, how in plans.items()}
    reports: dict[str, Report] = {}
    for name, how in plans.items():
        before = sum(totals[n] for n in reports)
        try:
            reports[name] = evaluate(*everyone[name], how, _shifted(progress, name, before, sum(totals.values())))
        except UserError as e:
            source = how.env or everyone[name][1].spec.eval_env or everyone[name][1].spec.env or {}
            env = source if isinstance(source, str) else str(source.get("id", ""))
            reports[name] = Report((), 0.0, how.mode, how.seed, env, versions(), commit(), failed=str(e))
    if all(r.failed for r in reports.values()):
        raise UserError("\n".join(f"domain '{n}': {r.failed}" for n, r in reports.items()))
    return reports


def check_acts(model: Any) -> None:
    """Raises UserError for a world model or an encoder, which nobody can play."""
    if hasattr(model, "act") or hasattr(model, "player"):
        return
    kind = type(model).__module__.removeprefix("seqrl.")
    if hasattr(model, "world") or hasattr(model, "observe"):
        raise UserError(
            f"this is a world model ({kind}): it does not act, so there is nothing to play; use seqrl dream to see how long "
            "its dreams stay true, or seqrl plan to act by planning in them"
        )
    raise UserError(f"this is no policy ({kind}): it does not act, so there is nothing to play")


def _targets(tokenizer: Any, config: EvalConfig) -> list[float | None]:
    """The targets of one of several domains; one that cannot be asked will say so when it is played."""
    try:
        return choose_targets(tokenizer, config.targets)
    except UserError:
        return []


def _shifted(progress: Progress | None, name: str, before: int, total: int) -> Progress | None:
    """Progress of one domain as that of all."""
    if progress is None:
        return None
    return lambda done, _, note: progress(before + done, total, f"{name}: {note}")


def evaluate(model: Any, tokenizer: Any, config: EvalConfig, progress: Progress | None = None) -> Report:
    """Plays ``config.episodes`` episodes for each target.

    Args:
        model: a policy (``core.contracts.Policy``); it is put into eval mode for as long as it plays.
        tokenizer: the tokenizer it was trained with; names the data, their environment and the default targets.
        config: how.
        progress: called with (episodes done, episodes in all, a few words on speed).

    Raises:
        EnvError: the environment cannot be made here, or is not the one of the data.
        UserError: the policy wants a target return and there is none.
    """
    from seqrl.rollout.agent import Agent

    spec = readable(tokenizer)
    targets = choose_targets(tokenizer, config.targets)
    seeds = noise.env_seeds(config.seed, config.episodes)
    # Who is asked for most usually plays longest; begun first, it keeps the batch full to the end.
    order = np.argsort([-(t or 0.0) for t in targets], kind="stable")
    asked = [targets[i] for i in order]
    jobs = [Job(int(seed), np.nan if t is None else t, key) for t in asked for key, seed in enumerate(seeds)]
    source = config.env or spec
    envs = make(source, min(config.envs, len(jobs)), spec)
    training = bool(getattr(model, "training", False))
    try:
        if training:
            model.eval()
        face = Face.of(envs[0], spec)
        agent = new_agent(Agent, model, tokenizer, len(envs), config)
        mode = agent.mode
        played = play(agent, envs, face, jobs, progress)
    finally:
        for env in envs:
            env.close()
        if training:
            model.train()
    id = str(spec_of(source)["id"])
    back = np.argsort(order)
    each = (played.returns, played.lengths, played.success)
    returns, lengths, success = (x.reshape(len(targets), config.episodes)[back] for x in each)
    scored = [scores.normalise(r, spec, id) for r in returns]
    solved = [scores.solved(r, id, s) for r, s in zip(returns, success, strict=True)]
    rows = [summary(*of_target) for of_target in zip(targets, returns, lengths, scored, solved, strict=True)]
    speed = played.steps_per_second
    return Report(tuple(rows), speed, mode, config.seed, id, versions(), commit(), scored[0].why, tuple(returns))


def rehearse(tokenizer: Any, config: EvalConfig) -> None:
    """Finds out whether ``evaluate`` could play, without a policy and without a step.

    Raises:
        UserError: targets that cannot be asked for, a layout that cannot be filled while acting, or an environment that
            cannot be made here or is not the one of the data.
    """
    choose_targets(tokenizer, config.targets)
    Inputs(tokenizer)
    spec = readable(tokenizer)
    (env,) = make(config.env or spec, 1, spec)
    try:
        Face.of(env, spec)
    finally:
        env.close()


def new_agent(kind: Any, model: Any, tokenizer: Any, rows: int, config: EvalConfig) -> Any:
    """An ``Agent`` (``kind``, so that this file needs no torch) that plays as ``config`` says."""
    return kind(
        model,
        tokenizer,
        rows,
        mode=config.mode,
        sample=config.sample,
        seed=config.seed,
        temperature=config.temperature,
        return_floor=config.return_floor,
        discount=getattr(tokenizer, "discount", 1.0),
        spend=not getattr(tokenizer, "delayed", False),
    )


def readable(tokenizer: Any) -> EpisodeSpec:
    """The data's spec with just the observations some slot is made of: what is not read need not be rendered or copied."""
    spec = tokenizer.spec
    slots = getattr(tokenizer, "slots", None)
    if not slots:
        return spec
    used = {f for slot in slots.values() for f in slot.fields}
    return replace(spec, obs={n: m for n, m in spec.obs.items() if n in used})


def choose_targets(tokenizer: Any, asked: list[float] | None) -> list[float | None]:
    """The returns to ask for: those given, else a sweep over what the data hold, else none.

    Raises:
        UserError: targets for a policy that takes none, or none known for one that needs them.
    """
    if not takes_return(tokenizer):
        if asked:
            raise UserError(
                f"layout '{tokenizer.layout}' has no return to ask for: leave out the targets (evaluate.targets, --targets)"
            )
        return [None]
    if asked:
        return [float(t) for t in asked]
    facts = getattr(tokenizer, "returns", None)
    if not facts:
        raise UserError("the returns of the training data are not known: give the targets (--targets 3600,1800)")
    sweep: list[float] = []
    for value in (float(f"{facts[name]:.4g}") for name in ("max", "q90", "q50", "q10")):
        # Returns closer than a fiftieth of the range ask for the same thing; of such the higher stays.
        if not sweep or sweep[0] - value > 0.02 * (facts["max"] - facts["min"]):
            sweep.insert(0, value)
    return list(sweep)
