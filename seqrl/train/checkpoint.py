"""Checkpoints that are whole or not there: written aside, flushed, renamed.

``checkpoints/step-00001000/{bundle/, trainer/}``, and ``checkpoints/last`` pointing to the newest. The bundle is a complete
model, whatever engine trained it; the trainer folder holds what only going on needs: optimiser moments, raw weights where the
bundle holds their average, the step, and of several processes a file each (``state-00001.safetensors`` on), with what that
process alone has. All tensors are safetensors, everything else JSON: nothing is ever unpickled. A process killed at any moment
leaves the checkpoint before, and at most a ``.part`` folder that the next one sweeps away.
"""

import errno
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from seqrl.core.errors import BundleError, UserError

OWN = ("shard/", "tally/")
"""How tensors are called that each process has of its own."""


@dataclass(frozen=True)
class TrainerState:
    """What going on needs: the step reached, named tensors, and plain facts to check against."""

    step: int
    tensors: Mapping[str, torch.Tensor]
    facts: Mapping[str, Any]


def name_of(step: int) -> str:
    return f"step-{step:08d}"


def _flush(path: Path) -> None:
    """Pushes a file's or folder's content to the disk itself."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _flush_tree(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        _flush(path)
    _flush(folder)


def _places(run: Path, step: int) -> tuple[Path, Path, bool]:
    """Where a checkpoint is written, what it is called when it is whole, and whether it is that already."""
    home = run / "checkpoints"
    part, whole = home / f".part-{name_of(step)}", home / name_of(step)
    # A run stopped right after a regular save: the state is a function of the step, so this is it already.
    return part, whole, (whole / "trainer" / "state.json").is_file()


def _write(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, path)


def add(run: Path, state: TrainerState, rank: int, meet: Callable[[], None]) -> None:
    """What process ``rank`` (1 on) adds to the checkpoint that the first one is saving; ``meet`` as there."""
    part, _, there = _places(run, state.step)
    if there:
        return
    meet()
    _write(part / "trainer" / f"state-{rank:05d}.safetensors", state.tensors)
    meet()


def save(
    run: Path,
    state: TrainerState,
    write_bundle: Callable[[Path], None],
    keep: int,
    meet: Callable[[], None] = lambda: None,
) -> Path:
    """Writes a checkpoint and makes it the last.

    Args:
        run: the run folder.
        state: for ``trainer/``.
        write_bundle: called with the folder to fill.
        keep: how many checkpoints to leave, this one included.
        meet: waits for all processes: once when the folder is there, once when each has added what it has.

    Raises:
        UserError: the disk is full; earlier checkpoints stay, nothing half-written remains.
    """
    home = run / "checkpoints"
    home.mkdir(parents=True, exist_ok=True)
    part, whole, there = _places(run, state.step)
    if there:
        return whole
    shutil.rmtree(part, ignore_errors=True)
    try:
        (part / "trainer").mkdir(parents=True)
        meet()
        write_bundle(part / "bundle")
        _write(part / "trainer" / "state.safetensors", state.tensors)
        meet()
        (part / "trainer" / "state.json").write_text(json.dumps({"step": state.step, **state.facts}), encoding="utf-8")
        _flush_tree(part)
        os.rename(part, whole)
        point(home, whole.name)
    except (OSError, SafetensorError) as e:
        shutil.rmtree(part, ignore_errors=True)
        if getattr(e, "errno", None) == errno.ENOSPC or "No space left" in str(e):
            before = last(run)
            stays = f"the checkpoint {before.name} stays" if before else "there is no earlier checkpoint"
            raise UserError(f"no space left on the disk of {home} for {whole.name}; {stays}; free some and resume") from e
        raise
    for old in sorted(p for p in home.glob("step-*") if p.is_dir())[:-keep]:
        if old != whole:
            shutil.rmtree(old, ignore_errors=True)
    return whole


def point(home: Path, name: str) -> None:
    """Makes ``last`` point to ``name``, in one step for whoever looks."""
    aside = home / ".last.part"
    aside.unlink(missing_ok=True)
    aside.symlink_to(name)
    os.replace(aside, home / "last")
    _flush(home)


def last(run: Path) -> Path | None:
    """The newest complete checkpoint of a run, or None; sweeps away what a killed process left."""
    home = run / "checkpoints"
    for part in home.glob(".part-*"):
        shutil.rmtree(part, ignore_errors=True)
    whole = sorted(p for p in home.glob("step-*") if (p / "trainer" / "state.json").is_file())
    # A rename that was not followed by its pointer is whole nevertheless: the newest folder is the truth.
    return whole[-1] if whole else None


def load(checkpoint: Path, rank: int = 0) -> TrainerState:
    """The trainer state of a checkpoint, as process ``rank`` left it.

    Raises:
        BundleError: a file is truncated or missing.
    """
    folder = checkpoint / "trainer"
    try:
        facts = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        tensors = load_file(folder / "state.safetensors")
        if rank and facts.get("world", 1) > rank:
            # What is every process's own (its moments, its sums) is not the first one's.
            tensors = {n: t for n, t in tensors.items() if not n.startswith(OWN)}
            own = folder / f"state-{rank:05d}.safetensors"
            tensors |= load_file(own) if own.exists() or facts.get("engine") else {}
    except (OSError, ValueError, SafetensorError) as e:
        raise BundleError(
            f"{folder}: this checkpoint cannot be read ({e}); delete {checkpoint.name} to go on from the one before"
        ) from e
    return TrainerState(facts.pop("step"), tensors, facts)


def pack_optimizer(optimizer: torch.optim.Optimizer, model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The optimiser's moments by parameter name: ``optimizer/<moment>/<parameter>``."""
    out = {}
    for name, p in model.named_parameters():
        for key, value in optimizer.state.get(p, {}).items():
            out[f"optimizer/{key}/{name}"] = value
    return out


def unpack_optimizer(optimizer: torch.optim.Optimizer, model: torch.nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Puts packed moments back, each on its parameter's device (the step count stays where the optimiser keeps it)."""
    by_name = dict(model.named_parameters())
    for key, value in tensors.items():
        if key.startswith("optimizer/"):
            _, moment, name = key.split("/", 2)
            p = by_name[name]
            # A copy: what safetensors gives may still be mapped from the file.
            optimizer.state[p][moment] = value.to(p.device, copy=True)
