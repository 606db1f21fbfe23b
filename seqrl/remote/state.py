"""What lies in a repository at one commit, and whether a file here is the same."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from seqrl.remote.client import api, ask
from seqrl.remote.names import Repo

SECONDS = 30.0
"""How long the first answer may take."""


@dataclass(frozen=True)
class RemoteFile:
    """A file as the Hub knows it: size in bytes, git's digest, and the content's sha256 where it is a large one."""

    path: str
    size: int
    blob: str
    sha256: str | None = None


@dataclass(frozen=True)
class State:
    """A repository at one commit: its files by path, and whether only its owners see it."""

    commit: str
    files: Mapping[str, RemoteFile]
    private: bool = False


def state_of(repo: Repo, await_network: bool = True) -> State:
    """What lies in a repository now, in one request.

    Raises:
        NoAnswerError: nobody answered.
        HubError: there is no such repository or revision, or it may not be read.
    """
    client = api()

    def look() -> State:
        found = client.repo_info(repo.id, revision=repo.revision, repo_type=repo.kind, files_metadata=True, timeout=SECONDS)
        files = {}
        for s in found.siblings or ():
            if s.size is None or s.blob_id is None:
                break
            files[s.rfilename] = RemoteFile(s.rfilename, s.size, s.blob_id, s.lfs.sha256 if s.lfs else None)
        else:
            return State(found.sha, files, bool(found.private))
        # A server that lists names alone.
        tree = client.list_repo_tree(repo.id, recursive=True, revision=found.sha, repo_type=repo.kind)
        listed = [f for f in tree if hasattr(f, "blob_id")]
        files = {f.path: RemoteFile(f.path, f.size, f.blob_id, f.lfs.sha256 if f.lfs else None) for f in listed}
        return State(found.sha, files, bool(found.private))

    return ask(f"{repo} cannot be read", look, repo, await_network)


def git_digest(path: Path) -> str:
    """What git calls a file's content: sha1 over a short head and the content."""
    size = path.stat().st_size
    total = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    with path.open("rb") as handle:
        while piece := handle.read(1 << 20):
            total.update(piece)
    return total.hexdigest()


def sha256(path: Path) -> str:
    """sha256 of a file's content."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def is_same(path: Path, file: RemoteFile) -> bool:
    """Whether a file here has the content of one there, by size and digest."""
    if path.stat().st_size != file.size:
        return False
    return sha256(path) == file.sha256 if file.sha256 else git_digest(path) == file.blob
