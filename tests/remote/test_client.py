"""Which failures are tried again, how long is waited, and what is said in the end."""

import errno

import httpx2
import pytest
from huggingface_hub import errors

from seqrl.core.errors import DataError, HubError
from seqrl.remote import client
from seqrl.remote.client import NoAnswerError, ask, calling
from seqrl.remote.names import Repo

URL = "http://hub.test/api/models/org/name"


@pytest.fixture(autouse=True)
def waits(monkeypatch):
    kept = []
    monkeypatch.setattr("time.sleep", kept.append)
    monkeypatch.setenv("HF_ENDPOINT", "http://me:secret@hub.test")
    monkeypatch.setenv("HF_TOKEN", "hf_x")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    return kept


def answer(code, kind=errors.HfHubHTTPError, headers=None, said=None):
    response = httpx2.Response(code, headers=headers or {}, request=httpx2.Request("GET", URL))
    return kind(f"{code}", response=response, server_message=said)


def failing(*faults):
    """A request that meets one fault after the other, and then succeeds."""
    left = list(faults)

    def request():
        if left:
            raise left.pop(0)
        return "done"

    return request


@pytest.mark.parametrize("code", [408, 429, 500, 502, 503, 504])
def test_what_passes_is_tried_again(waits, code, capsys):
    assert ask("x", failing(answer(code), answer(code))) == "done"
    assert waits == [1.0, 2.0]
    assert capsys.readouterr().err.splitlines()[0] == f"seqrl: hub.test answered {code}; trying again in 1 s"


@pytest.mark.parametrize("fault", [httpx2.ConnectError("no"), httpx2.ReadTimeout("no"), httpx2.RemoteProtocolError("no")])
def test_a_lost_connection_is_tried_again_unless_a_copy_would_do(waits, fault):
    assert ask("x", failing(fault)) == "done"
    with pytest.raises(NoAnswerError, match="hub.test cannot be reached;"):
        ask("x", failing(fault), await_network=False)
    assert waits == [1.0]


@pytest.mark.parametrize("code", [400, 401, 403, 404, 409, 412, 501])
def test_what_does_not_pass_is_said_at_once(waits, code):
    with pytest.raises(HubError) as e:
        ask("x", failing(answer(code)))
    assert not isinstance(e.value, NoAnswerError)
    assert waits == []


def test_the_server_s_own_wish_is_waited_for_within_reason(waits):
    assert ask("x", failing(answer(429, headers={"Retry-After": "30"}))) == "done"
    assert waits == [30.0]
    with pytest.raises(HubError, match="too many requests; wait a few minutes"):
        ask("x", failing(answer(429, headers={"Retry-After": "3600"})))
    assert waits == [30.0]


def test_it_ends_after_five_tries(waits):
    with pytest.raises(NoAnswerError, match=r"x: hub.test answers 503 \(5 tries\)"):
        ask("x", failing(*[answer(503)] * 5))
    assert waits == [1.0, 2.0, 4.0, 8.0]


def test_what_happened_in_a_thread_counts(waits):
    wrapped = RuntimeError("Error while uploading")
    wrapped.__cause__ = answer(502)
    assert ask("x", failing(wrapped)) == "done"


REPO = Repo("org/name", "v1")
SAID = {
    "gated": (answer(403, errors.GatedRepoError), "asked for access first, at .*org/name"),
    "missing": (
        answer(404, errors.RepositoryNotFoundError),
        "there is no org/name on hub.test, or it is private and your token",
    ),
    "revision": (answer(404, errors.RevisionNotFoundError), "it has no revision 'v1'"),
    "file": (answer(404, errors.RemoteEntryNotFoundError), r"a file is missing in it \(/api/models/org/name\)"),
    "token": (answer(401), "your access token was refused; log in with: hf auth login"),
    "right": (answer(403, said="no write"), r"your token may not do this \(no write\)"),
    "stale": (answer(412), "somebody else has published"),
    "odd": (answer(418, said="teapot"), r"hub.test answers 418 \(teapot\)"),
    "disk": (OSError(errno.ENOSPC, "full"), "no space left on the disk"),
    "offline": (errors.OfflineModeIsEnabled("x"), "offline mode is on"),
    "other": (ValueError("two\nlines"), "x: two$"),
}


@pytest.mark.parametrize("what", SAID)
def test_every_error_is_one_message(what, waits):
    error, said = SAID[what]
    with pytest.raises(HubError, match=said) as e:
        ask("x", failing(error), REPO)
    assert "secret" not in str(e.value)
    assert "\n" not in str(e.value)
    assert waits == []
    with pytest.raises(HubError, match=said), calling("x", REPO):
        raise error


def test_messages_of_ours_pass_as_they_are():
    with pytest.raises(DataError, match="^mine$"):
        ask("x", failing(DataError("mine")))


def test_loopback_is_known(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    for address, local in {"http://hub.test": False, "http://127.0.0.1:1": True, "http://localhost:1": True}.items():
        constants.HF_HUB_DISABLE_XET = False
        monkeypatch.setenv("HF_ENDPOINT", address)
        assert client.api().endpoint == address
        assert constants.HF_HUB_DISABLE_XET is local
