"""How a model's config comes to be: from the ports of some data and the settings of a recipe, refused where they clash."""

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Literal, TypeVar, get_args, get_origin

from seqrl.core.contracts import Ports
from seqrl.core.errors import RecipeError, did_you_mean
from seqrl.core.layout import Layout

C = TypeVar("C")
_FROM_DATA = ("ports", "context_length", "length")
# What modules are built so many times of; bodies of transformers' have names of their own for it.
_REPEATED = ("layers", "head_layers", "prior_layers", "members", "num_hidden_layers", "num_layers", "n_layer", "n_layers")


def config_for(cls: type[C], ports: Ports, context: int, settings: dict[str, Any]) -> C:
    """``cls`` for some data.

    Args:
        ports: the slots of the data. context: environment steps in a window.
        settings: any of the annotated fields of ``cls``.

    Raises:
        RecipeError: a setting that ``cls`` does not have (transformers' configs would keep it in silence), or a word that
            is none of those a setting can take.
    """
    check_settings(cls, settings)
    if context < 1:
        raise RecipeError(f"a window needs at least 1 step (got {context})")
    return cls(ports=asdict(ports), context_length=context, **settings)


def check_settings(cls: type, settings: Mapping[str, Any]) -> None:
    """Raises RecipeError on a setting that ``cls`` does not have, or a word that is none of those a setting can take."""
    known = {name: kind for name, kind in cls.__annotations__.items() if name not in _FROM_DATA}
    for name, value in settings.items():
        if name not in known:
            raise RecipeError(f"model.{name}: unknown setting{did_you_mean(name, known)} (there are: {', '.join(known)})")
        words = get_args(known[name]) if get_origin(known[name]) is Literal else (value,)
        if value not in words:
            words = [word for word in words if isinstance(word, str)]
            raise RecipeError(f"model.{name}: '{value}' is none of {', '.join(words)}{did_you_mean(value, words)}")


def ports_of(config: Any) -> tuple[Ports, Layout]:
    """The ports a config was made for, and their layout with one token for each slot of a step.

    Raises:
        RecipeError: the config was made without ports.
    """
    if not config.ports:
        raise RecipeError(
            f"{type(config).__name__} has no ports: make it with {type(config).__name__}.for_ports(ports, context)"
        )
    ports = Ports(**config.ports)
    layout = Layout.parse(ports.layout)
    if layout.prefix:
        raise RecipeError(f"layout '{layout}': this model takes no slots in front of '|'")
    return ports, layout


def check_depth(config: Mapping[str, Any], tensors: int) -> None:
    """Raises RecipeError where a config from a file asks for more layers than there are tensors to fill them.

    Even without memory, a million layers take minutes to be built, only to be found to fit no weights.
    """
    for name, value in config.items():
        if isinstance(value, Mapping):
            check_depth(value, tensors)
        elif name in _REPEATED and isinstance(value, int | float) and not value <= max(tensors, 1):
            raise RecipeError(f"{name}={str(value)[:50]}, and there are {tensors:,} weights")


def check_ranges(config: Any, ranges: Mapping[str, tuple[float, float | None]]) -> None:
    """Raises RecipeError where a number of a config lies outside its range: ``low`` itself is allowed, ``high`` is not.

    Beyond them nothing fails, it only trains on rubbish. A setting that is None takes its default, which is in range.
    """
    for name, (low, high) in ranges.items():
        value = getattr(config, name)
        if value is None:
            continue
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not (number and low <= value < (math.inf if high is None else high)):
            wanted = f"at least {low}" if high is None else f"from {low} to below {high}"
            raise RecipeError(f"model.{name}: a number {wanted} (got {value!r})")
