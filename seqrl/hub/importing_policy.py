"""A policy of transformers' made into a bundle of ours that acts the same.

Published Decision Transformers leave half of what acting needs to prose: the statistics of the states stand in the card, the
length of the context in the example's code. They are read where they are, and asked for where they are not. The environment
comes from the repository's name or the command line, and its spaces say how observations and actions are called.
"""

import importlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from seqrl import bundle
from seqrl.core import kinds
from seqrl.core.episode import EpisodeSpec
from seqrl.core.errors import BundleError, EnvError
from seqrl.core.plain import read_json
from seqrl.data.slots import TokensConfig
from seqrl.data.tokenizer import Tokenizer
from seqrl.hub import unpickle
from seqrl.rollout import envs
from seqrl.sources._envs import spaces_of
from seqrl.sources._spaces import leaves

# Chen et al. 2021 (arXiv 2106.01345), appendix A: what is asked for, what returns are divided by, steps in a window.
_KNOWN = {
    "hopper": ("Hopper-v5", (3600.0, 1800.0)),
    "halfcheetah": ("HalfCheetah-v5", (12000.0, 6000.0)),
    "walker2d": ("Walker2d-v5", (5000.0, 2500.0)),
}
_SCALE, _CONTEXT = 1000.0, 20
# Larger ones would be a mistake, or meant to fill the memory.
_WIDEST, _LONGEST = 1 << 16, 4096
# What a model is told by its data and its run.
_MADE = ("ports", "context_length", "losses")
_HOW = 'the mean and deviation of the states as JSON: {"mean": [...], "std": [...]}'
_NUMBERS = r"\s*[=:]\s*(?:np\.array\()?\[([^\]]*)\]"


def make(
    found: Any,
    folder: Path,
    out: Path,
    env: str | None = None,
    context: int | None = None,
    scale: float | None = None,
    targets: list[float] | None = None,
    statistics: Path | None = None,
) -> tuple[str, list[str], list[str]]:
    """Writes the bundle of a policy into ``folder``.

    Args:
        found: the checkpoint (``importing.Foreign``).
        folder: an empty folder. out: how it will be called.
        env: gymnasium id of what it plays; None takes it from the name.
        context: steps in a window; None takes it from the config, or the paper's 20.
        scale: what returns are divided by; None means the paper's 1000.
        targets: returns to ask for; None means the paper's for its environments.
        statistics: a JSON file with ``mean`` and ``std`` of the states; None reads them in the card.

    Returns:
        what it is, notes, and commands to go on with, in words.

    Raises:
        BundleError: something of this is missing or does not fit.
        EnvError: the environment cannot be made here.
    """
    family = next((k for k in _KNOWN if k in found.name.lower().replace("-", "").replace("_", "")), None)
    env = env or (family and _KNOWN[family][0])
    targets = targets or (list(_KNOWN[family][1]) if family else None)
    asked_for = {
        "--env ID, what it plays, such as Hopper-v5": env,
        "--targets R,R, the returns to ask for": targets,
        f"--statistics FILE, {_HOW}": statistics or all(_said(found)),
    }
    if missing := [words for words, told in asked_for.items() if not told]:
        listed = "\n  ".join(missing)
        raise BundleError(f"{found.name}: neither its name nor its card tells all that is needed; give\n  {listed}")
    room, _, module = kinds.converters()[found.config["model_type"]].partition(".")
    converter = importlib.import_module(f"seqrl.{room}.{module}")
    notes = [f"plays {env}" + ("" if family else " (as told)"), f"returns are divided by {scale or _SCALE:g}, as in the paper"]
    for key in ("state_dim", "act_dim"):
        size = found.config.get(key)
        if type(size) is not int or not 0 < size <= _WIDEST:
            raise BundleError(f"{found.name}: {key} must be a whole number from 1 to {_WIDEST:,}, and is {str(size)[:100]!r}")
    stands = found.config.get("max_length")
    usable = type(stands) is int and 0 < stands <= _LONGEST
    if stands is not None and not usable and not context:
        notes.append(f"its config's max_length ({str(stands)[:100]}) is no length of a window from 1 to {_LONGEST:,}")
    context = context or (stands if usable else _CONTEXT)
    notes.append(f"{context} steps in a window" + (", from its config" if context == stands else ""))
    data = _data_name(found, family)
    spec = _spec(env, data)
    tokenizer = _tokenizer(found, spec, context, scale or _SCALE)
    mean, std = _from_file(statistics) if statistics else _from_card(found)
    width = found.config["state_dim"]
    if len(mean) != width or len(std) != width:
        raise BundleError(
            f"{found.name}: {len(mean)} means and {len(std)} deviations are given, and a state has {width} numbers"
        )
    ports = tokenizer.ports()
    for slot, key in (("state", "state_dim"), ("action", "act_dim")):
        if ports.widths[slot] != found.config.get(key):
            raise BundleError(
                f"{found.name}: its {key} is {found.config.get(key)}, and {env} has {ports.widths[slot]} numbers of {slot}; "
                "name the environment it was trained for with --env ID"
            )
    try:
        tokenizer.slots["state"].codec.load_state({"center": mean, "spread": std})
    except ValueError as e:
        raise BundleError(f"{found.name}: the means and deviations of its states cannot be ({e})") from e
    notes.append("statistics of the states " + (f"from {statistics.name}" if statistics else "from its card"))
    model = converter.from_hf(unpickle.read_weights(found.folder), _config_of(found), context, ports)
    recipe = {
        "name": re.sub(r"^[^A-Za-z0-9]+|[^A-Za-z0-9_.-]+", "", found.name.rpartition("/")[2]) or "imported",
        "data": {"sources": [{"kind": "minari", "id": data}]},
        "tokens": json.loads(tokenizer.config.model_dump_json()),
        "model": {"kind": converter.KIND, **_settings(model, converter.KIND)},
        "evaluate": {"targets": targets, "env": env, "mode": "exact"},
    }
    says = "its weights, converted from transformers' files, and the statistics of its card"
    lineage = {"base_model": found.name, "revision": found.revision, "kind": "transformers." + found.config["model_type"]}
    text = yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True)
    bundle.save(folder, model, tokenizer, text, {"lineage": {k: v for k, v in lineage.items() if v} | {"says": says}})
    asked = ",".join(f"{t:g}" for t in targets)
    return (
        f"a {converter.KIND} of {sum(p.numel() for p in model.parameters()):,} parameters",
        notes,
        [f"seqrl eval {out} --targets {asked}", f"seqrl train RECIPE init={out}", f"seqrl push {out} org/name"],
    )


def _data_name(found: Any, family: str | None) -> str:
    """What the data it was trained on would be called here after ``seqrl data import``."""
    tier = next((t for t in ("medium-expert", "medium-replay", "expert", "medium", "random") if t in found.name.lower()), None)
    return f"d4rl/{family}-{tier}-v2" if family and tier else f"d4rl/{found.name.rpartition('/')[2].lower()}-v0"


def _spec(env: str, data: str) -> EpisodeSpec:
    made = envs.make(env, 1)[0]
    try:
        observed, acted = spaces_of(made)
        obs = {leaf.name: leaf.modality for leaf in leaves(observed, "observation")}
        act = {leaf.name: leaf.modality for leaf in leaves(acted, "action")}
        limit = made.spec.max_episode_steps if made.spec else None
    finally:
        made.close()
    if any(m.kind != "vector" for m in (*obs.values(), *act.values())):
        raise EnvError(f"{env}: observations and actions must be numbers for a Decision Transformer of transformers'")
    raw = {"id": env, "kwargs": {}, "additional_wrappers": []} | ({"max_episode_steps": limit} if limit else {})
    return EpisodeSpec(data, obs, act, raw)


def _tokenizer(found: Any, spec: EpisodeSpec, context: int, scale: float) -> Tokenizer:
    slots: dict[str, Any] = {"return": {"kind": "scale", "by": scale}}
    bounds = [b for m in spec.act.values() for b in (*(m.low or ()), *(m.high or ()))]
    if set(map(abs, bounds)) != {1.0}:
        # Theirs never stretches actions to the bounds of their space.
        slots["action"] = {"kind": "vector", "scale": "none"} | ({"clip": 1.0} if found.config.get("action_tanh", True) else {})
    return Tokenizer(TokensConfig(layout="return state action", context=context, slots=slots), spec)


def _said(found: Any) -> list[re.Match[str] | None]:
    """Where the card says the mean and the deviation of the states (mean = [...] std = [...])."""
    card = found.folder / "README.md"
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    return [re.search(rf"\b{word}{_NUMBERS}", text) for word in ("mean", "std")]


def _from_card(found: Any) -> tuple[list[float], list[float]]:
    return _numbers(found.name, *([w for w in re.split(r"[,\s]+", match[1]) if w] for match in _said(found)))


def _from_file(path: Path) -> tuple[list[float], list[float]]:
    try:
        raw = read_json(path.read_text(encoding="utf-8"))
        return _numbers(str(path), raw["mean"], raw["std"])
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise BundleError(f'{path}: must be a JSON file such as {{"mean": [...], "std": [...]}} ({e})') from e


def _numbers(where: str, mean: list[Any], std: list[Any]) -> tuple[list[float], list[float]]:
    try:
        found = np.array([float(m) for m in mean]), np.array([float(s) for s in std])
    except (ValueError, TypeError) as e:
        raise BundleError(f"{where}: mean and std must be numbers ({e})") from e
    if not all(np.isfinite(f).all() for f in found) or (found[1] <= 0).any():
        raise BundleError(f"{where}: mean and std must be finite, and std above 0")
    return found[0].tolist(), found[1].tolist()


def _config_of(found: Any) -> Any:
    """The config of a twin: only what its class knows, and as its class would have it."""
    from transformers import AutoConfig

    kind = found.config["model_type"]
    fresh = AutoConfig.for_model(kind)
    known = {k: v for k, v in found.config.items() if k in fresh.to_dict() and k not in ("auto_map", "architectures")}
    try:
        return AutoConfig.for_model(kind, **{k: v for k, v in known.items() if k != "model_type"})
    # Whatever the class raises of a file's values, the file was at fault.
    except Exception as e:
        raise BundleError(f"{found.name}: its config.json cannot be read as a {kind}'s: {unpickle.reason(e)}") from e


def _settings(model: Any, kind: str) -> dict[str, Any]:
    """The settings of a model, other than the defaults, that a recipe would give to have one like it."""
    ours = {name: default for name, (_, default) in kinds.settings(kind).items() if name not in _MADE}
    return {name: value for name, default in ours.items() if (value := getattr(model.config, name)) != default}
