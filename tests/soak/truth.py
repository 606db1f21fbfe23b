"""What a run that died and went on is held to: the bits of one that was never disturbed, and nothing broken lying about."""

import json
from pathlib import Path

from safetensors.numpy import load_file

from seqrl.train import checkpoint, metrics, seals

TIMES = ("steps_per_second", "seconds")


def _rows(run: Path) -> list[dict]:
    return [{k: v for k, v in row.items() if k not in TIMES} for row in metrics.read(run / "metrics.jsonl")]


def _stores(cache: Path) -> dict[str, str]:
    files = [p for p in (cache / "stores").rglob("*") if p.is_file()]
    return {p.relative_to(cache).as_posix(): seals.digest(p) for p in files if p.suffix != ".lock"}


def differences(run: Path, other: Path) -> list[str]:
    """What of a home's ``run`` and ``cache`` is not as in another's: files of the last checkpoint by their tensors, lines of
    metrics but for times, returns of the evaluation, converted data by their bytes."""
    found = []
    ours, theirs = (checkpoint.last(home / "run") for home in (run, other))
    if ours is None or ours.name != theirs.name:
        return [f"its last checkpoint is {ours and ours.name}"]
    names = [sorted(p.relative_to(c).as_posix() for p in c.rglob("*") if p.is_file()) for c in (ours, theirs)]
    if names[0] != names[1]:
        found.append(f"files of the checkpoint are {names[0]}")
    for name in names[1]:
        if name.endswith(".safetensors") and (ours / name).is_file():
            a, b = load_file(ours / name), load_file(theirs / name)
            if a.keys() != b.keys():
                found.append(f"{name} has other tensors")
            found += [f"{name}: {n} has other bits" for n in a.keys() & b.keys() if a[n].tobytes() != b[n].tobytes()]
    if _rows(run / "run") != _rows(other / "run"):
        found.append("lines of metrics.jsonl")
    played = [json.loads((home / "run" / "eval.json").read_text())["returns"] for home in (run, other)]
    if played[0] != played[1]:
        found.append("returns of the evaluation")
    if _stores(run / "cache") != _stores(other / "cache"):
        found.append("the converted data")
    return found


def litter(run: Path) -> list[str]:
    """What should not be there once a run has ended: halves of files, broken checkpoints, a pointer to an older one."""
    home = run / "checkpoints"
    found = [str(p.relative_to(run)) for p in run.rglob("*") if ".part" in p.name]
    found += [f"{c.name}: {why}" for c in home.glob("step-*") if (why := seals.wrong(c))]
    if (home / "last").resolve() != checkpoint.last(run).resolve():
        found.append("checkpoints/last")
    return found
