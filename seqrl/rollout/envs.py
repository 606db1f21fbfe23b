"""Environments, made from what a dataset or a bundle says about them, without trusting it.

A file names an environment by its gymnasium id and settings; that is all that is taken from it. An ``entry_point`` in a file
is never imported, wrappers come from a list of harmless ones, and an id can only bring in the few packages known here. What
comes back are ordinary gymnasium environments with the wrappers that ``gymnasium.make`` gives (all but the checker).
"""

import importlib
import io
import logging
import re
import warnings
from collections.abc import Mapping
from contextlib import redirect_stdout
from typing import Any

from seqrl.core.episode import EpisodeSpec
from seqrl.core.errors import EnvError, did_you_mean

Named = str | Mapping[str, Any] | EpisodeSpec

# Beginning of an id -> package that registers such ids, extra of ours that installs it.
_FAMILIES = (
    (r"seqrl/KeyValue", "seqrl.sources._key_value", "all"),
    (r"seqrl/", "seqrl.sources._hidden_order", "all"),
    (r"ALE/", "ale_py", "atari"),
    (r"(BabyAI|MiniGrid)-", "minigrid", "minigrid"),
    (r"(PointMaze_|AntMaze|Adroit|FrankaKitchen|Fetch|HandReach|HandManipulate)", "gymnasium_robotics", "robotics"),
)
# gymnasium's own families need packages that only some people have.
_INSIDE = {"gymnasium.envs.mujoco": "mujoco", "gymnasium.envs.box2d": "box2d", "gymnasium_robotics": "robotics"}
_ID = re.compile(r"([\w-]+/)?[\w.-]+$")
# They make any environment of the old library, by an id that may name a module to import.
_REFUSED = re.compile(r"GymV(21|26)Environment")
_WRAPPERS = {
    "gymnasium.wrappers": (
        *("AtariPreprocessing", "ClipAction", "ClipReward", "DelayObservation", "DiscretizeAction", "DiscretizeObservation"),
        *("DtypeObservation", "FilterObservation", "FlattenObservation", "FrameStackObservation", "GrayscaleObservation"),
        *("MaxAndSkipObservation", "NormalizeObservation", "NormalizeReward", "OrderEnforcing", "RecordEpisodeStatistics"),
        *("RepeatAction", "RescaleAction", "RescaleObservation", "ReshapeObservation", "ResizeObservation", "StickyAction"),
        *("TimeAwareObservation", "TimeLimit"),
    ),
    "minigrid.wrappers": (
        *(
            "DictObservationSpaceWrapper",
            "DirectionObsWrapper",
            "FlatObsWrapper",
            "FullyObsWrapper",
            "ImgObsWrapper",
            "NoDeath",
        ),
        *("OneHotPartialObsWrapper", "ReseedWrapper", "RGBImgObsWrapper", "RGBImgPartialObsWrapper", "SymbolicObsWrapper"),
        *("StochasticActionWrapper", "ViewSizeWrapper"),
    ),
}
_log = logging.getLogger(__name__)


def package_of(env: str) -> str | None:
    """The package that must be imported for gymnasium to know an id ("seqrl" for ours); None for gymnasium's own."""
    found = next((package for start, package, _ in _FAMILIES if re.match(start, env)), None)
    return found and found.partition(".")[0]


def spec_of(env: Named) -> Mapping[str, Any]:
    """The environment that is meant: an id, an EnvSpec as JSON, or the one a dataset's spec evaluates in.

    Raises:
        EnvError: the data names no environment.
    """
    if isinstance(env, EpisodeSpec):
        found = env.eval_env or env.env
        if not found:
            raise EnvError(
                f"{env.id} names no environment to play in; name one (of a recipe evaluate.env=ID, of seqrl eval --env ID)"
            )
        return found
    return {"id": env} if isinstance(env, str) else env


def make(
    env: str | Mapping[str, Any] | EpisodeSpec, n: int, spec: EpisodeSpec | None = None, render_mode: str | None = None
) -> list[Any]:
    """Makes ``n`` equal gymnasium environments.

    Args:
        env: an id, a gymnasium EnvSpec as plain JSON (``id, kwargs, max_episode_steps, additional_wrappers``; a null limit
            means none, a missing one the registered one), or a dataset's spec, whose ``eval_env`` is preferred over ``env``.
        n: how many.
        spec: what a policy was trained on; observations that only a wrapper can give (BabyAI's ``rgb``, resized images) are
            added where it has them.
        render_mode: ``"rgb_array"`` where pictures are wanted.

    Raises:
        EnvError: an unknown id, a missing package (naming the extra that brings it), settings the environment does not
            take, or a wrapper that is not on the list of harmless ones.
    """
    spec = spec or (env if isinstance(env, EpisodeSpec) else None)
    raw = spec_of(env)
    made = []
    try:
        for _ in range(n):
            made.append(_make_one(raw, spec, render_mode))  # noqa: PERF401 - those made so far are closed when one fails
    except BaseException:
        for one in made:
            one.close()
        raise
    return made


def _make_one(raw: Mapping[str, Any], spec: EpisodeSpec | None, render_mode: str | None) -> Any:
    import gymnasium

    id = _known_id(raw.get("id"))
    kwargs = raw.get("kwargs") or {}
    if not isinstance(kwargs, Mapping) or not all(isinstance(k, str) for k in kwargs):
        raise EnvError(f"{id}: its settings (kwargs) must be a mapping of names")
    for key, value in kwargs.items():
        if (place := _place_in(value)) is not None:
            raise EnvError(f"{id}: the setting '{key}' names a place on the disk ({place!r}), which data must not do")
    options = {k: v for k, v in kwargs.items() if k not in ("render_mode", "id", "max_episode_steps", "disable_env_checker")}
    if render_mode:
        options["render_mode"] = render_mode
    if "max_episode_steps" in raw:
        limit = raw["max_episode_steps"]
        if limit is not None and (not isinstance(limit, int) or limit < 1):
            raise EnvError(f"{id}: max_episode_steps must be a positive number of steps (got {limit!r})")
        options["max_episode_steps"] = -1 if limit is None else limit
    point = str(gymnasium.registry[id].entry_point)
    extra = next((e for start, e in _INSIDE.items() if point.startswith(start)), None)
    if extra in ("mujoco", "robotics"):
        _quiet_mujoco()
    try:
        with warnings.catch_warnings():
            # "a newer version exists": the data were made in this one.
            warnings.simplefilter("ignore")
            made = gymnasium.make(id, disable_env_checker=True, **options)
    except (ImportError, gymnasium.error.DependencyNotInstalled) as e:
        how = f'it needs a package that is not here: pip install "seqrl[{extra}]"' if extra else "something it needs is missing"
        raise EnvError(f"{id}: {how} ({e})") from e
    except Exception as e:
        raise EnvError(f"{id} cannot be made: {type(e).__name__}: {e}") from e
    for wrapper in raw.get("additional_wrappers") or ():
        made = _wrap(made, wrapper, id)
    return _quiet(_complete(made, spec), id)


def _place_in(value: Any) -> str | None:
    """A text within a setting that could lead to a file of this machine (MuJoCo opens whatever ``xml_file`` says), or None.

    A plain name such as ``hopper.xml`` leads to a file of the environment's own.
    """
    if isinstance(value, str):
        return value if re.search(r"[/\\]|\.\.|^~", value) else None
    if isinstance(value, Mapping):
        value = [*value.keys(), *value.values()]
    inner = value if isinstance(value, list | tuple) else ()
    return next((place for v in inner if (place := _place_in(v)) is not None), None)


def _known_id(id: Any) -> str:
    """The id, registered by now; raises EnvError for one that is unknown or would import what it names."""
    import gymnasium

    if not isinstance(id, str) or not _ID.match(id) or _REFUSED.match(id):
        raise EnvError(f"{id!r} is no id of a registered environment, such as Hopper-v5")
    for start, package, extra in _FAMILIES:
        if id not in gymnasium.registry and re.match(start, id):
            try:
                # Some greet the user on stdout, which may be a pipe that expects our own words.
                with redirect_stdout(io.StringIO()):
                    gymnasium.register_envs(importlib.import_module(package))
            except ImportError as e:
                raise EnvError(f'{id} needs the package {package}: pip install "seqrl[{extra}]" ({e})') from e
    if id not in gymnasium.registry:
        hint = did_you_mean(id, gymnasium.registry)
        raise EnvError(f"unknown environment '{id}'{hint} (import the package that registers it, if it is your own)")
    return id


def _wrap(env: Any, raw: Any, id: str) -> Any:
    """Applies one recorded wrapper, looked up by name in our own list; its recorded module is only compared."""
    name, point = (str(raw.get(k)) for k in ("name", "entry_point")) if isinstance(raw, Mapping) else (str(raw), "")
    module, _, cls = point.partition(":")
    if name == "PassiveEnvChecker":
        return env
    known = [h for h, names in _WRAPPERS.items() if name in names and cls == name and f"{module}.".startswith(f"{h}.")]
    if not known:
        raise EnvError(f"{id}: the data ask for the wrapper '{name}' ({point}), which is not on the list of harmless ones")
    if not isinstance(raw.get("kwargs"), Mapping):
        raise EnvError(f"{id}: the settings of its wrapper '{name}' were not recorded, so it cannot be made again")
    # JSON has no tuples, and some wrappers (ResizeObservation) take nothing else.
    kwargs = {k: tuple(v) if isinstance(v, list) else v for k, v in raw["kwargs"].items()}
    return _apply(getattr(importlib.import_module(known[0]), name), env, id, **kwargs)


def _apply(wrapper: Any, env: Any, id: str, **kwargs: Any) -> Any:
    import gymnasium

    try:
        return wrapper(env, **kwargs)
    except (ImportError, gymnasium.error.DependencyNotInstalled) as e:
        raise EnvError(f"{id}: its wrapper {wrapper.__name__} needs OpenCV: pip install opencv-python-headless ({e})") from e
    except Exception as e:
        raise EnvError(f"{id}: its wrapper {wrapper.__name__} cannot be made: {type(e).__name__}: {e}") from e


def _complete(env: Any, spec: EpisodeSpec | None) -> Any:
    """Adds what the data's observations have and no recorded wrapper gives."""
    if spec is None:
        return env
    from gymnasium import spaces
    from gymnasium.wrappers import ResizeObservation, TransformObservation

    space = env.observation_space
    rgb, plain = spec.obs.get("rgb"), spec.obs.get("observation")
    if rgb and isinstance(space, spaces.Dict) and "rgb" not in space.spaces and hasattr(env.unwrapped, "get_frame"):
        tile = max(1, rgb.shape[0] // env.unwrapped.height)
        grown = spaces.Dict({**space.spaces, "rgb": spaces.Box(0, 255, rgb.shape, "uint8")})
        inner = env.unwrapped

        def draw(seen: Mapping[str, Any]) -> dict[str, Any]:
            # What get_frame(highlight=False) draws, without working out first what it would have highlighted.
            return {**seen, "rgb": inner.grid.render(tile, inner.agent_pos, inner.agent_dir)}

        return TransformObservation(env, draw, grown)
    if plain and plain.kind == "image" and isinstance(space, spaces.Box) and len(space.shape) == len(plain.shape):
        resized = space.shape[:2] != plain.shape[:2] and space.shape[2:] == plain.shape[2:]
        return _apply(ResizeObservation, env, env.spec.id, shape=tuple(plain.shape[:2])) if resized else env
    return env


def _quiet(env: Any, id: str) -> Any:
    """BabyAI prints a line for every mission it draws and rejects; stdout is for our own words."""
    if id.startswith("BabyAI-"):
        inner = env.unwrapped
        begin = inner.reset

        def reset(**options: Any) -> Any:
            with redirect_stdout(io.StringIO()):
                return begin(**options)

        inner.reset = reset
    return env


def _quiet_mujoco() -> None:
    """Sends MuJoCo's warnings to ``logging``: by default it prints them and writes MUJOCO_LOG.TXT where the user stands."""
    try:
        import mujoco
    except Exception:  # not there, or MUJOCO_GL names a renderer that is not: making the environment will say so
        return
    if mujoco.get_mju_user_warning() is None:
        mujoco.set_mju_user_warning(_log.debug)
