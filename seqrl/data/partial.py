"""A conversion under way: a hidden folder beside the store it will be, which survives whatever stops it.

Columns grow as flat files, one row per observation. Now and then everything is flushed and a journal says how many episodes
are certain; what lies behind that is cut off when the conversion is taken up again. So a kill, a full disk or a power failure
costs at most the last few episodes, and the store comes out byte for byte as if nothing had happened.
"""

import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from seqrl.core.errors import DataError
from seqrl.data.gather import Layout, bytes_of, gather

FORMAT = 1
"""Raised whenever the files here change: an older conversion under way is then begun anew."""
STEPS = "steps.arrow"
EPISODES = 1000
"""Episodes that may be lost, at most; fewer where they are large."""
_BYTES = 64 << 20
_JOURNAL, _INFOS, _TEXTS, _TABLE = "journal.json", "infos.raw", "texts.raw", "episodes.raw"
_MOST_INFOS = (1 << 31) - 1
"""Bytes of all infos together: Arrow counts those of a column of texts in 32 bits."""
_FACTS = np.dtype([(n, "<i8") for n in ("row", "length", "seed", "index", "info")] + [("total", "<f8"), ("terminated", "u1")])


class Partial:
    """Rows and episodes of a store that is being made; what is certain of them is found again.

    Attributes:
        episodes, rows: how many there are. words: text column -> its texts and their numbers.
        origin: which dataset it is of, its id and place.
    """

    def __init__(self, folder: Path, layout: Layout, texts: list[str], about: Mapping[str, Any], origin: list[str]) -> None:
        """Takes up what lies in ``folder``, or begins there.

        Args:
            layout: the columns. texts: those among them that hold numbers of texts.
            about: plain JSON; a conversion that was begun with another is begun anew.
            origin: the dataset's id and place. The same content may be gone on with from another place.
        """
        self.folder, self.layout, self.origin = folder, layout, origin
        self._about = {"format": FORMAT, "columns": {n: [d, list(s)] for n, (d, s) in layout.items()}, **about}
        self._width = {n: bytes_of(*kind) for n, kind in layout.items()}
        self.words: dict[str, dict[str, int]] = {n: {} for n in texts}
        self._fresh: list[tuple[str, str]] = []
        self.episodes = self.rows = self._infos = self._texts = 0
        self.whole = False
        found = self._take_up()
        if not found:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        self.certain, self._since = self.episodes, 0
        self._files = {} if self.whole else {n: (folder / n).open("ab", buffering=1 << 20) for n in self._sizes()}
        if not found:
            self.commit()

    def _raw(self) -> dict[str, str]:
        return {name: f"{k}.raw" for k, name in enumerate(self.layout)}

    def _sizes(self) -> dict[str, int]:
        """Bytes of every file that belong to whole episodes."""
        sizes = {file: self.rows * self._width[name] for name, file in self._raw().items()}
        return sizes | {_TABLE: self.episodes * _FACTS.itemsize, _INFOS: self._infos, _TEXTS: self._texts}

    def _take_up(self) -> bool:
        """Whether a conversion was found that can be gone on with; its files then end where the journal says."""
        try:
            journal = json.loads((self.folder / _JOURNAL).read_text(encoding="utf-8"))
            if journal["about"] != json.loads(json.dumps(self._about)):
                return False
            self.episodes, self.rows, self.whole = journal["episodes"], journal["rows"], journal["whole"]
            self._infos, self._texts = journal["infos"], journal["texts"]
            # Columns of a conversion that was already moving are shorter, and rightly so.
            moving = self._raw().values() if (self.folder / STEPS).exists() and self.whole else ()
            for name, size in self._sizes().items():
                if (self.folder / name).stat().st_size < size and name not in moving:
                    raise ValueError
                if name not in moving:
                    os.truncate(self.folder / name, size)
            for line in (self.folder / _TEXTS).read_text(encoding="utf-8").splitlines():
                name, text = json.loads(line)
                self.words[name][text] = len(self.words[name])
            return True
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            self.episodes = self.rows = self._infos = self._texts = 0
            self.whole, self.words = False, {n: {} for n in self.words}
            return False

    @staticmethod
    def origin_of(folder: Path) -> list[str] | None:
        """The id and place of the dataset that an interrupted conversion is of."""
        with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
            return json.loads((folder / _JOURNAL).read_text(encoding="utf-8"))["origin"]
        return None

    def numbers(self, name: str, texts: np.ndarray) -> np.ndarray:
        """Texts as numbers of their column's growing dictionary."""
        known, spoken = self.words[name], [str(text) for text in texts]
        for text in spoken:
            if text not in known:
                known[text] = len(known)
                self._fresh.append((name, text))
        return np.array([known[text] for text in spoken], np.int32)

    def add(self, values: Mapping[str, np.ndarray], facts: Mapping[str, Any], info: str) -> None:
        """One more episode: its rows column by column, its ``length, seed, index, total, terminated``, and its info."""
        for name, file in self._raw().items():
            self._append(file, np.ascontiguousarray(values[name], self.layout[name][0]))
        told = info.encode()
        if self._infos + len(told) > _MOST_INFOS:
            said = f"more than {_MOST_INFOS:,} bytes of info about the episodes up to {self.episodes}"
            raise DataError(f"{self.origin[0]}: {said}; leave some of it out")
        line = np.zeros(1, _FACTS)
        for key, value in (dict(facts) | {"row": self.rows, "info": self._infos + len(told)}).items():
            line[key] = value
        spoken = "".join(json.dumps(word) + "\n" for word in self._fresh).encode()
        for file, content in ((_TABLE, line), (_INFOS, told), (_TEXTS, spoken)):
            self._append(file, content)
        rows = int(facts["length"]) + 1
        self._since += sum(self._width.values()) * rows + len(told)
        self._fresh = []
        # Last and at once, so that an episode counts whole or not at all.
        counted = self.episodes + 1, self.rows + rows, self._infos + len(told), self._texts + len(spoken)
        self.episodes, self.rows, self._infos, self._texts = counted
        if self._since >= _BYTES or self.episodes - self.certain >= EPISODES:
            self.commit()

    def _append(self, name: str, content: Any) -> None:
        self._files[name].write(content)

    def commit(self, whole: bool = False) -> None:
        """Makes all episodes so far certain; ``whole`` says that there are no more."""
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
        journal = {"about": self._about, "origin": self.origin}
        journal |= {"episodes": self.episodes, "rows": self.rows, "whole": whole}
        put(self.folder / _JOURNAL, json.dumps(journal | {"infos": self._infos, "texts": self._texts}))
        self.certain, self._since, self.whole = self.episodes, 0, whole

    def leave(self, keep: bool) -> int:
        """Ends without a store; the folder goes where nothing of it is wanted. How many episodes are kept."""
        with suppress(OSError):
            if keep and not self.whole and self.episodes > self.certain:
                self.commit()
        for file in self._files.values():
            with suppress(OSError):
                file.close()
        if not keep or not self.certain:
            shutil.rmtree(self.folder, ignore_errors=True)
            return 0
        return self.certain

    def facts(self) -> tuple[np.ndarray, pa.Array]:
        """The episodes ``(N,)`` as they were added, and their infos."""
        table = np.fromfile(self.folder / _TABLE, _FACTS)
        ends = np.concatenate([[0], table["info"]])
        content = (self.folder / _INFOS).read_bytes()
        return table, pa.StringArray.from_buffers(len(table), pa.py_buffer(ends.astype(np.int32)), pa.py_buffer(content))

    def move(self) -> None:
        """Moves the columns into one Arrow record batch, ``steps.arrow``."""
        for file in self._files.values():
            file.close()
        gather(self.folder / STEPS, {n: self.folder / f for n, f in self._raw().items()}, self.layout, self.rows)


def clear(folder: Path) -> None:
    """Removes what only the conversion needed."""
    for pattern in ("*.raw", "*.part", _JOURNAL):
        for path in folder.glob(pattern):
            path.unlink()


def put(path: Path, text: str) -> None:
    """Writes a file that is whole or not there, even where the power fails."""
    aside = path.with_suffix(".part")
    with aside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)
