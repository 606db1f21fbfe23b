"""The socket of the practice Hub: a thread a connection, one request after the other, faults where they were ordered."""

import errno
import json
import socket
import sys
import threading
import traceback
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from seqrl.hub.practice.faults import Fault
from seqrl.hub.practice.wire import Answer, Ask, Body, Cut, Part, Refused

if TYPE_CHECKING:
    from seqrl.hub.practice.server import PracticeHub


# What nonsense in a body or a query makes of an endpoint that expected something else there.
_NONSENSE = (ValueError, TypeError, AttributeError, LookupError, OverflowError, RecursionError)


class Server(ThreadingHTTPServer):
    hub: "PracticeHub"
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, *args: Any) -> None:
        self._open: set[socket.socket] = set()
        super().__init__(*args)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def close_all(self) -> None:
        """Ends the connections that clients keep open: their threads would go on answering after ``stop``."""
        for connection in list(self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone is no news; anything else is a defect and shows its traceback."""
        if not isinstance(sys.exception(), Cut | ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """One connection. Answers are buffered and sent at once: in two pieces, the second would wait for the client's word."""

    server: Server
    protocol_version = "HTTP/1.1"
    server_version = "seqrl-practice"
    disable_nagle_algorithm = True
    wbufsize = 1 << 16

    def _any(self) -> None:
        hub, (path, _, query) = self.server.hub, self.path.partition("?")
        fault = hub.faults.next(self.command, path) or Fault("")
        try:
            self._one(hub, path, query, fault)
        except (Cut, OSError):
            # The connection is gone, or is to go: no answer, and no next request either.
            hub.note(self.command, path, 0)
            self.close_connection = True
            with suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = _any

    def _one(self, hub: "PracticeHub", path: str, query: str, fault: Fault) -> None:
        if fault.word == "drop":
            raise Cut
        if fault.word == "slow":
            threading.Event().wait(fault.seconds)
        length = self.headers.get("Content-Length") or "0"
        if not length.isdecimal():
            raise Cut
        sends = bool(self.headers.get("Transfer-Encoding") or int(length))
        keep = 0.5 if fault.word == "half" and sends else 1.0
        body = Body(self.rfile, self.headers, keep, spoil=fault.word == "corrupt" and sends)
        try:
            if fault.word == "status":
                raise Refused(fault.status, "a fault on order", **{k.replace("-", "_"): v for k, v in fault.headers})
            ask = Ask(self.command, path, query, self.headers, body, hub.site.account(self.headers))
            answer = hub.site.answer(ask)
        except Refused as e:
            answer = Answer({"error": e.message}, e.status, e.headers)
        except (Cut, ConnectionError, TimeoutError):
            raise
        except Exception as e:
            # Nonsense from a client, a full disk, a defect of ours: told, and the next request is answered all the same.
            full = isinstance(e, OSError) and e.errno in (errno.ENOSPC, errno.EDQUOT)
            strange = isinstance(e, _NONSENSE) and bool(sends or query)
            if not full and not strange:
                traceback.print_exc()
            said = f"{type(e).__name__}: {e}"
            if strange:
                said = f"this request cannot be understood ({said[:200]})"
            answer = Answer({"error": said}, 400 if strange else 507 if full else 500, {"X-Error-Message": said})
        body.drain()
        if fault.word == "lost":
            raise Cut
        hub.note(self.command, path, answer.status)
        self._send(answer, cut=fault.word == "half" and not sends, spoil=fault.word == "corrupt" and not sends)

    def _send(self, answer: Answer, cut: bool, spoil: bool) -> None:
        part = answer.body if isinstance(answer.body, Part) else None
        plain = answer.body if isinstance(answer.body, bytes) else b""
        if part is None and not isinstance(answer.body, bytes):
            plain = json.dumps(answer.body, default=str).encode()
        length = part.length if part else len(plain)
        self.send_response(answer.status)
        headers = {"Content-Type": "application/json; charset=utf-8"} | dict(answer.headers) | {"Content-Length": str(length)}
        for name, value in headers.items():
            # What somebody asked for may be told back to them, but neither break the answer nor add a header to it.
            self.send_header(name, "".join(c if c.isascii() and c.isprintable() else "?" for c in str(value)))
        self.end_headers()
        if self.command == "HEAD":
            self.wfile.flush()
            return
        wanted = length // 2 if cut else length
        if part and not spoil:
            self.wfile.flush()
            with part.path.open("rb") as file:
                self.connection.sendfile(file, part.start, wanted) if wanted else None
        else:
            data = plain if part is None else _piece(part)
            self.wfile.write((bytes([data[0] ^ 0xFF]) + data[1:] if spoil and data else data)[:wanted])
            self.wfile.flush()
        if cut:
            raise Cut

    def log_message(self, format: str, *args: Any) -> None:
        """Silent: ``PracticeHub.log`` has it."""


def _piece(part: Part) -> bytes:
    with part.path.open("rb") as file:
        file.seek(part.start)
        return file.read(part.length)
