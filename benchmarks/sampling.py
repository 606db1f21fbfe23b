"""How long it takes to draw one training batch: 64 and 4096 windows of 20 steps out of 500,000.

Ours in both forms, with the tables in memory and with the data left memory-mapped, against the peers' samplers. To reach:
under 0.15 ms for 64 windows and under 3 ms for 4096.
"""

from itertools import count

import _data
import _peers
from _timing import Case, Times, interleave, number, options, show, spread, table, threads, verdict

STEPS = 500_000
OURS, MAPPED = "seqrl, in memory", "seqrl, memory-mapped"
WANTED = {64: 0.15, 4096: 3.0}


def measure(rows: int, rounds: int, ours: dict, python: _peers.PythonSampler, buffer: object) -> dict[str, Times]:
    """Times of each sampler for batches of ``rows``."""
    steps = count()
    cases = [Case(name, lambda made=made: made.draw(0, next(steps), rows)) for name, made in ours.items()]
    cases.append(Case("transformers + its usual sampler", lambda: python(rows)))
    cases.append(Case("d3rlpy", lambda: buffer.sample_trajectory_batch(rows, length=_data.CONTEXT)))
    return interleave(cases, rounds, turn=0.2, warm=3)


def main() -> None:
    options_ = options(__doc__, rounds=15).parse_args()
    threads(1)
    ours = {OURS: _data.loader(STEPS), MAPPED: _data.loader(STEPS, budget=0)}
    episodes = _data.plain(STEPS)
    python, buffer = _peers.PythonSampler(episodes), _peers.d3rlpy_buffer(episodes)
    parts, verdicts = [], []
    for rows, wanted in WANTED.items():
        times = measure(rows, options_.rounds, ours, python, buffer)
        lines = [
            (name, spread(t.wall * 1e3), number(times[OURS].faster_than(t)), number(times[MAPPED].faster_than(t)))
            for name, t in times.items()
        ]
        parts.append(table((f"batch of {rows}", "ms, median (least to most)", "in memory is x", "mapped is x"), lines))
        verdicts.append(verdict(f"ms for {rows} windows", times[OURS].median * 1e3, wanted, at_least=False))
    show("sampling, 500,000 steps, windows of 20, one thread", [*parts, "\n".join(verdicts)], options_.record)


if __name__ == "__main__":
    main()
