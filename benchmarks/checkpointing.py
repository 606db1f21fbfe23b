"""What checkpoints cost a training: steps with one every hundred, written while training goes on, beside steps without.

A run of the size of the paper's on hopper (windows of 20 steps, batches of 64, width 128, three blocks, AdamW), on synthetic
data, with the real save: everything copied at the step, then bundle, moments, digests and flushes in a thread. A turn begins
with a checkpoint, takes a hundred steps and ends when the checkpoint is on the disk, so nothing is left to the next one. Beside
both stands the same save with training waiting for it. To reach: less than 5 % of step time.
"""

import shutil
import tempfile
from pathlib import Path

import _data
import _ours
import numpy as np
from _timing import Case, Times, interleave, number, options, show, spread, table, threads, verdict

from seqrl.train import recipe as recipes
from seqrl.train.checkpoint import last
from seqrl.train.clockwork import Clockwork
from seqrl.train.engine import span_of

STEPS = 100
TEXT = """
name: checkpointing
data: {sources: [{kind: minari, id: synthetic/hopper-v0}]}
tokens: {context: 20}
model: {kind: policies.decision}
train: {steps: 1000000000, batch: 64, device: cpu}
evaluate: {at_end: false}
"""
NONE, BEHIND, WAITED = "no checkpoints", "written while training goes on", "training waits for it"


def clockwork(out: Path) -> tuple[Clockwork, _ours.Looped]:
    """A run under way on synthetic data, and its steps."""
    looped = _ours.Looped(loader := _data.loader(100_000), "fp32")
    recipe, trainer = recipes.parse(TEXT, "checkpointing.yaml"), looped.trainer
    trainer.step(0)
    args = (recipe, out, trainer.engine, loader.dataset, loader.tokenizer, trainer)
    return Clockwork(*args, 0, span_of(None, 0, recipe.train.steps)), looped


def cases(run: Clockwork, looped: _ours.Looped) -> list[Case]:
    """A hundred steps each."""
    saved = iter(range(1, 1_000_000_000))

    def steps() -> None:
        for _ in range(STEPS):
            looped.step()

    def behind() -> None:
        run._save(next(saved))
        steps()
        run.writer.wait()

    def waited() -> None:
        run._save(next(saved))
        run.writer.wait()
        steps()

    return [Case(NONE, steps, STEPS), Case(BEHIND, behind, STEPS), Case(WAITED, waited, STEPS)]


def more(times: dict[str, Times], name: str) -> np.ndarray:
    """Per cent that a step takes longer than without checkpoints, one number a round."""
    return 100 * (times[name].wall / times[NONE].wall - 1)


def main() -> None:
    options_ = options(__doc__, rounds=15).parse_args()
    threads(1)
    _data.at_home()
    # Where benchmarks keep their data: a disk, where the machine's folder for temporary files may be memory.
    out = Path(tempfile.mkdtemp(prefix="run-", dir=_data.HOME))
    try:
        run, looped = clockwork(out)
        times = interleave(cases(run, looped), options_.rounds)
        found = last(out)
        size = sum(p.stat().st_size for p in found.rglob("*") if p.is_file())
    finally:
        shutil.rmtree(out, ignore_errors=True)
    rows = [
        (name, spread(t.wall * 1e3), spread(t.cpu * 1e3), "" if name == NONE else spread(more(times, name)))
        for name, t in times.items()
    ]
    cost = f"{number(size / 2**20)} MiB a checkpoint, one every {STEPS} steps, one thread."
    head = ("", "ms a step", "processor ms a step", "% longer than without")
    reached = verdict("% that checkpoints add to a step", float(np.median(more(times, BEHIND))), 5.0, at_least=False)
    show("checkpoints every 100 steps", [cost, table(head, rows), reached], options_.record)


if __name__ == "__main__":
    main()
