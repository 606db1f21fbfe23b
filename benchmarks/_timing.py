"""How every comparison here is timed: in turns, and told by medians.

Machines drift: they heat, other work comes and goes. So contestants never run one after the other; they take turns, in rounds
of shuffled order, what is reported of each is the median turn with the fastest and slowest, and a ratio is the median of the
ratios *within* the rounds, so that a slow minute hits both sides of it. Processor time is kept beside wall time: on a machine
that is not quiet it is the steadier one.
"""

import argparse
import gc
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

RESULTS = Path(__file__).resolve().parent / "RESULTS.md"
_PACKAGES = ("seqrl", "torch", "numpy", "transformers", "d3rlpy", "gymnasium", "mujoco", "minari", "pyarrow")


@dataclass(frozen=True)
class Case:
    """One contestant.

    Args:
        name: as it is called in the tables.
        run: one turn's smallest piece of work.
        units: how many of the things that are counted (batches, environment steps) one call of ``run`` does.
    """

    name: str
    run: Callable[[], object]
    units: float = 1.0


@dataclass(frozen=True)
class Times:
    """Seconds for one unit of work, one number a round; ``wall`` and ``cpu`` are ``(rounds,)``."""

    wall: np.ndarray
    cpu: np.ndarray

    @property
    def median(self) -> float:
        return float(np.median(self.wall))

    @property
    def rate(self) -> float:
        """Units a second."""
        return 1.0 / self.median

    def faster_than(self, other: "Times") -> float:
        """How many times as fast as ``other``: the median over rounds."""
        return float(np.median(other.wall / self.wall))


def interleave(cases: Sequence[Case], rounds: int, turn: float = 0.0, warm: int = 1) -> dict[str, Times]:
    """Lets the cases take turns.

    Args:
        cases: at least one; each round has an order of its own, so that nobody always follows the same neighbour.
        rounds: turns of each.
        turn: a turn repeats ``run`` for about this many seconds (how often follows from the last warming call).
        warm: calls of each that are not counted, at least 1.

    Returns:
        name -> ``Times``.
    """
    calls = {}
    for case in cases:
        for _ in range(max(1, warm)):
            began = time.perf_counter()
            case.run()
        calls[case.name] = max(1, round(turn / max(time.perf_counter() - began, 1e-9)))
    wall: dict[str, list[float]] = {c.name: [] for c in cases}
    cpu: dict[str, list[float]] = {c.name: [] for c in cases}
    shuffle = np.random.default_rng(0).permutation
    for _ in range(rounds):
        gc.collect()
        for case in (cases[i] for i in shuffle(len(cases))):
            begun, busy = time.perf_counter(), time.process_time()
            for _ in range(calls[case.name]):
                case.run()
            done = calls[case.name] * case.units
            wall[case.name].append((time.perf_counter() - begun) / done)
            cpu[case.name].append((time.process_time() - busy) / done)
    return {n: Times(np.array(wall[n]), np.array(cpu[n])) for n in wall}


def threads(n: int) -> None:
    """How many threads torch may use from now on in this process."""
    import torch

    torch.set_num_threads(n)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    facts = {k.strip(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
    flags = facts.get("flags", "").split()
    known = {"avx512f": "AVX512", "avx512_bf16": "AVX512-BF16", "amx_bf16": "AMX"}
    extras = [word for flag, word in known.items() if flag in flags]
    return facts.get("model name", "unknown") + (f" with {', '.join(extras)}" if extras else "")


def header() -> str:
    """One paragraph: where, with what, and how busy the machine was."""
    found = []
    for name in _PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    load = " ".join(f"{x:.1f}" for x in os.getloadavg()) if hasattr(os, "getloadavg") else "unknown"
    python = platform.python_version()
    return f"{os.cpu_count()} x {_processor()}, {platform.system()}, load {load}; Python {python}, {', '.join(found)}."


def number(x: float) -> str:
    """Three digits that mean something."""
    return f"{x:,.0f}" if abs(x) >= 1000 else f"{x:.3g}"


def spread(values: Iterable[float]) -> str:
    """``median (least to most)``."""
    v = np.array(list(values))
    return f"{number(float(np.median(v)))} ({number(float(v.min()))} to {number(float(v.max()))})"


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; the first column is text, the others stand right."""
    line = "| " + " | ".join(head) + " |"
    rule = "|---|" + "---:|" * (len(head) - 1)
    return "\n".join([line, rule, *("| " + " | ".join(map(str, row)) + " |" for row in rows)])


def verdict(what: str, value: float, target: float, at_least: bool) -> str:
    """A line that says whether a number that is to be reached was reached; nothing fails because of it."""
    met = value >= target if at_least else value <= target
    sign = ("≥" if at_least else "≤") + f" {number(target)}"
    return f"- {what}: **{number(value)}** (wanted {sign}: {'reached' if met else 'MISSED'})"


def options(about: str | None, rounds: int) -> argparse.ArgumentParser:
    """The flags all benchmarks share."""
    parser = argparse.ArgumentParser(description=(about or "").split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=rounds, help=f"turns of each contestant ({rounds})")
    parser.add_argument("--record", action="store_true", help="append a dated section to RESULTS.md")
    return parser


def show(title: str, parts: Sequence[str], record: bool) -> None:
    """Prints a section, and appends it to RESULTS.md where asked."""
    text = "\n\n".join([f"## {date.today().isoformat()}: {title}", header(), *parts]) + "\n"
    sys.stdout.write(text)
    if record:
        with RESULTS.open("a", encoding="utf-8") as file:
            file.write("\n" + text)
