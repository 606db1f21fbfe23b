"""Milliseconds for a decision planned by beam search, with one thread: the cache that all beams share against no cache.

The Trajectory Transformer at the paper's size (4 layers, 4 heads, 128 wide) with hopper's dimensions, 11 numbers of state, 3
of action and the reward: 15 tokens a transition, 5 transitions to begin from, 32 beams, 2 ways on, 5 transitions ahead. Both
sides are the same search over the same trunk; without a cache the trunk reads all rows from their beginning for every token,
as the authors' program does, though its last block computes no more than is asked for. Untrained weights. Before anything is
timed, both must find the same plans. To reach: a tenth of the time.
"""

from functools import partial

import torch
from _timing import Case, Times, interleave, number, options, show, spread, table, threads, verdict

from seqrl.core.contracts import Ports
from seqrl.core.stream import StreamBatch
from seqrl.policies._beam import Found, search
from seqrl.policies._planner import Planner
from seqrl.policies.trajectory import Config, Model

WIDTHS = {"state": 11, "action": 3, "reward": 1, "return": 1}
BINS, CONTEXT = 100, 10
CACHED, RECOMPUTED = "one cache for all beams", "no cache"


class Recomputed:
    """A ``policies._beam.Reader`` that remembers what was fed and nothing that was computed."""

    def __init__(self, player: Planner, batch: StreamBatch) -> None:
        x, length, _ = player.player.window(player.recent(batch))
        assert (length == x.shape[1]).all(), "rows of several lengths would need padding"
        self.trunk, self.expand_by = player.model.trunk, player.plan.expand
        self.y = self.trunk(x, read=slice(-1, None))[:, 0]
        self.x = x.repeat_interleave(player.plan.beam, 0)

    def feed(self, x: torch.Tensor) -> torch.Tensor:
        self.x = torch.cat((self.x, x), 1)
        return self.trunk(self.x, read=slice(-1, None))[:, 0]

    def keep(self, rows: torch.Tensor) -> None:
        self.x = self.x[rows]

    def expand(self) -> None:
        self.x = self.x.repeat(self.expand_by, 1, 1)


def player() -> Planner:
    """The model, planning; its bins mean evenly spread numbers."""
    levels = {n: torch.linspace(0, 1, BINS).tolist() for n in ("reward", "return")}
    own = {"tokens": WIDTHS, "levels": levels, "discount": 0.99, "context": CONTEXT}
    ports = Ports("state action reward > return", WIDTHS, dict.fromkeys(WIDTHS, BINS), dict.fromkeys(WIDTHS, False), **own)
    torch.manual_seed(0)
    model = Model(Config.for_domains({"main": ports}, 300)).eval()
    with torch.no_grad():
        for p in model.parameters():
            # Larger than at birth, so that the beams have something to choose between.
            p.add_(torch.randn_like(p) * 0.05)
    return model.player("main")


def window(envs: int, steps: int, seed: int) -> StreamBatch:
    """Random transitions of some environments."""
    g = torch.Generator().manual_seed(seed)
    values = {n: torch.randint(BINS, (envs, steps, w), generator=g) for n, w in WIDTHS.items()}
    return StreamBatch(values, torch.arange(steps).expand(envs, -1), torch.full((envs,), steps))


@torch.inference_mode()
def recomputed(player: Planner, batch: StreamBatch, uniform: torch.Tensor) -> Found:
    """The same search without a cache."""
    return search(player.model, player.name, Recomputed(player, batch), player.plan, uniform)


def prove(player: Planner, decisions: int) -> None:
    """Refuses to go on unless both find the same plans."""
    for seed in range(decisions):
        batch, uniform = window(1, 5, seed), torch.rand(1, 3, generator=torch.Generator().manual_seed(seed))
        a, b = player.search(batch, uniform), recomputed(player, batch, uniform)
        assert torch.equal(a.codes[:, 0], b.codes[:, 0]), "the two searches differ"
        torch.testing.assert_close(a.score, b.score, rtol=0, atol=1e-4)


def measure(rounds: int) -> dict[str, Times]:
    """Times of one decision of each contestant."""
    planner = player()
    prove(planner, 2)
    one, sixteen = ((window(n, 5, 0), torch.rand(n, 3)) for n in (1, 16))
    cases = [
        Case(CACHED, partial(planner.search, *one)),
        Case(RECOMPUTED, partial(recomputed, planner, *one)),
        Case(f"{CACHED}, 16 environments at once", partial(planner.search, *sixteen), 16),
    ]
    return interleave(cases, rounds)


def main() -> None:
    options_ = options(__doc__, rounds=5).parse_args()
    threads(1)
    times = measure(options_.rounds)
    slow = times[RECOMPUTED]
    lines = [(n, spread(t.wall * 1e3), number(t.cpu.mean() * 1e3), number(t.faster_than(slow))) for n, t in times.items()]
    head = ("who", "ms a decision, median (least to most)", "processor ms", "x no cache")
    verdicts = verdict("x the search without a cache", times[CACHED].faster_than(slow), 10, at_least=True)
    title = "beam search, 32 beams, 5 transitions ahead, hopper's dimensions, one thread"
    show(title, [table(head, lines), verdicts], options_.record)


if __name__ == "__main__":
    main()
