"""Makes the gymnasium environments that data are collected in, and tells their spaces in Minari's JSON."""

import importlib
import re
from collections.abc import Mapping
from typing import Any

from seqrl.core.episode import Modality
from seqrl.core.errors import EnvError, did_you_mean
from seqrl.sources._files import why
from seqrl.sources._spaces import Space, space_json

# How an environment's id begins -> the package that registers it, and the extra that brings it.
_FAMILIES = {
    ("seqrl/KeyValue",): ("seqrl.sources._key_value", "all"),
    ("seqrl/",): ("seqrl.sources._hidden_order", "all"),
    ("ALE/",): ("ale_py", "atari"),
    ("MiniGrid-", "BabyAI-"): ("minigrid", "minigrid"),
    ("PointMaze", "AntMaze", "Adroit", "Fetch", "Hand", "Franka"): ("gymnasium_robotics", "robotics"),
}
# Where the code of gymnasium's own environments lies -> what brings the packages they need.
_INSIDE = {
    "gymnasium.envs.mujoco.": "seqrl[mujoco]",
    "gymnasium.envs.box2d.": "seqrl[box2d]",
    "gymnasium.envs.phys2d.": "gymnasium[jax]",
    "gymnasium.envs.tabular.": "gymnasium[jax]",
}


def make_env(id: str, settings: Mapping[str, Any] | None = None) -> Any:
    """A gymnasium environment; raises EnvError where it is unknown, lacks its package or does not take the settings."""
    import gymnasium

    # "package:Name-v0" would make gymnasium import that package.
    if not re.fullmatch(r"([\w-]+/)?[\w.-]+", id):
        raise EnvError(f"'{id}' is no id of an environment, such as CartPole-v1")
    if taken := sorted({"id", "render_mode", "max_episode_steps", "disable_env_checker"} & set(settings or {})):
        raise EnvError(f"{id}: {', '.join(taken)} cannot be set here, only settings of the environment's own")
    package, extra = next((found for starts, found in _FAMILIES.items() if id.startswith(starts)), (None, None))
    try:
        if package:
            gymnasium.register_envs(importlib.import_module(package))
        # The checker only watches the environment's own manners, at a third of the time of a small one.
        return gymnasium.make(id, disable_env_checker=True, **(settings or {}))
    except (ImportError, gymnasium.error.DependencyNotInstalled) as e:
        code = str(gymnasium.registry[id].entry_point) if id in gymnasium.registry else ""
        inside = next((brings for start, brings in _INSIDE.items() if code.startswith(start)), None)
        brings = f"seqrl[{extra}]" if extra else inside
        fix = f": pip install '{brings}'" if brings else ""
        raise EnvError(f"{id} needs a package that is not installed ({why(e)}){fix}") from e
    except gymnasium.error.Error as e:
        raise EnvError(f"there is no environment '{id}'{did_you_mean(id, gymnasium.registry)} ({why(e)})") from e
    except (TypeError, ValueError, AssertionError) as e:
        if not settings:
            raise
        raise EnvError(f"{id} does not take the settings {dict(settings)}: {why(e)}") from e


def spaces_of(env: Any) -> tuple[Space, Space]:
    """Observation and action space as JSON; raises EnvError for a kind of space that cannot be stored."""
    try:
        return _space_of(env.observation_space), _space_of(env.action_space)
    except NotImplementedError as e:
        raise EnvError(f"{env.spec.id}: {why(e)}") from e


def _space_of(space: Any) -> Space:
    """As Minari writes a space; spaces of other packages that give texts (minigrid's missions) count as Text."""
    from gymnasium import spaces
    from minari.serialization import serialize_space

    if isinstance(space, spaces.Dict):
        return {"type": "Dict", "subspaces": {k: _space_of(s) for k, s in space.spaces.items()}}
    if isinstance(space, spaces.Tuple):
        return {"type": "Tuple", "subspaces": [_space_of(s) for s in space.spaces]}
    try:
        return serialize_space(space, to_string=False)
    except NotImplementedError:
        if isinstance(space.sample(), str):
            return space_json({"text": Modality("text", (), "str")}, "text")
        raise
