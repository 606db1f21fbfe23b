"""Normalised scores, ``100 (R - random) / (expert - random)``, that always say which reference they were made with.

A normalised score is only as good as its two constants, and most disputes about them are about data, environments and time
limits that were not the same. So a score carries the name of its reference and whether it may stand beside the tables of
D4RL papers, with the reason if not. References come from the data's own metadata where it has them, else from the table
below by family of environment.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from seqrl.core.episode import EpisodeSpec

_D4RL = "D4RL infos.py"
# Family -> (random, expert, where the numbers are from). D4RL: Fu et al. 2020, d4rl/infos.py REF_MIN_SCORE and REF_MAX_SCORE.
# Minari: metadata of its D4RL/pointmaze datasets (steps at the goal in an evaluation episode of 300 or 600 steps).
REFERENCES: dict[str, tuple[float, float, str]] = {
    "hopper": (-20.272305, 3234.3, _D4RL),
    "halfcheetah": (-280.178953, 12135.0, _D4RL),
    "walker2d": (1.629008, 4592.3, _D4RL),
    "ant": (-325.6, 3879.7, _D4RL),
    "pen": (96.262799, 3076.8331017826877, _D4RL),
    "hammer": (-274.856578, 12794.134825156867, _D4RL),
    "door": (-56.512833, 2880.5693087298737, _D4RL),
    "relocate": (-6.425911, 4233.877797728884, _D4RL),
    "kitchen": (0.0, 4.0, _D4RL),
    "antmaze": (0.0, 1.0, _D4RL),
    "maze2d-open": (0.01, 20.66, _D4RL),
    "maze2d-umaze": (23.85, 161.86, _D4RL),
    "maze2d-medium": (13.13, 277.39, _D4RL),
    "maze2d-large": (6.7, 273.99, _D4RL),
    "maze2d-open-dense": (11.17817, 27.166538620695782, _D4RL),
    "maze2d-umaze-dense": (68.537689, 193.66285642381482, _D4RL),
    "maze2d-medium-dense": (44.264742, 297.4552547777125, _D4RL),
    "maze2d-large-dense": (30.569041, 303.4857382709002, _D4RL),
    "minigrid-fourrooms": (0.01442, 2.89685, _D4RL),
    "pointmaze-umaze": (13.49, 218.7, "Minari"),
    "pointmaze-medium": (17.66, 361.05, "Minari"),
}
# Beginning of an environment id, lower case and without its version -> family.
_FAMILIES = (
    (r"(?:pointmaze_)(open|umaze|medium|large)(?:_diverse_\w+)?(dense)?$", "pointmaze"),
    (r"maze2d-(open|umaze|medium|large)(?:-(dense))?$", "maze2d"),
    (r"antmaze", "antmaze"),
    (r"adroithand(pen|hammer|door|relocate)", ""),
    (r"(pen|hammer|door|relocate)(?:-(?:human|cloned|expert))?$", ""),
    (r"(hopper|halfcheetah|walker2d|ant)(?:$|-(?:random|medium|expert|full|simple))", ""),
    (r"(?:franka)?kitchen", "kitchen"),
    (r"minigrid-fourrooms", "minigrid-fourrooms"),
)
# Families whose D4RL tables were made in the same task as is played today, with the newest version of which that is true
# (gymnasium's own change logs: v5 gives Walker2d another foot friction, and Ant other observations and rewards).
_SAME_TASK = {"hopper": 5, "halfcheetah": 5, "walker2d": 4, "ant": 4}


@dataclass(frozen=True)
class Score:
    """A normalised score and what it means.

    Args:
        normalised: 0 is the random policy, 100 the expert; None where there is no reference.
        reference: the constants and whose they are, or ``"none"``.
        comparable: whether it may stand beside published D4RL scores.
        why: the reason, in one sentence.
    """

    normalised: float | None
    reference: str
    comparable: bool
    why: str


def family(env_id: str) -> str | None:
    """The family of an environment id, a key of ``REFERENCES`` or a name like ``pointmaze-large``; None if unknown."""
    bare = re.sub(r"-v\d+$", "", env_id.lower())
    for pattern, name in _FAMILIES:
        if found := re.match(pattern, bare):
            return "-".join(p for p in (name, *found.groups()) if p)
    return None


def normalise(returns: Sequence[float] | np.ndarray | float, spec: EpisodeSpec, env_id: str) -> Score:
    """The normalised mean of returns.

    Args:
        returns: ``(N,)`` undiscounted returns of episodes, or their mean.
        spec: the data the policy learned from.
        env_id: where the returns were made.
    """
    kind = family(env_id)
    known = REFERENCES.get(kind or "")
    named = spec.references
    if named is not None and named[1] > named[0]:
        same = known is not None and np.allclose(named, known[:2], rtol=1e-4, atol=1e-3)
        low, high, whose = (*named, f"named by {spec.id}" + (f", equal to {known[2]} {kind}" if same else ""))
    elif known is not None:
        low, high, whose = known[0], known[1], f"{known[2]} {kind}"
        same = True
    else:
        return Score(None, "none", False, f"there are no reference scores for {env_id}")
    score = 100 * (float(np.mean(returns)) - low) / (high - low)
    why = _obstacle(spec, env_id, kind, same and known[2] == _D4RL)
    reference = f"{whose} (random {low:.6g}, expert {high:.6g})"
    return Score(float(score), reference, not why, why or "D4RL's data, environment family and reference scores")


def solved(returns: np.ndarray, env_id: str, success: np.ndarray | None = None) -> float | None:
    """Share of the episodes that reached their goal; None where nobody can tell.

    Args:
        returns: ``(N,)`` undiscounted returns of episodes: of BabyAI and MiniGrid, whose only reward is a positive one for
            the goal, they tell.
        env_id: where they were made.
        success: ``(N,)`` what the environments said themselves, NaN where they said nothing.
    """
    if success is not None and np.isfinite(success).all():
        return float(np.mean(success))
    return float((np.asarray(returns) > 0).mean()) if re.match(r"(babyai|minigrid)-", env_id.lower()) else None


def _obstacle(spec: EpisodeSpec, env_id: str, kind: str | None, d4rl_numbers: bool) -> str:
    """Why a score must not stand beside D4RL's tables; empty if it may."""
    kind = kind or ""
    adroit = kind in ("pen", "hammer", "door", "relocate")
    if kind.startswith("pointmaze"):
        return "PointMaze has other episode lengths and goals than D4RL's maze2d"
    if kind == "pen" and spec.id.startswith("D4RL/"):
        return "Minari's pen episodes last 200 steps, D4RL's 100, and its reference scores were not updated (Minari issue 303)"
    if not d4rl_numbers:
        return "the reference scores are not D4RL's"
    if (spec.about.get("source"), spec.about.get("family")) != ("d4rl", kind) and not (adroit and spec.id.startswith("D4RL/")):
        return f"{spec.id} is not known to be D4RL's data, but made anew"
    if kind not in _SAME_TASK:
        changed = "its rewards changed in gymnasium-robotics 1.2.1" if adroit else "its rewards or episodes are not the same"
        return f"{env_id} was rebuilt since D4RL's tables were made: {changed}"
    version = re.search(r"-v(\d+)$", env_id)
    if version and int(version[1]) > _SAME_TASK[kind]:
        return f"{env_id} is another task than the {kind} of D4RL's tables (use version {_SAME_TASK[kind]})"
    return ""
