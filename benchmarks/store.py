"""What a converted dataset costs to open, in time and memory, and how long it takes to convert one.

Opening is measured in fresh processes, over stores of 0.1, 1 and 4 million hopper-shaped steps: once the store itself, and once
as a run opens it, by the dataset's name. Converting is measured from a Minari dataset of a million steps that Minari's own
writer wrote, against Minari reading all its episodes once. To reach: opening under 50 ms without memory growing with the
data, and a million steps converted in under 10 s.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import _data
import numpy as np
from _timing import Case, Times, interleave, number, options, show, spread, table, verdict

from seqrl.data.store import prepare
from seqrl.sources import minari

MILLION = 1_000_000
SIZES = (100_000, MILLION, 4 * MILLION)
ID = "synthetic/hopper-v0"

_FRESH = """
import json, sys, time
def memory():
    lines = dict(line.split(":") for line in open("/proc/self/status"))
    return [int(lines[k].split()[0]) for k in ("RssAnon", "RssFile")]
import numpy, pyarrow
from seqrl.data.store import Store, prepare
from seqrl.sources import minari
before, began = memory(), time.perf_counter()
store = Store(sys.argv[1]) if len(sys.argv) == 2 else prepare(minari.Source(minari.Config(id=sys.argv[2])))
views = [store.column(name) for name in store.names]
took, after = time.perf_counter() - began, memory()
print(json.dumps([took * 1e3, *[(b - a) / 1024 for a, b in zip(before, after)], len(store)]))
"""


def opened(*where: str) -> list[float]:
    """Milliseconds, MiB of own memory and MiB of mapped file, and how many episodes, in a fresh process."""
    out = subprocess.run([sys.executable, "-c", _FRESH, *where], capture_output=True, text=True, check=True)
    return json.loads(out.stdout.splitlines()[-1])


def opening(rounds: int) -> tuple[str, list[str]]:
    """The table of opening, and its verdicts."""
    paths = {f"{steps / MILLION:g}M steps": (str(prepare(_data.Synthetic(steps)).path),) for steps in SIZES}
    paths["1M steps, by its name"] = ("", ID)
    found: dict[str, list[list[float]]] = {name: [] for name in paths}
    for _ in range(rounds):
        for name, where in paths.items():
            found[name].append(opened(*where))
    columns = {name: np.array(rows).T for name, rows in found.items()}
    lines = [(name, number(c[3, 0]), spread(c[0]), spread(c[1]), spread(c[2])) for name, c in columns.items()]
    head = ("opening", "episodes", "ms, median (least to most)", "MiB of memory", "MiB of the file looked at")
    slowest = max(float(np.median(c[0])) for c in columns.values())
    small, *_, large = (float(np.median(columns[name][1])) for name in list(paths)[: len(SIZES)])
    verdicts = [verdict("ms to open, the slowest row", slowest, 50, at_least=False)]
    verdicts.append(verdict("MiB that 4M steps take more than 0.1M", large - small, 1, at_least=False))
    return table(head, lines), verdicts


def write_minari() -> None:
    """A million synthetic steps as Minari itself writes them; made once."""
    if (_data.HOME / "minari" / ID).is_dir():
        return
    from gymnasium.spaces import Box
    from minari import create_dataset_from_buffers
    from minari.data_collector import EpisodeBuffer

    source = _data.Synthetic(MILLION)
    buffers = [
        EpisodeBuffer(
            id=i,
            seed=i,
            observations=episode.obs["observation"],
            actions=episode.act["action"],
            rewards=episode.rew,
            terminations=episode.terminated,
            truncations=episode.truncated,
        )
        for i, episode in enumerate(source.episode(i) for i in range(len(source)))
    ]
    spaces = {
        "observation_space": Box(-np.inf, np.inf, (_data.OBS,), np.float32),
        "action_space": Box(-1, 1, (_data.ACT,), np.float32),
    }
    create_dataset_from_buffers(ID, buffers, **spaces, author="nobody", author_email="", description="random numbers")


def converting(rounds: int) -> dict[str, Times]:
    """Seconds to convert, and to read with Minari, a million steps."""
    from minari import load_dataset

    def ours() -> None:
        shutil.rmtree(_data.HOME / "again", ignore_errors=True)
        prepare(minari.Source(minari.Config(id=ID)))

    def theirs() -> None:
        assert sum(len(e.rewards) for e in load_dataset(ID).iterate_episodes()) == MILLION

    return interleave([Case("seqrl, converted", ours), Case("minari, every episode read once", theirs)], rounds)


def main() -> None:
    options_ = options(__doc__, rounds=3).parse_args()
    home = _data.at_home()
    write_minari()
    began = time.perf_counter()
    first = prepare(minari.Source(minari.Config(id=ID)))
    print(f"converted in {time.perf_counter() - began:.1f} s, {first.steps:,} steps", file=sys.stderr)
    opened_table, verdicts = opening(max(5, options_.rounds))
    elsewhere(home / "again")
    times = converting(options_.rounds)
    ours = times["seqrl, converted"]
    lines = [(name, spread(t.wall), spread(t.cpu), number(ours.faster_than(t))) for name, t in times.items()]
    head = ("1M steps of a Minari HDF5 file", "s, median (least to most)", "processor s", "ours is x")
    verdicts.append(verdict("s to convert 1M steps", ours.median, 10, at_least=False))
    parts = [opened_table, table(head, lines), "\n".join(verdicts)]
    show("opening and converting", parts, options_.record)
    shutil.rmtree(home / "again", ignore_errors=True)


def elsewhere(cache: Path) -> None:
    """From now on an empty cache, so that nothing is converted already."""
    os.environ["SEQRL_CACHE"] = str(cache)


if __name__ == "__main__":
    main()
