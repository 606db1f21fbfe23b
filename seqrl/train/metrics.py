"""What a run says about itself: a line of JSON per event in ``metrics.jsonl``, always; other trackers by choice.

A resumed run first drops the lines that came after its checkpoint, so that the file reads as if nothing had happened.
"""

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from seqrl.core.errors import UserError
from seqrl.train.disk import write_whole, writing


def read(path: Path) -> list[dict[str, Any]]:
    """The complete lines of a metrics file; a line cut short by a kill is left out."""
    rows = []
    if path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(row, dict) and isinstance(row.get("step"), int):
                rows.append(row)
    return rows


class Metrics:
    """Writes metrics as they come."""

    def __init__(self, run: Path, trackers: Sequence[str] = (), resume_at: int = 0, lines: int | None = None) -> None:
        """
        Args:
            run: the run folder.
            trackers: of ``tensorboard`` and ``trackio``.
            resume_at: drop earlier lines beyond this step.
            lines: how many there were when that step was saved; None where nobody counted.

        Raises:
            UserError: a tracker is not installed, or the disk is full.
        """
        self.path = run / "metrics.jsonl"
        # An evaluation at the end has the step of the last checkpoint, and comes after it.
        kept = [r for r in read(self.path) if r["step"] <= resume_at][:lines]
        write_whole(self.path, "".join(json.dumps(r) + "\n" for r in kept))
        self.lines = len(kept)
        """How many there are."""
        self._file = self.path.open("a", encoding="utf-8")
        self._sinks = [_SINKS[name](run) for name in trackers]

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One line; flushed, so that a killed run has said all it knew."""
        with writing(self.path):
            self._file.write(json.dumps({"step": step, **values}) + "\n")
            self._file.flush()
        self.lines += 1
        for sink, _ in self._sinks:
            sink(step, values)

    def flush(self) -> None:
        """Pushes all lines to the disk itself, so that a checkpoint never outlives the lines before it."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes the file and lets every tracker finish what it has not written yet."""
        # Of a full disk what could not be written was told already, and closing would try once more.
        with suppress(OSError):
            self._file.close()
        for _, finish in self._sinks:
            finish()


def _tensorboard(run: Path) -> tuple[Any, Any]:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as e:
        raise UserError('train.trackers: tensorboard is not installed; pip install "seqrl[trackers]"') from e
    writer = SummaryWriter(str(run / "tensorboard"))

    def sink(step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, step)
        writer.flush()

    return sink, writer.close


def _trackio(run: Path) -> tuple[Any, Any]:
    try:
        import trackio
    except ImportError as e:
        raise UserError('train.trackers: trackio is not installed; pip install "seqrl[trackers]"') from e
    trackio.init(project="seqrl", name=run.name, resume="allow", embed=False)
    return lambda step, values: trackio.log(dict(values), step=step), trackio.finish


_SINKS = {"tensorboard": _tensorboard, "trackio": _trackio}
