"""Attention over a sequence cut over processes: does cutting cost anything, and what does packing without masks save?

Forth and back, float32, 8 heads of 64 numbers, one thread a process. *Efficiency* is the processor time of plain causal SDPA
over the whole sequence in one process, divided by the ranks, against what a rank takes, messages included: 1 means that cutting
costs nothing. SDPA runs in two processes at once, for neighbours slow each other. *Packed* rows (one document of half the row,
eight short ones) are measured against SDPA with a mask of every query and key, as transformers has it. How even the layouts are
and what travels are computed from plans at 128k tokens over 8 ranks; nothing is run for those. ``--long`` goes to 32k tokens
and 4 ranks (an hour); ``--memory`` tells what a process needs from 4k to 32k: how much more it holds at most than before, with
inputs and gradients, resident as Linux counts it, freed memory handed back at once.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from _timing import number, options, show, spread, table, verdict

from seqrl.context.layouts import LAYOUTS
from seqrl.context.plan import make_plan

WORKER = Path(__file__).with_name("_ring.py")
TOTAL, RANKS = 1 << 17, 8


def processes(what: str, tokens: int, ranks: int = 1, copies: int = 1, **more) -> list[dict]:
    """Runs a job on its own processes; answers what each found (``_ring.py``).

    Args:
        copies: of a job of one rank, run side by side.
        more: ``documents``, ``layout``, ``exact``.
    """
    job = {"what": what, "tokens": tokens, "ranks": ranks, "documents": [0, tokens], "layout": "balanced", "exact": False}
    with tempfile.TemporaryDirectory() as folder:
        job |= {"store": f"{folder}/store", "rounds": 1, **more}
        jobs = [json.dumps(job | {"rank": r}) for r in range(max(ranks, copies))]
        started = [subprocess.Popen([sys.executable, str(WORKER), j], stdout=subprocess.PIPE, text=True) for j in jobs]
        said = [process.communicate()[0] for process in started]
    if any(process.returncode for process in started):
        raise SystemExit(f"{what} on {tokens} tokens over {ranks} ranks failed")
    return [json.loads(text) for text in said]


def half_and_short(tokens: int) -> list[int]:
    """Eight short documents in the first half of a row, one long one in the second."""
    return [*np.linspace(0, tokens // 2, 9).astype(int).tolist(), tokens]


def mixes() -> dict[str, tuple[int, ...]]:
    """Boundaries of documents in a row of TOTAL tokens."""
    draw = np.random.default_rng(0)

    def fill(lengths) -> tuple[int, ...]:
        ends = np.cumsum(lengths)
        return (0, *ends[ends < TOTAL].tolist(), TOTAL)

    return {
        "one document": (0, TOTAL),
        "1k to 8k": fill(draw.integers(1024, 8193, 999)),
        "trajectories of 100 to 1,000": fill(draw.integers(100, 1001, 9999)),
        "lognormal around 3k": fill(np.clip(draw.lognormal(8, 1.2, 9999), 16, TOTAL // 4).astype(int)),
        "one of 64k, 512 to 4k": fill([TOTAL // 2, *draw.integers(512, 4097, 999)]),
    }


def plans() -> tuple[str, list[str]]:
    """How even the layouts are, and what travels."""
    lines, load, traffic = [], {}, {}
    for name, documents in mixes().items():
        for layout in LAYOUTS:
            made = [make_plan(documents, RANKS, r, layout) for r in range(RANKS)]
            cost = made[0].cost
            load[name, layout] = max(cost) * RANKS / sum(cost)
            traffic[name, layout] = sum(p.received for p in made) / (RANKS * (RANKS - 1) * made[0].share)
            tiles = max(len(tiles) for p in made for tiles in p.steps[1:])
            told = (f"{load[name, layout]:.3f}", f"{traffic[name, layout]:.3f}", tiles)
            lines.append((f"{name}, {layout}", len(documents) - 1, *told))
    head = ("documents, layout", "documents", "load, most / mean", "keys received / full ring", "most tiles a step")
    short = ("1k to 8k", "trajectories of 100 to 1,000")
    return table(head, lines), [
        verdict("load of balanced, the worst mix", max(load[m, "balanced"] for m in mixes()), 1.05, at_least=False),
        verdict("keys received / full ring, the worst mix", max(traffic[m, "balanced"] for m in mixes()), 0.75, at_least=False),
        verdict("the same, documents of at most 8k", max(traffic[m, "balanced"] for m in short), 0.15, at_least=False),
    ]


def speed(rounds: int, sizes: list[tuple[int, list[int]]]) -> tuple[str, list[str]]:
    """Efficiency against plain SDPA; contestants take turns."""
    lines, verdicts = [], []
    for tokens, ranks in sizes:
        cases = {("sdpa", 1): [], **{("ring", n): [] for n in ranks}}
        for _ in range(rounds):
            for (what, n), seconds in cases.items():
                seconds.append(np.mean([f["cpu"][0] for f in processes(what, tokens, n, copies=2 if n == 1 else 1)]))
        alone = np.array(cases["sdpa", 1])
        for (_, n), seconds in cases.items():
            share = np.median(alone / n / seconds)
            lines.append((f"{tokens // 1024}k, {'SDPA' if n == 1 else f'ring of {n}'}", spread(seconds), f"{share:.3f}"))
            if n > 1:
                wanted = 0.97 if tokens <= 8192 else 0.95
                verdicts.append(verdict(f"efficiency at {tokens // 1024}k over {n}", float(share), wanted, at_least=True))
    return table(("tokens, who", "processor s a rank, median (least to most)", "efficiency"), lines), verdicts


def packed(rounds: int, tokens: int) -> tuple[str, list[str]]:
    """Work of all ranks together, against a mask."""
    documents = half_and_short(tokens)
    who = {"SDPA with a mask": ("dense", 1, "balanced")}
    who |= {f"ring of {n}, {layout}": ("ring", n, layout) for n, layout in [(1, "balanced"), (2, "balanced"), (2, "zigzag")]}
    total: dict[str, list[float]] = {name: [] for name in who}
    most: dict[str, list[float]] = {name: [] for name in who}
    for _ in range(rounds):
        for name, (what, n, layout) in who.items():
            cpu = [f["cpu"][0] for f in processes(what, tokens, n, documents=documents, layout=layout)]
            total[name].append(sum(cpu))
            most[name].append(max(cpu))
    mask = np.array(total["SDPA with a mask"])
    times = {name: float(np.median(mask / t)) for name, t in total.items()}
    lines = [(name, spread(t), spread(most[name]), f"{times[name]:.2f}") for name, t in total.items()]
    head = (f"{tokens // 1024}k packed, who", "processor s of all", "of the busiest", "x less work")
    return table(head, lines), [verdict("x less work than a mask, 2 ranks", times["ring of 2, balanced"], 5, at_least=True)]


def memory(sizes: list[int]) -> str:
    """What a process needs, MiB."""
    lines = []
    for tokens in sizes:
        row = [f"{tokens // 1024}k"]
        for what, n in (("sdpa", 1), ("ring", 1), ("ring", 2), ("ring", 4)):
            row.append(number(max(f["memory"] for f in processes(what, tokens, n, exact=True))))
        lines.append(row)
    return table(("MiB of a process", "SDPA", "ring of 1", "ring of 2", "ring of 4"), lines)


def main() -> None:
    parser = options(__doc__, rounds=3)
    parser.add_argument("--long", action="store_true", help="also 16k and 32k tokens, 2 and 4 ranks")
    parser.add_argument(
        "--memory", action="store_true", help="instead, memory of a process, 4k to 32k tokens, 1, 2 and 4 ranks"
    )
    chosen = parser.parse_args()
    if chosen.memory:
        show("ring attention, resident memory of a process", [memory([1 << n for n in range(12, 16)])], chosen.record)
        return
    even, even_verdicts = plans()
    sizes = [(8192, [2]), *([(16384, [2, 4]), (32768, [2, 4])] if chosen.long else [])]
    fast, fast_verdicts = speed(chosen.rounds, sizes)
    free, free_verdicts = packed(chosen.rounds, 8192)
    verdicts = "\n".join((*fast_verdicts, *free_verdicts, *even_verdicts))
    show("ring attention, 8 heads of 64, float32, forth and back", [fast, free, even, verdicts], chosen.record)


if __name__ == "__main__":
    main()
