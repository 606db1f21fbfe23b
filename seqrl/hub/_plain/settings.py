"""Settings classes without pydantic, for published models: the same fields, defaults and values, and no checks of ranges.

What is read here was validated when it was written. What pydantic changes is done as it does: nested settings become classes,
lists become tuples, words become numbers, and validators that stand in front of the fields are called.
"""

import types
from collections.abc import Callable, Mapping
from inspect import get_annotations
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from seqrl.core.errors import RecipeError

ValidationInfo = Any
C = TypeVar("C")


class Field:
    """A default with bounds, of which only the default is kept."""

    def __init__(self, default: Any = ..., **bounds: Any) -> None:
        self.default = default


class _Before:
    """A validator that may change what is given, before anything else is done with it."""

    def __init__(self, function: Any) -> None:
        self.function = function


def model_validator(mode: str) -> Callable[[Any], Any]:
    """Keeps a validator that stands in front; the others only check."""
    return lambda function: _Before(function) if mode == "before" else function


def field_validator(*names: str, mode: str = "after") -> Callable[[Any], Any]:
    """Leaves a validator of one field uncalled: it only checks."""
    return lambda function: function


class Frozen:
    """Base of every setting."""

    model_fields: Mapping[str, Any] = {}

    def __init_subclass__(cls) -> None:
        own = {name: getattr(cls, name, ...) for name in get_annotations(cls) if name != "model_fields"}
        cls.model_fields = {**cls.model_fields, **{n: d.default if isinstance(d, Field) else d for n, d in own.items()}}
        cls._before = [v.function.__func__ for v in vars(cls).values() if isinstance(v, _Before)]

    def __init__(self, **given: Any) -> None:
        """Raises RecipeError on an unknown setting, or where one is missing."""
        for function in self._before:
            given = function(type(self), given)
        kinds = get_type_hints(type(self))
        for name in given:
            if name not in self.model_fields:
                raise RecipeError(
                    f"{type(self).__module__}: unknown setting '{name}' (there are: {', '.join(self.model_fields)})"
                )
        for name, default in self.model_fields.items():
            if name not in given and default is ...:
                raise RecipeError(f"{type(self).__module__}: the setting '{name}' is missing")
            # A setting is a value: what two of them begin with must not be one list or dict.
            value = _as(kinds[name], given[name]) if name in given else _copy(default)
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"settings are frozen: '{name}' cannot be set")

    def __eq__(self, other: Any) -> bool:
        return type(self) is type(other) and self.model_dump() == other.model_dump()

    def __hash__(self) -> int:
        return hash(repr(self.model_dump()))

    def model_dump(self) -> dict[str, Any]:
        """Plain values, nested settings included."""
        return {name: _plain(getattr(self, name)) for name in self.model_fields}

    def model_copy(self: C, update: Mapping[str, Any] | None = None) -> C:
        """The same settings but for ``update``, which is taken as it is."""
        made = object.__new__(type(self))
        for name in self.model_fields:
            object.__setattr__(made, name, (update or {}).get(name, getattr(self, name)))
        return made


def validate(model: type[C], raw: Any, where: Mapping[Any, str], source: str) -> C:
    """``raw`` as ``model``; raises RecipeError where it cannot be."""
    if not isinstance(raw, Mapping):
        raise RecipeError(f"{source}: settings are a mapping (got {raw!r})")
    try:
        return model(**raw)
    except (TypeError, ValueError) as e:
        raise RecipeError(f"{source}: {e}") from e


def read_text(path: Any) -> str:
    """A text file, with a clear message where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise RecipeError(f"{path}: cannot be read: {e}") from e


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _copy(v) for k, v in value.items()}
    return [_copy(v) for v in value] if isinstance(value, list) else value


def _plain(value: Any) -> Any:
    if isinstance(value, Frozen):
        return value.model_dump()
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return type(value)(_plain(v) for v in value) if isinstance(value, list | tuple) else value


def _as(kind: Any, value: Any) -> Any:
    """A value as its annotation has it; raises ValueError where it cannot be."""
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin in (Union, types.UnionType):
        return _as_one_of(inner, value)
    if origin is Literal:
        if value not in inner:
            raise ValueError(f"{value!r} is none of {', '.join(map(str, inner))}")
        return value
    if kind is None or kind is type(None):
        if value is not None:
            raise ValueError(f"{value!r} is not null")
        return None
    if origin is dict and isinstance(value, Mapping):
        return {_as(inner[0], k): _as(inner[1], v) for k, v in value.items()}
    if origin in (list, tuple) and isinstance(value, list | tuple):
        each = inner if origin is tuple and inner[-1] is not ... else inner[:1] * len(value)
        return origin(_as(k, v) for k, v in zip(each, value, strict=True))
    if isinstance(kind, type) and issubclass(kind, Frozen):
        if isinstance(value, kind):
            return value
        if isinstance(value, Mapping):
            return kind(**value)
    if kind in (int, float) and isinstance(value, int | float | str):
        return kind(value)
    if isinstance(kind, type) and isinstance(value, kind):
        return value
    raise ValueError(f"{value!r} is no {kind}")


def _as_one_of(kinds: tuple[Any, ...], value: Any) -> Any:
    """As the annotation that it is already, or else the first that it can become."""
    for kind in (k for k in kinds if type(value) is k):
        return _as(kind, value)
    for kind in kinds:
        try:
            return _as(kind, value)
        except (ValueError, TypeError):
            continue
    raise ValueError(f"{value!r} is none of {kinds}")
