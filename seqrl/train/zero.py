"""Optimiser and gradients (ZeRO-2), or weights as well (ZeRO-3), dealt out over all processes by DeepSpeed.

DeepSpeed is imported only here, and only when it is asked for. Its own entry is called and not Accelerate's, which drops it
without a word where a CPU is asked for. Nothing of it is compiled: its optimisers and its shared-memory collectives would be,
for minutes, at the first run; AdamW is torch's, and collectives are those of the process group.
"""

import logging
import os
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from seqrl.core.errors import RecipeError
from seqrl.train.moments import STEP, Moments, names_of
from seqrl.train.whole import Last, Whole, blocks_of, loose_of
from seqrl.train.zero_json import complete


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

    def __init__(
        self, stage: int, device: torch.device, precision: str, world: int, rank: int, given: Mapping[str, Any] | None = None
    ) -> None:
        self.stage, self.device, self.world, self.rank, self.given = stage, device, world, rank, given
        self.half = torch.bfloat16 if precision == "bf16" else None
        self.library = _deepspeed(device.type == "cpu")
        self.library.init_distributed(dist_backend="nccl" if device.type == "cuda" else "gloo", verbose=False)
        self.clip: float | None = None
        self.pieces = 1
        self._engine: Any = None

    def prepare(self, model: nn.Module, optimizer: Any) -> tuple[Any, Any]:
        """The wrapped model, and the optimiser of its shards, which ``optimizer(model)`` makes before they are dealt out."""
        if self._engine is not None:
            self._engine.destroy()
        whole = Whole(model.to(self.device), self.half, touch=False)
        made = optimizer(model)
        self._names, self._names_of = dict(model.state_dict(keep_vars=True)), names_of(model)
        settings = complete(self.given, self.stage, self.pieces, self.clip, self.device.type == "cpu")
        try:
            self._engine, wrapped, _, _ = self.library.initialize(model=whole, optimizer=made, config=settings)
        except (ValueError, AssertionError) as e:
            raise RecipeError(f"engine.deepspeed: DeepSpeed does not take this: {str(e)[:500]}") from e
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
        """This process's pieces of the moments, and the steps if it is process 0; not copied."""
        found = {}
        for flat, pieces in self._flat():
            for key, value in optimizer.state.get(flat, {}).items():
                for piece in pieces:
                    if key != STEP and piece.start < piece.stop:
                        mine = value.detach().narrow(0, piece.at, piece.stop - piece.start)
                        found[f"shard/{key}/{piece.name}"] = mine
                    elif key == STEP and self.rank == 0:
                        found[f"optimizer/{key}/{piece.name}"] = value
        return found

    def _flat(self) -> list[tuple[Tensor, list["Piece"]]]:
        """This process's part of every group of weights, in fp32, as DeepSpeed steps it; and what lies where in it."""
        wrapped, found = self._engine.optimizer, []
        if self.stage == 3:
            for flat, group in zip(wrapped.fp32_partitioned_groups_flat, wrapped.fp16_groups, strict=True):
                pieces, at = [], 0
                for p in group:
                    # Each is dealt out by itself; the last processes may have less of it, or nothing.
                    start = min(self.rank * p.partition_numel(), p.ds_numel)
                    stop = min(start + p.partition_numel(), p.ds_numel)
                    pieces.append(Piece(self._names_of[id(p)], at, start, stop))
                    at += p.partition_numel()
                found.append((flat, pieces))
            return found
        for i, flat in enumerate(wrapped.single_partition_of_fp32_groups):
            group = wrapped.round_robin_bit16_groups[i]
            sizes = [p.numel() for p in group]
            # Versions of before alignment lay them end to end.
            begins = getattr(wrapped, "round_robin_bit16_offsets", {i: [sum(sizes[:k]) for k in range(len(sizes))]})[i]
            left, pieces = self.rank * flat.numel(), []
            for p, begin, size in zip(group, begins, sizes, strict=True):
                start, stop = max(left - begin, 0), min(left + flat.numel() - begin, size)
                pieces.append(Piece(self._names_of[id(p)], max(begin - left, 0), min(start, size), max(stop, min(start, size))))
            found.append((flat, pieces))
        return found

    def order(self, optimizer: Any) -> list[str]:
        """The names of the optimiser's parameters, in its order."""
        wrapped = self._engine.optimizer
        groups = wrapped.fp16_groups if self.stage == 3 else wrapped.bit16_groups
        return [self._names_of[id(p)] for group in groups for p in group]

    def restore(self, optimizer: Any, moments: Moments) -> None:
        """Puts moments back, of each this process's pieces; what was left unnamed as it was."""
        for i, (flat, pieces) in enumerate(self._flat()):
            for (number, key), value in moments.by_number(self.rank).items():
                if number == i:
                    optimizer.state[flat][key] = value.to(flat.device)
            # One count for all of a group: who took fewer steps had no gradient for a while, which here is one of zeros.
            steps = [moments.step(p.name) for p in pieces if STEP in moments.of(p.name)]
            if steps:
                optimizer.state[flat][STEP] = torch.stack(steps).max().to(flat.device)
            for key in sorted({k for p in pieces for k in moments.of(p.name)} - {STEP}):
                mine = torch.zeros_like(flat, requires_grad=False)
                for p in pieces:
                    if key in moments.of(p.name) and p.start < p.stop:
                        mine[p.at : p.at + p.stop - p.start] = moments.piece(p.name, key, p.start, p.stop)
                optimizer.state[flat][key] = mine


@dataclass(frozen=True)
class Piece:
    """Numbers ``start`` to ``stop`` of a flattened parameter, which stand at ``at`` in a process's part of a group."""

    name: str
    at: int
    start: int
    stop: int


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
