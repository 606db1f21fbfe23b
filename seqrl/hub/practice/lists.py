"""Endpoints about collections: lists of repositories with a title, kept in one file each."""

import json
import re
import threading
import time
import uuid
from pathlib import Path
from typing import Any

from seqrl.hub.practice.repos import stamp, write
from seqrl.hub.practice.site import Site, route
from seqrl.hub.practice.wire import Answer, Ask, Refused

_LOCK = threading.Lock()
_SLUG = re.compile(r"[\w.-]+/[\w.-]+-[0-9a-f]{24}")


def _file(site: Site, slug: str) -> Path:
    if not _SLUG.fullmatch(slug) or ".." in slug:
        raise Refused(404, f"there is no collection {slug}")
    return site.root / "collections" / f"{slug}.json"


def _read(site: Site, ask: Ask, slug: str, change: bool = False) -> dict[str, Any]:
    path = _file(site, slug)
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    mine = ask.who is not None and ask.who.owns(slug)
    if found is None or (found["private"] and not mine):
        raise Refused(404, f"there is no collection {slug}")
    if change and not mine:
        ask.account()
        raise Refused(403, f"You don't have the rights to change the collection {slug}")
    return found


def _save(site: Site, found: dict[str, Any]) -> Answer:
    found["lastUpdated"] = stamp(time.time())
    for k, item in enumerate(found["items"]):
        item["position"] = k
    write(_file(site, found["slug"]), found)
    return Answer(found)


def _item(site: Site, ask: Ask, item: dict[str, Any], note: Any) -> dict[str, Any]:
    kind, id = str(item.get("type")), str(item.get("id"))
    if kind in ("model", "dataset", "space"):
        site.repo(ask, kind, id)
    told = {"_id": uuid.uuid4().hex[:24], "id": id, "type": kind, "position": 0}
    return told | ({"note": {"text": note, "html": ""}} if note else {})


@route("POST", "/api/collections")
def create(site: Site, ask: Ask) -> Answer:
    said, who = ask.json(), ask.account()
    title, owner = str(said.get("title") or "untitled"), said.get("namespace") or who.name
    if not who.owns(f"{owner}/x"):
        raise Refused(403, f'You don\'t have the rights to create a collection under "{owner}"')
    slug = f"{owner}/{re.sub(r'[^a-z0-9]+', '-', title.lower()).strip('-') or 'collection'}"
    with _LOCK:
        same = [p for p in (site.root / "collections").glob(f"{slug}-*.json") if _SLUG.fullmatch(f"{owner}/{p.stem}")]
        same = [p for p in same if json.loads(p.read_text(encoding="utf-8"))["title"] == title]
        if same:
            told = {"error": "This collection already exists", "slug": f"{owner}/{same[0].stem}"}
            return Answer(told, 409, {"X-Error-Message": told["error"]})
        made = {
            "slug": f"{slug}-{uuid.uuid4().hex[:24]}",
            "title": title,
            "description": said.get("description") or "",
            "owner": {"type": "user" if owner == who.name else "org", "name": owner},
            "private": bool(said.get("private")),
            "theme": "blue",
            "upvotes": 0,
            "position": 0,
            "items": [_item(site, ask, said["item"], None)] if said.get("item") else [],
        }
        return _save(site, made)


@route("GET", "/api/collections")
def listing(site: Site, ask: Ask) -> Answer:
    found = [json.loads(p.read_text(encoding="utf-8")) for p in sorted((site.root / "collections").glob("*/*.json"))]
    owner, item = ask.options.get("owner"), ask.options.get("item", "").partition("/")[2]
    rows = [
        {k: v for k, v in c.items() if k != "position"}
        for c in found
        if (not c["private"] or (ask.who is not None and ask.who.owns(c["slug"])))
        and owner in (None, c["owner"]["name"])
        and (not item or any(i["id"] == item for i in c["items"]))
    ]
    return Answer(rows)


@route("GET", "/api/collections/{id}")
def show(site: Site, ask: Ask, id: str) -> Answer:
    return Answer(_read(site, ask, id))


@route("PATCH", "/api/collections/{id}")
def change(site: Site, ask: Ask, id: str) -> Answer:
    said = ask.json()
    with _LOCK:
        found = _read(site, ask, id, change=True)
        found |= {k: said[k] for k in ("title", "description", "private", "theme") if k in said}
        return Answer({"success": True, "data": _save(site, found).body})


@route("DELETE", "/api/collections/{id}")
def delete(site: Site, ask: Ask, id: str) -> Answer:
    with _LOCK:
        _read(site, ask, id, change=True)
        _file(site, id).unlink()
    return Answer({})


@route("POST", "/api/collections/{id}/items")
def add(site: Site, ask: Ask, id: str) -> Answer:
    said = ask.json()
    with _LOCK:
        found = _read(site, ask, id, change=True)
        item = _item(site, ask, said.get("item") or {}, said.get("note"))
        if any(i["id"] == item["id"] and i["type"] == item["type"] for i in found["items"]):
            raise Refused(409, "Item already in collection")
        found["items"].append(item)
        return _save(site, found)


@route("DELETE", "/api/collections/{id}/items/{item}")
def remove(site: Site, ask: Ask, id: str, item: str) -> Answer:
    with _LOCK:
        found = _read(site, ask, id, change=True)
        kept = [i for i in found["items"] if i["_id"] != item]
        if len(kept) == len(found["items"]):
            raise Refused(404, "there is no such item in the collection")
        return _save(site, found | {"items": kept})
