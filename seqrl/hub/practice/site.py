"""The Hub without its socket: who may do what with which repository, and which function answers which address.

Every file of endpoints says with ``@route`` which requests its functions answer. An address is matched as it came, before
anything in it is unquoted: a revision such as ``refs%2Fpr%2F1`` is one piece.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import quote, unquote

from seqrl.hub.practice.objects import Objects
from seqrl.hub.practice.repos import Repo, Repos
from seqrl.hub.practice.wire import Account, Answer, Ask, Refused

_PIECES = {
    "kind": "(?P<kind>model|dataset|space)s",
    "prefix": "(?P<prefix>datasets/|spaces/|)",
    "id": "(?P<id>[^/]+(?:/[^/]+)?)",
    "rev": "(?P<rev>refs/(?:pr|convert|heads|tags)/[^/]+|[^/]+)",
    "path": "(?P<path>.*)",
    "num": r"(?P<num>\d+)",
}
_ROUTES: list[tuple[str, re.Pattern[str], Callable[..., Answer]]] = []


def route(method: str, address: str) -> Callable[[Callable[..., Answer]], Callable[..., Answer]]:
    """Says which requests a function answers; ``{name}`` in the address becomes its argument ``name``, unquoted."""
    pattern = re.sub(r"\{(\w+)\}", lambda m: _PIECES.get(m[1], f"(?P<{m[1]}>[^/]+)"), address)

    def keep(function: Callable[..., Answer]) -> Callable[..., Answer]:
        _ROUTES.append((method, re.compile(pattern), function))
        return function

    return keep


class Site:
    """Everything a Hub has, below one folder."""

    def __init__(self, root: Path, accounts: Mapping[str, Account]) -> None:
        self.root, self.accounts = root, dict(accounts)
        self.objects, self.repos = Objects(root), Repos(root / "repos")
        self.url = self.storage = ""
        # Kept, so that an address to upload to still holds after the server was started again.
        secret = root / "secret"
        if not secret.exists():
            secret.write_text(secrets.token_hex())
        self._secret = secret.read_bytes()

    def account(self, headers: Mapping[str, str]) -> Account | None:
        """Whose token a request carries; raises Refused for a token of nobody."""
        said = headers.get("Authorization")
        if not said:
            return None
        found = self.accounts.get(said.removeprefix("Bearer ").strip())
        if found is None:
            raise Refused(401, "Invalid credentials in Authorization header")
        return found

    def sign(self, word: str, sha256: str) -> str:
        """Proof that this Hub allowed an upload or download of a large content; its storage asks for no token."""
        return hmac.new(self._secret, f"{word} {sha256}".encode(), hashlib.sha256).hexdigest()

    def link(self, word: str, sha256: str, host: str = "") -> str:
        """The address to upload (``put``) or to download (``get``) a large content."""
        return f"{host or self.url}/practice-lfs/{sha256}?{word}={self.sign(word, sha256)}"

    def repo(self, ask: Ask, kind: str, id: str, change: bool = False) -> Repo:
        """The repository that a request is about.

        Raises:
            Refused: there is none, or none for this account (which the Hub does not tell apart), or it may not change it.
        """
        repo = self.repos.find(kind, id)
        if repo is None or not repo.seen_by(ask.who):
            status, said = (401, "Invalid username or password.") if ask.who is None else (404, "Repository not found")
            raise Refused(status, said, "RepoNotFound")
        if change and not ask.account().owns(id):
            raise Refused(403, f"You don't have the rights to change the {kind} {id}")
        return repo

    def page(self, repo: Repo) -> str:
        """The address of a repository's page."""
        return f"{self.url}/{'' if repo.kind == 'model' else repo.kind + 's/'}{quote(repo.id)}"

    def answer(self, ask: Ask) -> Answer:
        """Finds the function for a request and calls it; raises Refused where there is none, or where it refuses."""
        method = "GET" if ask.method == "HEAD" else ask.method
        others = False
        for wanted, pattern, function in _ROUTES:
            found = pattern.fullmatch(ask.path)
            if found and wanted == method:
                return function(self, ask, **{k: unquote(v) for k, v in found.groupdict().items()})
            others = others or found is not None
        if others:
            raise Refused(405, f"the practice Hub does not answer {ask.method} here")
        raise Refused(404, f"the practice Hub has nothing at {ask.path}")


def kind_of(prefix: str) -> str:
    """The kind of repository that an address's first piece says: ``datasets/`` -> ``dataset``."""
    return prefix.rstrip("s/") or "model"
