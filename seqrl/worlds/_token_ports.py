"""What a world of tokens demands of the data it is made for, and its head for rewards that are numbers."""

from typing import Any

from torch import Tensor, nn

from seqrl.core.contracts import Ports
from seqrl.core.errors import RecipeError, did_you_mean
from seqrl.nn.outcomes import Number, TwoHot
from seqrl.nn.streams import Domain


class Amount(nn.Module):
    """A reward that is a number, as ``nn.streamheads`` wants a head."""

    terms = 1

    def __init__(self, width: int, kind: str) -> None:
        super().__init__()
        self.head = TwoHot(width) if kind == "twohot" else Number(width)

    def loss(self, x: Tensor, target: Tensor) -> Tensor:
        """``[N, D]`` and encoded rewards ``[N, 1]`` to ``[N, 1]``."""
        return self.head.loss(x, target[:, 0])[:, None]


def check_worlds(config: Any) -> dict[str, Domain]:
    """The domains a token world's config was made for.

    Raises:
        RecipeError: it was made without ports; a step does not end in its one action, shows what is no code, or does not fit
            into a row; there is no reward; or something a dream needs is not trained.
    """
    if not config.ports:
        raise RecipeError(f"{type(config).__name__} has no ports: make it with for_domains(ports, length)")
    # Sorted: what is laid out domain by domain must come out the same when the config is read back from a file.
    domains = {name: Domain(name, Ports(**raw)) for name, raw in sorted(config.ports.items())}
    for name, d in domains.items():
        where = f"layout '{d.layout}' (domain {name})"
        if d.step[-1] != "action" or len(d.step) < 2:
            raise RecipeError(
                f"{where}: a step of a token world shows something and ends in 'action', as in 'image action > reward done'"
            )
        for slot in d.step[:-1]:
            if not d.ports.vocabs[slot]:
                raise RecipeError(
                    f"{where}: '{slot}' is no codes, so it cannot be said token by token; give it a codec of codes "
                    f"(tokens.slots.{slot}: {{kind: vq}} for pictures, {{kind: bins}} for numbers)"
                )
        if "reward" not in d.readout or "reward" not in d.ports.levels:
            raise RecipeError(
                f"{where}: a world model answers 'reward', one number or code, as in 'image action > reward done'"
            )
        if "done" in d.slots and (d.ports.vocabs["done"] != 2 or "done" not in d.readout):
            raise RecipeError(f"{where}: 'done' is read out and says yes or no, as in 'image action > reward done'")
        if config.length < d.P + d.W:
            took = f"a step takes {d.W} tokens and its prefix {d.P}"
            raise RecipeError(f"domain {name}: {took}, and a row has {config.length}; raise tokens.pack")
    known = dict.fromkeys(n for d in domains.values() for n in d.slots)
    for slot in config.losses:
        if slot not in known:
            near = did_you_mean(slot, known)
            raise RecipeError(f"train.losses: no domain has a slot '{slot}'{near} (there are {', '.join(known)})")
    for name, d in domains.items():
        for slot in (*d.step[:-1], *(n for n in ("reward", "done") if n in d.slots)):
            if slot not in config.losses:
                raise RecipeError(f"train.losses: a dream needs '{slot}', so it must have a loss (domain {name})")
    return domains
