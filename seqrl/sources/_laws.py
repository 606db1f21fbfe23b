"""Feedback laws written by hand for the classic control environments: real skill without training anything.

Mixed with random actions in known shares they give data of known, different quality in seconds, which is what a first run
and the tests need. All take ``(B, D)`` observations and answer ``(B,)`` choices or ``(B, A)`` numbers. Where an environment
asks for more than a law can do, its players stand in a file of their own.
"""

import importlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from seqrl.core.errors import DataError, did_you_mean

Law = Callable[[np.ndarray], np.ndarray]
Player = Callable[[Any, int], Callable[[], Any]]
"""``player(env, seed)`` for one episode that has just begun; what it answers is called once a step and gives the action."""


def _cartpole(obs: np.ndarray) -> np.ndarray:
    """Push to the side the weighted sum of position, speed, angle and angular speed leans to."""
    return (obs @ np.array([0.05, 0.3, 3.0, 1.0]) > 0).astype(np.int64)


def _mountain_car(obs: np.ndarray) -> np.ndarray:
    """Push the way the car rolls: each swing gains energy. 0 is left, 2 is right."""
    return np.where(obs[:, 1] >= 0, 2, 0)


def _mountain_car_continuous(obs: np.ndarray) -> np.ndarray:
    """The same with a force, which is a number in [-1, 1]."""
    return np.where(obs[:, 1:] >= 0, 1.0, -1.0)


def _pendulum(obs: np.ndarray) -> np.ndarray:
    """Swing up by feeding energy until it is that of standing upright (15), then hold with a spring and a damper.

    gymnasium's pendulum has ``w' = 15 sin(angle) + 3 u``, so ``w^2 / 2 + 15 cos(angle)`` changes by ``3 u w`` alone
    (Astrom and Furuta 2000, "Swinging up a pendulum by energy control").
    """
    cos, sin, w = obs.T
    lacking = 15.0 - (w**2 / 2 + 15.0 * cos)
    swing = 2.0 * np.sign(np.where(w == 0, 1.0, w) * lacking)
    hold = -(8.0 * np.arctan2(sin, cos) + 2.0 * w)
    return np.clip(np.where((cos > 0.85) & (np.abs(lacking) < 6.0), hold, swing), -2.0, 2.0)[:, None]


def _acrobot(obs: np.ndarray) -> np.ndarray:
    """Turn the elbow against the way the shoulder swings: energy goes in on every swing. 0 is -1, 2 is +1."""
    return np.where(obs[:, 4] > 0, 0, 2)


LAWS: dict[str, Law] = {
    "CartPole-v1": _cartpole,
    "MountainCar-v0": _mountain_car,
    "MountainCarContinuous-v0": _mountain_car_continuous,
    "Pendulum-v1": _pendulum,
    "Acrobot-v1": _acrobot,
}


def law_of(env: str) -> Law:
    """The law for an environment; raises DataError listing those there are."""
    if env not in LAWS:
        raise DataError(f"no scripted policy for '{env}'{did_you_mean(env, LAWS)}; there is one for {', '.join(LAWS)}")
    return LAWS[env]


# Environment -> the file of its players: a table PLAYERS by name, and which of them ``scripted`` means, joined with +.
_WITH_PLAYERS = {
    "seqrl/HiddenOrder-v0": "seqrl.sources._hidden_order_players",
    "seqrl/KeyValue-v0": "seqrl.sources._key_value_players",
}


def players_of(env: str, policy: str) -> list[Player]:
    """The environment's own players that a policy names, ``memory+memoryless`` say; none for ``random`` and for a law.

    Raises:
        DataError: it names nobody who plays this environment.
    """
    if env not in _WITH_PLAYERS and policy not in ("random", "scripted"):
        raise DataError(f"policy '{policy}': there are random and scripted, and bundles")
    if env not in _WITH_PLAYERS or policy == "random":
        return []
    file = importlib.import_module(_WITH_PLAYERS[env])
    players: Mapping[str, Player] = file.PLAYERS
    names = (file.SCRIPTED if policy == "scripted" else policy).split("+")
    for name in names:
        if name not in players:
            there = f"there are random and scripted, and of {env} {', '.join(players)} (several joined with +)"
            raise DataError(f"policy '{name}'{did_you_mean(name, players)}: {there}")
    return [players[name] for name in names]


def is_scripted(env: str, policy: str) -> bool:
    """Whether a policy's name means a law or players, by themselves or joined with +."""
    if policy == "scripted":
        return True
    known = importlib.import_module(_WITH_PLAYERS[env]).PLAYERS if env in _WITH_PLAYERS else ()
    return any(name in known for name in policy.split("+"))
