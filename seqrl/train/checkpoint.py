"""Checkpoints that are whole or not there: written aside, sealed, flushed, renamed.

``checkpoints/step-00001000/{bundle/, trainer/}``, and ``checkpoints/last`` pointing to the newest. The bundle is a complete
model, whatever engine trained it; the trainer folder holds what only going on needs: optimiser moments, raw weights where the
bundle holds their average, the step, and of several processes a file each (``state-00001.safetensors`` on), with what that
process alone has. All tensors are safetensors, everything else JSON: nothing is ever unpickled. A process killed at any moment
leaves the checkpoint before, and at most a ``.part`` folder that the next one sweeps away; a checkpoint that is no longer what
was written (seals.py) is not gone on from.
"""

import errno
import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from seqrl.core.errors import BundleError, UserError
from seqrl.sources._files import why
from seqrl.train import seals
from seqrl.train.disk import flush, flush_tree, writing
from seqrl.train.saved import TrainerState, own_file
from seqrl.train.saved import load as load
from seqrl.train.writer import Posts

_THERE = "there"
_told: set[Path] = set()


def name_of(step: int) -> str:
    return f"step-{step:08d}"


def _places(run: Path, step: int) -> tuple[Path, Path]:
    """Where a checkpoint is written, and what it is called when it is whole."""
    home = run / "checkpoints"
    return home / f".part-{name_of(step)}", home / name_of(step)


def _whole(home: Path) -> list[Path]:
    """The checkpoints that were written to their end, the oldest first."""
    return sorted(p for p in home.glob("step-*") if (p / "trainer" / "state.json").is_file())


def _write(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, path)


def add(run: Path, state: TrainerState, rank: int, posts: Posts) -> None:
    """What process ``rank`` (1 on) adds to the checkpoint that the first one is saving; both give ``posts`` of the same name.

    Raises:
        UserError: a disk is full, this process's or another's; there is no such checkpoint then.
    """
    if posts.hear("folder") == _THERE:
        return
    part, whole = _places(run, state.step)
    own = own_file(part / "trainer", rank)
    try:
        _write(own, state.tensors)
        flush(own)
        posts.tell("added", seals.digest(own))
    except (OSError, SafetensorError) as e:
        error = _refused(e, run, whole)
        posts.fail(str(error))
        raise error from e
    posts.hear("done")


def save(
    run: Path,
    state: TrainerState,
    write_bundle: Callable[[Path], None],
    keep: int,
    posts: Posts | None = None,
) -> Path:
    """Writes a checkpoint and makes it the last.

    Args:
        run: the run folder.
        state: for ``trainer/``.
        write_bundle: called with the folder to fill.
        keep: how many checkpoints to leave, this one included.
        posts: of all processes that write it; where there are others, each calls ``add``.

    Raises:
        UserError: a disk is full; earlier checkpoints stay, nothing half-written remains.
    """
    posts = posts or Posts()
    home, (part, whole) = run / "checkpoints", _places(run, state.step)
    # A run stopped right after a regular save: the state is a function of the step, so this is it already.
    if (whole / "trainer" / "state.json").is_file() and seals.wrong(whole) is None:
        posts.tell("folder", _THERE)
        return whole
    try:
        if not home.is_dir():
            home.mkdir(parents=True)
            flush(run)
        sweep(home)
        (part / "trainer").mkdir(parents=True)
        posts.tell("folder")
        write_bundle(part / "bundle")
        _write(own_file(part / "trainer", 0), state.tensors)
        files = {r: own_file(part / "trainer", r).relative_to(part).as_posix() for r in posts.others}
        added = {files[r]: posts.hear("added", r) for r in posts.others}
        facts = {"step": state.step, seals.SEALED: True, **state.facts}
        (part / "trainer" / "state.json").write_text(json.dumps(facts), encoding="utf-8")
        seals.seal(part, added)
        flush_tree(part)
        _set_aside(whole)
        os.rename(part, whole)
        point(home, whole.name)
    except (OSError, SafetensorError) as e:
        shutil.rmtree(part, ignore_errors=True)
        error = _refused(e, run, whole)
        posts.fail(str(error))
        raise error from e
    except Exception as e:
        shutil.rmtree(part, ignore_errors=True)
        posts.fail(str(e))
        raise
    posts.tell("done")
    _thin(home, whole, keep)
    return whole


def _refused(error: Exception, run: Path, whole: Path) -> UserError:
    """The message of a disk that does not take a checkpoint: which, what stays, and what to do."""
    before = next((c for c in reversed(_whole(run / "checkpoints")) if c != whole and seals.wrong(c) is None), None)
    stays = f"the checkpoint {before.name} stays" if before else "there is no earlier checkpoint"
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error):
        return UserError(f"no space left on the disk of {whole.parent} for {whole.name}; {stays}; free some and resume")
    return UserError(f"{whole}: cannot be written ({why(error)}); {stays}; mend that and go on: seqrl train --resume {run}")


def _set_aside(folder: Path) -> None:
    """Takes a checkpoint away in one step, so that whoever is killed meanwhile leaves all of it or nothing."""
    if folder.exists():
        away = folder.with_name(f".part-old-{folder.name}")
        os.rename(folder, away)
        shutil.rmtree(away, ignore_errors=True)


def _thin(home: Path, newest: Path, keep: int) -> None:
    """Leaves the last few checkpoints; those of later steps than the newest are damaged ones, and of no use any more."""
    there = sorted(p for p in home.glob("step-*") if p.is_dir())
    before = [p for p in there if p.name < newest.name]
    for old in [p for p in there if p.name > newest.name] + (before[: -(keep - 1)] if keep > 1 else before):
        # A full disk or a stubborn file must not stop a run whose checkpoint has just been written.
        try:
            _set_aside(old)
        except OSError:
            continue


def point(home: Path, name: str) -> None:
    """Makes ``last`` point to ``name``, in one step for whoever looks."""
    aside = home / ".last.part"
    aside.unlink(missing_ok=True)
    aside.symlink_to(name)
    os.replace(aside, home / "last")
    flush(home)


def sweep(home: Path) -> None:
    """Removes what a killed process left half-written. For the process that writes this run alone."""
    for part in home.glob(".part-*"):
        shutil.rmtree(part, ignore_errors=True)


def last(run: Path) -> Path | None:
    """The newest checkpoint of a run that is complete and what was written, or None; damaged ones are told once, on stderr.

    Raises:
        BundleError: there are complete checkpoints, and every one of them is damaged.
    """
    # A rename that was not followed by its pointer is whole nevertheless: the newest folder is the truth.
    whole = _whole(run / "checkpoints")
    damaged = []
    for checkpoint in reversed(whole):
        if (what := seals.wrong(checkpoint)) is None:
            for bad, said in damaged:
                _tell(f"{bad}: {said}; going on from {checkpoint.name}", bad)
            return checkpoint
        damaged.append((checkpoint, what))
    if damaged:
        told = "; ".join(f"{c.name}: {what}" for c, what in damaged)
        raise BundleError(f"{run}: no checkpoint is what was written ({told}); to begin anew delete {run / 'checkpoints'}")
    return None


def _tell(message: str, about: Path) -> None:
    # Of several processes all look, and one speaks.
    if about not in _told and os.environ.get("RANK", "0") == "0":
        _told.add(about)
        print(f"seqrl: {message}", file=sys.stderr, flush=True)


def settle(run: Path) -> None:
    """Makes a run's folder say what is so before it is gone on with: nothing half-written, and ``last`` is the newest that is
    what was written. For the process that writes this run alone."""
    home = run / "checkpoints"
    for left in (*run.glob(".*.part"), *run.glob("*.part")):
        if left.is_file():
            left.unlink(missing_ok=True)
    sweep(home)
    if (newest := last(run)) and (home / "last").resolve().name != newest.name:
        with writing(home / "last"):
            point(home, newest.name)


def facts_of(run: Path) -> Mapping[str, Any]:
    """What the last checkpoint's ``state.json`` says; nothing where there is no checkpoint."""
    newest = last(run)
    return json.loads((newest / "trainer" / "state.json").read_text(encoding="utf-8")) if newest else {}


def add_metrics(run: Path, more: Mapping[str, Any]) -> None:
    """Adds what was measured later to the metrics of the last checkpoint's bundle."""
    if newest := last(run):
        try:
            known = json.loads((newest / "bundle" / "metrics.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as e:
            raise BundleError(f"{newest / 'bundle' / 'metrics.json'}: cannot be read: {e}") from e
        seals.change(newest, "bundle/metrics.json", json.dumps(known | dict(more), indent=1))
