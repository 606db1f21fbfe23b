"""How a policy's config comes to be: from the ports of some data and the settings of a recipe, refused where they clash."""

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Literal, TypeVar, get_args, get_origin

from seqrl.core.contracts import Ports
from seqrl.core.errors import RecipeError, did_you_mean
from seqrl.core.layout import Layout
from seqrl.nn.streams import Domain

C = TypeVar("C")
_FROM_DATA = ("ports", "context_length", "length")


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
            raise RecipeError(f"model.{name}: '{value}' is none of {', '.join(words)}{did_you_mean(value, words)}")


def check_domains(config: Any) -> dict[str, Domain]:
    """The domains a stream model's config was made for.

    Raises:
        RecipeError: it was made without ports, a loss is on a slot that no domain has, a domain has no action, one longer
            than a row, or one that nothing stands in front of.
    """
    if not config.ports:
        raise RecipeError(
            f"{type(config).__name__} has no ports: make it with {type(config).__name__}.for_domains(ports, length)"
        )
    # Sorted: what is laid out domain by domain must come out the same when the config is read back from a file.
    domains = {name: Domain(name, Ports(**raw)) for name, raw in sorted(config.ports.items())}
    known = dict.fromkeys(n for d in domains.values() for n in d.slots)
    for name in config.losses:
        if name not in known:
            raise RecipeError(
                f"train.losses: no domain has a slot '{name}'{did_you_mean(name, known)} (there are {', '.join(known)})"
            )
    if "action" not in config.losses:
        raise RecipeError("train.losses: a policy must have a loss on 'action'")
    for name, d in domains.items():
        if "action" not in d.slots or "action" in d.prefix:
            raise RecipeError(f"layout '{d.layout}' (domain {name}): a step must have an 'action'")
        if config.length < d.P + d.W:
            raise RecipeError(
                f"domain {name}: a step takes {d.W} tokens and its prefix {d.P}, and a row has {config.length}; "
                "raise tokens.pack"
            )
        if "action" in d.step and d.layout.offset("action") + d.P == 0:
            raise RecipeError(
                f"layout '{d.layout}' (domain {name}): something to read the action from must stand in front of it"
            )
    return domains


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
        raise RecipeError(f"layout '{layout}': this policy takes no slots in front of '|'")
    return ports, layout


def check_losses(losses: list[str], layout: Layout) -> None:
    """Raises RecipeError where a loss names no slot, or none is on the action."""
    for name in losses:
        if name not in layout.names:
            raise RecipeError(f"train.losses: the layout '{layout}' has no slot '{name}'{did_you_mean(name, layout.names)}")
    if "action" not in losses:
        raise RecipeError("train.losses: a policy must have a loss on 'action'")


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
