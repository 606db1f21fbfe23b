"""Optimiser and gradients (ZeRO-2), or weights as well (ZeRO-3), dealt out over all processes by DeepSpeed.

DeepSpeed is imported only here, and only when it is asked for. Its own entry is called and not Accelerate's, which drops it
without a word where a CPU is asked for. Nothing of it is compiled: its optimisers and its shared-memory collectives would be,
for minutes, at the first run; AdamW is torch's, and collectives are those of the process group.
"""

import logging
import os
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from seqrl.core.errors import RecipeError
from seqrl.train.whole import Last, Whole, blocks_of, loose_of, pack_moments, unpack_moments


def _deepspeed(cpu: bool) -> Any:
    """The library, kept from compiling and from chatting; raises RecipeError where it is not there."""
    if cpu:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    try:
        logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
        import deepspeed
        from deepspeed.utils import logger
    except ImportError as e:
        raise RecipeError(f"engine: zero2 and zero3 need DeepSpeed, which cannot be imported ({e}); take ddp or fsdp") from e
    logger.setLevel(logging.ERROR)
    # Given as a whole, for to ask for this table makes DeepSpeed try its compilers.
    deepspeed.ops.__compatible_ops__ = defaultdict(bool)
    return deepspeed


class Zero:
    """DeepSpeed's engine, stage 2 or 3."""

    sharded = True

    def __init__(self, stage: int, device: torch.device, precision: str, world: int, rank: int) -> None:
        self.stage, self.device, self.world, self.rank = stage, device, world, rank
        self.half = torch.bfloat16 if precision == "bf16" else None
        self.library = _deepspeed(device.type == "cpu")
        self.library.init_distributed(dist_backend="nccl" if device.type == "cuda" else "gloo", verbose=False)
        self.clip: float | None = None
        self.pieces = 1
        self._engine: Any = None

    def settings(self) -> dict[str, Any]:
        """DeepSpeed's own."""
        zero = {"stage": self.stage, "overlap_comm": self.device.type == "cuda", "stage3_param_persistence_threshold": 0}
        return {
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": self.pieces,
            "zero_optimization": zero,
            "gradient_clipping": self.clip or 0.0,
            "zero_allow_untested_optimizer": True,
            "bf16": {"enabled": False},
            "fp16": {"enabled": False},
            "steps_per_print": 1 << 60,
        }

    def prepare(self, model: nn.Module, optimizer: Any) -> tuple[Any, Any]:
        """The wrapped model, and the optimiser of its shards, which ``optimizer(model)`` makes before they are dealt out."""
        if self._engine is not None:
            self._engine.destroy()
        whole = Whole(model.to(self.device), self.half, touch=False)
        made = optimizer(model)
        self._names = dict(model.state_dict(keep_vars=True))
        self._engine, wrapped, _, _ = self.library.initialize(model=whole, optimizer=made, config=self.settings())
        if not isinstance(self._engine, self.library.DeepSpeedEngine) or self._engine.zero_optimization_stage() != self.stage:
            raise RecipeError(f"engine: zero{self.stage} is asked for, and DeepSpeed is not active")
        self._stand_in(model, wrapped)
        return self._engine, wrapped.optimizer

    def _stand_in(self, model: nn.Module, wrapped: Any) -> None:
        """Puts stand-ins where weights stand outside of blocks; of those DeepSpeed hears at the end alone (``Last``).

        In stage 3 the weights themselves stay gathered: which of them is used may differ from process to process.
        """
        self._loose, self._stands = [], []
        stands: dict[int, nn.Parameter] = {}
        for module, name in loose_of(model):
            weight = module._parameters.pop(name)
            if id(weight) not in stands:
                stands[id(weight)] = nn.Parameter(weight.data, weight.requires_grad)
                self._loose.append(weight)
                self._stands.append(stands[id(weight)])
            # Not as a parameter: DeepSpeed's hooks look at those.
            object.__setattr__(module, name, stands[id(weight)])
        if self.stage == 3 and self._loose:
            for p in self._loose:
                p.ds_persist = True
            wrapped.persistent_parameters.extend(self._loose)
            self._loose[0].all_gather(self._loose)
            _unhook(self._engine.module, model)
        self._follow()

    def _follow(self) -> None:
        for stand, weight in zip(self._stands, self._loose, strict=True):
            stand.data = weight.data

    def backward(self, loss: Tensor, model: Any, last: bool) -> None:
        """Adds gradients; DeepSpeed counts the pieces of a step itself, and would divide by their number."""
        self._engine.backward(Last.apply([loss], self._stands, *self._loose), scale_wrt_gas=False)
        if not last:
            self._engine.step()

    def step(self, model: Any, optimizer: Any, parameters: list[nn.Parameter], clip: float | None) -> Any:
        """Clips by the norm over all shards, steps, forgets the gradients; the norm from before clipping."""
        if self.stage == 3 and (trained := [p for p in self._loose if p.requires_grad]):
            # DeepSpeed gathers them again after its step, for those that are not gathered.
            trained[0].partition(trained)
        self._engine.step()
        self._follow()
        return None if clip is None else self._engine.get_global_grad_norm()

    @torch.no_grad()
    def weights(self, bare: nn.Module) -> dict[str, Tensor]:
        """All weights, whole, in the host's memory of process 0; nothing on the others. Everyone must ask."""
        found, there = {}, {id(p) for p in self._loose}
        for name, t in self._names.items():
            # What stays gathered would be dealt out again on leaving.
            away = [t] if hasattr(t, "ds_id") and id(t) not in there else []
            with self.library.zero.GatheredParameters(away, enabled=self.stage == 3):
                if self.rank == 0:
                    found[name] = t.detach().cpu().clone()
        return found

    def shards(self, optimizer: Any) -> dict[str, Tensor]:
        """This process's moments."""
        return pack_moments(optimizer, self._flat(), lambda t: t)

    def _flat(self) -> list[Tensor]:
        """This process's part of every group of weights, in fp32, as DeepSpeed steps it."""
        wrapped = self._engine.optimizer
        return wrapped.fp32_partitioned_groups_flat if self.stage == 3 else wrapped.single_partition_of_fp32_groups

    def restore(self, optimizer: Any, tensors: Mapping[str, Tensor]) -> None:
        """Puts ``shards`` back."""
        unpack_moments(optimizer, self._flat(), tensors, lambda p, saved: saved.to(p.device, copy=True))


def _unhook(root: nn.Module, model: nn.Module) -> None:
    """Takes DeepSpeed's hooks off all modules outside of blocks.

    They would have nothing to gather, but from their order it learns what to gather ahead: where that differs from process to
    process, each waits for another gathering.
    """
    inside = {id(m) for block in blocks_of(model) for m in block.modules()}
    for module in model.modules():
        if id(module) not in inside and module is not root:
            for hooks in (module._forward_pre_hooks, module._forward_hooks):
                for key in [k for k, h in hooks.items() if str(getattr(h, "__module__", "")).startswith("deepspeed")]:
                    del hooks[key]
