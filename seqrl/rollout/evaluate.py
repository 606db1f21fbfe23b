"""Evaluation: plays a policy in its real environment for a sweep of target returns, and reports what it got.

All targets are played in one batch, with the same episode seeds and the same noise for each, so that what a target gets
does not depend on which others stand beside it.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from pydantic import Field

from seqrl.core.config import Frozen, validate
from seqrl.core.episode import EpisodeSpec
from seqrl.core.errors import UserError
from seqrl.rollout import noise, scores
from seqrl.rollout.envs import make, spec_of
from seqrl.rollout.face import Face
from seqrl.rollout.result import Report, TargetResult, commit, summary, versions
from seqrl.rollout.runner import Job, Progress, play

__all__ = ["EvalConfig", "Report", "TargetResult", "config_for", "evaluate"]


class EvalConfig(Frozen):
    """How a policy is played."""

    episodes: int = Field(100, ge=1)
    """Episodes for each target."""
    envs: int = Field(16, ge=1)
    """Environments played side by side."""
    seed: int = 0
    """Decides the environments' seeds and every draw of the policy."""
    mode: Literal["exact", "cached"] = "cached"
    """``exact`` recomputes the trained window for each action; ``cached`` keeps keys and values, re-reading when full."""
    targets: list[float] | None = None
    """Returns to ask for; null takes the 10 %, 50 % and 90 % quantiles and the best return of the data."""
    sample: bool | None = None
    """Draw actions from the policy's distribution; null draws where actions are discrete codes."""
    temperature: float = Field(1.0, gt=0)
    """Of the draws."""
    env: str | None = None
    """An environment id to play in; null takes the one the data name."""
    return_floor: float | None = None
    """The return token never asks for less than this, however much was received."""


def config_for(recipe: Mapping[str, Any], wanted: Mapping[str, Any]) -> EvalConfig:
    """How a bundle is played: as its recipe's ``evaluate`` says, but for what is ``wanted`` otherwise.

    Raises:
        RecipeError: a value that cannot be.
    """
    known = {k: v for k, v in (recipe.get("evaluate") or {}).items() if k in EvalConfig.model_fields}
    return validate(EvalConfig, {**known, **wanted}, {}, "evaluation")


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
    returns, lengths = (x.reshape(len(targets), config.episodes)[back] for x in (played.returns, played.lengths))
    scored = [scores.normalise(r, spec, id) for r in returns]
    rows = [summary(*of_target) for of_target in zip(targets, returns, lengths, scored, strict=True)]
    speed = played.steps_per_second
    return Report(tuple(rows), speed, mode, config.seed, id, versions(), commit(), scored[0].why, tuple(returns))


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
    if "return" not in {s.name for s in tokenizer.layout.step}:
        if asked:
            raise UserError(f"layout '{tokenizer.layout}' has no return to ask for: leave out the targets")
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
