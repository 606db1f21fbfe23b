"""Training steps a second at the size of the paper's hopper runs, sampling included, with one and two threads.

Windows of 20 steps, batches of 64, 11 and 3 numbers, width 128, three blocks, one head, dropout .1, AdamW, gradients clipped
at .25. That it is the same function is checked first: with the weights of transformers' model ours gives the same actions.
To reach: 1.15 times the best peer in fp32, 1.6 times with bf16, and less than 3 % for our loop over the bare step.
"""

import _data
import _ours
import _peers
import numpy as np
from _timing import Case, Times, interleave, number, options, show, spread, table, threads, verdict

STEPS = 100_000
FP32, BF16, BARE, BARE16 = "seqrl, fp32", "seqrl, bf16", "seqrl, fp32, bare step", "seqrl, bf16, bare step"
PEERS = ("transformers + its usual sampler", "d3rlpy")


def cases(loader: object, episodes: _peers.Episodes) -> list[Case]:
    """All contestants, each with a model of its own."""
    buffer = _peers.d3rlpy_buffer(episodes)
    theirs = _peers.d3rlpy_model(buffer, _ours.ROWS)

    def d3rlpy_step() -> None:
        theirs.update(buffer.sample_trajectory_batch(_ours.ROWS, length=_data.CONTEXT))

    ours = [(FP32, _ours.Looped(loader, "fp32")), (BF16, _ours.Looped(loader, "bf16"))]
    ours += [(BARE, _ours.Bare(loader, "fp32")), (BARE16, _ours.Bare(loader, "bf16"))]
    other = _peers.TransformersTrainer(episodes, _ours.ROWS)
    return [Case(name, one.step) for name, one in ours] + [Case(PEERS[0], other.step), Case(PEERS[1], d3rlpy_step)]


def judge(times: dict[str, Times], n: int) -> list[str]:
    """The numbers to reach, with ``n`` threads."""
    best = min((times[p] for p in PEERS), key=lambda t: t.median)
    with_ = f"{n} thread{'s' if n > 1 else ''}"
    out = [verdict(f"fp32 is x the best peer, {with_}", times[FP32].faster_than(best), 1.15, at_least=True)]
    out.append(verdict(f"bf16 is x the best peer, {with_}", times[BF16].faster_than(best), 1.6, at_least=True))
    return out


def around(loader: object, times: dict[str, Times]) -> list[str]:
    """What the loop adds to a step of the real model, with one thread.

    Measured on a model that costs next to nothing, since a difference of half a millisecond would drown in the spread of two
    steps of a hundred.
    """
    out = []
    for precision, bare in (("fp32", BARE), ("bf16", BARE16)):
        idle = [Case("looped", _ours.Looped(loader, precision, _ours.Idle).step)]
        idle.append(Case("bare", _ours.Bare(loader, precision, _ours.Idle).step))
        found = interleave(idle, rounds=40, turn=0.02, warm=20)
        extra = float(np.median(found["looped"].cpu - found["bare"].cpu))
        what = f"% our loop adds to the bare step, {precision}, 1 thread ({number(extra * 1e3)} ms)"
        out.append(verdict(what, 100 * extra / float(np.median(times[bare].cpu)), 3.0, at_least=False))
    return out


def main() -> None:
    options_ = options(__doc__, rounds=25).parse_args()
    threads(1)
    loader, episodes = _data.loader(STEPS), _data.plain(STEPS)
    apart = _ours.difference(loader)
    if not apart < 1e-5:
        raise SystemExit(f"not the same function: with equal weights actions differ by {apart:.1e}")
    contestants = cases(loader, episodes)
    parts = [f"Same function: with the weights of transformers' model, our actions differ by at most {apart:.1e}."]
    verdicts = []
    for n in (1, 2):
        threads(n)
        times = interleave(contestants, options_.rounds, warm=3)
        lines = [
            (name, number(t.rate), spread(t.wall * 1e3), spread(t.cpu * 1e3), *(number(t.faster_than(times[p])) for p in PEERS))
            for name, t in times.items()
        ]
        head = (
            f"{n} thread{'s' if n > 1 else ''}",
            "steps/s",
            "ms a step",
            "processor ms a step",
            "x transformers",
            "x d3rlpy",
        )
        parts.append(table(head, lines))
        verdicts += judge(times, n) + (around(loader, times) if n == 1 else [])
    show("training, width 128, 3 blocks, batch 64 x 20, sampling included", [*parts, "\n".join(verdicts)], options_.record)


if __name__ == "__main__":
    main()
