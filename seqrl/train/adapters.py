"""LoRA for any model: matrices stay as they are, and a product of two small ones beside each is what learns.

Hu et al. 2021, arXiv 2106.09685: W becomes W + (alpha / rank) B A, with B zero at first, so that nothing changes until
something is learned. Here the sum itself is what the layer sees, so it works wherever a matrix is used, fused queries, keys and
values and tables of codes included, and no model knows of it. Only a fraction of the weights needs moments; the time of a step
stays what it was. What is published is the sum: a plain bundle. (``model.lora`` of policies.vla and worlds.lwm never forms
it, which saves memory where a body has billions of weights.)
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized, register_parametrization

from seqrl.core.errors import RecipeError
from seqrl.train.freeze import freeze, meet
from seqrl.train.recipe import TrainConfig
from seqrl.train.tuning import LoraConfig
from seqrl.train.whole import blocks_of, bodies_of


class Pair(nn.Module):
    """A matrix ``[R, C]`` to itself plus ``scale B A``, with A ``[rank, C]`` and B ``[R, rank]``."""

    def __init__(self, weight: Tensor, rank: int, scale: float, draws: torch.Generator) -> None:
        super().__init__()
        self.scale, (rows, columns) = scale, weight.shape
        drawn = (2 * torch.rand(rank, columns, generator=draws) - 1) * columns**-0.5
        self.a = nn.Parameter(drawn.to(weight))
        self.b = nn.Parameter(torch.zeros(rows, rank).to(weight))

    def forward(self, weight: Tensor) -> Tensor:
        # In full precision always: the sum that is published must be the one that was trained.
        with torch.autocast(weight.device.type, enabled=False):
            return weight + self.scale * (self.b @ self.a)


def tune(model: nn.Module, config: TrainConfig, lineage: Mapping[str, Any] | None) -> None:
    """Leaves untrained what ``train.freeze`` says, and adds the adapters of ``train.lora``, in place.

    Args:
        lineage: what the run began with: of a bundle, what it did not have is trained as it is. Without one, that is all that
            stands outside of the trunk.

    Raises:
        RecipeError: a pattern meets nothing, nothing is left to train, or nothing can have adapters.
    """
    freeze(model, config.freeze)
    if config.lora:
        inside = {id(p) for body in bodies_of(model) for p in body.parameters()}
        loose = [n for n, p in model.named_parameters() if inside and id(p) not in inside]
        fresh = loose if lineage is None else [*lineage["resized"], *lineage["new"]]
        add_adapters(model, config.lora, fresh, config.seed)


def told(model: nn.Module, config: TrainConfig) -> str:
    """What of a tuned model trains, in words; nothing where all of it does."""
    if not config.freeze and not config.lora:
        return ""
    every, moving = ([p.numel() for p in model.parameters() if p.requires_grad or not some] for some in (False, True))
    how = [f"LoRA of rank {config.lora.rank}"] if config.lora else []
    how += [f"frozen: {', '.join(config.freeze)}"] if config.freeze else []
    return f"training  {sum(moving):,} of {sum(every):,} numbers ({'; '.join(how)})"


def add_adapters(model: nn.Module, config: LoraConfig, fresh: Sequence[str], seed: int) -> None:
    """Freezes a model but for pairs beside its matrices, in place.

    Args:
        config: the recipe's ``train.lora``.
        fresh: names of parameters that hold nothing learned yet; they are trained.
        seed: A follows from it.

    Raises:
        RecipeError: a pattern meets nothing, or nothing that can have a pair.
    """
    named = dict(model.named_parameters())
    kept = {n: p.requires_grad for n, p in named.items()}
    owners = _owners(model)
    if config.targets:
        chosen = set(meet(list(named), config.targets, "train.lora.targets"))
    else:
        inside = {id(p) for block in blocks_of(model) for p in block.parameters()}
        chosen = {n for n, p in named.items() if id(p) in inside}
    # A matrix used under two names cannot be two sums; and what is fresh is trained as it is.
    chosen = [n for n, p in named.items() if n in chosen and p.ndim == 2 and len(owners[id(p)]) == 1 and n not in fresh]
    if not chosen:
        what = ", ".join(config.targets) or "its trunk"
        raise RecipeError(
            f"train.lora.targets: {type(model).__name__} has no matrix in {what}; name some (there are, for example: "
            f"{', '.join([n for n, p in named.items() if p.ndim == 2][:4])})"
        )
    also = meet(list(named), config.also, "train.lora.also")
    for name, p in named.items():
        p.requires_grad_(kept[name] and (name in also or name in fresh) and name not in chosen)
    draws = torch.Generator().manual_seed(seed)
    for name in chosen:
        module, attribute = owners[id(named[name])][0]
        pair = Pair(named[name], config.rank, config.alpha / config.rank, draws)
        register_parametrization(module, attribute, pair, unsafe=True)


def _owners(model: nn.Module) -> dict[int, list[tuple[nn.Module, str]]]:
    """id of a parameter -> the modules it stands in, and under which name."""
    found: dict[int, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        for name, p in module._parameters.items():
            if p is not None:
                found.setdefault(id(p), []).append((module, name))
    return found


def adapted(model: nn.Module) -> bool:
    """Whether a model has adapters."""
    return any(is_parametrized(m) for m in model.modules())


@torch.no_grad()
def merged(model: nn.Module) -> Mapping[str, Tensor]:
    """The state dict that the model has without adapters, each matrix the sum."""
    found: dict[str, Any] = {n: t for n, t in model.state_dict().items() if ".parametrizations." not in n}
    for path, module in model.named_modules():
        for name in getattr(module, "parametrizations", {}) if is_parametrized(module) else ():
            found[f"{path}.{name}"] = getattr(module, name).detach()
    return found
