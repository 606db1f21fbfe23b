"""Ready examples of texts and codes of videos, one JSON object a line, in the format that LWM reads.

A line such as ``{"fields": "[question],vision,answer", "question": "...", "answer": "...", "vision": [codes]}`` is one example:
``fields`` says what stands in it and what is trained (data/documents_config.py), texts are texts, and a field whose name
contains ``vision`` holds the codes of a video, frame by frame, in one list or in one a frame. There are no episodes in it, so
it serves models of token documents alone (recipe ``tokens.documents``).
"""

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from seqrl.core.config import Frozen
from seqrl.core.errors import DataError
from seqrl.sources._files import digest, why

EXAMPLES = True
_BLOCK = 1 << 24


class Config(Frozen):
    """A file of examples."""

    kind: Literal["jsonl"] = "jsonl"
    path: str
    """The file, one JSON object a line; empty lines are passed over."""


def tiny(folder: Path) -> Config:
    """Three examples of a text and of videos of two codes a frame, for the tests."""
    lines = [{"fields": "[task],vision", "task": f"go {i}", "vision": [[i, 1], [2, i]]} for i in range(3)]
    path = folder / "tiny.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return Config(path=str(path))


class Source:
    """The lines of one file, each read when it is asked for."""

    def __init__(self, config: Config) -> None:
        """Raises DataError where there is no such file, or no line in it."""
        self.path = Path(config.path).expanduser()
        self.id = self.path.name
        try:
            self._starts = self._scan()
        except OSError as e:
            raise DataError(f"{self.path}: cannot be read: {why(e)}") from e
        if not len(self):
            raise DataError(f"{self.path} is empty: it has no examples")

    def _scan(self) -> np.ndarray:
        """``(2, N)`` int64: where each line that is not empty begins, and its number in the file."""
        ends, at = [], 0
        with self.path.open("rb") as file:
            while block := file.read(_BLOCK):
                ends.append(np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n")) + at)
                at += len(block)
        stops = np.append(np.concatenate(ends) if ends else np.empty(0, np.int64), at)
        starts = np.concatenate([[0], stops[:-1] + 1])
        # Empty lines are short; longer ones of nothing but spaces are told as no JSON.
        kept = np.flatnonzero(stops - starts > 1)
        return np.stack([starts[kept], kept + 1])

    def fingerprint(self) -> str:
        """Hex digest of the content."""
        return digest(self.path.parent, [self.path])

    def __len__(self) -> int:
        return self._starts.shape[1]

    def place(self, i: int) -> str:
        """``file:line`` of example ``i``."""
        return f"{self.path}:{self._starts[1, i]}"

    @cached_property
    def _file(self) -> Any:
        return self.path.open("rb")

    def example(self, i: int) -> Mapping[str, Any]:
        """The object on line ``i``; raises DataError, with file and line, where it is none."""
        self._file.seek(int(self._starts[0, i]))
        try:
            made = json.loads(self._file.readline())
        except (ValueError, RecursionError) as e:
            raise DataError(f"{self.place(i)}: this is no JSON: {e}") from e
        if not isinstance(made, dict):
            raise DataError(f"{self.place(i)}: a line is one object in braces (got {type(made).__name__})")
        fields = made.get("fields")
        several = isinstance(fields, list) and fields and all(isinstance(f, str) for f in fields)
        if fields is not None and not (isinstance(fields, str) or several):
            raise DataError(f"{self.place(i)}: 'fields' is a text such as '[task],vision', or a list of such")
        return made
