"""One rank of ``ring.py``'s processes: ``python _ring.py JOB``, where JOB is JSON; it prints what it found as JSON.

A job says what to run (``what``), on how many tokens, over how many ranks and which of them this is, over which documents and
in which layout. Processor seconds are of this process alone. Memory is how much more the process held at most than before it
began, inputs included, as Linux counts it (VmHWM against VmRSS).
"""

import ctypes
import json
import os
import sys
import time
from functools import partial

import torch
import torch.distributed as dist
import torch.nn.functional as F

from seqrl.context.cut import cut_rows
from seqrl.context.exchange import Exchange
from seqrl.context.ring import ring_attention

H, D = 8, 64


def sdpa(q, k, v):
    """One document, torch's own causal attention."""
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def dense(q, k, v, mask):
    """Many documents as transformers' sdpa has them: a mask of every query and key."""
    return F.scaled_dot_product_attention(q, k, v, mask)


def draw(places: torch.Tensor) -> list[torch.Tensor]:
    """Queries, keys, values and the gradient of the output at some places."""
    make = torch.Generator().manual_seed(0)
    q, k, v, grad = (torch.randn(1, H, len(places), D, generator=make) for _ in range(4))
    return [*(t.requires_grad_() for t in (q, k, v)), grad]


def held(which: str) -> float:
    """MiB this process holds now (VmRSS) or has ever held (VmHWM)."""
    with open("/proc/self/status", encoding="ascii") as file:
        (line,) = (x for x in file if x.startswith(which))
    return int(line.split()[1]) / 1024


def work(job: dict, exchange: Exchange | None):
    """What is timed, as a function of q, k and v; and how many tokens it is given."""
    pack = torch.zeros(job["tokens"], dtype=torch.int64)
    pack[job["documents"][1:-1]] = 1
    pack = pack.cumsum(0)[None]
    if job["what"] == "ring":
        cut = cut_rows(pack, exchange, job["ranks"], job["rank"], job["layout"])
        return partial(ring_attention, cut=cut), cut.at
    places = torch.arange(job["tokens"])
    if job["what"] == "dense":
        return partial(dense, mask=(pack[0, :, None] == pack[0]).tril_()[None, None]), places
    return sdpa, places


def main() -> None:
    job = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    exchange = None
    if job["ranks"] > 1:
        dist.init_process_group("gloo", init_method=f"file://{job['store']}", rank=job["rank"], world_size=job["ranks"])
        exchange = Exchange(dist.new_group(list(range(job["ranks"]))))
    if job["exact"]:
        # Everything large is a mapping of its own that goes back when it is freed, so that what is held is what lives. It
        # costs time. (-3 is M_MMAP_THRESHOLD.)
        ctypes.CDLL(None).mallopt(-3, 1 << 16)
    wide = {"tokens": 64 * job["ranks"], "documents": [0, 64 * job["ranks"]]}
    found = {"cpu": [], "wall": []}
    for index, now in enumerate([job | wide, *[job] * job["rounds"]]):
        before = held("VmRSS")
        function, places = work(now, exchange)
        q, k, v, grad = draw(places)
        if job["ranks"] > 1:
            dist.barrier()
        began, busy = time.perf_counter(), time.process_time()
        function(q, k, v).backward(grad)
        cpu, wall = time.process_time() - busy, time.perf_counter() - began
        del q, k, v, grad, function
        if index:
            found["cpu"].append(cpu)
            found["wall"].append(wall)
            found.setdefault("memory", held("VmHWM") - before)
    print(json.dumps(found), flush=True)
    if job["ranks"] > 1:
        dist.barrier()
    os._exit(0)


if __name__ == "__main__":
    main()
