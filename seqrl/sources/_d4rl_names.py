"""What D4RL calls things: its environments and their step limits, and the D4RL name nearest to a Minari id.

Sources: the registrations of D4RL (Fu et al. 2020, ``d4rl/*/__init__.py``) and the list of Minari's conversions.
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """An environment of D4RL.

    Args:
        env: the gymnasium environment of the same spaces, or None where there is none.
        dims: numbers in its observations and actions.
        limit: steps after which it cuts an episode.
    """

    env: str | None
    dims: tuple[int, int]
    limit: int


FAMILIES: dict[str, Family] = {
    "hopper": Family("Hopper-v5", (11, 3), 1000),
    "halfcheetah": Family("HalfCheetah-v5", (17, 6), 1000),
    "walker2d": Family("Walker2d-v5", (17, 6), 1000),
    # Its observations had 84 contact forces; Ant-v5 has 78 and leaves out those of the world.
    "ant": Family(None, (111, 8), 1000),
    "pen": Family("AdroitHandPen-v1", (45, 24), 100),
    "door": Family("AdroitHandDoor-v1", (39, 28), 200),
    "hammer": Family("AdroitHandHammer-v1", (46, 26), 200),
    "relocate": Family("AdroitHandRelocate-v1", (39, 30), 200),
    # Today's mazes give dictionaries with the goal, D4RL gave plain vectors without it: other spaces, so no environment.
    "maze2d-umaze": Family(None, (4, 2), 300),
    "maze2d-medium": Family(None, (4, 2), 600),
    "maze2d-large": Family(None, (4, 2), 800),
    "antmaze-umaze": Family(None, (29, 8), 700),
    "antmaze": Family(None, (29, 8), 1000),
    "kitchen": Family(None, (60, 9), 280),
}


def family_of(stem: str) -> tuple[str, Family] | None:
    """The family that a file name such as ``hopper_medium-v2`` begins with, or None."""
    plain = stem.lower().replace("_", "-").replace("ant-maze", "antmaze").replace("u-maze", "umaze")
    found = [name for name in FAMILIES if plain.startswith((f"{name}-", f"mini-{name}-")) or plain == name]
    return max(((n, FAMILIES[n]) for n in found), key=lambda pair: len(pair[0]), default=None)


_NEAREST = (
    (r"mujoco/(hopper|halfcheetah|walker2d|ant)/(medium|expert)-v\d+", r"\1-\2-v2"),
    (r"mujoco/(hopper|halfcheetah|walker2d|ant)/(?:simple|simple-replay|medium-replay)-v\d+", r"\1-medium-replay-v2"),
    (r"mujoco/(hopper|halfcheetah|walker2d|ant)/medium-expert-v\d+", r"\1-medium-expert-v2"),
    (r"D4RL/(pen|door|hammer|relocate)/(human|cloned|expert)-v\d+", r"\1-\2-v1"),
    (r"D4RL/antmaze/([-\w]+)-v\d+", r"antmaze-\1-v2"),
    (r"(?:D4RL/)?pointmaze/([-\w]+)-v\d+", r"maze2d-\1-v1"),
    (r"D4RL/kitchen/([-\w]+)-v\d+", r"kitchen-\1-v0"),
    (r"D4RL/minigrid/(fourrooms(?:-random)?)-v\d+", r"minigrid-\1-v0"),
)


def nearest(id: str) -> str | None:
    """The D4RL dataset that a Minari id stands for most closely (never the same data), or None."""
    for pattern, name in _NEAREST:
        found = re.fullmatch(pattern, id)
        if found:
            return found.expand(name)
    return None
