"""Intervals of keys on their way from one rank to another while the kernels are busy with those that came before.

At step i every rank sends to the rank i after it and receives from the rank i before it: each pair speaks to each other
directly, and nobody passes on what is not his. Nothing waits at ``start``; ``wait`` gives the tensor that was asked for. Where
the library moves host memory only (gloo) and tensors lie on a GPU, they go through the host.

A group should have one ``Exchange``, and nothing else should use the group: NCCL matches messages of a group by their order.
"""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from seqrl.context.errors import LostRank

KEYS, GRADIENTS = 1, 2
"""Tags: keys and values on their way to a reader, their gradients on the way back."""


@dataclass
class Parcel:
    """What is under way in one step: a buffer that fills, those who fill it, and where it should end up."""

    buffer: Tensor | None
    coming: list[tuple[int, "dist.Work"]]
    going: list[tuple[int, "dist.Work"]]
    held: Tensor | None
    device: torch.device


class Exchange:
    """Sends and receives within one process group.

    Args:
        group: of the ranks a sequence is cut over, in order; used by nothing else.
    """

    def __init__(self, group: "dist.ProcessGroup") -> None:
        self.group = group
        self.ranks, self.rank = dist.get_world_size(group), dist.get_rank(group)
        self.by_order = dist.get_backend(group) != dist.Backend.GLOO
        self.sent = 0
        """Bytes sent since the beginning."""
        if self.by_order:
            # The first message of a NCCL group must be everybody's, and in some steps nobody needs anything of some ranks.
            dist.all_reduce(torch.zeros((), device="cuda" if torch.cuda.is_available() else "cpu"), group=group)
        self._old: list[tuple[list[tuple[int, dist.Work]], Tensor | None]] = []

    def start(self, give: Tensor | None, to: int, shape: tuple[int, ...] | None, come: int, tag: int, like: Tensor) -> Parcel:
        """Begins one step.

        Args:
            give: what to send, contiguous, or None.
            to, come: whom to send it to, and whom to receive from, as ranks of the group.
            shape: of what is to be received, or None.
            like: dtype and device of what is to be received.

        Raises:
            LostRank: a rank that is gone already.
        """
        host = not self.by_order and like.device.type != "cpu"
        if give is not None:
            give = give.cpu() if host else give
            self.sent += give.numel() * give.element_size()
        buffer = None
        if shape is not None:
            buffer = torch.empty(shape, dtype=like.dtype, device="cpu" if host else like.device, pin_memory=host)
        ends = [(dist.isend, give, self._world(to)), (dist.irecv, buffer, self._world(come))]
        ends = [e for e in ends if e[1] is not None]
        if self.by_order:
            # One launch for both directions; what it answers stands for both.
            works = dist.batch_isend_irecv([dist.P2POp(op, t, peer, self.group, tag) for op, t, peer in ends]) if ends else []
            return Parcel(buffer, [(self._world(come), w) for w in works], [], give, like.device)
        found = {}
        for op, tensor, peer in ends:
            try:
                found[op] = [(peer, op(tensor, peer, group=self.group, tag=tag))]
            except RuntimeError as e:
                raise LostRank(peer, str(e)) from e
        return Parcel(buffer, found.get(dist.irecv, []), found.get(dist.isend, []), give, like.device)

    def wait(self, parcel: Parcel) -> Tensor | None:
        """What was received, once it is there.

        Raises:
            LostRank: it does not come within the group's timeout, or the sender is gone.
        """
        _wait(parcel.coming)
        # What was sent a step ago must be gone before more is held: buffers do not grow with the ranks.
        self.finish()
        self._old.append((parcel.going, parcel.held))
        return None if parcel.buffer is None else parcel.buffer.to(parcel.device, non_blocking=True)

    def finish(self) -> None:
        """Waits until all that was sent has gone.

        Raises:
            LostRank: a reader that is gone.
        """
        for going, _ in self._old:
            _wait(going)
        self._old.clear()

    def _world(self, rank: int) -> int:
        return dist.get_global_rank(self.group, rank)


def _wait(works: list[tuple[int, "dist.Work"]]) -> None:
    for peer, work in works:
        try:
            work.wait()
        except RuntimeError as e:
            raise LostRank(peer, str(e)) from e
