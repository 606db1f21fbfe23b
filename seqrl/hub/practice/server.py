"""The practice Hub as an object: start it, stop it, order faults, and see what was asked of it.

Standard library alone (and PyYAML for cards). It listens on this machine only: its tokens are no secrets.
"""

import hashlib
import io
import shutil
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from seqrl.core.errors import UserError
from seqrl.hub.practice import accounts, files, large, lists, pages, talks
from seqrl.hub.practice.faults import Faults
from seqrl.hub.practice.handler import Handler, Server
from seqrl.hub.practice.site import Site
from seqrl.hub.practice.trees import ALWAYS_LARGE, Entry, large_entry
from seqrl.hub.practice.wire import Account, Body

ENDPOINTS = (accounts, files, large, lists, talks, pages)
"""Importing these fills the table of routes."""
TOKEN = "hf_practice"
"""The token of the account ``me``."""


class PracticeHub:
    """A Hub on loopback, for as long as its ``with`` block (or from ``start`` to ``stop``)."""

    def __init__(
        self,
        root: Path | None = None,
        port: int = 0,
        accounts: Mapping[str, str] | None = None,
        orgs: Sequence[str] = ("org",),
    ) -> None:
        """Opens no socket yet.

        Args:
            root: where everything lies, and is found again by the next Hub; None: a temporary folder, removed at the end.
            port: 0 for any that is free.
            accounts: token -> name; the first one's is ``token``. The default is the account ``me``.
            orgs: organisations that every account is a member of.
        """
        self._port, self._temporary = port, root is None
        self.root = Path() if root is None else Path(root)
        accounts = accounts or {TOKEN: "me"}
        self.token = next(iter(accounts))
        self._accounts = {token: Account(name, tuple(orgs)) for token, name in accounts.items()}
        self.log: list[tuple[str, str, int]] = []
        """(method, path, status) of every request, in the order of their answers; status 0: closed without one."""
        self.listener: Callable[[str, str, int], None] | None = None
        """Told of the same, as it happens."""
        self.faults, self.url = Faults(), ""
        self._server: Server | None = None
        self._lock: Any = None

    def start(self) -> "PracticeHub":
        """Listens.

        Raises:
            UserError: the port is taken or not to be had, the folder cannot be made or is a file, or another Hub runs on it.
        """
        from filelock import FileLock, Timeout

        if self._temporary:
            self.root = Path(tempfile.mkdtemp(prefix="practice-hub-"))
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(self.root / ".lock", timeout=0, thread_local=False)
            self._lock.acquire()
        except Timeout as e:
            raise UserError(f"{self.root}: another practice Hub runs on this folder; stop it, or choose another --root") from e
        except OSError as e:
            said = "it is a file" if self.root.is_file() else e.strerror or str(e)
            raise UserError(f"{self.root}: no Hub can keep its files there ({said}); choose a folder with --root") from e
        try:
            self._server = Server(("127.0.0.1", self._port), Handler)
        except (OSError, OverflowError) as e:
            self._lock.release()
            self.stop()
            raise UserError(f"port {self._port} cannot be had ({e}); choose another one with --port, or 0 for any") from e
        port = self._server.server_address[1]
        self.site = Site(self.root, self._accounts)
        self.url = self.site.url = f"http://127.0.0.1:{port}"
        self.site.storage = f"http://localhost:{port}"
        self._server.hub = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True, name="practice-hub")
        self._thread.start()
        return self

    def stop(self) -> None:
        """Closes every connection; what was committed stays on disk, unless the folder is a temporary one."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server.close_all()
            self._thread.join()
            self._server = None
            self._lock.release()
        if self._temporary and self.root != Path():
            shutil.rmtree(self.root, ignore_errors=True)

    def __enter__(self) -> "PracticeHub":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def fail(self, method: str, part_of_path: str, what: Sequence[Any]) -> None:
        """What the next requests of this method (``*``: any) and path meet, one after the other (see ``faults.fault``)."""
        self.faults.add(method, part_of_path, what)

    def note(self, method: str, path: str, status: int) -> None:
        """Logs a request; called by the threads of the connections."""
        self.log.append((method, path, status))
        if self.listener:
            self.listener(method, path, status)

    def plant(self, repo: str, files: Mapping[str, bytes], kind: str = "model", private: bool = False) -> str:
        """Commits files as no client could: any path at all. Makes the repository if there is none.

        Returns:
            the commit.
        """
        site = self.site
        with site.repos.lock:
            found = site.repos.find(kind, repo) or site.repos.create(kind, repo, private)
            head = found.heads.get("main")
            before = dict(site.repos.commit(found, head).files) if head else {}
            after = before | {p: self._kept(p, data) for p, data in files.items()}
            made = site.repos.add(found, head, after, "plant", "", "me")
            found.heads["main"] = made.oid
            site.repos.save(found)
        return made.oid

    def _kept(self, path: str, data: bytes) -> Entry:
        if path.rpartition(".")[2] not in ALWAYS_LARGE:
            return Entry(self.site.objects.put(data), len(data))
        sha = hashlib.sha256(data).hexdigest()
        self.site.objects.receive(Body(io.BytesIO(data), {"Content-Length": str(len(data))}), sha)
        return large_entry(sha, len(data))
