"""Endpoints about accounts and repositories as a whole: who am I, make, delete, rename, describe, list."""

from typing import Any

import yaml

from seqrl.hub.practice.objects import git_id
from seqrl.hub.practice.repos import KINDS, Commit, Repo, stamp
from seqrl.hub.practice.site import Site, route
from seqrl.hub.practice.trees import ALWAYS_LARGE, Entry, lfs
from seqrl.hub.practice.wire import Answer, Ask, Refused

_ATTRIBUTES = "".join(f"*.{ending} filter=lfs diff=lfs merge=lfs -text\n" for ending in ALWAYS_LARGE).encode()


@route("GET", "/api/whoami-v2")
def whoami(site: Site, ask: Ask) -> Answer:
    who = ask.account()
    orgs = [{"type": "org", "id": git_id("org", o.encode()), "name": o, "fullname": o, "roleInOrg": "admin"} for o in who.orgs]
    about = {"type": "user", "id": git_id("user", who.name.encode()), "name": who.name, "fullname": who.name, "orgs": orgs}
    token = {"type": "access_token", "accessToken": {"displayName": "practice", "role": "write"}}
    return Answer(about | {"isPro": False, "periodEnd": None, "auth": token})


def _asked(site: Site, ask: Ask) -> tuple[str, str, dict[str, Any]]:
    """(kind, id) of the repository that a body names, and the body; raises Refused where it is not theirs."""
    said, who = ask.json(), ask.account()
    kind, owner = said.get("type") or "model", said.get("organization") or who.name
    id = f"{owner}/{said.get('name')}"
    if kind not in KINDS:
        raise Refused(400, f"a repository is one of {', '.join(KINDS)}; not '{kind}'")
    if not who.owns(id):
        mine = ", ".join((who.name, *who.orgs))
        raise Refused(403, f'You don\'t have the rights to create a {kind} under the namespace "{owner}" (yours: {mine})')
    return kind, id, said


@route("POST", "/api/repos/create")
def create(site: Site, ask: Ask) -> Answer:
    kind, id, said = _asked(site, ask)
    repos = site.repos
    with repos.lock:
        there = repos.find(kind, id)
        if there:
            told = {"error": f"You already created this {kind} repo", "url": site.page(there), "name": id}
            return Answer(told, 409, {"X-Error-Message": told["error"]})
        repo = repos.create(kind, id, said.get("visibility") == "private" or bool(said.get("private")))
        files = {".gitattributes": Entry(site.objects.put(_ATTRIBUTES), len(_ATTRIBUTES))}
        repo.heads["main"] = repos.add(repo, None, files, "initial commit", "", ask.account().name).oid
        repos.save(repo)
    return Answer({"url": site.page(repo), "name": id, "id": git_id(kind, id.encode())})


@route("DELETE", "/api/repos/delete")
def delete(site: Site, ask: Ask) -> Answer:
    kind, id, _ = _asked(site, ask)
    with site.repos.lock:
        site.repos.remove(site.repo(ask, kind, id, change=True))
    return Answer({})


@route("POST", "/api/repos/move")
def move(site: Site, ask: Ask) -> Answer:
    said = ask.json()
    kind, there = said.get("type") or "model", str(said.get("toRepo"))
    if not ask.account().owns(there):
        raise Refused(403, f"You don't have the rights to create {there}")
    with site.repos.lock:
        site.repos.move(site.repo(ask, kind, str(said.get("fromRepo")), change=True), there)
    return Answer({})


@route("PUT", "/api/{kind}/{id}/settings")
def settings(site: Site, ask: Ask, kind: str, id: str) -> Answer:
    said = ask.json()
    with site.repos.lock:
        repo = site.repo(ask, kind, id, change=True)
        repo.private = said["visibility"] == "private" if "visibility" in said else bool(said.get("private", repo.private))
        site.repos.save(repo)
    return Answer({"private": repo.private})


@route("GET", "/api/{kind}/{id}/auth-check")
def auth_check(site: Site, ask: Ask, kind: str, id: str) -> Answer:
    site.repo(ask, kind, id, change="write" in ask.options)
    return Answer("OK")


@route("POST", "/api/validate-yaml")
def validate_yaml(site: Site, ask: Ask) -> Answer:
    try:
        _front(str(ask.json().get("content", "")))
    except yaml.YAMLError as e:
        return Answer({"errors": [{"message": str(e)}], "warnings": []}, 400, {"X-Error-Message": "Invalid YAML metadata"})
    return Answer({"errors": [], "warnings": []})


def _front(text: str) -> dict[str, Any]:
    """The YAML between a card's two lines of dashes."""
    parts = text.replace("\r\n", "\n").split("---\n", 2)
    made = yaml.safe_load(parts[1]) if len(parts) == 3 and not parts[0].strip() else None
    return made if isinstance(made, dict) else {}


def _card(site: Site, files: Any) -> dict[str, Any]:
    entry = files.get("README.md")
    if entry is None or entry.sha256:
        return {}
    try:
        return _front(site.objects.blob(entry.oid).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        return {}


def _texts(value: Any) -> list[str]:
    return [str(v) for v in (value if isinstance(value, list) else [value]) if v]


def about(site: Site, repo: Repo, commit: Commit, blobs: bool = False) -> dict[str, Any]:
    """What the Hub tells of a repository at a commit."""
    card = _card(site, commit.files)
    tags = [*_texts(card.get("library_name")), *_texts(card.get("pipeline_tag")), *_texts(card.get("tags"))]
    tags += [f"{k}:{v}" for k in ("license", "base_model") for v in _texts(card.get(k))]
    tags += [f"dataset:{v}" for v in _texts(card.get("datasets"))]
    told = {
        "_id": git_id(repo.kind, repo.id.encode())[:24],
        "id": repo.id,
        "modelId": repo.id,
        "author": repo.id.partition("/")[0],
        "sha": commit.oid,
        "lastModified": stamp(commit.time),
        "createdAt": stamp(repo.made),
        "private": repo.private,
        "gated": False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": list(dict.fromkeys(tags)),
        "cardData": card,
        "siblings": [{"rfilename": p} | (_blob(e) if blobs else {}) for p, e in sorted(commit.files.items())],
        "usedStorage": sum(e.size for e in commit.files.values()),
    }
    found = {"model-index": card.get("model-index"), "pipeline_tag": card.get("pipeline_tag")}
    return told | {k: v for k, v in (found | {"library_name": card.get("library_name")}).items() if v}


def _blob(entry: Entry) -> dict[str, Any]:
    return {"size": entry.size, "blobId": entry.oid} | ({"lfs": lfs(entry, "sha256")} if entry.sha256 else {})


@route("GET", "/api/{kind}/{id}/revision/{rev}")
def revision(site: Site, ask: Ask, kind: str, id: str, rev: str) -> Answer:
    repo = site.repo(ask, kind, id)
    return Answer(about(site, repo, site.repos.resolve(repo, rev), "blobs" in ask.options))


@route("GET", "/api/{kind}/{id}")
def info(site: Site, ask: Ask, kind: str, id: str) -> Answer:
    return revision(site, ask, kind, id, "main")


@route("GET", "/api/{kind}")
def listing(site: Site, ask: Ask, kind: str) -> Answer:
    wanted, tags, words = ask.options, set(ask.each("filter")), [w.lower() for w in ask.each("search")]
    found = []
    for repo in site.repos.all(kind):
        owner = repo.id.partition("/")[0]
        if not repo.seen_by(ask.who) or wanted.get("author", owner) != owner:
            continue
        if all(w in repo.id.lower() for w in words):
            told = about(site, repo, site.repos.resolve(repo, "main"))
            if tags <= set(told["tags"]):
                found.append(told)
    return Answer(found[: int(wanted.get("limit") or len(found))])
