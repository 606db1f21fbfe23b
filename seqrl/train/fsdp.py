"""Weights, gradients and optimiser dealt out over all processes by torch itself (``fully_shard``, FSDP2).

Directly, and not by way of Accelerate, which on CPU makes DDP of it without a word. Each block of a body is a unit that is
gathered when it is computed; all that stands outside of blocks is one more.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from seqrl.core.errors import RecipeError
from seqrl.train.moments import STEP, Moments, names_of, parameters_of
from seqrl.train.whole import Whole, blocks_of


class Fsdp:
    """FSDP2 over all processes, data and sequence alike."""

    sharded = True

    def __init__(self, device: torch.device, precision: str, world: int, rank: int) -> None:
        self.device, self.world, self.rank = device, world, rank
        self.half = torch.bfloat16 if precision == "bf16" else None

    def prepare(self, model: nn.Module, optimizer: Any) -> tuple[Any, Any]:
        """The wrapped model, and the optimiser of its shards, which ``optimizer(model)`` makes."""
        mesh = init_device_mesh(self.device.type, (self.world,), mesh_dim_names=("all",))
        policy = MixedPrecisionPolicy(param_dtype=self.half, reduce_dtype=torch.float32, cast_forward_inputs=False)
        whole = Whole(model.to(self.device), self.half, touch=True)
        for block in blocks_of(model):
            fully_shard(block, mesh=mesh, mp_policy=policy)
        fully_shard(whole, mesh=mesh, mp_policy=policy)
        if not isinstance(whole, FSDPModule) or not all(isinstance(p, DTensor) for p in model.parameters()):
            raise RecipeError("engine: fsdp is asked for, and some weights were not sharded")
        self._names = names_of(model)
        return whole, optimizer(model)

    def backward(self, loss: Tensor, model: Any, last: bool) -> None:
        """Adds gradients, in shards; each piece of a step is spoken about, for no process has room for whole ones."""
        loss.backward()

    def step(self, model: Any, optimizer: Any, parameters: list[nn.Parameter], clip: float | None) -> Any:
        """Clips by the norm over all shards, steps, forgets the gradients; the norm from before clipping."""
        norm = None
        if clip is not None:
            norm = torch.nn.utils.clip_grad_norm_([p for p in parameters if p.grad is not None], clip, foreach=True)
            norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return norm

    @torch.no_grad()
    def weights(self, bare: nn.Module) -> dict[str, Tensor]:
        """All weights, whole, in the host's memory of process 0; nothing on the others. Everyone must ask."""
        found = {}
        for name, t in bare.state_dict().items():
            full = t.full_tensor() if isinstance(t, DTensor) else t
            if self.rank == 0:
                found[name] = full.detach().cpu().clone()
        return found

    def shards(self, optimizer: Any) -> dict[str, Tensor]:
        """This process's pieces of the moments, and the steps if it is process 0; not copied."""
        found = {}
        for p in parameters_of(optimizer):
            name = self._names[id(p)]
            for key, value in optimizer.state.get(p, {}).items():
                if key != STEP:
                    found[f"shard/{key}/{name}"] = value.to_local().detach().flatten()
                elif self.rank == 0:
                    found[f"optimizer/{key}/{name}"] = value
        return {n: t for n, t in found.items() if t.numel()}

    def order(self, optimizer: Any) -> list[str]:
        """The names of the optimiser's parameters, in its order."""
        return [self._names[id(p)] for p in parameters_of(optimizer)]

    def restore(self, optimizer: Any, moments: Moments) -> None:
        """Puts moments back, of each this process's rows."""
        for p in parameters_of(optimizer):
            name, local = self._names[id(p)], p.to_local()
            rows = -(-len(p) // self.world)
            start = min(self.rank * rows, len(p)) * (p.numel() // len(p))
            for key in moments.of(name):
                if key == STEP:
                    optimizer.state[p][key] = moments.step(name).to(self.device)
                    continue
                mine = moments.piece(name, key, start, start + local.numel()).view(local.shape).to(self.device)
                whole = {"shape": p.shape, "stride": p.stride()}
                optimizer.state[p][key] = DTensor.from_local(mine, p.device_mesh, p.placements, **whole)
