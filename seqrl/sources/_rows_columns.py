"""Which columns of a table mean what, and what they hold: from the recipe, or by the names that are common."""

from typing import Any

import numpy as np

from seqrl.core.episode import EpisodeSpec, Modality
from seqrl.core.errors import DataError, did_you_mean
from seqrl.sources._rows import Shape, Table, values

KNOWN = {
    "reward": ("next.reward", "reward", "rewards"),
    "terminated": ("next.terminated", "terminated", "terminals"),
    "truncated": ("next.truncated", "truncated", "timeouts", "next.done", "done"),
    "episode": ("episode_index", "episode", "episode_id"),
    "step": ("frame_index", "step"),
}
"""What a column may mean besides observation and action, and the names it is known by: LeRobot's first, then others."""

Columns = dict[str, dict[str, str]]
"""``obs`` and ``act``: name -> column; ``rest``: what -> column, of those there are."""


def columns_of(config: Any, first: Table) -> Columns:
    """The columns that are read.

    Args:
        config: of the source ``rows``. first: the table that names are looked up in.

    Raises:
        DataError: one that is named is not there, or nothing is observed, or nothing says where an episode ends.
    """
    names = first.schema.names
    obs = dict(config.obs) or {
        n.removeprefix("observation."): n
        for n in names
        if (n == "observation" or n.startswith("observation.")) and first.holds(n)
    }
    if not obs:
        said = "no column is called observation or observation.*; name them with obs: {state: COLUMN}"
        raise DataError(f"{first.label}: {said}; it has {', '.join(names)}")
    rest = {}
    for what, known in KNOWN.items():
        asked = getattr(config, what)
        if asked or (found := next((n for n in known if first.has(n) and first.holds(n)), None)):
            rest[what] = asked or found
    for column in (*obs.values(), *config.act.values(), *rest.values()):
        if not first.has(column):
            known = f"{did_you_mean(column, names)}; it has {', '.join(names)}"
            raise DataError(f"{first.label}: there is no column '{column}'{known}")
    if "episode" not in rest and not {"terminated", "truncated"} & set(rest):
        raise DataError(f"{first.label}: nothing says where an episode ends; name the column with episode: COLUMN")
    return {"obs": obs, "act": dict(config.act), "rest": rest}


def shapes_of(table: Table, columns: Columns) -> dict[str, Shape]:
    """column -> what it holds, by the first row of a table; empty where it has none.

    Raises:
        DataError: a column holds what it cannot mean.
    """
    wanted = list(dict.fromkeys(c for part in columns.values() for c in part.values()))
    for row, piece in table.pieces(wanted):
        made = {n: values(a.slice(0, 1), f"{table.label}\0{n}", row) for n, a in piece.items()}
        held = {n: Shape("str" if v.dtype.kind == "U" else str(v.dtype), v.shape[1:]) for n, v in made.items()}
        for what, column in columns["rest"].items():
            if np.prod(held[column].shape) != 1 or (held[column].dtype == "str" and what != "episode"):
                raise DataError(f"{table.label}: column '{column}' is no single number, as {what} must be; name another")
        return held
    return {}


def spec_of(config: Any, id: str, columns: Columns, shapes: dict[str, Shape]) -> EpisodeSpec:
    """What the episodes will be; raises DataError where the recipe's choices and bounds do not fit."""
    obs, act = ({n: _modality(config, id, n, c, shapes[c]) for n, c in columns[part].items()} for part in ("obs", "act"))
    known = {**obs, **act}
    if odd := (set(config.choices) | set(config.bounds)) - set(known):
        near = did_you_mean(min(odd), known)
        raise DataError(f"{id}: choices, bounds: '{min(odd)}' is none of {', '.join(known)}{near}")
    env = None if config.env is None else {"id": config.env, "kwargs": {}, "additional_wrappers": []}
    return EpisodeSpec(id, obs, act, env, about={"columns": {k: dict(v) for k, v in columns.items()}})


def _modality(config: Any, id: str, name: str, column: str, held: Shape) -> Modality:
    size, whole = int(np.prod(held.shape, dtype=np.int64)), held.dtype != "str" and np.issubdtype(held.dtype, np.integer)
    if held.dtype == "str":
        return Modality("text", (), "str")
    if name in config.choices:
        if not whole or size != 1:
            found = f"{held.dtype} of shape {held.shape}"
            raise DataError(f"{id}: choices.{name}: column '{column}' holds {found}, and no single whole number")
        return Modality("discrete", (), "int64", n=(config.choices[name],), start=(0,))
    if name in config.act and whole and size == 1:
        said = f"say how many choices there are with choices: {{{name}: N}}"
        raise DataError(f"{id}: column '{column}' holds whole numbers; {said}")
    if held.dtype == "uint8" and len(held.shape) == 3:
        return Modality("image", held.shape, "uint8")
    low, high = config.bounds.get(name, (-np.inf, np.inf))
    return Modality("vector", held.shape, held.dtype, (low,) * size, (high,) * size)
