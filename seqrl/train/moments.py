"""The moments of an optimiser by the names of the parameters they are of, whoever kept which piece of them.

A process saves a whole moment as ``optimizer/<moment>/<parameter>``, and a piece of one, flattened, as
``shard/<moment>/<parameter>``. All engines deal out consecutive pieces in the order of the processes: FSDP rows of the first
dimension, ZeRO-3 equal parts of each flattened parameter, ZeRO-2 parts of many parameters laid end to end. So where a piece
belongs follows from the sizes of those before it, and any piece can be put together from any others. Read one at a time.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from seqrl.core.errors import BundleError
from seqrl.train.saved import Kept

KINDS = ("optimizer/", "shard/")
"""How whole moments and pieces of them are called."""
STEP = "step"
"""The moment that is one number for a whole parameter: how many steps it has taken."""


def names_of(model: nn.Module) -> dict[int, str]:
    """The name of each parameter, by its ``id``."""
    return {id(p): name for name, p in model.named_parameters()}


def parameters_of(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """All parameters of an optimiser, in its order."""
    return [p for group in optimizer.param_groups for p in group["params"]]


def pack_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """All moments of an optimiser whose parameters are whole."""
    return {
        f"optimizer/{key}/{name}": value
        for name, p in model.named_parameters()
        for key, value in optimizer.state.get(p, {}).items()
    }


def unpack_optimizer(optimizer: torch.optim.Optimizer, names: Mapping[int, str], moments: "Moments") -> None:
    """Puts moments back, each on its parameter's device."""
    for p in parameters_of(optimizer):
        name = names[id(p)]
        for key in moments.of(name):
            found = moments.step(name) if key == STEP else moments.whole(name, key).view(p.shape)
            optimizer.state[p][key] = found.to(p.device)


class Moments:
    """Saved moments, to be asked for by parameter and place.

    Files of before pieces had names number them: the n-th tensor of the optimiser that left them.

    Args:
        files: what each process left, in their order.
        sizes: how many numbers each parameter of the model has.
        order: where pieces are numbered, the parameters that the numbers are of; None where they are of something else.
        where: what to call all this in a message.

    Raises:
        BundleError: they are of other parameters.
    """

    def __init__(
        self,
        files: Sequence[Kept],
        sizes: Mapping[str, int],
        order: Sequence[str] | None = None,
        where: str = "this checkpoint",
    ) -> None:
        self._sizes, self._where = sizes, where
        self._found: dict[str, dict[str, list[tuple[Kept, str, int]]]] = {}
        self.numbered = tuple(f for f in files if order is None and any(map(_is_numbered, f)))
        for file in files:
            for key in file:
                if key.startswith(KINDS) and not (self.numbered and _is_numbered(key)):
                    self._add(file, key, order or ())
        for name, moments in self._found.items():
            for moment, pieces in moments.items():
                if moment != STEP and sum(many for _, _, many in pieces) != sizes[name]:
                    raise BundleError(f"{where}: {moment} of {name} lacks pieces, or is of a parameter of another size")

    def _add(self, file: Kept, key: str, order: Sequence[str]) -> None:
        _, moment, name = key.split("/", 2)
        if _is_numbered(key):
            moment, name = name, order[int(moment)] if int(moment) < len(order) else f"parameter {moment}"
        if name not in self._sizes:
            raise BundleError(f"{self._where} has moments of {name}, and the model has no such parameter")
        self._found.setdefault(name, {}).setdefault(moment, []).append((file, key, math.prod(file.shape(key))))

    def of(self, name: str) -> list[str]:
        """Which moments a parameter has; none where it never had a gradient."""
        return list(self._found.get(name, ()))

    def step(self, name: str) -> Tensor:
        """How many steps a parameter has taken: one number for all of it."""
        file, key, _ = self._found[name][STEP][0]
        return file[key].clone()

    def piece(self, name: str, moment: str, start: int, stop: int) -> Tensor:
        """Numbers ``start`` to ``stop`` of a flattened moment, in memory of its own."""
        parts, at = [], 0
        for file, key, many in self._found[name][moment]:
            low, high = max(start - at, 0), min(stop - at, many)
            if low < high:
                flat = len(file.shape(key)) == 1
                parts.append(file.part(key, low, high) if flat else file[key].flatten()[low:high])
            at += many
        # What safetensors gives may still be mapped from the file.
        return parts[0].clone() if len(parts) == 1 else torch.cat([torch.empty(0), *parts])

    def whole(self, name: str, moment: str) -> Tensor:
        """A whole moment, flat."""
        return self.piece(name, moment, 0, self._sizes[name])

    def by_number(self, rank: int) -> dict[tuple[int, str], Tensor]:
        """(n-th tensor of the optimiser, moment) -> the piece of a process, where nothing tells what it is of."""
        found = {}
        for key in filter(_is_numbered, self.numbered[rank] if self.numbered else ()):
            _, i, moment = key.split("/")
            found[int(i), moment] = self.numbered[rank][key].clone()
        return found


def _is_numbered(key: str) -> bool:
    words = key.split("/")
    return len(words) == 3 and words[0] == "shard" and words[1].isdecimal()
