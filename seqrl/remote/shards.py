"""Large files of a repository that are here only while they are read: one in use, and the next one on its way.

A dataset larger than the disk can be read so. The files lie in a folder of their own, not in the cache that all of Hugging
Face's libraries share, and are let go one by one; one that is in that cache already is read there and stays. What was learned
of a file may be noted, so that whoever goes on later need not fetch again what is done with. Whoever reads the same files for
something else has a folder of its own, so that nobody lets go what another reads.
"""

import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from seqrl.remote import kept
from seqrl.remote.client import NoAnswerError, note, offline
from seqrl.remote.download import bring, check_names, check_space
from seqrl.remote.names import Repo
from seqrl.remote.state import RemoteFile, State, is_same, state_of


class Shards:
    """Files of one repository at one commit, in order.

    Attributes:
        repo: the repository at that commit. state: all that lies in it. files: those that are meant.
    """

    def __init__(self, repo: Repo, choose: Callable[[Sequence[str]], Iterable[str]], home: Path, use: str) -> None:
        """Asks what there is, and fetches nothing yet.

        Args:
            choose: which of all names are meant, in order. home: where this and other repositories' files may lie.
            use: what they are read for, in any words: another use has another folder and other notes. Only one process at a
                time may have files of one use.

        Raises:
            HubError: there is no such repository, nobody answers and it was never asked before, or a name leads elsewhere.
        """
        self.state = _listing(repo, home)
        self.repo = repo.at(self.state.commit)
        self.files: list[RemoteFile] = [self.state.files[n] for n in choose(list(self.state.files))]
        check_names(repo, [f.path for f in self.files])
        self.folder = home / _short(f"{self.repo} {use}")
        self._ahead: _Ahead | None = None

    def __len__(self) -> int:
        return len(self.files)

    def path(self, k: int) -> Path:
        """File ``k``, verified; the one after it is fetched meanwhile, and all others are let go."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            ahead.join()
        found = ahead.found if ahead is not None and ahead.k == k else None
        # What was fetched may have been taken away meanwhile, out of a cache that everybody cleans.
        if found is None or not found.is_file():
            found = self._fetch(k)
        wanted = {self.folder / f.path for f in self.files[k : k + 2]}
        for f in self.files:
            if (path := self.folder / f.path) not in wanted:
                path.unlink(missing_ok=True)
        if k + 1 < len(self):
            self._ahead = _Ahead(k + 1, self._fetch)
            self._ahead.start()
        return found

    def _fetch(self, k: int) -> Path:
        file = self.files[k]
        cached = kept.cache(self.repo) / "snapshots" / self.state.commit
        if kept.is_verified(cached, file):
            return cached / file.path
        path = self.folder / file.path
        if path.is_file() and is_same(path, file):
            return path
        self.folder.mkdir(parents=True, exist_ok=True)
        check_space(self.repo, path, [file], "SEQRL_CACHE")
        bring(self.repo, file, self.folder, own=True)
        return path

    def noted(self) -> dict[str, Any]:
        """What was noted of the files, by their names."""
        with suppress(OSError, ValueError, RecursionError):
            found = json.loads((self.folder / _NOTES).read_text(encoding="utf-8"))
            return found if isinstance(found, dict) else {}
        return {}

    def remember(self, notes: dict[str, Any]) -> None:
        """Notes what was learned; a disk that cannot be written only means learning it again."""
        with suppress(OSError):
            _write(self.folder / _NOTES, notes)

    def close(self) -> None:
        """Lets everything go."""
        if self._ahead is not None:
            self._ahead.join()
        self._ahead = None
        shutil.rmtree(self.folder, ignore_errors=True)


class _Ahead(threading.Thread):
    """One file, fetched while another is read. What goes wrong is met when the file is wanted, and tried again."""

    def __init__(self, k: int, fetch: Callable[[int], Path]) -> None:
        super().__init__(daemon=True)
        self.k, self._fetch, self.found = k, fetch, None

    def run(self) -> None:
        with suppress(Exception):
            self.found = self._fetch(self.k)


_NOTES = "notes.json"


def _listing(repo: Repo, home: Path) -> State:
    """What lies in a repository; where nobody answers, what lay there when it was last asked."""
    path = home / f"{_short(str(repo))}.json"
    try:
        state = state_of(repo, await_network=not path.exists())
    except NoAnswerError as e:
        with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
            told = json.loads(path.read_text(encoding="utf-8"))
            files = {n: RemoteFile(n, *facts) for n, facts in told["files"].items()}
            note(f"{repo}: going by what was there at {told['commit'][:8]} ({'offline mode' if offline() else e})")
            return State(told["commit"], files)
        raise
    with suppress(OSError):
        _write(path, {"commit": state.commit, "files": {n: [f.size, f.blob, f.sha256] for n, f in state.files.items()}})
    return state


def _write(path: Path, what: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(f".{os.getpid()}.part")
    aside.write_text(json.dumps(what), encoding="utf-8")
    os.replace(aside, path)


def _short(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:24]
