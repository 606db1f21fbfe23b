"""Packed streams in the manner of Gato: training and playing at NEKO's size, and what packing saves.

A Hopper step of 15 tokens (11 of the state, a separator, 3 of the action), rows of 240, 128 wide, 3 layers, 16 rows a batch:
the size NEKO (a public Gato) was measured at, 0.33 training steps/s with two threads and 3.6 environment steps/s with one, on
another machine than this. Packing is measured on episodes as short as BabyAI's: rows of 512 filled with documents, against one
document a row, padded, which is the same model and the same steps of data.
"""

from functools import partial

import numpy as np
import torch
from _timing import Case, Times, interleave, number, options, show, spread, table, threads, verdict

from seqrl.core.contracts import Ports
from seqrl.core.packed import PackedBatch, Part
from seqrl.core.stream import StreamBatch
from seqrl.policies.gato import Gato, GatoConfig

BINS, ROWS, LENGTH = 1024, 16, 240
WORDS, CELLS, MOVES = 5, 16, 7
"""A BabyAI step: a mission of 5 words in front, 16 patches' worth of codes, a direction, an action."""


def hopper() -> Ports:
    widths = {"state": 11, "separator": 1, "action": 3}
    vocabs = {"state": BINS, "separator": 1, "action": BINS}
    shares = {"state": "mulaw1024", "separator": "choice", "action": "mulaw1024"}
    return Ports("state separator action", widths, vocabs, dict.fromkeys(widths, False), widths, shares)


def babyai() -> Ports:
    widths = {"task": WORDS, "image": CELLS, "direction": 1, "action": 1}
    vocabs = {"task": 64, "image": 256, "direction": 4, "action": MOVES}
    return Ports(
        "task | image direction action", widths, vocabs, dict.fromkeys(widths, False), widths, dict.fromkeys(widths, "")
    )


def batch(ports: Ports, rows: list[list[int]], length: int, seed: int = 0) -> PackedBatch:
    """Rows of documents of so many steps each, with random codes."""
    g = torch.Generator().manual_seed(seed)
    front = ports.widths.get("task", 0)
    W = sum(w for n, w in ports.widths.items() if n != "task")
    at, time, start = [], [], []
    pack, pos = torch.full((len(rows), length), -1), torch.zeros(len(rows), length, dtype=torch.int64)
    for b, row in enumerate(rows):
        used = 0
        for d, steps in enumerate(row):
            n = front + steps * W
            start.append(b * length + used)
            at += [b * length + used + front + t * W for t in range(steps)]
            time += range(steps)
            pack[b, used : used + n], pos[b, used : used + n] = d, torch.arange(n)
            used += n
    S, N = len(at), len(start)
    size = {n: N if n == "task" else S for n in ports.widths}
    values = {n: torch.randint(v, (size[n], ports.widths[n]), generator=g) for n, v in ports.vocabs.items()}
    names = frozenset({"task"} & set(values))
    lengths = {n: torch.full((N,), front) for n in names}
    part = Part(values, torch.tensor(at), torch.tensor(time), torch.ones(S), torch.tensor(start), lengths, torch.ones(N), names)
    return PackedBatch({"one": part}, pack, pos)


def model(ports: Ports, length: int) -> Gato:
    torch.manual_seed(0)
    config = GatoConfig.for_domains({"one": ports}, length, body="gpt2", width=128, layers=3, heads=4, dropout=0.1)
    return Gato(config)


def train(of: Gato, optimizer: torch.optim.Optimizer, data: list[PackedBatch]) -> None:
    for one in data:
        total, count = of(one).sums()["action"]
        (total / count).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def play(of: Gato, steps: int) -> None:
    """16 environments without physics: what the policy costs. Caches are read anew when they are full, as an agent does."""
    player, ports = of.player("one"), hopper()
    K, one, g = LENGTH // 15, torch.ones(ROWS, dtype=torch.int64), torch.Generator().manual_seed(0)
    values = {n: torch.randint(ports.vocabs[n], (ROWS, steps, w), generator=g) for n, w in ports.widths.items()}
    cache, held, again = player.init_cache(ROWS, K), 0, K // 2 - 1
    time = torch.arange(steps).expand(ROWS, steps)
    for t in range(steps):
        if held == K:
            last = {n: v[:, t - again : t] for n, v in values.items()}
            player.refill(StreamBatch(last, time[:, t - again : t], one * again), cache, torch.arange(ROWS))
            held = again
        now = {n: v[:, t - 1 if n == "action" and t else t, None] for n, v in values.items()}
        player.act(StreamBatch(now, time[:, t, None], one), cache, sample=True, uniform=torch.rand(ROWS, 3))
        held += 1


def documents(count: int, seed: int = 0) -> list[int]:
    """Steps of short episodes: 5.3 on average, 16 at most, as of BabyAI's GoToLocal."""
    return np.clip(np.random.default_rng(seed).geometric(1 / 5.3, count), 1, 16).tolist()


def fill(steps: list[int], tokens: int, front: int, length: int) -> list[list[int]]:
    """Documents one behind the other, cut between steps where a row ends, as the packer does."""
    rows: list[list[int]] = [[]]
    used = 0
    for left in steps:
        while left:
            fit = min(left, (length - used - front) // tokens)
            if fit <= 0:
                rows.append([])
                used = 0
                continue
            rows[-1].append(fit)
            used, left = used + front + fit * tokens, left - fit
    return rows


def measure(rounds: int, steps: int) -> tuple[dict[str, Times], float, float]:
    gato = model(hopper(), LENGTH)
    optimizer = torch.optim.AdamW(gato.parameters(), 1e-4, fused=True)
    data = [batch(hopper(), [[LENGTH // 15]] * ROWS, LENGTH)]
    port, W = babyai(), CELLS + 2
    episodes = documents(160)
    longest = WORDS + max(episodes) * W
    together = fill(episodes, W, WORDS, 512)
    small = model(port, 512)
    small_optimizer = torch.optim.AdamW(small.parameters(), 1e-4, fused=True)
    packed = [batch(port, together[i : i + ROWS], 512) for i in range(0, len(together), ROWS)]
    padded = [batch(port, [[s] for s in episodes[i : i + 32]], longest) for i in range(0, len(episodes), 32)]
    filled = float(torch.cat([b.pack.flatten() >= 0 for b in packed[:-1] or packed]).float().mean())
    alone = float(torch.cat([b.pack.flatten() >= 0 for b in padded]).float().mean())

    def with_threads(n: int, work: partial) -> None:
        threads(n)
        work()

    cases = [
        Case(f"training, {n} thread{'s' * (n > 1)}", partial(with_threads, n, partial(train, gato, optimizer, data)))
        for n in (1, 2)
    ]
    cases.append(Case("playing, 16 environments, 1 thread", partial(with_threads, 1, partial(play, gato, steps)), ROWS * steps))
    env_steps = sum(episodes)
    for name, rows in (("packed", packed), ("padded", padded)):
        work = partial(train, small, small_optimizer, rows)
        cases.append(Case(f"training on short episodes, {name}, 1 thread", partial(with_threads, 1, work), env_steps))
    return interleave(cases, rounds, turn=2.0), filled, alone


def main() -> None:
    parser = options(__doc__, rounds=5)
    parser.add_argument("--steps", type=int, default=64, help="steps played in a turn (64)")
    chosen = parser.parse_args()
    times, filled, alone = measure(chosen.rounds, chosen.steps)
    lines = [(name, spread(1 / t.wall), number(t.cpu.mean() * 1e3)) for name, t in times.items()]
    packed, padded = (times[f"training on short episodes, {n}, 1 thread"] for n in ("packed", "padded"))
    verdicts = [
        verdict("training steps/s, 2 threads", times["training, 2 threads"].rate, 4, at_least=True),
        verdict("env steps/s with 16, without physics", times["playing, 16 environments, 1 thread"].rate, 900, at_least=True),
        verdict("share of packed rows that is tokens", filled, 0.95, at_least=True),
        f"- of padded rows {alone:.3f} is tokens; packed trains {packed.faster_than(padded):.2f} x the steps a second",
    ]
    head = ("what", "units/s, median (least to most)", "processor ms each")
    show(
        "packed streams: 15 tokens a step, rows of 240",
        [table(head, lines), "\n".join(verdicts)],
        chosen.record,
    )


if __name__ == "__main__":
    main()
