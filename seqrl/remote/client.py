"""The one way to a Hub: huggingface_hub's client, asked again where that helps, and its errors in words.

Each request that failed for a passing reason (408, 429, 5xx, a lost connection) is made again after 1, 2, 4 and 8 seconds, or
after what the server asked for. Everything else, and what does not pass, becomes one ``HubError`` that names the thing and the
fix.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from seqrl.core.errors import UserError
from seqrl.remote.failures import NoAnswerError, delay, in_words, passing, short, unreachable
from seqrl.remote.names import Repo
from seqrl.remote.server import address, endpoint, is_loopback, offline, token

if TYPE_CHECKING:
    from huggingface_hub import HfApi

__all__ = ["NoAnswerError", "address", "api", "ask", "calling", "endpoint", "note", "offline", "quiet", "token"]

T = TypeVar("T")
WAITS = (1.0, 2.0, 4.0, 8.0)
"""Seconds before each further try."""
PATIENCE = 300.0
"""Seconds without a byte, to or from a Hub, after which a connection counts as lost."""


def api() -> "HfApi":
    """A client of the endpoint and the token of this moment."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.utils import get_session

    session = get_session()
    if session.timeout.read is None:
        # The client would wait for ever for a server that accepts and then says nothing. Who set a limit keeps it.
        session.timeout = PATIENCE
    if is_loopback():
        # A practice Hub has no Xet storage, and the client would insist on it: https only, and chunks in a store of their own.
        constants.HF_HUB_DISABLE_XET = True
    return HfApi(endpoint=endpoint(), token=token(), library_name="seqrl")


def note(text: str) -> None:
    """One line for the person in front of it, on stderr."""
    print(f"seqrl: {text}", file=sys.stderr, flush=True)


@contextmanager
def quiet() -> Iterator[None]:
    """The client's progress bars only where somebody sees them move."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    hush = not sys.stderr.isatty() and not are_progress_bars_disabled()
    if hush:
        disable_progress_bars()
    try:
        yield
    finally:
        if hush:
            enable_progress_bars()


def ask(what: str, request: Callable[[], T], repo: Repo | None = None, await_network: bool = True) -> T:
    """Makes a request that may be repeated without harm, again where it failed for a passing reason.

    Args:
        what: the sentence's beginning should it fail for good, such as ``"org/name cannot be read"``.
        request: makes it, with the client's own function.
        repo: what it is about, for the advice.
        await_network: whether to try again where nobody is reached; not worth it where a copy is kept here.

    Raises:
        NoAnswerError: nobody answered, or not usably, until the end.
        HubError: it failed for good.
    """
    for wait in (*WAITS, None):
        try:
            with quiet():
                return request()
        except UserError:
            raise
        except Exception as e:
            seconds = delay(e, wait) if await_network or not unreachable(e) else None
            if wait is None or seconds is None:
                raise in_words(what, e, repo, tries=len(WAITS) + 1 if wait is None and passing(e) else 1) from e
            note(f"{short(e)}; trying again in {seconds:g} s")
            time.sleep(seconds)
    raise AssertionError("the last try either answers or raises")


@contextmanager
def calling(what: str, repo: Repo | None = None) -> Iterator[None]:
    """Around requests that are made once: whatever the client raises becomes a ``HubError`` that begins with ``what``."""
    try:
        yield
    except UserError:
        raise
    except Exception as e:
        raise in_words(what, e, repo) from e
