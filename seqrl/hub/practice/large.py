"""Endpoints about large contents: ask where to send or fetch one, send it, fetch it or a range of it.

They lie under another name of this machine (``localhost`` beside ``127.0.0.1``), as the real Hub keeps them on another host: a
client follows a redirect within one host and would miss the headers that only the first answer has.
"""

from pathlib import Path
from typing import Any

from seqrl.hub.practice.site import Site, kind_of, route
from seqrl.hub.practice.wire import Answer, Ask, Part, Refused


@route("POST", "/{prefix}{id}.git/info/lfs/objects/batch")
def batch(site: Site, ask: Ask, prefix: str, id: str) -> Answer:
    """Where to send or fetch large contents (the git-lfs batch protocol, transfer ``basic``)."""
    said = ask.json()
    send = said.get("operation") == "upload"
    site.repo(ask, kind_of(prefix), id)
    # What may be committed is asked when it is: a pull request is open to everybody with an account.
    if send:
        ask.account()
    rows = []
    for wanted in said.get("objects", []):
        row: dict[str, Any] = {"oid": wanted.get("oid"), "size": wanted.get("size")}
        path = site.objects.large(row["oid"])
        if send and not path.exists():
            verify = {"href": f"{site.url}/practice-lfs/verify"}
            row["actions"] = {"upload": {"href": site.link("put", row["oid"]), "header": {}}, "verify": verify}
        elif not send and path.exists():
            row["actions"] = {"download": {"href": site.link("get", row["oid"], site.storage)}}
        elif not send:
            row["error"] = {"code": 404, "message": "Object does not exist"}
        rows.append(row)
    return Answer({"transfer": "basic", "objects": rows, "hash_algo": "sha256"})


@route("PUT", "/practice-lfs/{sha}")
def put(site: Site, ask: Ask, sha: str) -> Answer:
    site.objects.large(sha)
    if ask.options.get("put") != site.sign("put", sha):
        raise Refused(403, "this upload was not asked for: its address is not signed")
    site.objects.receive(ask.body, sha, ask.body.length)
    return Answer(b"", headers={"ETag": f'"{sha}"'})


@route("POST", "/practice-lfs/verify")
def verify(site: Site, ask: Ask) -> Answer:
    said = ask.json()
    path = site.objects.large(said.get("oid"))
    if not path.exists() or path.stat().st_size != said.get("size"):
        raise Refused(422, "there is no such object of this size")
    return Answer({"message": "ok"})


@route("GET", "/practice-lfs/{sha}")
def get(site: Site, ask: Ask, sha: str) -> Answer:
    path = site.objects.large(sha)
    if ask.options.get("get") != site.sign("get", sha) or not path.exists():
        raise Refused(403, "this address is not signed, or no longer")
    return sent(ask, path, path.stat().st_size, {"ETag": f'"{sha}"'})


def sent(ask: Ask, path: Path, size: int, headers: dict[str, str]) -> Answer:
    """A file, or the range of it that was asked for."""
    headers = headers | {"Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
    wanted = ask.headers.get("Range", "")
    if not wanted.startswith("bytes=") or "," in wanted:
        return Answer(Part(path, 0, size), headers=headers)
    first, _, last = wanted.removeprefix("bytes=").partition("-")
    try:
        start = int(first) if first else max(0, size - int(last))
        stop = min(int(last) + 1, size) if first and last else size
    except ValueError:
        return Answer(Part(path, 0, size), headers=headers)
    if start >= stop:
        raise Refused(416, f"{path.name} has {size} bytes", Content_Range=f"bytes */{size}")
    return Answer(Part(path, start, stop - start), 206, headers | {"Content-Range": f"bytes {start}-{stop - 1}/{size}"})
