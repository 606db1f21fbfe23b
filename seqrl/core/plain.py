"""Plain values out of JSON and YAML that somebody else wrote: read, or refused with a ValueError that says why.

Both libraries trust their text further than it should be. Nesting without end runs into Python's recursion limit, now in
the parser and now in whoever walks the values later; with libyaml it ends the process. A few lines of YAML aliases of
aliases are values without number, and PyYAML answers some tags with whatever its code happens to raise. So depth and number
are looked at first, and every error is one.
"""

import json
from typing import Any

import yaml

DEEPEST = 100
"""Levels of lists and mappings within each other; real files have ten."""
MOST = 1_000_000
"""Values of a YAML text, those that aliases repeat counted each time; a bundle's recipe has a few hundred."""
# libyaml's own where it is built in: ten times as fast. Without its composer, which recurses, it cannot be overrun.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_json(text: str | bytes) -> Any:
    """The values of a JSON text; raises ValueError where it is none, or nested beyond ``DEEPEST``."""
    try:
        made = json.loads(text)
    except RecursionError as e:
        raise ValueError("nested too deep") from e
    level, depth = [made] if isinstance(made, dict | list) else [], 0
    while level:
        depth += 1
        if depth > DEEPEST:
            raise ValueError(f"nested deeper than {DEEPEST} levels")
        inside = (value for each in level for value in (each.values() if type(each) is dict else each))
        level = [value for value in inside if type(value) is dict or type(value) is list]
    return made


def read_yaml(text: str) -> Any:
    """The values of a YAML text of one document (None of an empty one).

    Raises:
        ValueError: it is none, is nested beyond ``DEEPEST``, has more than ``MOST`` values or aliases that hold themselves.
    """
    try:
        measure_yaml(text)
        return yaml.load(text, _LOADER)
    except yaml.YAMLError as e:
        raise ValueError(" ".join(str(e).split())) from e
    except ValueError:
        raise
    except Exception as e:  # of tags whose values are none of theirs: KeyError, AttributeError, IndexError
        raise ValueError(f"a value that its tag does not allow ({type(e).__name__}: {e})") from e


def measure_yaml(text: str, most: int | None = MOST) -> None:
    """Raises ValueError where a YAML text is nested beyond ``DEEPEST``, has more than ``most`` values, or an alias that holds
    itself; looks at one token after the other and builds nothing."""
    # How many values each collection that is open has so far, and the names by which aliases would repeat them.
    sizes, names, known = [0], [""], dict[str, int]()
    for event in yaml.parse(text, _LOADER):
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in known:
                raise ValueError(f"the alias '*{event.anchor}' stands for nothing, or holds itself")
            sizes[-1] += known[event.anchor]
        elif isinstance(event, yaml.CollectionStartEvent):
            known.pop(event.anchor or "", None)
            sizes.append(1)
            names.append(event.anchor or "")
            if len(sizes) > DEEPEST + 1:
                raise ValueError(f"nested deeper than {DEEPEST} levels")
        elif isinstance(event, yaml.CollectionEndEvent):
            size, name = sizes.pop(), names.pop()
            sizes[-1] += size
            if name:
                known[name] = size
        elif isinstance(event, yaml.ScalarEvent):
            sizes[-1] += 1
            if event.anchor:
                known[event.anchor] = 1
        if most is not None and sizes[-1] > most:
            raise ValueError(f"more than {most:,} values, counting those that aliases (*) repeat")
