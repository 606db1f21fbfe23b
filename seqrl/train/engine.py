"""Where the numbers are crunched: Accelerate places the model, casts, and speaks between processes.

Nothing else in the house imports Accelerate. Dropout noise is a pure function of (seed, step, piece, rank): the generator is
seeded anew for every piece, so no generator state needs saving and evaluation in between cannot disturb training.
"""

from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState

from seqrl.core.errors import RecipeError


def choose_device(name: str) -> str:
    """``auto`` to the best device there is; raises RecipeError where the named one is missing."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return next(d for d in there if there[d])
    if not there[name]:
        raise RecipeError(
            f"train.device: '{name}' is not there on this machine; use auto or one of {[d for d in there if there[d]]}"
        )
    return name


class Engine:
    """A thin face on Accelerate: what the loop needs and no more."""

    def __init__(self, device: str, precision: str, seed: int, packed: bool = False) -> None:
        """
        Args:
            device, precision, seed: as in the recipe.
            packed: rows are packed from several domains, so a process may meet none of some domain's steps, and between
                processes its parameters must not be waited for.
        """
        cpu = choose_device(device) == "cpu"
        # Accelerate keeps one state a process and refuses a second run with another precision or device; ours are separate.
        AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())
        mixed = "bf16" if precision == "bf16" else "no"
        handlers = [DistributedDataParallelKwargs(find_unused_parameters=True)] if packed else []
        self.accelerator = Accelerator(cpu=cpu, mixed_precision=mixed, kwargs_handlers=handlers)
        self.device, self.seed = self.accelerator.device, seed
        self.rank, self.world = self.accelerator.process_index, self.accelerator.num_processes
        self.main = self.accelerator.is_main_process

    def prepare(self, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> tuple[Any, Any]:
        return self.accelerator.prepare(model, optimizer)

    def bare(self, model: Any) -> Any:
        """The model without its wrappers (Accelerate's own way of finding it imports DeepSpeed, which takes seconds)."""
        while (inner := getattr(model, "_orig_mod", None) or getattr(model, "module", None)) is not None:
            model = inner
        return model

    def reseed(self, step: int, piece: int) -> None:
        """Makes what follows a function of (seed, step, piece, rank) alone."""
        mixed = (((self.seed * 1_000_003 + step) * 1_009 + piece) * 4_099 + self.rank) % (1 << 63)
        # torch.manual_seed would also look for every other kind of device, which costs more than all else here.
        torch.default_generator.manual_seed(mixed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(mixed)
        elif self.device.type == "mps":
            torch.mps.manual_seed(mixed)

    def wait(self) -> None:
        """Until every process is here."""
        self.accelerator.wait_for_everyone()

    def total(self, x: torch.Tensor) -> torch.Tensor:
        """Sum over processes."""
        return x if self.world == 1 else self.accelerator.reduce(x, "sum")

    def backward(self, loss: torch.Tensor, model: Any, last: bool) -> None:
        """Adds gradients; between processes they are only spoken about at the last piece of a step."""
        if last or self.world == 1:
            self.accelerator.backward(loss)
        else:
            with self.accelerator.no_sync(model):
                self.accelerator.backward(loss)
