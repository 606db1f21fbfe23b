"""Whole weights on every process: Accelerate places the model and casts, and DDP averages the gradients.

Nothing else in the house imports Accelerate.
"""

import os
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, DistributedType
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from seqrl.core.errors import RecipeError
from seqrl.train.moments import Moments, names_of, parameters_of, unpack_optimizer


class Plain:
    """One process alone, or DDP."""

    sharded = False
    """Whether no process holds whole weights."""

    def __init__(self, cpu: bool, precision: str, packed: bool) -> None:
        # Accelerate keeps one state a process and refuses a second run with another precision or device; ours are separate.
        AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())
        for name in ("DEEPSPEED", "FSDP"):
            if os.environ.get(f"ACCELERATE_USE_{name}") == "true":
                raise RecipeError(
                    f"engine: 'accelerate launch' asks for {name}, and the recipe does not; say so in the recipe "
                    f"(engine.kind={'fsdp' if name == 'FSDP' else 'zero3'}), and start it with torchrun or 'seqrl train'"
                )
        mixed = "bf16" if precision == "bf16" else "no"
        handlers = [DistributedDataParallelKwargs(find_unused_parameters=True)] if packed else []
        self.accelerator = Accelerator(cpu=cpu, mixed_precision=mixed, kwargs_handlers=handlers)
        self.device, self.world = self.accelerator.device, self.accelerator.num_processes
        self._busy = False
        kind = self.accelerator.distributed_type
        if self.world > 1 and kind not in (DistributedType.MULTI_CPU, DistributedType.MULTI_GPU):
            raise RecipeError(
                f"engine: ddp is asked for, and Accelerate made {kind.value} of it; see its environment variables"
            )

    def prepare(self, model: nn.Module, optimizer: Any) -> tuple[Any, Any]:
        """The wrapped model, and the optimiser; an earlier model is let go."""
        if self._busy:
            self.accelerator.free_memory()
        self._busy, self._names = True, names_of(model)
        made = optimizer if isinstance(optimizer, torch.optim.Optimizer) else optimizer(model)
        model, made = self.accelerator.prepare(model, made)
        return model, made.optimizer

    def backward(self, loss: Tensor, model: Any, last: bool) -> None:
        """Adds gradients; between processes they are only spoken about at the last piece of a step."""
        if last or self.world == 1:
            self.accelerator.backward(loss)
        else:
            with self.accelerator.no_sync(model):
                self.accelerator.backward(loss)

    def step(self, model: Any, optimizer: Any, parameters: list[nn.Parameter], clip: float | None) -> Any:
        """Clips, steps, forgets the gradients; the norm from before clipping, or None where nothing is clipped."""
        norm = None if clip is None else torch.nn.utils.clip_grad_norm_(parameters, clip, foreach=True)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return norm

    def weights(self, bare: nn.Module) -> dict[str, Tensor]:
        """All weights, whole, copied."""
        return {n: t.clone() for n, t in bare.state_dict().items()}

    def shards(self, optimizer: Any) -> dict[str, Tensor]:
        """What of the optimiser only this process has: nothing."""
        return {}

    def order(self, optimizer: Any) -> list[str]:
        """The names of the optimiser's parameters, in its order."""
        return [self._names[id(p)] for p in parameters_of(optimizer)]

    def restore(self, optimizer: Any, moments: Moments) -> None:
        """Puts moments back."""
        unpack_optimizer(optimizer, self._names, moments)
