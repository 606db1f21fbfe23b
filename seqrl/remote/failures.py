"""What went wrong between here and a Hub: whether it passes by itself, and what to say of it if it does not.

The client's errors come from three libraries and are often wrapped: by a thread, or by its cache. So the whole chain of causes
is looked at. A message says what failed, why, and what to do, in one line, with nothing secret in it.
"""

import errno
import sys
import urllib.parse
from collections.abc import Iterator
from typing import Any

from seqrl.core.errors import HubError
from seqrl.remote.names import Repo
from seqrl.remote.server import address, host, offline, token

PATIENCE = 300.0
"""Longest a server may ask us to wait, in seconds; beyond that a person should decide."""
_PASSING = (408, 429, 500, 502, 503, 504)


class NoAnswerError(HubError):
    """No server answered: none can be reached, it is busy for long, or nobody may be asked. A copy kept here may do."""


class NoRepositoryError(HubError):
    """There is no such repository, or it is private and may not be seen, which a server tells alike."""


def status(error: BaseException) -> int | None:
    """The HTTP status that an error, or one that caused it, came of; None where there was no answer."""
    for e in _chain(error):
        code = getattr(getattr(e, "response", None), "status_code", None)
        if isinstance(code, int):
            return code
    return None


def unreachable(error: BaseException) -> bool:
    """Whether no connection could be made, or it broke before the answer was here."""
    from huggingface_hub import errors

    # The client's transport, which has been called httpx and httpx2.
    http = sys.modules[errors.HTTPError.__module__.partition(".")[0]]
    lost = (http.NetworkError, http.TimeoutException, http.ProtocolError, http.ProxyError, errors.OfflineModeIsEnabled)
    return status(error) is None and any(isinstance(e, lost) for e in _chain(error))


def passing(error: BaseException) -> bool:
    """Whether the same request may well succeed a little later."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    if any(isinstance(e, OfflineModeIsEnabled) for e in _chain(error)):
        return False
    return status(error) in _PASSING or unreachable(error) or "Consistency check failed" in str(error)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what caused it; the client wraps what happened in a thread or behind its cache."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__


def delay(error: Exception, wait: float | None) -> float | None:
    """Seconds until the next try after an error, or None where there is none to make.

    Args:
        error: what the client raised.
        wait: seconds that we would wait; None after the last try. The server may ask for more.
    """
    from huggingface_hub.errors import LocalEntryNotFoundError

    # Of this one the client itself has made five tries already.
    if wait is None or not passing(error) or isinstance(error, LocalEntryNotFoundError):
        return None
    for e in _chain(error):
        asked = getattr(getattr(e, "response", None), "headers", {}).get("Retry-After", "")
        if asked.isdigit():
            return max(wait, float(asked)) if float(asked) <= PATIENCE else None
    return wait


def short(error: BaseException) -> str:
    """What happened, in a few words."""
    code = status(error)
    return f"{host()} answered {code}" if code else f"the connection to {host()} was lost"


def in_words(what: str, error: BaseException, repo: Repo | None, tries: int = 1) -> HubError:
    """The message for an error: what failed, why, and what to do."""
    from huggingface_hub import errors

    name, sort = str(repo) if repo else "the repository", HubError
    kinds = [type(e) for e in _chain(error)]
    code, often = status(error), f" ({tries} tries)" if tries > 1 else ""
    login = "log in with: hf auth login, or set HF_TOKEN"

    def any_of(*wanted: Any) -> bool:
        return any(issubclass(k, wanted) for k in kinds)

    if any(getattr(e, "errno", None) in (errno.ENOSPC, errno.EDQUOT) for e in _chain(error)):
        why = "no space left on the disk; free some, or set HF_HOME to a folder on another disk"
    elif any_of(errors.OfflineModeIsEnabled) or (offline() and any_of(errors.LocalEntryNotFoundError)):
        why = "offline mode is on and it is not in the cache; unset HF_HUB_OFFLINE, or fetch it once where there is a network"
    elif any_of(errors.GatedRepoError):
        why = f"its owner wants to be asked for access first, at {address()}/{repo.id if repo else ''}; then {login}"
    elif any_of(errors.RevisionNotFoundError):
        why = f"it has no revision '{repo.revision if repo else ''}' (branches, tags and commits count)"
    elif any_of(errors.RepositoryNotFoundError):
        sort = NoRepositoryError
        why = f"there is no {name.partition('@')[0]} on {host()}, or it is private and "
        why += f"your token may not read it; look at the name, or {login}" if token() else f"no token is set; {login}"
    elif any_of(errors.RemoteEntryNotFoundError):
        why = f"a file is missing in it ({_url(error)})"
    elif code == 401:
        why = f"{'your access token was refused' if token() else 'no access token is set'}; {login}"
    elif code == 403:
        why = f"your token may not do this{_said(error)}; use one with write access, and an account that may write to {name}"
    elif code == 412:
        why = "somebody else has published there at the same moment; look at what they did, then do it again"
    elif code == 429:
        why = f"too many requests{often}; wait a few minutes, then do the same again"
    elif code in _PASSING:
        why = f"{host()} answers {code}{often}; do the same again later"
    elif code is not None:
        why = f"{host()} answers {code}{_said(error)}"
    elif unreachable(error):
        why = f"{host()} cannot be reached{often}; is there a network, and is HF_ENDPOINT what you mean?"
    elif any_of(errors.LocalEntryNotFoundError):
        why = f"{host()} gave no usable answer and it is not in the cache"
    else:
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
    silent = passing(error) or any_of(errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError)
    return (NoAnswerError if silent else sort)(f"{what}: {why}")


def _said(error: BaseException) -> str:
    """What the server gave as its reason, in brackets, one line of it."""
    for e in _chain(error):
        if said := (getattr(e, "server_message", None) or "").strip():
            return f" ({said.splitlines()[0][:200]})"
    return ""


def _url(error: BaseException) -> str:
    for e in _chain(error):
        if (request := getattr(getattr(e, "response", None), "request", None)) is not None:
            return urllib.parse.unquote(urllib.parse.urlsplit(str(request.url)).path)
    return "unnamed"
