"""What a request asks and what it is answered, without the socket: the body read as it arrives, and the refusals.

The Hub says what went wrong in headers (``X-Error-Code``, ``X-Error-Message``), and its clients read them there.
"""

import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

_JSON_LIMIT = 64 << 20


class Refused(Exception):
    """A request that is answered with an error: a status, a sentence, and the Hub's own word for it if there is one."""

    def __init__(self, status: int, message: str, code: str | None = None, **headers: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message
        self.headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self.headers |= {k.replace("_", "-"): v for k, v in headers.items()}


class Cut(Exception):
    """The connection is to be closed, or was closed by the other side, in the middle of a body."""


@dataclass(frozen=True)
class Account:
    """Who asks: a name, and the organisations whose repositories are theirs as well."""

    name: str
    orgs: tuple[str, ...] = ()

    def owns(self, repo: str) -> bool:
        return repo.partition("/")[0] in (self.name, *self.orgs)


@dataclass(frozen=True)
class Part:
    """A piece of a file as an answer: ``length`` bytes from ``start``."""

    path: Path
    start: int
    length: int


@dataclass(frozen=True)
class Answer:
    """A status, headers, and a body: something to write as JSON, bytes, or a piece of a file."""

    body: Any = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


class Body(io.RawIOBase):
    """The body of a request, of a length told ahead or in chunks; reads up to its end and never into the next request."""

    def __init__(self, source: Any, headers: Mapping[str, str], keep: float = 1.0, spoil: bool = False) -> None:
        """Args: keep: share of it after which the connection is cut; spoil: whether its first byte is turned around."""
        self._source, self._spoil = source, spoil
        self._chunked = headers.get("Transfer-Encoding", "").lower() == "chunked"
        self.length = None if self._chunked else int(headers.get("Content-Length") or 0)
        self._left = 0 if self._chunked else self.length
        self._more = self._chunked
        self._until = None if keep == 1.0 else int((self.length or 0) * keep)
        self._read = 0

    def readable(self) -> bool:
        return True

    def _next_chunk(self) -> None:
        try:
            self._left = int(self._source.readline(1 << 12).split(b";")[0] or b"0", 16)
        except ValueError:
            self._left = -1
        if self._left < 0:
            raise Cut
        if not self._left:
            self._more = False
            while self._source.readline(1 << 12) not in (b"\r\n", b"\n", b""):
                pass

    def readinto(self, into: Any) -> int:
        if not self._left and self._more:
            self._next_chunk()
        if not self._left:
            return 0
        view = memoryview(into)[: self._left]
        if self._until is not None:
            if self._read >= self._until:
                raise Cut
            view = view[: self._until - self._read]
        count = self._source.readinto(view)
        if not count:
            raise Cut
        if self._spoil and not self._read:
            view[0] ^= 0xFF
        self._read += count
        self._left -= count
        if self._chunked and not self._left:
            self._source.readline(1 << 12)
        return count

    def drain(self) -> None:
        """Reads what nobody wanted, so that the next request on this connection begins where it should."""
        scrap = bytearray(1 << 16)
        while self.readinto(scrap):
            pass


@dataclass
class Ask:
    """A request as the answering functions see it.

    Args:
        path: as it came, still quoted: a revision such as ``refs%2Fpr%2F1`` is one piece of it.
        who: the account of its token, or None without one.
    """

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: Body
    who: Account | None

    @property
    def options(self) -> dict[str, str]:
        return {k: v[-1] for k, v in parse_qs(self.query, keep_blank_values=True).items()}

    def each(self, name: str) -> list[str]:
        """All values of an option that may be given several times."""
        return parse_qs(self.query).get(name, [])

    def json(self) -> dict[str, Any]:
        """The body as an object; raises Refused where it is none."""
        try:
            made = json.loads(io.BufferedReader(self.body).read(_JSON_LIMIT) or b"{}")
        except ValueError as e:
            raise Refused(400, f"the body is no JSON: {e}") from e
        if not isinstance(made, dict):
            raise Refused(400, "the body is no JSON object")
        return made

    def form(self) -> dict[str, list[str]]:
        """A body of either kind, a form or JSON, as lists of texts."""
        if "json" in self.headers.get("Content-Type", ""):
            return {k: v if isinstance(v, list) else [v] for k, v in self.json().items()}
        return parse_qs(io.BufferedReader(self.body).read(_JSON_LIMIT).decode("utf-8", "replace"))

    def lines(self) -> Iterator[dict[str, Any]]:
        """The body as JSON objects, one a line, each read when it is asked for."""
        for line in io.BufferedReader(self.body, 1 << 20):
            if line.strip():
                try:
                    made = json.loads(line)
                except ValueError as e:
                    raise Refused(400, f"a line of the body is no JSON: {e}") from e
                if not isinstance(made, dict):
                    raise Refused(400, "a line of the body is no JSON object")
                yield made

    def account(self) -> Account:
        """Who asks; raises Refused without a token."""
        if self.who is None:
            raise Refused(401, "Invalid username or password.")
        return self.who
