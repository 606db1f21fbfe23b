"""Feedback laws written by hand for the classic control environments: real skill without training anything.

Mixed with random actions in known shares they give data of known, different quality in seconds, which is what a first run
and the tests need. All take ``(B, D)`` observations and answer ``(B,)`` choices or ``(B, A)`` numbers.
"""

from collections.abc import Callable

import numpy as np

from seqrl.core.errors import DataError, did_you_mean

Law = Callable[[np.ndarray], np.ndarray]


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
