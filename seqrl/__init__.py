"""Trajectories as sequences: train, play and publish decision transformers and world models from one stream.

Three functions are enough for a first look; each imports what it needs when it is called::

    folder = seqrl.run("dt_cartpole", out="runs/cartpole")
    report = seqrl.evaluate(folder, targets=[100, 500], episodes=20)
    bundle = seqrl.load(folder)
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seqrl.bundle import Bundle
    from seqrl.rollout.evaluate import Report

__all__ = ["evaluate", "load", "register", "run"]


def _dotted(settings: Mapping[str, Any], at: str = "") -> list[str]:
    """Nested settings as ``key=value`` overrides."""
    import json

    out = []
    for key, value in settings.items():
        if isinstance(value, Mapping):
            out += _dotted(value, f"{at}{key}.")
        else:
            out.append(f"{at}{key}={json.dumps(value)}")
    return out


def run(recipe: str | Path, out: str | Path | None = None, **settings: Any) -> Path:
    """Runs a recipe: trains and evaluates it. (``seqrl.train`` is the room of the training loop.)

    Args:
        recipe: a name of the shelf, or a file.
        out: the run's folder, ``runs/<name>`` where not given.
        settings: overrides, nested as in the recipe: ``train={"steps": 500}, data={"top": 0.1}``.

    Returns:
        the run's folder.

    Raises:
        UserError: anything wrong with the recipe, the data or the folder.
    """
    from seqrl.train import recipe as recipes
    from seqrl.train.finish import finish
    from seqrl.train.run import start

    resolved = recipes.load(str(recipe), _dotted(settings))
    outcome = start(resolved, Path(out) if out else Path("runs") / resolved.name)
    finish(outcome.run)
    return outcome.run


def load(name: str | Path, device: str = "cpu", revision: str | None = None) -> "Bundle":
    """Loads a bundle, the last checkpoint of a run, or a repository of the Hub.

    Args:
        name: a folder, ``org/name`` or ``org/name@revision``; ``hf://org/name`` where a folder could be meant as well.
        device: where the model goes.
        revision: branch, tag or commit of a repository; the newest where None.

    Raises:
        BundleError: it is not whole. HubError: it cannot be fetched and is not in the cache.
    """
    from seqrl import bundle

    return bundle.load(name, device, revision=revision)


def evaluate(name: str | Path, revision: str | None = None, **settings: Any) -> "Report | dict[str, Report]":
    """Plays a bundle or run in its real environment, or in that of each of its domains.

    Args:
        name: a bundle or run folder, or a repository, as for ``load``.
        revision: branch, tag or commit of a repository.
        settings: ``targets, episodes, envs, seed, mode, env`` and whatever else ``EvalConfig`` has; the rest is the recipe's.
            What a single domain has otherwise stands in ``domains``: ``domains={"hopper": {"play": False}}``.

    Returns:
        the report; of a model that was trained on packed rows one a domain, ``{name: report}``. Where a domain could not be
        played its report has no targets, and ``failed`` says why.

    Raises:
        UserError: the bundle is not whole, settings do not fit it, or no environment can be made.
    """
    from seqrl import bundle
    from seqrl.rollout.evaluate import config_for, evaluate_all

    loaded = bundle.load(name, revision=revision)
    found = evaluate_all(loaded.model, loaded.tokenizer, config_for(loaded.recipe, settings))
    return found.get("", found)


def register() -> None:
    """Makes transformers' AutoConfig, AutoModel and AutoProcessor know our models, so that no remote code is run."""
    from seqrl.hub.register import register

    register()
