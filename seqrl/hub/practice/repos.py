"""Repositories on disk: one folder each, with its commits and one small file that says where branches and tags stand.

A commit's contents are written first, then the commit, and last that small file, by renaming. So whoever looks, a server
started after a ``kill -9`` included, finds either the repository before or the one after.
"""

import json
import os
import re
import shutil
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from seqrl.hub.practice.objects import git_id
from seqrl.hub.practice.trees import Entry, Files, folders
from seqrl.hub.practice.wire import Account, Refused

KINDS = ("model", "dataset", "space")
_NAME = re.compile(r"(?!.*(?:--|\.\.))[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?(?<!\.git)")


def write(path: Path, what: Any) -> None:
    """JSON to a file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    fresh.write_text(json.dumps(what), encoding="utf-8")
    os.replace(fresh, path)


def stamp(seconds: float) -> str:
    """A time as the Hub writes it, such as ``2024-05-01T12:00:00.000Z``."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{int(seconds * 1000) % 1000:03d}Z"


@dataclass(frozen=True)
class Commit:
    """A state of all files, and how it came about; ``time`` in seconds since 1970."""

    oid: str
    parent: str | None
    title: str
    message: str
    author: str
    time: float
    files: Files

    def lines(self) -> dict[str, str]:
        """What the Hub tells of a commit."""
        return {"id": self.oid, "title": self.title, "message": self.message, "date": stamp(self.time)}


@dataclass
class Repo:
    """Where a repository stands now; ``talks`` are its discussions and pull requests, numbered from 1."""

    kind: str
    id: str
    private: bool
    made: float
    heads: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    pulls: dict[str, str] = field(default_factory=dict)
    talks: list[dict[str, Any]] = field(default_factory=list)

    def seen_by(self, who: Account | None) -> bool:
        return not self.private or (who is not None and who.owns(self.id))


class Repos:
    """All repositories below ``root``; every method that changes one is called under ``lock``."""

    def __init__(self, root: Path) -> None:
        self.root, self.lock = root, threading.RLock()
        self._known: dict[tuple[str, str], Repo] = {}
        self._commits: dict[tuple[str, str, str], Commit] = {}
        shutil.rmtree(root / ".gone", ignore_errors=True)

    def _folder(self, kind: str, id: str) -> Path:
        return self.root / f"{kind}s" / id

    def find(self, kind: str, id: str) -> Repo | None:
        with self.lock:
            if (kind, id) not in self._known:
                parts = id.split("/")
                if len(parts) != 2 or not all(_NAME.fullmatch(p) for p in parts):
                    return None
                try:
                    raw = json.loads((self._folder(kind, id) / "repo.json").read_text(encoding="utf-8"))
                except FileNotFoundError:
                    return None
                self._known[kind, id] = Repo(**raw)
            return self._known[kind, id]

    def all(self, kind: str) -> Iterator[Repo]:
        """Newest first."""
        with self.lock:
            ids = [p.parent.relative_to(self.root / f"{kind}s").as_posix() for p in self.root.glob(f"{kind}s/*/*/repo.json")]
            found = [repo for i in ids if (repo := self.find(kind, i))]
        return iter(sorted(found, key=lambda r: (-r.made, r.id)))

    def create(self, kind: str, id: str, private: bool) -> Repo:
        """A repository that is there once it has a commit and is saved; raises Refused for what is no name."""
        parts = id.split("/")
        if kind not in KINDS or len(parts) != 2 or not all(_NAME.fullmatch(p) for p in parts):
            raise Refused(400, f"'{id}' is no name for a {kind}: letters, digits, - _ . within, at most 96")
        return Repo(kind, id, private, time.time())

    def save(self, repo: Repo) -> None:
        # Should the disk be full, what holds is what lies there.
        self._known.pop((repo.kind, repo.id), None)
        write(self._folder(repo.kind, repo.id) / "repo.json", asdict(repo))
        self._known[repo.kind, repo.id] = repo

    def remove(self, repo: Repo) -> None:
        gone = self.root / ".gone" / uuid.uuid4().hex
        gone.parent.mkdir(parents=True, exist_ok=True)
        os.rename(self._folder(repo.kind, repo.id), gone)
        self._forget(repo)
        shutil.rmtree(gone, ignore_errors=True)

    def move(self, repo: Repo, id: str) -> None:
        """Gives it another name; raises Refused where that is taken or no name."""
        if self.find(repo.kind, id):
            raise Refused(409, f"there is a {repo.kind} {id} already")
        fresh = self.create(repo.kind, id, repo.private)
        old, new = (self._folder(repo.kind, r.id) for r in (repo, fresh))
        # The commits are copied and the old name removed at the end, so that a kill leaves at least one whole repository.
        shutil.copytree(old / "commits", new / "commits", dirs_exist_ok=True)
        fresh.heads, fresh.tags, fresh.pulls, fresh.talks, fresh.made = repo.heads, repo.tags, repo.pulls, repo.talks, repo.made
        self.save(fresh)
        self.remove(repo)

    def _forget(self, repo: Repo) -> None:
        self._known.pop((repo.kind, repo.id), None)
        for key in [k for k in self._commits if k[:2] == (repo.kind, repo.id)]:
            del self._commits[key]

    def commit(self, repo: Repo, oid: str) -> Commit:
        key = (repo.kind, repo.id, oid)
        if key not in self._commits:
            raw = json.loads((self._folder(repo.kind, repo.id) / "commits" / f"{oid}.json").read_text(encoding="utf-8"))
            self._commits[key] = Commit(**raw | {"files": {p: Entry(*e) for p, e in raw["files"].items()}})
        return self._commits[key]

    def add(self, repo: Repo, parent: str | None, files: Files, title: str, message: str, author: str) -> Commit:
        """Writes a commit, which no branch names yet; its name is the one git would give it."""
        now = time.time()
        by = f"{author} <{author}@practice> {int(now)} +0000"
        before = f"parent {parent}\n" if parent else ""
        said = f"{title}\n\n{message}\n" if message else f"{title}\n"
        body = f"tree {folders(files)['']}\n{before}author {by}\ncommitter {by}\n\n{said}"
        made = Commit(git_id("commit", body.encode()), parent, title, message, author, now, dict(files))
        plain = asdict(made) | {"files": {p: [e.oid, e.size, e.sha256] for p, e in files.items()}}
        write(self._folder(repo.kind, repo.id) / "commits" / f"{made.oid}.json", plain)
        self._commits[repo.kind, repo.id, made.oid] = made
        return made

    def history(self, repo: Repo, oid: str | None) -> Iterator[Commit]:
        """A commit and all before it, newest first."""
        while oid:
            yield (one := self.commit(repo, oid))
            oid = one.parent

    def resolve(self, repo: Repo, revision: str) -> Commit:
        """The commit that a branch, tag, ``refs/...`` or hash names; raises Refused where none does."""
        plain = revision.removeprefix("refs/heads/").removeprefix("refs/tags/")
        oid = repo.heads.get(plain) or repo.tags.get(plain) or repo.pulls.get(revision)
        if oid is None and re.fullmatch(r"[0-9a-f]{7,40}", revision):
            places = (self._folder(repo.kind, repo.id) / "commits").glob(f"{revision}*.json")
            found = [p.stem for p in places]
            oid = found[0] if len(found) == 1 else None
        if oid is None:
            raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commit(repo, oid)


def changed(before: Files, after: Files) -> Mapping[str, Entry | None]:
    """What differs from ``before``: path -> the entry after, or None where it is gone."""
    fresh = {p: e for p, e in after.items() if before.get(p) != e}
    return fresh | {p: None for p in before if p not in after}


def merged(files: Files, changes: Mapping[str, Entry | None]) -> dict[str, Entry]:
    """``files`` with such changes made to them."""
    return {p: e for p, e in (dict(files) | dict(changes)).items() if e is not None}
