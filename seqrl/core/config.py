"""From YAML text and ``key=value`` overrides to frozen pydantic values, with every mistake told at once and where it stands.

Three things PyYAML and pydantic do not do by themselves: floats such as ``1e-3`` are numbers (YAML 1.1 reads them as text),
every mistake is reported with its ``file:line`` or the override it came from, and an unknown key is answered with the
closest known one.
"""

import re
import types
import typing
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from seqrl.core.errors import RecipeError, all_of, did_you_mean
from seqrl.core.plain import DEEPEST, measure_yaml


class Frozen(BaseModel):
    """Base of every setting: frozen, unknown keys refused, the sentence under a field is its description."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


C = TypeVar("C", bound=BaseModel)
Path_ = tuple[str | int, ...]


class _Loader(yaml.SafeLoader):
    """SafeLoader with numbers as people write them and with repeated keys refused."""


_Loader.yaml_implicit_resolvers = {
    k: [(tag, rx) for tag, rx in v if tag != "tag:yaml.org,2002:float"]
    for k, v in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^[-+]?(?:(?:\d[\d_]*)?\.\d[\d_]*(?:[eE][-+]?\d+)?|\d[\d_]*\.(?:[eE][-+]?\d+)?|\d[\d_]*[eE][-+]?\d+|\.(?:inf|Inf|INF|nan|NaN|NAN))$"
    ),
    list("-+0123456789."),
)


_MOST = 100_000
"""Values of one recipe; real ones have a few hundred."""


def _build(node: yaml.Node, where: dict[Path_, str], source: str, path: Path_ = ()) -> Any:
    """Turns a YAML node into plain values while noting ``source:line`` for every path."""
    where[path] = f"{source}:{node.start_mark.line + 1}"
    # An alias is built wherever it stands, so a few lines of aliases of aliases would fill any memory.
    if len(where) > _MOST:
        raise RecipeError(f"{where[path]}: more than {_MOST:,} values, counting those that aliases (*) repeat")
    if len(path) > DEEPEST:
        raise ValueError(f"nested deeper than {DEEPEST} levels, in line {node.start_mark.line + 1}")
    if isinstance(node, yaml.MappingNode):
        out: dict[str, Any] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise RecipeError(f"{source}:{line}: a key must be a word, not a list or a mapping")
            name = str(key.value)
            if name in out:
                raise RecipeError(f"{source}:{line}: '{name}' stands there twice")
            out[name] = _build(value, where, source, (*path, name))
            where[(*path, name)] = f"{source}:{line}"
        return out
    if isinstance(node, yaml.SequenceNode):
        return [_build(n, where, source, (*path, i)) for i, n in enumerate(node.value)]
    try:
        return _Loader("").construct_object(node, deep=True)
    except (ValueError, LookupError, AttributeError, OverflowError) as e:
        # PyYAML checks no value whose tag was written down: "!!bool perhaps" is a KeyError.
        said = f"'{str(node.value)[:50]}' cannot be read as {node.tag.rpartition(':')[2]}"
        raise RecipeError(f"{where[path]}: {said}; without the tag it is a text in quotes, or another value") from e


def parse_yaml(text: str, source: str) -> tuple[Any, dict[Path_, str]]:
    """Plain values and, for every path in them, ``source:line``.

    Raises:
        RecipeError: the text is no YAML, or repeats a key.
    """
    where: dict[Path_, str] = {}
    try:
        # Where it is no YAML at all, PyYAML knows the line better.
        with suppress(yaml.YAMLError):
            measure_yaml(text, None)
        node = yaml.compose(text, Loader=_Loader)
        return ({} if node is None else _build(node, where, source)), where
    except (yaml.YAMLError, RecursionError, ValueError) as e:
        mark = getattr(e, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise RecipeError(f"{source}{line}: this is no YAML: {getattr(e, 'problem', None) or e}") from e


def parse_value(text: str) -> Any:
    """The value of one override, read as YAML would read it."""
    return parse_yaml(text, "override")[0] if text.strip() else ""


def apply_overrides(raw: dict[str, Any], overrides: Sequence[str], where: dict[Path_, str]) -> dict[str, Any]:
    """Sets ``a.b.0.c=value`` in nested mappings and lists; a list index beyond the end is a mistake.

    Raises:
        RecipeError: an override without ``=``, or one that steps into something that is neither mapping nor list.
    """
    mistakes = []
    for text in overrides:
        dotted, equals, value = text.partition("=")
        path: Path_ = tuple(int(p) if p.isdigit() else p for p in dotted.removeprefix("--").strip().split("."))
        label = f"command line '{text if len(text) <= 80 else text[:77] + '...'}'"
        if not equals or not dotted.strip():
            mistakes.append(f"{label}: write key=value, such as train.steps=1000")
            continue
        spot: Any = raw
        try:
            for i, key in enumerate(path[:-1]):
                if isinstance(spot, list):
                    spot = spot[key]
                elif isinstance(spot, dict):
                    if spot.get(key) is None:
                        spot[key] = {}
                    spot = spot[key]
                else:
                    raise TypeError
                where.setdefault(path[: i + 1], label)
            if not isinstance(spot, dict | list) or (isinstance(spot, dict) and isinstance(path[-1], int)):
                raise TypeError
            spot[path[-1]] = parse_value(value)
        except (TypeError, IndexError, KeyError):
            mistakes.append(f"{label}: there is no such place in the recipe")
            continue
        for old in [p for p in where if p[: len(path)] == path]:
            del where[old]
        where[path] = label
    if mistakes:
        raise RecipeError(all_of(mistakes))
    return raw


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """The pydantic models an annotation can hold, looking through unions, lists, dicts and Annotated."""
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return [annotation] if issubclass(annotation, BaseModel) else []
    return [m for arg in typing.get_args(annotation) for m in _models_in(arg)]


def _known_keys(model: type[BaseModel], path: Path_) -> set[str]:
    """The keys allowed in the mapping that ``path`` leads to (tags of unions and list indices in it are passed over)."""
    here = [model]
    for key in path:
        found = [m for h in here if key in h.model_fields for m in _models_in(h.model_fields[key].annotation)]
        here = found or here
    return {k for h in here for k in h.model_fields}


def _place(path: Path_, where: Mapping[Path_, str], source: str) -> str:
    while path and path not in where:
        path = path[:-1]
    return where.get(path, source)


_SHORT = {
    "extra_forbidden": "unknown key",
    "missing": "is missing",
}


def explain(
    error: ValidationError, model: type[BaseModel], where: Mapping[Path_, str], source: str, under: Path_ = ()
) -> list[str]:
    """One line for each mistake: place, dotted key, what is wrong, what was found, the closest known key."""
    lines = []
    for e in error.errors(include_url=False):
        path = (*under, *(p for p in e["loc"] if p != "[key]"))
        said = _SHORT.get(e["type"], e["msg"].removeprefix("Value error, "))
        if e["type"] == "extra_forbidden":
            said += did_you_mean(str(path[-1]), _known_keys(model, path[len(under) : -1]))
        elif e["type"] not in ("missing", "value_error") and not isinstance(e["input"], dict | list):
            got = repr(e["input"])
            said += f" (got {got if len(got) <= 200 else got[:200] + '...'})"
        lines.append(f"{_place(path, where, source)}: {'.'.join(map(str, path))}: {said}")
    return lines


def validate(model: type[C], raw: Any, where: Mapping[Path_, str], source: str) -> C:
    """``raw`` as ``model``, or one RecipeError that lists every mistake with its place."""
    try:
        return model.model_validate(raw)
    except ValidationError as e:
        raise RecipeError(all_of(explain(e, model, where, source))) from e


def read_text(path: Path) -> str:
    """A text file, with a clear message where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise RecipeError(f"{path}: cannot be read: {getattr(e, 'strerror', None) or e}") from e
