"""An environment's spaces as named arrays: the names and order of ``EpisodeSpec``, whatever nesting the environment has.

A plain space is called ``observation`` or ``action``; keys of nested dictionaries are joined with ``/``. Reading an
observation writes its pieces into rows of preallocated arrays, in the dtype of the data, because that is what the policy saw
when it was trained. B rows.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from seqrl.core.episode import EpisodeSpec, Modality
from seqrl.core.errors import EnvError


@dataclass(frozen=True)
class Leaf:
    """One piece of a space: the keys that lead to it, and the shape and dtype of its array."""

    path: tuple[Any, ...]
    shape: tuple[int, ...]
    dtype: Any
    space: Any


def leaves(space: Any, plain: str, path: tuple[Any, ...] = ()) -> dict[str, Leaf]:
    """Name -> piece of a gymnasium space; a text, or a space of a kind unknown here, is kept as an object."""
    from gymnasium import spaces

    if isinstance(space, spaces.Dict | spaces.Tuple):
        inner = space.spaces.items() if isinstance(space, spaces.Dict) else enumerate(space.spaces)
        return {name: leaf for key, sub in inner for name, leaf in leaves(sub, plain, (*path, key)).items()}
    name = "/".join(map(str, path)) or plain
    known = isinstance(space, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary)
    return {name: Leaf(path, space.shape if known else (), space.dtype if known else object, space)}


@dataclass(frozen=True)
class Face:
    """How an environment is read and told what to do, as named arrays.

    Args:
        obs: the observations that are read, by name.
        act: the actions, by name.
    """

    obs: Mapping[str, Leaf]
    act: Mapping[str, Leaf]

    @classmethod
    def of(cls, env: Any, spec: EpisodeSpec | None = None) -> "Face":
        """The face of an environment, checked against the data a policy was trained on.

        Args:
            env: a gymnasium environment.
            spec: what the data hold, or as much of it as will be read; None takes the environment as it is.

        Raises:
            EnvError: an observation is missing or of another shape, or the actions differ; the message says which.
        """
        obs, act = leaves(env.observation_space, "observation"), leaves(env.action_space, "action")
        if spec is None:
            return cls(obs, act)
        name = env.spec.id if env.spec else str(env)
        wrong = _differences("observation", spec.obs, obs) + _differences("action", spec.act, act)
        wrong += [f"it wants the action '{n}', which the data do not have" for n in act if n not in spec.act]
        wrong += _outside(spec, act)
        if wrong:
            raise EnvError(f"{name} does not fit the data the policy learned from ({spec.id}): {'; '.join(wrong)}")
        dtypes = {n: object if m.kind == "text" else np.dtype(m.dtype) for n, m in spec.obs.items()}
        return cls({n: replace(obs[n], dtype=dtypes[n], shape=tuple(m.shape)) for n, m in spec.obs.items()}, act)

    def buffers(self, rows: int) -> dict[str, np.ndarray]:
        """Arrays ``name -> (B, *shape)`` that ``writer`` fills."""
        return {n: np.zeros((rows, *leaf.shape), leaf.dtype) for n, leaf in self.obs.items()}

    def writer(self, buffers: Mapping[str, np.ndarray]) -> Callable[[int, Any], None]:
        """``write(row, observation)``: copies one environment's observation into its row."""
        if len(self.obs) == 1 and not next(iter(self.obs.values())).path:
            return next(iter(buffers.values())).__setitem__
        places = [(buffers[n], leaf.path) for n, leaf in self.obs.items()]

        def write(row: int, observation: Any) -> None:
            for buffer, path in places:
                value = observation
                for key in path:
                    value = value[key]
                buffer[row] = value

        return write

    def split(self, actions: Mapping[str, np.ndarray]) -> list[Any]:
        """``name -> (B, *shape)`` to one action for each environment, nested as it wants them."""
        if len(self.act) == 1 and not next(iter(self.act.values())).path:
            return _rows(actions[next(iter(self.act))])
        columns = [(leaf.path, _rows(actions[n])) for n, leaf in self.act.items()]
        out = []
        for row in range(len(columns[0][1])):
            tree: dict[Any, Any] = {}
            for path, values in columns:
                spot = tree
                for key in path[:-1]:
                    spot = spot.setdefault(key, {})
                spot[path[-1]] = values[row]
            out.append(_tuples(tree))
        return out


def _rows(values: np.ndarray) -> list[Any]:
    # A single choice goes in as a Python int: every environment takes it, and most check it faster.
    return values.tolist() if values.ndim == 1 and values.dtype.kind in "iu" else list(values)


def _tuples(tree: Any) -> Any:
    """Turns what was built under the keys 0, 1, … of a Tuple space into tuples."""
    if not isinstance(tree, dict):
        return tree
    inner = {k: _tuples(v) for k, v in tree.items()}
    return tuple(inner[i] for i in range(len(inner))) if all(isinstance(k, int) for k in inner) else inner


def _differences(what: str, wanted: Mapping[str, Modality], found: Mapping[str, Leaf]) -> list[str]:
    wrong = []
    for name, m in wanted.items():
        if name not in found:
            wrong.append(f"{what} '{name}' is missing, it has {', '.join(found)}")
        elif m.kind != "text" and tuple(m.shape) != tuple(found[name].shape):
            wrong.append(f"{what} '{name}' has shape {tuple(found[name].shape)}, the data have {tuple(m.shape)}")
    return wrong


def _outside(spec: EpisodeSpec, act: Mapping[str, Leaf]) -> list[str]:
    """Actions of the data that the environment would refuse."""
    wrong = []
    for name, m in spec.act.items():
        space = act[name].space if name in act and tuple(m.shape) == tuple(act[name].shape) else None
        if m.n and hasattr(space, "n" if not m.shape else "nvec"):
            most = np.ravel(space.n if not m.shape else space.nvec)
            if (np.array(m.n) > most).any():
                wrong.append(f"action '{name}' has {most.tolist()} choices, the data have {list(m.n)}")
        elif m.low and hasattr(space, "low"):
            low, high = np.array(m.low), np.array(m.high)
            below = np.isfinite(low) & (low < space.low.ravel() - 1e-4)
            bad = below | (np.isfinite(high) & (high > space.high.ravel() + 1e-4))
            if bad.any():
                k = int(np.argmax(bad))
                there = f"[{space.low.flat[k]:g}, {space.high.flat[k]:g}]"
                wrong.append(f"action '{name}' dimension {k} is bounded by {there}, in the data by [{low[k]:g}, {high[k]:g}]")
    return wrong
