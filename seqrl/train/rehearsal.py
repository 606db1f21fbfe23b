"""A forward and a backward pass without numbers: which tensors would be alive, and how large they would be together.

Rules of thumb for activations (thirty numbers a token and unit of width, Korthikanti et al. 2022, arXiv 2205.05198) are true of
one build of one block. Here the model's own code runs, recomputation, chunks and ring included, on tensors that have shapes and
no numbers (torch's fake tensors), and every storage is counted while it lives. A body's blocks are all alike, so that two of
them tell of any number. What a kernel holds for itself while it runs is not seen, nor are gaps between tensors.

Letters: N tokens of this device, D width, V ids of a modality.
"""

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from seqrl.train.engine import Exchange
from seqrl.train.whole import blocks_of


class Live(TorchDispatchMode):
    """Counts the bytes of storages that are made while it is entered, from their making to their end.

    Attributes:
        now, peak: bytes alive, and the most there were since ``restart``.
        some: what ``nonzero`` answers of fake tensors: this share of all places.
    """

    def __init__(self, some: float = 1.0) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.some = some
        self._alive: dict[int, int] = {}

    def restart(self) -> None:
        """Forgets the peak."""
        self.peak = self.now

    def forget(self, t: Tensor) -> None:
        """Counts a tensor no longer."""
        self._end(t.untyped_storage()._cdata)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if args and isinstance(args[0], FakeTensor):
            # Nobody has numbers here. Who looks at one sees 0; of places that are looked for, so many are found.
            if func is torch.ops.aten._local_scalar_dense.default:
                return 0
            if func is torch.ops.aten.nonzero.default:
                found = torch.empty(max(1, round(args[0].numel() * self.some)), args[0].ndim, dtype=torch.int64)
                self._begin(found)
                return found
        for t in tree_leaves((args, kwargs)):
            if isinstance(t, Tensor):
                # What was there before is not ours, and neither are views of it.
                self._begin(t, 0)
        out = func(*args, **(kwargs or {}))
        for t in tree_leaves(out):
            if isinstance(t, Tensor):
                self._begin(t)
        return out

    def _begin(self, t: Tensor, size: int | None = None) -> None:
        storage = t.untyped_storage()
        key = storage._cdata
        if key not in self._alive:
            self._alive[key] = size = storage.nbytes() if size is None else size
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._end, key)

    def _end(self, key: int) -> None:
        self.now -= self._alive.pop(key, 0)


class Nobody(Exchange):
    """Other ranks that are not there: what would come is made here, without numbers.

    Attributes:
        sent: bytes given away. held: most bytes that were under way at once.
    """

    def __init__(self) -> None:
        self.sent = self.held = 0
        self._old, self._before = [], 0

    def start(self, give: Tensor | None, to: int, shape: tuple[int, ...] | None, come: int, tag: int, like: Tensor) -> Any:
        buffer = None if shape is None else torch.empty(shape, dtype=like.dtype)
        size = sum(t.numel() * t.element_size() for t in (give, buffer) if t is not None)
        self.sent += 0 if give is None else give.numel() * give.element_size()
        # Those of the step before are still read while these are under way.
        self.held, self._before = max(self.held, size + self._before), size
        return SimpleNamespace(buffer=buffer, coming=[], going=[], held=give, device=like.device)


@dataclass(frozen=True)
class Pass:
    """What one device holds of activations, in bytes.

    Args:
        layer: kept by each block from its forward to its backward pass.
        head: at most until the scores' gradient is there, and tail: from then on; blocks' keeping left out of both.
        ring: of it, keys and values under way.
        sent: by one block in one forward and backward pass, to other ranks of its row.
        fed: the input of a block, which ``offload`` keeps in the host's memory.
    """

    layer: float
    head: float
    tail: float
    ring: float
    sent: float
    fed: float


def unreal() -> FakeTensorMode:
    """A context in which new tensors have no numbers; those of two contexts do not mix."""
    return FakeTensorMode()


def hollow(module: nn.Module, half: Callable[[str], bool] = lambda name: False) -> None:
    """Puts fake tensors in the place of a meta module's, in the context of ``unreal``; shared ones stay shared.

    Args:
        half: whether the weight of a name is in bfloat16 when it is computed with.
    """
    made: dict[int, nn.Parameter] = {}
    for prefix, part in module.named_modules():
        for name, p in part._parameters.items():
            if p is not None and id(p) not in made:
                dtype = torch.bfloat16 if half(f"{prefix}.{name}") and p.is_floating_point() else p.dtype
                made[id(p)] = nn.Parameter(torch.empty(p.shape, dtype=dtype), requires_grad=p.requires_grad)
            if p is not None:
                part._parameters[name] = made[id(p)]
        for name, b in part._buffers.items():
            if b is not None:
                part._buffers[name] = torch.empty(b.shape, dtype=b.dtype)


def shorten(body: nn.Module, blocks: int) -> None:
    """Leaves only the first blocks of a body."""
    for part in body.modules():
        if isinstance(part, nn.ModuleList) and len({type(m) for m in part}) == 1:
            del part[blocks:]
            break
    config = getattr(body, "config", None)
    if hasattr(config, "num_hidden_layers"):
        # Some decoders count by their config, and some check that a list in it is as long.
        config = body.decoder.config
        for name in ("layer_types", "no_rope_layers"):
            if isinstance(kinds := getattr(config, name, None), list):
                setattr(config, name, kinds[:blocks])
        config.num_hidden_layers = blocks


def rehearse(
    model: nn.Module, body: nn.Module, run: Callable[[], Tensor], half: bool, exchange: Nobody | None, some: float = 1.0
) -> Pass:
    """One pass of a model with fake weights, forth and back; its gradients are not counted once they are whole.

    Args:
        body: its trunk, with at least two blocks.
        run: the forward pass, to the number that is descended.
        half: whether arithmetic is in bfloat16.
        exchange: of its cut, if its rows are cut.
        some: of all places, those that one modality's scores are made for.
    """
    live, blocks = Live(some), list(blocks_of(body))
    seen: list[int] = []
    fed: list[int] = []
    peaks: dict[str, int] = {}

    def after_block(module: nn.Module, args: Any, out: Any) -> None:
        if len(seen) < len(blocks):
            x = args[0]
            fed.append(x.numel() * x.element_size())
            seen.append(live.now)

    def after_body(module: nn.Module, args: Any, out: Tensor) -> None:
        def told(grad: Tensor) -> None:
            peaks["head"] = live.peak
            live.restart()

        out.register_hook(told)

    hooks = [b.register_forward_hook(after_block) for b in blocks] + [body.register_forward_hook(after_body)]
    trained = [p for p in model.parameters() if p.requires_grad]
    hooks += [p.register_post_accumulate_grad_hook(lambda p: live.forget(p.grad)) for p in trained]
    try:
        with live:
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                loss = run()
            loss.backward()
    finally:
        for hook in hooks:
            hook.remove()
        for p in trained:
            p.grad = None
    layer = float(seen[1] - seen[0])
    keeping = layer * len(blocks)
    ring, sent = (0, 0.0) if exchange is None else (exchange.held, exchange.sent / len(blocks))
    return Pass(layer, peaks["head"] - keeping, live.peak - keeping, ring, sent, float(fed[0]))
