"""What a policy demands of the data it is made for: losses on slots that are there, and an action in every step."""

from typing import Any

from seqrl.core.contracts import Ports
from seqrl.core.errors import RecipeError, did_you_mean
from seqrl.core.layout import Layout
from seqrl.nn.streams import Domain


def check_losses(losses: list[str], layout: Layout) -> None:
    """Raises RecipeError where a loss names no slot, or none is on the action."""
    for name in losses:
        if name not in layout.names:
            raise RecipeError(f"train.losses: the layout '{layout}' has no slot '{name}'{did_you_mean(name, layout.names)}")
    if "action" not in losses:
        raise RecipeError("train.losses: a policy must have a loss on 'action'")


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
