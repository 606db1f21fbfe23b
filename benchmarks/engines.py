"""What each process holds under each engine, and whether all of them learn what one process learns.

A Gato of 20 million weights on random packed rows is trained alone, and by two processes under each engine, each time in
processes of their own. Weights and moments are counted by their storages, so those figures are exact; the peak is of resident
memory in later steps, above what the process took before it had an engine: with what its libraries take, the activations, and
the weights that are gathered at a time. Losses are compared with those of one process.
"""

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from _timing import number, options, show, table, verdict
from streams import batch, hopper

from seqrl.core.packed import PackedBatch
from seqrl.policies.gato import Gato, GatoConfig
from seqrl.train import launch
from seqrl.train.engine import Engine
from seqrl.train.loop import Trainer
from seqrl.train.optim import make_optimizer
from seqrl.train.recipe import TrainConfig
from seqrl.train.settings import EngineConfig

KINDS = ("ddp", "zero2", "zero3", "fsdp")
LENGTH, ROWS, WIDTH, LAYERS = 120, 4, 512, 6


class Rows:
    """Random rows in a loader's place: of each step the same ones, however they are dealt out."""

    length, held_out = LENGTH, None

    def draw(self, seed: int, step: int, rows: int, rank: int = 0, world: int = 1) -> PackedBatch:
        return batch(hopper(), [[LENGTH // 15]] * ROWS, LENGTH, seed=step).split(world)[rank]


def _status(word: str) -> int:
    """Bytes that Linux tells of this process."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(word)) * 1024


def held(trainer: Trainer) -> int:
    """Bytes of weights and moments, each storage once; what one engine calls weights is to another a copy of them."""
    found = list(trainer.bare.parameters()) + [p for g in trainer.optimizer.param_groups for p in g["params"]]
    # What DeepSpeed's stage 3 deals out lies beside the parameter.
    found += [p.ds_tensor for p in trainer.bare.parameters() if hasattr(p, "ds_tensor")]
    found += [t for state in trainer.optimizer.state.values() for t in state.values() if torch.is_tensor(t)]
    local = [getattr(t, "_local_tensor", t) for t in found]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in local if t.numel()}.values())


def child(kind: str, world: int, steps: int, out: Path) -> None:
    """Trains, and writes what this process measured."""
    before = _status("VmRSS")
    engine = Engine("cpu", "fp32", 0, packed=True, how=EngineConfig(kind=kind, processes=world))
    torch.manual_seed(0)
    config = GatoConfig.for_domains({"one": hopper()}, LENGTH, body="gpt2", width=WIDTH, layers=LAYERS, heads=8, dropout=0.0)
    train = TrainConfig(steps=steps, batch=ROWS, lr=1e-4, clip=1.0, losses={"action": 1.0})
    trainer = Trainer(train, engine, Gato(config), lambda m: make_optimizer(m, train), Rows())
    losses: list[float] = []
    for step in range(steps):
        trainer.step(step)
        losses.append(trainer.measured()["loss"])
        if step == 0:
            # All buffers are there now; what it took to deal out weights is over.
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    told: dict[str, Any] = {"losses": losses, "held": held(trainer), "peak": _status("VmHWM") - before}
    told["weights"] = sum(engine.sizes.values())
    (out / f"{kind}-{world}-{engine.rank}.json").write_text(json.dumps(told), encoding="utf-8")
    engine.wait()
    launch.leave(0)


def run(kind: str, world: int, steps: int, out: Path) -> list[dict[str, Any]]:
    """What each of the processes measured."""
    command = [sys.executable, __file__, "--child", kind, str(world), str(out), "--steps", str(steps)]
    launch.together(command, world)
    return [json.loads((out / f"{kind}-{world}-{r}.json").read_text(encoding="utf-8")) for r in range(world)]


def main() -> None:
    parser = options(__doc__, rounds=1)
    parser.add_argument("--steps", type=int, default=4, help="training steps of each (4)")
    parser.add_argument("--child", nargs=3, metavar=("KIND", "PROCESSES", "FOLDER"), help="for one of the processes")
    chosen = parser.parse_args()
    if chosen.child:
        kind, world, folder = chosen.child
        return child(kind, int(world), chosen.steps, Path(folder))
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        (alone,) = run("ddp", 1, chosen.steps, Path(folder))
        found = {kind: run(kind, 2, chosen.steps, Path(folder)) for kind in KINDS}
    lines, furthest = [], 0.0
    for name, told in ({"one process": [alone]} | {f"{k}, two processes": v for k, v in found.items()}).items():
        off = max(abs(a - b) / b for a, b in zip(told[0]["losses"], alone["losses"], strict=True))
        furthest = max(furthest, off)
        most = max(t["held"] for t in told)
        peak = max(t["peak"] for t in told)
        mib = [number(n / 2**20) for n in (most, peak)]
        lines.append((name, mib[0], f"{most / alone['held']:.3f}", f"{most / alone['weights']:.1f}", mib[1], f"{off:.1e}"))
    head = (
        "engine",
        "weights and moments, MiB",
        "of one process's",
        "bytes a weight",
        "peak in later steps, MiB",
        "loss is off by",
    )
    share = {k: max(t["held"] for t in v) / alone["held"] for k, v in found.items()}
    verdicts = [verdict(f"weights and moments of a process, {k}, of one's", share[k], 0.55, at_least=False) for k in KINDS[2:]]
    verdicts.append(verdict("losses off by at most", furthest, 1e-5, at_least=False))
    size = f"{alone['weights'] / 1e6:.1f} million weights, {ROWS} rows of {LENGTH} a step, {chosen.steps} steps, gloo."
    show("what each process holds under each engine", [size, table(head, lines), "\n".join(verdicts)], chosen.record)
    return None


if __name__ == "__main__":
    main()
