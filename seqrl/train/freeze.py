"""Parameters by pattern: which of them stay as they are, and which learn at a rate of their own.

A pattern is matched against the whole name of a parameter, as file names are in a shell: ``trunk.*`` is all of the trunk,
``*.bias`` every bias. One that meets nothing is a mistake, and the closest name is told.
"""

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from torch import nn

from seqrl.core.errors import RecipeError, did_you_mean

_INSIDE = re.compile(r"\.parametrizations\.(\w+)\..*$")


def plain_name(name: str) -> str:
    """The name that a parameter has in a bundle, whatever adapters stand around it now (train/adapters.py)."""
    return _INSIDE.sub(r".\1", name)


def meet(names: Sequence[str], patterns: Sequence[str], setting: str) -> dict[str, str]:
    """Name -> the first of the patterns that it meets, for names that meet one.

    Raises:
        RecipeError: a pattern meets no name; ``setting`` is where it stands in the recipe.
    """
    found: dict[str, str] = {}
    for pattern in patterns:
        met = [n for n in names if fnmatchcase(n, pattern)]
        if not met:
            parts = [n.split(".") for n in names]
            folders = dict.fromkeys(".".join(p[:i]) + ".*" for p in parts for i in range(1, len(p)))
            near = did_you_mean(pattern, [*folders, *names])
            tops = ", ".join(dict.fromkeys(f"{p[0]}.*" if len(p) > 1 else p[0] for p in parts))
            raise RecipeError(f"{setting}: no parameter is called '{pattern}'{near} (there are: {tops})")
        for name in met:
            found.setdefault(name, pattern)
    return found


def freeze(model: nn.Module, patterns: Sequence[str]) -> None:
    """Leaves untrained what meets a pattern of ``train.freeze``.

    Raises:
        RecipeError: a pattern meets nothing, or nothing is left to train.
    """
    named = dict(model.named_parameters())
    for name in meet(list(named), patterns, "train.freeze"):
        named[name].requires_grad_(False)
    if patterns and not any(p.requires_grad for p in named.values()):
        raise RecipeError(f"train.freeze: {', '.join(patterns)} leave nothing to train")


def scales(model: nn.Module, factors: Mapping[str, float]) -> dict[int, float]:
    """id of a parameter -> its factor on the learning rate, for those that meet a pattern of ``train.lr_scale``, the first
    that they meet; raises RecipeError where a pattern meets nothing."""
    if not factors:
        return {}
    named = [(plain_name(n), p) for n, p in model.named_parameters()]
    met = meet([n for n, _ in named], list(factors), "train.lr_scale")
    return {id(p): factors[met[n]] for n, p in named if n in met}
