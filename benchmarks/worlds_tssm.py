"""Imagined steps a second of the TSSM: with a cache against the past computed anew, and with a past kept once against copies.

First, TransDreamer's imagination: 8 rows, 7 steps of context, 43 imagined, 32 categoricals of 32 classes, 6 blocks of 600
with 8 heads of 64 and 1024 hidden units, as in the authors' configuration for Atari. The peer is their loop restated over our
own weights, so that both must say the same: for every imagined step all tokens so far are embedded and go through all blocks,
and only the last is read. What differs from their program on both sides alike: rotary positions, memory of 600 numbers instead
of all blocks' 3600, no gates. Rewards are read from all steps at once at its end, as there; ours reads them step by step. To
reach: five times its speed.

Second, planning on a long context: 512 candidates of one row, 256 steps of context, 12 imagined, 6 blocks of 256. To reach:
twice the speed of a cache that is repeated for each, with at most a fifteenth of its memory. Untrained weights. Before anything
is timed, both sides must say the same to 1e-5.
"""

from functools import partial

import torch
from _timing import Case, interleave, number, options, show, spread, table, threads, verdict

from seqrl.core import tree
from seqrl.core.contracts import Ports
from seqrl.nn.shared import Past
from seqrl.worlds.tssm import TSSM, Carry, TSSMConfig

ROWS, CONTEXT, HORIZON = 8, 7, 43
CANDIDATES, LONG, AHEAD = 512, 256, 12
CACHED, RECOMPUTED = "one token a step, cached", "the whole past at every step"
SHARED, REPEATED = "the past kept once", "a cache for every candidate"


def world(context: int, **settings: object) -> TSSM:
    """An untrained model that sees 16 numbers and chooses between 18 actions."""
    layout, widths = "state action > reward done", {"state": 16, "action": 1, "reward": 1, "done": 1}
    vocabs = {"state": 0, "action": 18, "reward": 0, "done": 2}
    ports = Ports(layout, widths, vocabs, dict.fromkeys(widths, False), levels={"reward": [0.0, 1.0]})
    torch.manual_seed(0)
    model = TSSM(TSSMConfig.for_ports(ports, context, reward="mse", **settings)).eval()
    with torch.no_grad():
        for p in model.parameters():
            # Larger than at birth, so that there is something to differ in.
            p.add_(torch.randn_like(p) * 0.02)
    return model


def past(model: TSSM, rows: int, steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents ``[B, T, Z]`` of random observations, and random actions ``[B, T, 1]``."""
    g = torch.Generator().manual_seed(1)
    z = model.encode({"state": torch.randn(rows, steps, 16, generator=g)}, sample=False)
    return z, torch.randint(18, (rows, steps, 1), generator=g)


def begin(model: TSSM, z: torch.Tensor, actions: torch.Tensor, room: int) -> Carry:
    """The carry after some steps."""
    before = torch.cat((torch.zeros_like(actions[:, :1]), actions[:, :-1]), 1)
    return model.observe(model.init(len(z), room), z, before)[0]


@torch.no_grad()
def imagined(model: TSSM, carry: Carry, ahead: torch.Tensor) -> torch.Tensor:
    """Features ``[B, H, F]`` of a dream; draws are seeded."""
    torch.manual_seed(2)
    feats = []
    for action in ahead.unbind(1):
        carry, pred = model.step(carry, action)
        feats.append(pred.feat)
    return torch.stack(feats, 1)


@torch.no_grad()
def cached(model: TSSM, z: torch.Tensor, actions: torch.Tensor, ahead: torch.Tensor) -> torch.Tensor:
    """Context and dream, with a cache."""
    return imagined(model, begin(model, z, actions, z.shape[1] + ahead.shape[1] + 1), ahead)


@torch.no_grad()
def recomputed(model: TSSM, z: torch.Tensor, actions: torch.Tensor, ahead: torch.Tensor) -> torch.Tensor:
    """The same as the peer's loop has it."""
    torch.manual_seed(2)
    acts, T = torch.cat((actions[:, :-1], ahead), 1), z.shape[1]
    feats = []
    for t in range(ahead.shape[1]):
        h = model.trunk(model._tokens(z, acts[:, : T + t]))[:, -1]
        new = model.latents.draw(model.prior(h))
        z = torch.cat((z, new[:, None]), 1)
        feats.append(torch.cat((new, h), -1))
    out = torch.stack(feats, 1)
    model.outcomes["reward"].mean(model.bodies["reward"](out))
    model.outcomes["done"].probability(model.bodies["done"](out))
    return out


def shared(model: TSSM, carry: Carry, ahead: torch.Tensor) -> torch.Tensor:
    """Candidates that share the past."""
    return imagined(model, model.share(carry, len(ahead), ahead.shape[1]), ahead)


def repeated(model: TSSM, carry: Carry, ahead: torch.Tensor) -> torch.Tensor:
    """Candidates with a past each."""
    return imagined(model, tree.repeat(carry, len(ahead)), ahead)


def mebibytes(carry: Carry) -> float:
    """What a carry takes."""
    sizes = []

    def add(t: torch.Tensor | Past) -> None:
        sizes.extend(x.numel() * x.element_size() for x in ((t.keys, t.values) if isinstance(t, Past) else (t,)))

    tree.map_leaves(add, carry)
    return sum(sizes) / 2**20


def imagination(rounds: int, record: bool) -> None:
    """The first question."""
    sizes = {"body": "gpt2", "width": 600, "layers": 6, "heads": 8, "head_dim": 64, "inner": 1024, "hidden": 600}
    model = world(CONTEXT + HORIZON, **sizes)
    z, actions = past(model, ROWS, CONTEXT)
    ahead = torch.randint(18, (ROWS, HORIZON, 1), generator=torch.Generator().manual_seed(3))
    given = (model, z, actions, ahead)
    off = float((cached(*given) - recomputed(*given)).abs().max())
    assert off <= 1e-5, f"the two dreams differ by {off}"
    steps = ROWS * HORIZON
    times = interleave(
        [Case(CACHED, partial(cached, *given), steps), Case(RECOMPUTED, partial(recomputed, *given), steps)], rounds
    )
    rows = [(n, spread(1 / t.wall), number(t.cpu.mean() * 1e3)) for n, t in times.items()]
    lines = [table(("who", "imagined steps/s, median (least to most)", "processor ms each"), rows)]
    lines += [verdict("x the peer's loop", times[CACHED].faster_than(times[RECOMPUTED]), 5, at_least=True)]
    lines += [f"- largest difference between the two: {off:.1g}"]
    show(f"TSSM imagination, {ROWS} rows, {HORIZON} steps, {torch.get_num_threads()} thread(s)", lines, record)


def planning(rounds: int, record: bool) -> None:
    """The second question."""
    model = world(LONG + AHEAD, width=256, layers=6, heads=8, hidden=256, groups=16, classes=16)
    carry = begin(model, *past(model, 1, LONG), LONG + AHEAD + 1)
    ahead = torch.randint(18, (CANDIDATES, AHEAD, 1), generator=torch.Generator().manual_seed(3))
    given = (model, carry, ahead)
    off = float((shared(*given) - repeated(*given)).abs().max())
    assert off <= 1e-5, f"the two dreams differ by {off}"
    memory = {SHARED: mebibytes(model.share(carry, CANDIDATES, AHEAD)), REPEATED: mebibytes(tree.repeat(carry, CANDIDATES))}
    steps = CANDIDATES * AHEAD
    cases = [Case(SHARED, partial(shared, *given), steps), Case(REPEATED, partial(repeated, *given), steps)]
    times = interleave(cases, rounds)
    rows = [(n, spread(1 / t.wall), number(t.cpu.mean() * 1e3), number(memory[n])) for n, t in times.items()]
    lines = [table(("who", "imagined steps/s, median (least to most)", "processor ms each", "MiB"), rows)]
    lines += [verdict("x a repeated cache", times[SHARED].faster_than(times[REPEATED]), 2, at_least=True)]
    lines[-1] += "\n" + verdict("its memory, a part of", memory[REPEATED] / memory[SHARED], 15, at_least=True)
    lines += [f"- largest difference between the two: {off:.1g}"]
    title = f"planning: {CANDIDATES} candidates, context {LONG}, horizon {AHEAD}, {torch.get_num_threads()} thread(s)"
    show(title, lines, record)


def main() -> None:
    parser = options(__doc__, rounds=5)
    parser.add_argument("--threads", type=int, default=1, help="threads (1)")
    given = parser.parse_args()
    threads(given.threads)
    imagination(given.rounds, given.record)
    planning(given.rounds, given.record)


if __name__ == "__main__":
    main()
