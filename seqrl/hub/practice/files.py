"""Endpoints about files: look at them, ask how to send them, commit them, and fetch them."""

import base64
import fnmatch
from typing import Any
from urllib.parse import quote

from seqrl.hub.practice.large import sent
from seqrl.hub.practice.repos import Commit, Repo, changed, merged
from seqrl.hub.practice.site import Site, kind_of, route
from seqrl.hub.practice.talks import open_talk
from seqrl.hub.practice.trees import ALWAYS_LARGE, Entry, applied, checked, folders, lfs
from seqrl.hub.practice.wire import Answer, Ask, Refused

_LARGE_FROM = 10_000_000


@route("POST", "/api/{kind}/{id}/preupload/{rev}")
def preupload(site: Site, ask: Ask, kind: str, id: str, rev: str) -> Answer:
    """Which files to send as large ones, which not at all, and what is there already."""
    repo = _open_to(site, ask, kind, id, rev)
    said, there = ask.json(), site.repos.resolve(repo, rev).files
    ignored = str(said.get("gitIgnore") or "").splitlines()
    rows = []
    for file in said.get("files", []):
        path, size = checked(file.get("path")), int(file.get("size", 0))
        sample = base64.b64decode(file.get("sample") or "")
        big = size and (path.rpartition(".")[2].lower() in ALWAYS_LARGE or size >= _LARGE_FROM or b"\0" in sample)
        row = {"path": path, "uploadMode": "lfs" if big else "regular", "shouldIgnore": _ignores(ignored, path)}
        before = there.get(path)
        if before and bool(before.sha256) == bool(big):
            row["oid"] = before.sha256 or before.oid
        rows.append(row)
    return Answer({"files": rows, "commitOid": site.repos.resolve(repo, rev).oid})


def _open_to(site: Site, ask: Ask, kind: str, id: str, rev: str) -> Repo:
    """The repository that somebody wants to commit to: one of theirs, or any they see by a pull request of theirs."""
    repo, who = site.repo(ask, kind, id), ask.account()
    theirs = any(rev == f"refs/pr/{t['num']}" and t["author"]["name"] == who.name for t in repo.talks)
    if not who.owns(id) and not theirs and not _yes(ask.options.get("create_pr")):
        raise Refused(403, f"You don't have the rights to commit to {id}; pass `create_pr=1` to open a pull request")
    return repo


def _ignores(patterns: list[str], path: str) -> bool:
    """The plain forms of .gitignore: a name, ``*.ending``, ``folder/``."""
    plain = [p.strip().strip("/") for p in patterns if p.strip() and not p.startswith(("#", "!"))]
    pieces = path.split("/")
    ways = [*pieces, *("/".join(pieces[:k]) for k in range(1, len(pieces) + 1))]
    return any(fnmatch.fnmatchcase(way, p) for p in plain for way in ways)


@route("POST", "/api/{kind}/{id}/commit/{rev}")
def commit(site: Site, ask: Ask, kind: str, id: str, rev: str) -> Answer:
    """One commit, whole or not at all; 412 where the branch is no longer where the client saw it."""
    repo, who = _open_to(site, ask, kind, id, rev), ask.account()
    pull = _yes(ask.options.get("create_pr"))
    operations = ask.lines()
    first = next(operations, {})
    if first.get("key") != "header" or not isinstance(first.get("value"), dict) or not first["value"].get("summary"):
        raise Refused(400, "a commit begins with a header that has a summary")
    header = first["value"]
    wanted = header.get("parentCommit")
    seen = site.repos.resolve(repo, wanted if pull and wanted else rev)
    # Contents may take a while to arrive, and others need not wait for them; what was seen is compared again below.
    files = applied(seen.files, operations, site.objects)
    with site.repos.lock:
        repo = site.repo(ask, kind, id)
        head = site.repos.resolve(repo, wanted if pull and wanted else rev)
        if wanted and not pull and not head.oid.startswith(wanted):
            raise Refused(412, "A commit has happened since. Please refresh and try again.")
        if head.oid != seen.oid:
            files = merged(head.files, changed(seen.files, files))
        if not pull and rev not in repo.heads and rev not in repo.pulls:
            raise Refused(400, f"{rev} is no branch: commits can be added to branches alone")
        told = {"success": True, "commitOid": head.oid, "commitUrl": f"{site.page(repo)}/commit/{head.oid}", "hookOutput": ""}
        if files == head.files and not pull:
            return Answer(told)
        made = site.repos.add(repo, head.oid, files, header["summary"], header.get("description") or "", who.name)
        if pull:
            talk = open_talk(repo, who.name, made.title, made.message, head.oid, rev)
            repo.pulls[f"refs/pr/{talk['num']}"] = made.oid
            told["pullRequestUrl"] = f"{site.page(repo)}/discussions/{talk['num']}"
        else:
            (repo.heads if rev in repo.heads else repo.pulls)[rev] = made.oid
        site.repos.save(repo)
    return Answer(told | {"commitOid": made.oid, "commitUrl": f"{site.page(repo)}/commit/{made.oid}"})


@route("GET", "/api/{kind}/{id}/tree/{rev}")
def tree(site: Site, ask: Ask, kind: str, id: str, rev: str, path: str = "") -> Answer:
    """The files and folders of a folder, of all below it with ``recursive``."""
    repo = site.repo(ask, kind, id)
    at = site.repos.resolve(repo, rev)
    deep, told = (_yes(ask.options.get(k)) for k in ("recursive", "expand"))
    start = f"{path.strip('/')}/" if path.strip("/") else ""
    below = {p: e for p, e in at.files.items() if p.startswith(start)}
    if start and not below:
        raise _missing(path, at)
    rows = {p: _row(p, e) for p, e in below.items() if deep or "/" not in p[len(start) :]}
    for folder, oid in folders(at.files).items():
        if folder.startswith(start) and folder != start[:-1] and (deep or "/" not in folder[len(start) :]):
            rows[folder] = {"type": "directory", "oid": oid, "size": 0, "path": folder}
    return Answer([_when(site, repo, at, rows[p]) if told else rows[p] for p in sorted(rows)])


@route("GET", "/api/{kind}/{id}/tree/{rev}/{path}")
def subtree(site: Site, ask: Ask, kind: str, id: str, rev: str, path: str) -> Answer:
    return tree(site, ask, kind, id, rev, path)


@route("POST", "/api/{kind}/{id}/paths-info/{rev}")
def paths_info(site: Site, ask: Ask, kind: str, id: str, rev: str) -> Answer:
    repo = site.repo(ask, kind, id)
    at, said = site.repos.resolve(repo, rev), ask.form()
    dirs, rows = folders(at.files), []
    for path in said.get("paths", []):
        name = str(path).strip("/")
        if name in at.files:
            rows.append(_row(name, at.files[name]))
        elif name in dirs:
            rows.append({"type": "directory", "oid": dirs[name], "size": 0, "path": name})
    told = _yes(said.get("expand", [""])[0])
    return Answer([_when(site, repo, at, row) if told else row for row in rows])


def _yes(said: Any) -> bool:
    return str(said).lower() in ("1", "true")


def _row(path: str, entry: Entry) -> dict[str, Any]:
    row = {"type": "file", "oid": entry.oid, "size": entry.size, "path": path}
    return row | ({"lfs": lfs(entry)} if entry.sha256 else {})


def _when(site: Site, repo: Repo, at: Commit, row: dict[str, Any]) -> dict[str, Any]:
    """The row with the last commit that changed it."""

    def inside(commit: Commit) -> dict[str, Entry]:
        return {p: e for p, e in commit.files.items() if p == row["path"] or p.startswith(f"{row['path']}/")}

    last, now = at, inside(at)
    for older in site.repos.history(repo, at.parent):
        if inside(older) != now:
            break
        last = older
    return row | {"lastCommit": {k: v for k, v in last.lines().items() if k != "message"}}


def _missing(path: str, at: Commit) -> Refused:
    return Refused(404, f"Entry not found: {path}", "EntryNotFound", X_Repo_Commit=at.oid)


@route("GET", "/{prefix}{id}/resolve/{rev}/{path}")
def resolve(site: Site, ask: Ask, prefix: str, id: str, rev: str, path: str) -> Answer:
    """A file; for a large one, the address where it lies."""
    repo = site.repo(ask, kind_of(prefix), id)
    at = site.repos.resolve(repo, rev)
    entry = at.files.get(path)
    if entry is None:
        raise _missing(path, at)
    name = quote(path.rpartition("/")[2])
    headers = {"X-Repo-Commit": at.oid, "ETag": f'"{entry.oid}"', "Content-Disposition": f"inline; filename*=UTF-8''{name}"}
    if entry.sha256 is None:
        return sent(ask, site.objects.blob(entry.oid), entry.size, headers)
    where = site.link("get", entry.sha256, site.storage)
    linked = {"X-Linked-Size": str(entry.size), "X-Linked-Etag": f'"{entry.sha256}"', "Location": where}
    return Answer(f"Found. Redirecting to {where}".encode(), 302, headers | linked)
