"""What a checkpoint's ``trainer`` folder holds, read a tensor at a time.

A process keeps no tensor that it did not ask for: the files are mapped, and what other processes left is looked into only where
a run goes on under another engine or in another number of processes.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from seqrl.core.errors import BundleError
from seqrl.core.plain import read_json

OWN = ("shard/", "tally/")
"""How tensors are called that each process has of its own."""


@dataclass(frozen=True)
class TrainerState:
    """What going on needs: the step reached, named tensors, and plain facts to check against."""

    step: int
    tensors: Mapping[str, torch.Tensor]
    facts: Mapping[str, Any]


class Kept(Mapping[str, torch.Tensor]):
    """The tensors of one or more safetensors files by name, each read when it is asked for; later files go before earlier.

    Args:
        files: mapped for as long as this lives.
        wanted: which names of a file are seen, by its path; all where None.
    """

    def __init__(self, files: Mapping[Path, Callable[[str], bool] | None]) -> None:
        self._where: dict[str, Any] = {}
        for path, wanted in files.items():
            file = safe_open(path, framework="pt")
            self._where |= {name: (path, file) for name in file.keys() if wanted is None or wanted(name)}  # noqa: SIM118

    def __getitem__(self, name: str) -> torch.Tensor:
        path, file = self._where[name]
        with readable(path.parent):
            return file.get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)

    def part(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Numbers ``start`` to ``stop`` of a tensor of one dimension; no others are read."""
        path, file = self._where[name]
        with readable(path.parent):
            return file.get_slice(name)[start:stop]

    def shape(self, name: str) -> tuple[int, ...]:
        """Without reading the tensor."""
        path, file = self._where[name]
        with readable(path.parent):
            return tuple(file.get_slice(name).get_shape())


@contextmanager
def readable(folder: Path) -> Iterator[None]:
    """Raises BundleError where the files of a ``trainer`` folder cannot be read."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as e:
        name = folder.parent.name
        raise BundleError(f"{folder}: this checkpoint cannot be read ({e}); delete {name} to go on from the one before") from e


def own_file(folder: Path, rank: int) -> Path:
    """Where in a ``trainer`` folder a process keeps what it has."""
    return folder / (f"state-{rank:05d}.safetensors" if rank else "state.safetensors")


def load(checkpoint: Path, rank: int = 0) -> TrainerState:
    """The trainer state of a checkpoint, as process ``rank`` left it; its tensors are read when they are asked for.

    Raises:
        BundleError: a file is truncated or missing.
    """
    folder = checkpoint / "trainer"
    with readable(folder):
        facts = read_json((folder / "state.json").read_text(encoding="utf-8"))
        step = facts.pop("step")
        if not isinstance(step, int) or not isinstance(facts.get("world", 1), int):
            raise ValueError("state.json holds no step")
        files: dict[Path, Callable[[str], bool] | None] = {own_file(folder, 0): None}
        own = own_file(folder, rank)
        # Of before engines had names, and of one process: there is one file for all.
        if rank and facts.get("world", 1) > rank and (own.exists() or facts.get("engine")):
            # What is every process's own (its moments, its sums) is not the first one's.
            files = {own_file(folder, 0): lambda name: not name.startswith(OWN), own: None}
        return TrainerState(step, Kept(files), facts)


def of_all(checkpoint: Path) -> list[Kept]:
    """What each process left, in their order.

    Raises:
        BundleError: a file is truncated or missing.
    """
    facts, folder = load(checkpoint).facts, checkpoint / "trainer"
    files = [own_file(folder, rank) for rank in range(facts.get("world", 1))]
    with readable(folder):
        # Of before engines had names only the first process left anything.
        return [Kept({f: None}) for f in files if f.exists() or facts.get("engine")]
