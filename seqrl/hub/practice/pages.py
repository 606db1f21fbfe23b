"""Two plain pages for a browser: which repositories there are, and what one holds. Public ones only: a browser has no token."""

from html import escape
from urllib.parse import quote

from seqrl.hub.practice.repos import KINDS
from seqrl.hub.practice.site import Site, kind_of, route
from seqrl.hub.practice.wire import Answer, Ask

_STYLE = "body{font:15px/1.5 sans-serif;max-width:60em;margin:2em auto;padding:0 1em}pre{background:#f4f4f4;padding:1em}"
_MOST = 200_000


def _page(title: str, body: str) -> Answer:
    text = f'<!doctype html><meta charset="utf-8"><title>{escape(title)}</title><style>{_STYLE}</style><h1>{escape(title)}</h1>'
    # Cards come from strangers: nothing in them runs here.
    safe = {
        "Content-Type": "text/html; charset=utf-8",
        "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
    }
    return Answer((text + body).encode(), headers=safe)


def _link(address: str, words: str) -> str:
    return f'<a href="{escape(quote(address))}">{escape(words)}</a>'


@route("GET", "/")
def front(site: Site, ask: Ask) -> Answer:
    """Every repository that whoever asks may see."""
    parts = []
    for kind in KINDS:
        names = [r.id for r in site.repos.all(kind) if r.seen_by(ask.who)]
        prefix = "/" if kind == "model" else f"/{kind}s/"
        rows = "".join(f"<li>{_link(prefix + name, name)}</li>" for name in names)
        parts.append(f"<h2>{kind}s</h2><ul>{rows}</ul>" if rows else "")
    return _page("Practice Hub", "".join(parts) or "<p>Nothing is published here yet.</p>")


@route("GET", r"/(?!api/){prefix}{owner}/{name}(?:/(?:tree|blob|commits?|discussions)/.*)?")
def show(site: Site, ask: Ask, prefix: str, owner: str, name: str) -> Answer:
    """A repository: its card as it is written, its files, commits and tags."""
    repo = site.repo(ask, kind_of(prefix), f"{owner}/{name}")
    at = site.repos.resolve(repo, "main")
    card = at.files.get("README.md")
    text = ""
    if card and not card.sha256 and card.size <= _MOST:
        text = f"<pre>{escape(site.objects.blob(card.oid).read_text(encoding='utf-8', errors='replace'))}</pre>"
    files = "".join(
        f"<li>{_link(f'/{prefix}{repo.id}/resolve/main/{path}', path)} {entry.size:,} bytes</li>"
        for path, entry in sorted(at.files.items())
    )
    names: dict[str, list[str]] = {}
    for word, oid in (*repo.heads.items(), *repo.tags.items()):
        names.setdefault(oid, []).append(word)
    commits = "".join(
        f"<li><code>{c.oid[:8]}</code> {escape(c.title)}, {escape(c.author)}, {c.lines()['date']} "
        f"<b>{escape(' '.join(names.get(c.oid, [])))}</b></li>"
        for c in site.repos.history(repo, at.oid)
    )
    talks = "".join(f"<li>#{t['num']} {escape(t['title'])} ({t['status']})</li>" for t in repo.talks)
    more = f"<h2>Discussions</h2><ul>{talks}</ul>" if talks else ""
    return _page(repo.id, f"{text}<h2>Files</h2><ul>{files}</ul><h2>Commits</h2><ul>{commits}</ul>{more}")
