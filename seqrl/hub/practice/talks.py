"""Endpoints about what is said of files and who points at them: branches, tags, history, discussions, pull requests."""

import time
import uuid
from typing import Any

from seqrl.hub.practice.repos import Commit, Repo, changed, merged, stamp
from seqrl.hub.practice.site import Site, route
from seqrl.hub.practice.wire import Answer, Ask, Refused


@route("GET", "/api/{kind}/{id}/refs")
def refs(site: Site, ask: Ask, kind: str, id: str) -> Answer:
    repo = site.repo(ask, kind, id)

    def rows(what: str, names: dict[str, str]) -> list[dict[str, str]]:
        return [{"name": n, "ref": f"refs/{what}/{n}", "targetCommit": oid} for n, oid in sorted(names.items())]

    told = {"branches": rows("heads", repo.heads), "tags": rows("tags", repo.tags), "converts": []}
    if "include_prs" in ask.options:
        told["pullRequests"] = [{"name": n.removeprefix("refs/"), "ref": n, "targetCommit": o} for n, o in repo.pulls.items()]
    return Answer(told)


@route("GET", "/api/{kind}/{id}/commits/{rev}")
def commits(site: Site, ask: Ask, kind: str, id: str, rev: str) -> Answer:
    repo = site.repo(ask, kind, id)
    found = list(site.repos.history(repo, site.repos.resolve(repo, rev).oid))
    rows = [c.lines() | {"authors": [{"user": c.author}]} for c in found]
    return Answer(rows, headers={"X-Total-Count": str(len(rows))})


def _name(site: Site, ask: Ask, kind: str, id: str, what: str, name: str, rev: str) -> Answer:
    """Gives a name to a commit; 409 where it is taken."""
    if not name or name.startswith(("refs/", "-", "/")) or ".." in name or not name.isprintable() or " " in name:
        raise Refused(400, f"'{name}' is no name for a branch or tag")
    with site.repos.lock:
        repo = site.repo(ask, kind, id, change=True)
        names = getattr(repo, what)
        if name in names:
            raise Refused(409, f"Reference refs/{what}/{name} already exists")
        names[name] = site.repos.resolve(repo, rev).oid
        site.repos.save(repo)
    return Answer({})


def _unname(site: Site, ask: Ask, kind: str, id: str, what: str, name: str) -> Answer:
    with site.repos.lock:
        repo = site.repo(ask, kind, id, change=True)
        if (what, name) == ("heads", "main"):
            raise Refused(403, "The branch main cannot be deleted")
        if getattr(repo, what).pop(name, None) is None:
            raise Refused(404, f"Invalid rev id: {name}", "RevisionNotFound")
        site.repos.save(repo)
    return Answer({})


@route("POST", "/api/{kind}/{id}/tag/{rev}")
def tag(site: Site, ask: Ask, kind: str, id: str, rev: str) -> Answer:
    return _name(site, ask, kind, id, "tags", str(ask.json().get("tag") or ""), rev)


@route("DELETE", "/api/{kind}/{id}/tag/{rev}")
def untag(site: Site, ask: Ask, kind: str, id: str, rev: str) -> Answer:
    return _unname(site, ask, kind, id, "tags", rev)


@route("POST", "/api/{kind}/{id}/branch/{rev}")
def branch(site: Site, ask: Ask, kind: str, id: str, rev: str) -> Answer:
    return _name(site, ask, kind, id, "heads", rev, ask.json().get("startingPoint") or "main")


@route("DELETE", "/api/{kind}/{id}/branch/{rev}")
def unbranch(site: Site, ask: Ask, kind: str, id: str, rev: str) -> Answer:
    return _unname(site, ask, kind, id, "heads", rev)


def _event(who: str, type: str, **data: Any) -> dict[str, Any]:
    return {"id": uuid.uuid4().hex, "type": type, "createdAt": stamp(time.time()), "author": {"name": who}, "data": data}


def _comment(who: str, text: str) -> dict[str, Any]:
    said = {"raw": text, "html": "", "updatedAt": stamp(time.time()), "author": {"name": who}}
    return _event(who, "comment", edited=False, hidden=False, latest=said, history=[])


def open_talk(repo: Repo, who: str, title: str, text: str, base: str | None, onto: str = "main") -> dict[str, Any]:
    """A new discussion, or a pull request where it has a ``base`` commit that its changes begin at; the caller saves."""
    talk = {
        "num": len(repo.talks) + 1,
        "title": title,
        "author": {"name": who},
        "createdAt": stamp(time.time()),
        "status": "open",
        "isPullRequest": base is not None,
        "events": [_comment(who, text)] if text else [],
        "base": base,
        "onto": onto,
    }
    repo.talks.append(talk)
    return talk


def _told(repo: Repo, talk: dict[str, Any]) -> dict[str, Any]:
    hidden = ("base", "onto", "events")
    return {k: v for k, v in talk.items() if k not in hidden} | {"repo": {"name": repo.id, "type": repo.kind}}


@route("GET", "/api/{kind}/{id}/discussions")
def discussions(site: Site, ask: Ask, kind: str, id: str) -> Answer:
    repo, wanted = site.repo(ask, kind, id), ask.options
    found = [
        t
        for t in repo.talks
        if wanted.get("author", t["author"]["name"]) == t["author"]["name"]
        and wanted.get("type", "all") in ("all", "pull_request" if t["isPullRequest"] else "discussion")
        and wanted.get("status", "all") in ("all", "open" if t["status"] == "open" else "closed")
    ]
    rows = [_told(repo, t) for t in reversed(found)]
    return Answer({"discussions": rows if wanted.get("p", "0") == "0" else [], "count": len(rows), "start": 0})


@route("POST", "/api/{kind}/{id}/discussions")
def discuss(site: Site, ask: Ask, kind: str, id: str) -> Answer:
    said, who = ask.json(), ask.account()
    with site.repos.lock:
        repo = site.repo(ask, kind, id)
        base = site.repos.resolve(repo, "main").oid if said.get("pullRequest") else None
        talk = open_talk(repo, who.name, str(said.get("title", "")), str(said.get("description") or ""), base)
        if base:
            repo.pulls[f"refs/pr/{talk['num']}"] = base
        site.repos.save(repo)
    return Answer({"num": talk["num"]})


def _talk(repo: Repo, num: str) -> dict[str, Any]:
    if not 0 < int(num) <= len(repo.talks):
        raise Refused(404, f"{repo.id} has no discussion {num}")
    return repo.talks[int(num) - 1]


def _merged(site: Site, repo: Repo, talk: dict[str, Any]) -> tuple[dict[str, Any], Commit, list[str]]:
    """The files after a merge, the branch's head, and the paths that both sides changed differently."""
    base, mine = (site.repos.commit(repo, oid) for oid in (talk["base"], repo.pulls[f"refs/pr/{talk['num']}"]))
    head = site.repos.resolve(repo, talk["onto"])
    ours, theirs = changed(base.files, mine.files), changed(base.files, head.files)
    clash = sorted(p for p in ours.keys() & theirs.keys() if ours[p] != theirs[p])
    return merged(head.files, ours), head, clash


@route("GET", "/api/{kind}/{id}/discussions/{num}")
def discussion(site: Site, ask: Ask, kind: str, id: str, num: str) -> Answer:
    repo = site.repo(ask, kind, id)
    talk = _talk(repo, num)
    told = _told(repo, talk) | {"events": talk["events"]}
    if talk["isPullRequest"]:
        own = site.repos.history(repo, repo.pulls[f"refs/pr/{num}"])
        since = []
        for c in own:
            if c.oid == talk["base"]:
                break
            since.append(_event(c.author, "commit", subject=c.title, oid=c.oid) | {"createdAt": stamp(c.time)})
        told["events"] = sorted([*talk["events"], *since], key=lambda e: e["createdAt"])
        told["filesWithConflicts"] = [] if talk["status"] == "merged" else _merged(site, repo, talk)[2]
        told["changes"] = {"base": f"refs/heads/{talk['onto']}", "mergeCommitId": talk.get("merge")}
        told["diff"] = ""
    return Answer(told)


@route("POST", "/api/{kind}/{id}/discussions/{num}/{what}")
def say(site: Site, ask: Ask, kind: str, id: str, num: str, what: str) -> Answer:
    """A comment, another title, open or closed, or the merge of a pull request."""
    said, who = ask.json(), ask.account().name
    with site.repos.lock:
        repo = site.repo(ask, kind, id, change=what in ("merge", "status", "title"))
        talk, text = _talk(repo, num), str(said.get("comment") or "")
        event = _comment(who, text) if text else None
        if what == "comment" and event:
            talk["events"].append(event)
            site.repos.save(repo)
            return Answer({"newMessage": event})
        if what == "title":
            event = _event(who, "title-change", **{"from": talk["title"], "to": str(said.get("title"))})
            talk["title"] = str(said.get("title"))
            talk["events"].append(event)
            site.repos.save(repo)
            return Answer({"newTitle": event})
        talk["events"] += [event] if event else []
        if what == "status" and said.get("status") in ("open", "closed") and talk["status"] != "merged":
            talk["status"] = said["status"]
        elif what == "merge" and talk["isPullRequest"] and talk["status"] == "open":
            files, head, clash = _merged(site, repo, talk)
            if clash:
                raise Refused(409, f"This pull request has conflicts in {', '.join(clash)}")
            title = f"{talk['title']} (#{num})"
            talk["status"], talk["merge"] = "merged", site.repos.add(repo, head.oid, files, title, text, who).oid
            repo.heads[talk["onto"]] = talk["merge"]
        else:
            raise Refused(400, f"discussion {num} is {talk['status']}: '{what}' cannot be done")
        change = _event(who, "status-change", status=talk["status"])
        talk["events"].append(change)
        site.repos.save(repo)
    return Answer({"newStatus": change})
