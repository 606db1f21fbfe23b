"""Contents by their hash: small files as git knows them, large ones as LFS does, each written once and whole.

A content gets its final name only after it was written and its hash compared, by renaming: a server killed in the middle leaves
a file of no name, which the next one removes, and never a wrong content under a right hash.
"""

import hashlib
import os
import re
import shutil
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from seqrl.hub.practice.wire import Body, Refused

_BLOCK = 1 << 19
_SHA256 = re.compile(r"[0-9a-f]{64}")


def git_id(kind: str, content: bytes) -> str:
    """The name that git gives to a blob, tree or commit of this content: 40 hex digits."""
    return hashlib.sha1(f"{kind} {len(content)}\0".encode() + content, usedforsecurity=False).hexdigest()


def pointer(sha256: str, size: int) -> bytes:
    """The small file that stands in git for a large one (the git-lfs specification, version 1)."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


class Objects:
    """Two folders of contents below ``root``: ``blobs`` by git's sha1, ``lfs`` by sha256."""

    def __init__(self, root: Path) -> None:
        self.root = root
        shutil.rmtree(root / "incoming", ignore_errors=True)
        (root / "incoming").mkdir(parents=True)

    def blob(self, oid: str) -> Path:
        return self.root / "blobs" / oid[:2] / oid

    def large(self, sha256: str) -> Path:
        """Where a large content lies or would lie; raises Refused for what is no sha256, so that no name leads elsewhere."""
        if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
            raise Refused(400, "an LFS oid is a sha256 of 64 hex digits")
        return self.root / "lfs" / sha256[:2] / sha256

    def put(self, content: bytes) -> str:
        """Keeps a small content; returns its git id."""
        oid = git_id("blob", content)
        if not self.blob(oid).exists():
            fresh = self._fresh()
            fresh.write_bytes(content)
            self._name(fresh, self.blob(oid))
        return oid

    def receive(self, body: Body, sha256: str, size: int | None = None) -> None:
        """Keeps a large content as it arrives, half a megabyte at a time.

        Raises:
            Refused: it is not the content of this hash or size; nothing is kept.
        """
        target, fresh = self.large(sha256), self._fresh()
        seen, count, hashed = hashlib.sha256(), 0, None
        buffers = [memoryview(bytearray(_BLOCK)) for _ in range(2)]
        try:
            # One block is hashed while the same is written and the next arrives; each of the three leaves Python's lock alone.
            with fresh.open("wb", buffering=0) as file, ThreadPoolExecutor(1) as beside:
                while n := body.readinto(buffers[0]):
                    if hashed:
                        hashed.result()
                    hashed = beside.submit(seen.update, buffers[0][:n])
                    file.write(buffers[0][:n])
                    count += n
                    buffers.reverse()
            if seen.hexdigest() != sha256:
                raise Refused(400, f"the uploaded content has another sha256 than {sha256}")
            if size is not None and count != size:
                raise Refused(400, f"the uploaded content has {count} bytes and not {size}")
            self._name(fresh, target)
        finally:
            fresh.unlink(missing_ok=True)

    def _fresh(self) -> Path:
        return self.root / "incoming" / uuid.uuid4().hex

    @staticmethod
    def _name(fresh: Path, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(fresh, target)
