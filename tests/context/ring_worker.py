"""One rank of the processes that test_ring.py starts: ``python ring_worker.py RANK FOLDER``; it leaves its findings as JSON.

Four processes are one ring of 4 and, in groups of their own, two rings of 2, so that the group's ranks are not the world's.
Everybody draws the same whole row, works on its own piece, and compares with one process that has a mask.
"""

import json
import os
import sys
import time
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from seqrl.context.cut import cut_rows, documents_of, unshard
from seqrl.context.errors import LostRank
from seqrl.context.exchange import Exchange
from seqrl.context.layouts import LAYOUTS
from seqrl.context.ring import ring_attention
from seqrl.context.simulate import simulate

WORLD, D = 4, 8
HEADS = [(4, 4), (8, 2), (4, 1)]


def packs():
    """Rows of documents, some with padding, of 1 to many documents."""
    one = torch.zeros(1, 96, dtype=torch.int64)
    few = torch.tensor([[0] * 5 + [1] * 50 + [2] + [3] * 20 + [-1] * 20])
    many = torch.arange(96)[None] // 2
    each = torch.arange(96)[None]
    two = torch.tensor([[0] * 40 + [1] * 8, [0] * 13 + [1] * 22 + [-1] * 13])
    return {"one": one, "few": few, "many": many, "each": each, "two rows": two}


def draw(pack, H, G, dtype):
    make = torch.Generator().manual_seed(pack.numel() + H + G)
    L = pack.numel()
    return [torch.randn(1, h, L, D, generator=make, dtype=torch.float64).to(dtype) for h in (H, G, G, H)]


def masked(q, k, v, grad, pack):
    """Output and gradients in one process, with a mask."""
    edges = torch.tensor(documents_of(pack))
    number = torch.searchsorted(edges, torch.arange(pack.numel()), right=True)
    mask = (number[:, None] == number[None]).tril()
    q, k, v = (t.clone().requires_grad_() for t in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, mask, enable_gqa=True)
    return [out.detach(), *torch.autograd.grad(out, (q, k, v), grad)]


def ring(q, k, v, grad, cut, again=False):
    """This rank's output and gradients."""
    q, k, v, grad = (t[:, :, cut.at] for t in (q, k, v, grad))
    q, k, v = (t.requires_grad_() for t in (q, k, v))
    out = checkpoint(ring_attention, q, k, v, cut, use_reentrant=False) if again else ring_attention(q, k, v, cut)
    return [out.detach(), *torch.autograd.grad(out, (q, k, v), grad)]


def gap(found, wanted):
    return max(float((a.double() - b.double()).abs().max()) for a, b in zip(found, wanted, strict=True))


def exactness(exchange, found):
    """Every layout, heads and document mix against one process; bytes as planned."""
    for dtype in (torch.float64, torch.float32):
        for name, pack in packs().items():
            for H, G in HEADS if dtype == torch.float64 else HEADS[1:2]:
                whole = draw(pack, H, G, dtype)
                wanted = masked(*whole, pack)
                for layout in LAYOUTS:
                    cut = cut_rows(pack, exchange, exchange.ranks, exchange.rank, layout)
                    before = exchange.sent
                    mine = ring(*whole, cut)
                    key = f"{exchange.ranks} {name} {H}/{G} {layout} {dtype}"
                    found["gaps"][key] = gap(mine, [t[:, :, cut.at] for t in wanted])
                    # Keys and values go twice, forth and back, and gradients of those that were needed go home.
                    each = 2 * G * D * torch.finfo(dtype).bits // 8
                    found["bytes"][key] = [exchange.sent - before, each * (2 * cut.plan.sent + cut.plan.received)]
                    found["calls"].append(cut.calls)


def twins(exchange, found):
    """The simulation, recomputation, half precision, a gradient that is one number, and pieces put together again."""
    pack = packs()["few"]
    cut = cut_rows(pack, exchange, exchange.ranks, exchange.rank)
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        q, k, v, grad = draw(pack, 8, 2, dtype)
        mine = ring(q, k, v, grad, cut)
        q, k, v = (t.requires_grad_() for t in (q, k, v))
        out = simulate(q, k, v, documents_of(pack), exchange.ranks)
        theirs = [t[:, :, cut.at] for t in (out.detach(), *torch.autograd.grad(out, (q, k, v), grad))]
        found["simulated"][f"{exchange.ranks} {dtype}"] = [gap(mine[:2], theirs[:2]), gap(mine[2:], theirs[2:])]
        found["again"].append(gap(ring(*(t.detach() for t in (q, k, v)), grad, cut, again=True), mine))
    one = torch.ones((), dtype=torch.float64).expand(1, 8, 96, D)
    whole = draw(pack, 8, 2, torch.float64)[:3]
    found["expanded"].append(gap(ring(*whole, one, cut), [t[:, :, cut.at] for t in masked(*whole, one, pack)]))
    x = torch.randn(1, 96, 3, generator=torch.Generator().manual_seed(0))
    pieces = [torch.empty(1, len(cut.at), 3) for _ in range(exchange.ranks)]
    dist.all_gather(pieces, cut.take(x), group=exchange.group)
    found["whole"].append(torch.equal(unshard(pieces, cut.plan), x))


def leaks(exchange, found):
    """Another text in one document, and every other document's outputs and gradients are the same bits."""
    for name in ("few", "two rows"):
        pack = packs()[name]
        edges = documents_of(pack)
        for layout in LAYOUTS:
            cut = cut_rows(pack, exchange, exchange.ranks, exchange.rank, layout)
            whole = draw(pack, 4, 2, torch.float32)
            before = ring(*whole, cut)
            for d in (0, 1, len(edges) - 2):
                a, b = edges[d], edges[d + 1]
                for t in whole:
                    t[:, :, a:b] += 1
                after = ring(*whole, cut)
                others = (cut.at < a) | (cut.at >= b)
                same = all(torch.equal(x[:, :, others], y[:, :, others]) for x, y in zip(before, after, strict=True))
                moved = others.all() or not torch.equal(before[0], after[0])
                found["leaks"].append([f"{exchange.ranks} {name} {layout} {d}", same, bool(moved)])
                before = after


def lose(exchange, rank, folder, found):
    """In one pair a rank dies, in the other it is silent until the first has given up."""
    pack = packs()["one"]
    q, k, v, _ = draw(pack, 4, 4, torch.float32)
    cut = cut_rows(pack, exchange, 2, exchange.rank)
    if rank == 1:
        return
    if rank == 3:
        while not (folder / "2.json").exists():
            time.sleep(0.1)
        return
    try:
        ring_attention(*(t[:, :, cut.at] for t in (q, k, v)), cut)
    except LostRank as e:
        found["lost"] = [e.rank, str(e)]


def main():
    rank, folder = int(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD)
    found = {"gaps": {}, "bytes": {}, "calls": [], "simulated": {}, "again": [], "expanded": [], "whole": [], "leaks": []}
    pairs = [dist.new_group([2 * i, 2 * i + 1]) for i in range(2)]
    short = [dist.new_group([2 * i, 2 * i + 1], timeout=timedelta(seconds=2)) for i in range(2)]
    for group in (dist.new_group(list(range(WORLD))), pairs[rank // 2]):
        exchange = Exchange(group)
        exactness(exchange, found)
        twins(exchange, found)
        leaks(exchange, found)
    dist.barrier()
    lose(Exchange(short[rank // 2]), rank, folder, found)
    (folder / f"{rank}.json").write_text(json.dumps(found))
    sys.stdout.flush()
    # Not an ordinary exit: with gloo's threads alive, that one aborts now and then.
    os._exit(0)


if __name__ == "__main__":
    main()
