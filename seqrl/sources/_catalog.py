"""The shelf of Minari datasets on this machine: which there are, where they lie, and what they say of themselves.

Ids are checked against Minari's own grammar before they become a path, so no id leads out of the shelf. Nothing that a dataset
names is imported: its environment is handed on as plain JSON.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seqrl.core.errors import DataError, did_you_mean
from seqrl.core.plain import read_json
from seqrl.sources._files import datasets_home, why

# Minari's own grammar, which leaves no room for '..', a leading '/' or a backslash. A namespace of one letter is none to it.
_ID = re.compile(r"(?:(?:hf|gcp)://[-\w.]+/)?(?P<id>(?:(?!./[^/]*$)[-\w]+(?:/[-\w]+)*/)?[-\w]+-v\d+)")
_WHICH_ENV = ("id", "kwargs", "max_episode_steps", "additional_wrappers")
FACTS = ("author", "algorithm_name", "description", "code_permalink", "requirements", "source", "family")
"""What the metadata say about how data came to be."""


def local_name(id: str) -> str:
    """The id without the place it comes from; raises DataError where it is none (so no id can lead out of the folder)."""
    found = _ID.fullmatch(id)
    if found is None:
        if id and Path(id).is_dir():
            raise DataError(
                f"'{id}' is a folder and no dataset id; Parquet or Arrow files in it are a recipe's source "
                f"{{kind: rows, id: {id}}}, which seqrl tokens show looks into as well"
            )
        form = "ids look like namespace/name-v0: letters, digits, - and _, a namespace of at least two, and a version"
        raise DataError(f"'{id}' is no dataset id{did_you_mean(id, local_ids())}; {form}")
    return found["id"]


def local_ids() -> list[str]:
    """The ids of all datasets on this machine, sorted."""
    home, found = datasets_home(), []
    for place, inner, _ in os.walk(home, followlinks=True):
        name = Path(place).relative_to(home)
        if (Path(place) / "data" / "metadata.json").is_file():
            found.append(name.as_posix())
            # Below lie an Arrow dataset's episodes, by the thousand.
            inner.clear()
        # Hidden folders are unfinished; and links may lead in a circle.
        inner[:] = [] if len(name.parts) > 8 else [d for d in inner if not d.startswith(".")]
    return sorted(i for i in found if _ID.fullmatch(i))


def metadata(id: str) -> dict[str, Any]:
    """What a local dataset says of itself.

    Raises:
        DataError: it is not there, or its ``metadata.json`` is broken.
    """
    path = datasets_home() / local_name(id) / "data" / "metadata.json"
    try:
        found = read_json(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("not an object")
        return found
    except (OSError, ValueError) as e:
        raise DataError(f"{path}: cannot be read ({why(e)}); fetch or make this dataset again") from e


def env_of(about: Mapping[str, Any], key: str = "env_spec") -> dict[str, Any] | None:
    """Which environment a dataset's metadata name, without the code paths in there that gymnasium would import."""
    try:
        raw = read_json(about[key])
        return {k: raw[k] for k in _WHICH_ENV if k in raw} | {"id": str(raw["id"])}
    except (TypeError, ValueError, KeyError):
        return None
