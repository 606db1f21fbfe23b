"""A trained bundle as a policy that collects data: the ``--policy BUNDLE`` of ``seqrl data collect``."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from seqrl.core.errors import UserError
from seqrl.rollout.players import only, plan, players

Collector = Callable[[Mapping[str, np.ndarray], np.ndarray, np.ndarray], dict[str, np.ndarray]]


def named(path: str) -> tuple[str, str]:
    """The folder and the domain that ``FOLDER`` or ``FOLDER:DOMAIN`` names; a folder may have a colon in its own name."""
    split = ":" in path.removeprefix("hf://") and not Path(path).exists()
    folder, domain = path.rsplit(":", 1) if split else (path, "")
    return folder, domain


def bundle_policy(path: str, rows: int, target: float | None = None, seed: int = 0) -> Collector:
    """Loads a bundle and lets it act for ``rows`` environments, as its recipe's ``evaluate`` says.

    Args:
        path: a bundle or run folder; of a model of several domains with the one to play, ``runs/x:hopper``.
        rows: B, how many environments.
        target: the return to ask for; None takes the highest of its recipe's targets, else the best return of its data.
        seed: decides every draw, together with the order in which episodes begin.

    Returns:
        ``policy(obs, first, last_reward) -> actions``: ``obs`` name -> ``(B, *shape)``; ``first (B,)`` bool, true on rows whose
        episode begins with this observation; ``last_reward (B,)``, ignored on those rows; actions name -> ``(B, *shape)``.

    Raises:
        BundleError: there is no usable bundle at ``path``.
        UserError: it has several domains and none is named, or not this one.
    """
    from seqrl import bundle
    from seqrl.rollout.agent import Agent
    from seqrl.rollout.evaluate import check_acts, choose_targets, config_for, new_agent

    folder, domain = named(path)
    loaded = bundle.load(folder)
    check_acts(loaded.model)
    config = config_for(loaded.recipe, {"seed": seed} | ({} if target is None else {"targets": [target]}))
    everyone = players(loaded.model, loaded.tokenizer)
    if not domain and len(everyone) > 1:
        one = next(iter(everyone))
        raise UserError(f"{path}: this model has several domains ({', '.join(everyone)}); name one: {path}:{one}")
    name = domain or next(iter(everyone))
    config = plan(loaded.tokenizer, only(config, loaded.tokenizer, [name]) if name else config)[name]
    model, tokenizer = everyone[name]
    agent = new_agent(Agent, model, tokenizer, rows, config)
    ask = max(choose_targets(tokenizer, config.targets), key=lambda t: -np.inf if t is None else t)
    begun = 0

    def policy(obs: Mapping[str, np.ndarray], first: np.ndarray, last_reward: np.ndarray) -> dict[str, np.ndarray]:
        nonlocal begun
        new = np.flatnonzero(first)
        agent.receive(np.where(first, 0.0, last_reward))
        if len(new):
            agent.reset(new, np.full(len(new), np.nan if ask is None else ask), begun + np.arange(len(new)))
            begun += len(new)
        return agent.act(obs)

    return policy
