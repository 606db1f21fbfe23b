"""``python -m tests.soak``: a small run is killed at every kind of moment, or finds the disk full, and goes on each time.

First it lives undisturbed, and everything that it does to a file is noted. Then it dies at those deeds: while data are
converted, while a checkpoint is written, sealed, renamed, pointed to, while old ones are removed, in the middle of a line of
metrics, while the evaluation, the clip and the report are written; at bytes in the middle of files; at random times; as one of
two processes. What a person then types is typed (``seqrl train --resume``), and the run must end with the bits of the
undisturbed one.
"""

import argparse
import os
import random
import shutil
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tests.soak import lives
from tests.soak.lives import End, Fate

TEXT = """
name: soak
data: {sources: [{kind: minari, id: soak/cartpole-v0}], held_out: 0.1}
tokens: {context: 5}
model: {kind: policies.decision, width: 16, layers: 2, heads: 2, dropout: 0.1}
train: {steps: 12, batch: 8, lr: 1e-3, save_every: 3, log_every: 1, validate_every: 6, validate_windows: 16, device: cpu}
evaluate: {episodes: 2, envs: 2, targets: [20]}
"""


class Soak:
    """One home for each run, and what became of it."""

    def __init__(self, home: Path, seed: int) -> None:
        self.home, self.random, self.failed, self.ends = home, random.Random(seed), [], Counter()
        self.killed = 0
        os.environ.update(MINARI_DATASETS_PATH=str(home / "datasets"), HF_HUB_OFFLINE="1", SEQRL_CACHE=str(home / "cache"))
        (home / "soak.yaml").write_text(TEXT)

    def live(self, name: str, fate: Fate, world: int = 1) -> list[End]:
        """One life of the run ``name``: its first, or one that goes on."""
        run = self.home / name / "run"
        os.environ["SEQRL_CACHE"] = str(self.home / name / "cache")
        # Who died before there was a recipe in the folder lost nothing, and begins again by the same command.
        go_on = (run / "recipe.yaml").is_file()
        words = ["--resume", str(run)] if go_on else [str(self.home / "soak.yaml"), "--out", str(run)]
        return lives.live(["train", *words], fate, world, _free_port() if world > 1 else 0)

    def undisturbed(self, name: str, world: int = 1) -> list[tuple[str, ...]]:
        """Lives to the end, and answers what each process did to files."""
        ends = self.live(name, Fate(within=str(self.home)), world)
        if any(e.code for e in ends):
            raise SystemExit(f"the undisturbed run failed:\n{ends[0].said}")
        return [e.deeds for e in ends]

    def point(self, number: int, fates: list[Fate], world: int = 1) -> None:
        """A run that meets these fates one after the other and then lives to its end."""
        from tests.soak import truth

        name, wrong, met = f"point-{number}", [], []
        for fate in fates:
            ends = self.live(name, replace(fate, within=fate.within.replace("HOME", str(self.home / name))), world)
            end = ends[fate.rank]
            self.killed += end.code < 0
            met.append(f"{fate.kind} {end.code}")
            if fate.kind in ("full", "large"):
                wrong += _told_badly(end)
            elif end.code == 0 and fate.kind != "time":
                met[-1] = "survived"
            if not any(e.code for e in ends):
                break
        ends = self.live(name, Fate(), world)
        if any(e.code for e in ends):
            wrong.append(f"it did not go on: {ends[0].said[-600:]}")
        else:
            wrong += truth.differences(self.home / name, self.home / f"straight-{world}")
            wrong += truth.litter(self.home / name / "run")
        self.ends[", then ".join(met)] += 1
        print(f"{number}: {'; '.join(map(str, fates))}: {', then '.join(met)}", flush=True)
        if wrong:
            self.failed.append(f"point {number} ({'; '.join(map(str, fates))}): {'; '.join(wrong)}")
            print(self.failed[-1], flush=True)
        else:
            shutil.rmtree(self.home / name)


def _told_badly(end: End) -> list[str]:
    """What is wrong with how a full disk was told: one message, exit code 2."""
    if end.code == 0:
        return []
    told = [line for line in end.said.splitlines() if line.startswith("seqrl: ")]
    fine = end.code == 2 and len(told) == 1 and "Traceback" not in end.said and "defect" not in end.said
    return [] if fine else [f"a full disk ended it with code {end.code} and said {end.said[-600:]!r}"]


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def fates(deeds: Sequence[str], seconds: float, points: int, chance: random.Random) -> list[list[Fate]]:
    """Of all moments so many, of every kind: one list of fates a run."""
    n = len(deeds)

    def die(kind: str = "die") -> Fate:
        return Fate(kind, "HOME", chance.randint(1, n))

    def middle() -> Fate:
        place, least, most = chance.choice(
            [("/.part-step", 300, 60_000), ("metrics.jsonl", 100, 2_500), ("HOME/run/", 200, 9_000), ("HOME/cache", 50, 20_000)]
        )
        return Fate("bytes", place, 1, chance.randint(least, most))

    makers = {
        # Each part of the life, evenly, so that every kind of deed is met.
        "deeds": lambda i, of: [Fate("die", "HOME", 1 + i * (n - 1) // max(of - 1, 1))],
        "bytes": lambda i, of: [middle()],
        "times": lambda i, of: [Fate("time", size=chance.uniform(0, seconds))],
        "twice": lambda i, of: [die(), die()],
        "full": lambda i, of: [die("full")],
        "large": lambda i, of: [replace(middle(), kind="large")],
    }
    shares = {"deeds": 0.4, "bytes": 0.15, "times": 0.15, "twice": 0.1, "full": 0.1, "large": 0.1}
    # Whole numbers that add up: first what is certain, then the largest remainders.
    wanted = {kind: points * share for kind, share in shares.items()}
    counts = {kind: int(w) for kind, w in wanted.items()}
    for kind in sorted(wanted, key=lambda k: counts[k] - wanted[k])[: points - sum(counts.values())]:
        counts[kind] += 1
    return [makers[kind](i, of) for kind, of in counts.items() for i in range(of)]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--points", type=int, default=72, help="runs of one process that are disturbed (72)")
    parser.add_argument("--pairs", type=int, default=6, help="runs of two processes, of which one is killed (6)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        soak = Soak(Path(folder), options.seed)
        lives.collect("CartPole-v1", 24, "soak/cartpole-v0")
        lives.warm(["train", str(soak.home / "soak.yaml"), "--out", str(soak.home / "warm" / "run")])
        start = time.monotonic()
        (deeds,) = soak.undisturbed("straight-1")
        seconds = time.monotonic() - start
        plan = [(f, 1) for f in fates(deeds, seconds, options.points, soak.random)]
        if options.pairs:
            start = time.monotonic()
            counts = [sum("/run" in line for line in each) for each in soak.undisturbed("straight-2", 2)]
            pairs = time.monotonic() - start
            for i in range(options.pairs):
                rank = i % 2
                at = soak.random.randint(1, max(1, counts[rank]))
                timed = Fate("time", size=soak.random.uniform(0.3, 1) * pairs, rank=rank)
                plan.append(([Fate("die", "HOME/run", at, rank=rank) if i % 3 else timed], 2))
        for number, (met, world) in enumerate(plan, 1):
            soak.point(number, met, world)
        told = ", ".join(f"{count} x {end}" for end, count in soak.ends.most_common())
        print(f"{len(plan)} points, {len(deeds)} deeds in a life: {told}")
        print(f"killed {soak.killed} times")
        print(f"{len(soak.failed)} failed, seed {options.seed}, {time.monotonic() - began:.0f} s")
    sys.exit(bool(soak.failed))


if __name__ == "__main__":
    main()
