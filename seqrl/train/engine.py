"""Where the numbers are crunched: who trains together, who has which rows and which piece of them, and who keeps which weights.

What is kept where is said in files of their own: plain.py (Accelerate, DDP), zero.py (DeepSpeed), fsdp.py (torch). This file
alone reaches into ``context``. Dropout noise is a pure function of (seed, step, piece, rank): the generator is seeded anew
for every piece, so no generator state needs saving and evaluation in between cannot disturb training.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from seqrl.context.cut import Cut, cut_rows
from seqrl.context.errors import ContextError
from seqrl.context.exchange import Exchange
from seqrl.context.layouts import ring_share
from seqrl.context.mesh import Mesh
from seqrl.context.stages import Span, at
from seqrl.core.errors import RecipeError
from seqrl.train.around import started
from seqrl.train.plain import Plain
from seqrl.train.processes import Company, join
from seqrl.train.settings import EngineConfig, StageConfig
from seqrl.train.whole import bodies_of


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


def span_of(stages: list[StageConfig] | None, step: int, steps: int) -> Span:
    """The stage that a step belongs to; one of ``steps`` steps where the recipe has none."""
    return at(stages, step) if stages else Span(0, 0, steps)


@contextmanager
def _named() -> Iterator[None]:
    """What cannot be cut is a mistake of the recipe."""
    try:
        yield
    except ContextError as e:
        raise RecipeError(f"engine.sequence: {e}") from e


class Engine:
    """A thin face on whoever places the weights, and on the other processes: what the loop needs and no more."""

    def __init__(self, device: str, precision: str, seed: int, packed: bool = False, how: EngineConfig | None = None) -> None:
        """
        Args:
            device, precision, seed: as in the recipe's ``train``.
            packed: rows are packed from several domains, so a process may meet none of some domain's steps, and between
                processes its parameters must not be waited for.
            how: the recipe's ``engine``.

        Raises:
            RecipeError: there are more or fewer processes than asked for, or they do not divide; an engine that is not there.
        """
        self.how, self.seed = how or EngineConfig(), seed
        chosen = choose_device(device)
        # A shared sequence needs two processes at least; whoever started more than it needs meant other rows for the others.
        wanted = self.how.wanted if (started() or 1) == 1 else self.how.processes
        self.rank, self.world = join(wanted, chosen, self.how.timeout)
        with _named():
            self.mesh = Mesh(self.world, self.rank, self.how.sequence, self.how.timeout)
        self.kind = "ddp" if self.how.kind == "auto" else self.how.kind
        if self.kind != "ddp" and self.world == 1:
            raise RecipeError(
                f"engine.kind: {self.kind} shards over processes, and one is running; give engine.processes=2 or more"
            )
        self.place = self._place(chosen, precision, packed)
        self.device, self.main = self.place.device, self.rank == 0
        self.company = Company(self.rank, self.world)
        self.exchange = Exchange(self.mesh.sequence_group) if self.how.sequence > 1 else None
        self.sizes: Mapping[str, int] = {}
        """How many numbers each parameter of the prepared model has, whole."""
        self._asked: Tensor | None = None

    def _place(self, chosen: str, precision: str, packed: bool) -> Any:
        if self.kind == "ddp":
            return Plain(chosen == "cpu", precision, packed)
        device = torch.device("cuda", torch.cuda.current_device()) if chosen == "cuda" else torch.device(chosen)
        # Each imports what it needs, and takes its time for it.
        if self.kind == "fsdp":
            from seqrl.train.fsdp import Fsdp

            return Fsdp(device, precision, self.world, self.rank)
        from seqrl.train.zero import Zero

        return Zero(int(self.kind[-1]), device, precision, self.world, self.rank, self.how.deepspeed)

    # ---- the model --------------------------------------------------------------------------------------------------

    def prepare(self, model: nn.Module, optimizer: Any, clip: float | None = None, pieces: int = 1) -> tuple[Any, Any]:
        """Makes a model ready for long rows and deals out what is to be dealt.

        Args:
            model: with whole weights.
            optimizer: one of its parameters, or what makes one of a model: where weights are dealt out only that will do.
            clip, pieces: the largest norm of the gradient, and in how many pieces a step's comes.

        Raises:
            RecipeError: the model's bodies cannot do what ``engine`` asks for.
        """
        model.to(self.device)
        self._lengthen(model)
        self.sizes = {name: p.numel() for name, p in model.named_parameters()}
        self.place.clip, self.place.pieces = clip, pieces
        return self.place.prepare(model, optimizer)

    def _lengthen(self, model: nn.Module) -> None:
        how, bodies = self.how, bodies_of(model)
        if not bodies and (how.ring or how.recompute != "none" or how.chunk):
            raise RecipeError(f"engine: {type(model).__name__} has no body that can attend by ring or be computed again")
        for body in bodies:
            if how.recompute != "none" or how.chunk:
                body.recompute(how.recompute, how.chunk)
            if how.ring:
                body.prepare_ring()
            if self.exchange is not None:
                body.prove_ring(self.how.sequence, self.cut)

    def bare(self, model: Any) -> Any:
        """The model without its wrappers (Accelerate's own way of finding it imports DeepSpeed, which takes seconds)."""
        while (inner := getattr(model, "_orig_mod", None) or getattr(model, "module", None)) is not None:
            model = inner
        return model

    def sums(self, model: Any, batch: Any) -> Mapping[str, tuple[Tensor, Tensor]]:
        """name -> sum and count of a batch's losses, or of this process's piece of it."""
        told = model(batch)
        return told if isinstance(told, dict) else told.sums()

    # ---- rows -------------------------------------------------------------------------------------------------------

    def check_rows(self, rows: int, length: int | None) -> None:
        """Raises RecipeError where ``rows`` rows of ``length`` tokens cannot be cut for the processes that share them."""
        if self.exchange is not None and length is not None:
            with _named():
                ring_share(length, self.how.sequence, self.how.layout, rows)

    def cut(self, pack: Tensor) -> Cut:
        """This process's piece of rows ``[B, L]``; everyone of its sequence group must ask for the same."""
        mesh = self.mesh
        with _named():
            return cut_rows(pack, self.exchange, mesh.sequence_ranks, mesh.sequence_rank, self.how.layout)

    def share(self, batch: Any) -> Any:
        """A batch with this process's piece of it marked; by ring also where that is all: packed rows then need no mask."""
        cuts = self.exchange is not None or (self.how.ring and hasattr(batch, "pack"))
        return replace(batch, cut=self.cut(batch.pack)) if cuts else batch

    # ---- a step -----------------------------------------------------------------------------------------------------

    def reseed(self, step: int, piece: int) -> None:
        """Makes what follows a function of (seed, step, piece, rank) alone."""
        mixed = (((self.seed * 1_000_003 + step) * 1_009 + piece) * 4_099 + self.rank) % (1 << 63)
        # torch.manual_seed would also look for every other kind of device, which costs more than all else here.
        torch.default_generator.manual_seed(mixed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(mixed)
        elif self.device.type == "mps":
            torch.mps.manual_seed(mixed)

    def total(self, x: Tensor) -> Tensor:
        """Sum over processes."""
        if self.world > 1:
            x = x.clone()
            torch.distributed.all_reduce(x)
        return x

    def totals(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Sums over processes of some scalars, in one word."""
        if self.world == 1 or not values:
            return dict(values)
        all_ = self.total(torch.stack([v.double() for v in values.values()]))
        return {n: t.to(v.dtype) for (n, v), t in zip(values.items(), all_, strict=True)}

    def backward(self, loss: Tensor, model: Any, last: bool) -> None:
        """Adds gradients; ``last`` says that it is the last piece of a step."""
        self.place.backward(loss, model, last)

    # ---- the others -------------------------------------------------------------------------------------------------

    def wait(self) -> None:
        """Until every process is here."""
        if self.world > 1:
            torch.distributed.barrier()

    def alone(self, work: Callable[[], Any]) -> Any:
        """The first process works, the others wait for it."""
        return self.company.alone(work)

    def agree(self, asked: int) -> int:
        """Whether any process was asked to stop (by which signal; 0: none), the same for all.

        On a GPU what was asked a step ago, so that nobody waits for the answer.
        """
        if self.world == 1:
            return asked
        before, self._asked = self._asked, torch.tensor(asked, device=self.device)
        torch.distributed.all_reduce(self._asked, torch.distributed.ReduceOp.MAX)
        told = self._asked if self.device.type == "cpu" else before
        return 0 if told is None else int(told)
