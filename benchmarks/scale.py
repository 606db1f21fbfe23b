"""A store of 100 million steps beside one of a million: opening it, all that a run does before its first batch, and drawing.

Hopper-shaped episodes of random numbers (benchmarks/_data.py), converted as any source is: 7 GB that are made for this and
removed afterwards (``--keep`` leaves them). Opening and preparing are measured in fresh processes: of their memory the
process's own and the mapped pages of the file are told apart, for the second the system takes back when it wants them. Drawing
is measured from memory-mapped stores, once with the file in the system's cache and once with its pages mapped too. To reach:
opened in 0.1 s and 100 MB, drawn from in at most 1.5 times as long.
"""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from itertools import count
from pathlib import Path

import _data
import numpy as np
from _timing import Case, Times, interleave, number, options, show, spread, table, threads, verdict

from seqrl.data.loader import Loader
from seqrl.data.store import Store, prepare

MILLION = 1_000_000
BATCHES = (64, 4096)

_WATCH = """
import json, sys, threading, time
def memory():
    lines = dict(line.split(":") for line in open("/proc/self/status"))
    return [int(lines[k].split()[0]) / 1024 for k in ("RssAnon", "RssFile", "VmRSS")]
class Watch(threading.Thread):
    def __init__(self):
        super().__init__(daemon=True)
        self.most, self.on = [0.0] * 3, True
    def run(self):
        while self.on:
            self.most = [max(a, b) for a, b in zip(self.most, memory())]
            time.sleep(0.002)
"""
_OPEN = (
    _WATCH
    + """
import numpy, pyarrow
from seqrl.data.store import Store
before, began = memory(), time.perf_counter()
store = Store(sys.argv[1])
views = [store.column(name) for name in store.names]
took, after = time.perf_counter() - began, memory()
print(json.dumps([took * 1e3, after[0] - before[0], after[1] - before[1], after[2], len(store)]))
"""
)
_PREPARE = (
    _WATCH
    + """
import _data
from seqrl.data.loader import Loader, fit
from seqrl.data.slots import TokensConfig
from seqrl.data.store import Store
from seqrl.data.tokenizer import Tokenizer
before, watch = memory(), Watch()
watch.start()
took, began = [], time.perf_counter()
def lap():
    global began
    took.append(time.perf_counter() - began)
    began = time.perf_counter()
data = _data.dataset(Store(sys.argv[1]), held_out=0.05)
lap()
tokenizer = Tokenizer(TokensConfig(context=_data.CONTEXT, slots={"return": {"kind": "scale", "by": 1000.0}}), data.spec)
fit(tokenizer, data)
lap()
loader = Loader(data, tokenizer, "cpu", None if sys.argv[2] == "default" else 0)
lap()
batch = loader.draw(0, 0, 64)
list(loader.validation(64, 64))
lap()
watch.on = False
print(json.dumps([*took, watch.most[0] - before[0], memory()[0] - before[0], watch.most[1] - before[1]]))
"""
)
_CONVERT = (
    _WATCH
    + """
import _data
from seqrl.data.store import prepare
_data.at_home()
before, watch, began, busy = memory(), Watch(), time.perf_counter(), time.process_time()
watch.start()
store = prepare(_data.Synthetic(int(sys.argv[1])))
watch.on = False
print(json.dumps([time.perf_counter() - began, time.process_time() - busy, watch.most[0] - before[0], str(store.path)]))
"""
)


def fresh(code: str, *args: str) -> list:
    """What a new process says at its end."""
    here = str(Path(__file__).resolve().parent)
    out = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, check=True, cwd=here)
    return json.loads(out.stdout.splitlines()[-1])


def opening(stores: dict[str, Store], rounds: int) -> tuple[str, list[str]]:
    """The table of opening, and its verdicts."""
    found = {name: np.array([fresh(_OPEN, str(s.path)) for _ in range(rounds)]).T for name, s in stores.items()}
    rows = [(n, number(c[4, 0]), *(spread(c[k]) for k in range(4))) for n, c in found.items()]
    head = ("opening", "episodes", "ms, median (least to most)", "MiB of its own", "MiB of the file", "MiB of the process")
    large = list(found.values())[-1]
    verdicts = [verdict("ms to open the large store", float(np.median(large[0])), 100, at_least=False)]
    verdicts.append(verdict("MiB resident with it open, Python and libraries counted", large[3].max(), 100, at_least=False))
    return table(head, rows), verdicts


def preparing(stores: dict[str, Store]) -> tuple[str, list[str]]:
    """The table of what a run does before its first batch, the first time and again, and its verdict."""
    rows, most = [], 0.0
    for name, store in stores.items():
        shutil.rmtree(store.path / "computed", ignore_errors=True)
        for again in ("first", "again"):
            *took, peak, left, mapped = fresh(_PREPARE, str(store.path), "default" if store.steps > MILLION else "mapped")
            rows.append((f"{name}, {again}", *(number(t) for t in took), number(peak), number(left), number(mapped)))
            most = max(most, peak) if store is list(stores.values())[-1] else most
    head = (
        "preparing",
        "s: episodes",
        "statistics",
        "loader",
        "first batches",
        "MiB of its own, at most",
        "MiB kept",
        "MiB of the file",
    )
    return table(head, rows), [verdict("MiB of its own that a run takes before it trains, at most", most, 100, at_least=False)]


def drawing(stores: dict[str, Store], rounds: int) -> tuple[list[str], list[str]]:
    """A table for each size of batch, and its verdict."""
    loaders = {name: _data.loader_of(store, budget=0) for name, store in stores.items()}
    held = {f"{next(iter(stores))}, in memory": _data.loader_of(next(iter(stores.values())))}
    small, large = loaders
    parts, verdicts = [], []
    for state in ("in the cache", "mapped"):
        for store in stores.values():
            _touch(store, mapped=state == "mapped")
        if state == "mapped":
            for loader in loaders.values():
                _touch_computed(loader)
        for rows in BATCHES:
            cases = [Case(n, partial(_draw, made, rows, count())) for n, made in (loaders | held).items()]
            times = interleave(cases, rounds, turn=0.3, warm=3)
            parts.append(_drawn(f"batch of {rows}, pages {state}", times, large))
            if state == "mapped":
                busy = float(np.median(times[large].cpu / times[small].cpu))
                for what, ratio in (("times as long", times[small].faster_than(times[large])), ("times the processor", busy)):
                    verdicts.append(verdict(f"{what} for {rows} windows, once warm", ratio, 1.5, at_least=False))
    return parts, verdicts


def _draw(made: Loader, rows: int, steps: Iterator[int]) -> object:
    return made.draw(0, next(steps), rows)


def _drawn(title: str, times: dict[str, Times], large: str) -> str:
    lines = [(n, spread(t.wall * 1e3), spread(t.cpu * 1e3), number(t.faster_than(times[large]))) for n, t in times.items()]
    return table((title, "ms, median (least to most)", "processor ms", "the large one takes x"), lines)


def _touch(store: Store, mapped: bool) -> None:
    """Brings a store into the system's cache, or looks at every page of its columns as well."""
    for path in store.path.rglob("*.*"):
        with path.open("rb") as file:
            while file.read(1 << 24):
                pass
    for name in store.names if mapped else ():
        _look(store.column(name))


def _touch_computed(loader: Loader) -> None:
    for columns in loader.tables._columns:
        for column in columns.values():
            if isinstance(column, np.ndarray):
                _look(column)


def _look(column: np.ndarray) -> None:
    flat = column.reshape(-1)
    flat[:: max(1, 4096 // flat.itemsize)].sum()


def main() -> None:
    parser = options(__doc__, rounds=15)
    parser.add_argument("--steps", type=float, default=100, help="millions of steps of the large store (100)")
    parser.add_argument("--keep", action="store_true", help="leave the large store where it is")
    options_ = parser.parse_args()
    threads(1)
    _data.at_home()
    steps = int(options_.steps * MILLION)
    seconds, busy, peak, path = fresh(_CONVERT, str(steps))
    stores = {"1M steps": prepare(_data.Synthetic(MILLION)), f"{options_.steps:g}M steps": Store(path)}
    said = [f"Converted {steps:,} steps in {number(seconds)} s ({number(busy)} s of processor), {number(peak)} MiB of memory."]
    if seconds < 5:
        said = []
    began = time.perf_counter()
    opened, verdicts = opening(stores, max(5, options_.rounds // 3))
    prepared, more = preparing(stores)
    drawn, last = drawing(stores, options_.rounds)
    print(f"measured in {time.perf_counter() - began:.0f} s", file=sys.stderr)
    lines = "\n".join([*verdicts, *more, *last])
    show(f"a store of {options_.steps:g} million steps", [*said, opened, prepared, *drawn, lines], options_.record)
    if not options_.keep:
        shutil.rmtree(path)


if __name__ == "__main__":
    main()
