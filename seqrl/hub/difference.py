"""What a push would change: the files of a folder against those of a repository, by content."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from seqrl.remote.download import size
from seqrl.remote.state import RemoteFile, State, git_digest, sha256

_WORDS = ("new", "changed", "gone", "same")


@dataclass(frozen=True)
class Change:
    """A file's fate: ``new``, ``changed``, ``gone`` or ``same``; sizes in bytes, None where it is not.

    ``sha256`` of the new content, hex, where it is known.
    """

    path: str
    how: str
    before: int | None
    after: int | None
    sha256: str | None = None


def compare(
    folder: Path, state: State | None, theirs: Iterable[str] = (), digests: Mapping[str, str] | None = None
) -> list[Change]:
    """Every file of a folder against a repository's, and what would go.

    Args:
        folder: what is to be published.
        state: the repository as it is; None where there is none.
        theirs: files that an earlier publication wrote: those of them that are not in the folder will be gone.
        digests: sha256 of files of the folder, as far as they are known.
    """
    there = state.files if state else {}
    ours = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    changes = [_against(name, path, there.get(name), (digests or {}).get(name)) for name, path in ours.items()]
    left = {name for name in theirs if name in there and name not in ours}
    changes += [Change(name, "gone", there[name].size, None) for name in left]
    return sorted(changes, key=lambda c: (_WORDS.index(c.how), c.path))


def _against(name: str, path: Path, other: RemoteFile | None, digest: str | None) -> Change:
    count = path.stat().st_size
    if other is None:
        return Change(name, "new", None, count, digest)
    if other.sha256:
        digest = digest or sha256(path)
        return Change(name, "same" if digest == other.sha256 else "changed", other.size, count, digest)
    same = count == other.size and git_digest(path) == other.blob
    return Change(name, "same" if same else "changed", other.size, count)


def table(changes: Sequence[Change]) -> list[str]:
    """The changes for a person to read, a line each; what stays the same is one line, and so is code of one fate."""
    code = [c for c in changes if c.path.endswith(".py") and c.how != "same"]
    moving = [c for c in changes if c.how != "same" and c not in code]
    for how in _WORDS:
        if of := [c for c in code if c.how == how]:
            before, after = (
                None if any(n is None for n in ns) else sum(ns) for ns in zip(*((c.before, c.after) for c in of), strict=True)
            )
            moving.append(Change(f"{len(of)} file{'s' * (len(of) > 1)} of code", how, before, after))
    moving.sort(key=lambda c: _WORDS.index(c.how))
    width = max((len(c.path) for c in moving), default=0)
    lines = []
    for c in moving:
        before, after = (size(n) if n is not None else "" for n in (c.before, c.after))
        sizes = f"{before} -> {after}" if c.how == "changed" and before != after else after or before
        lines.append(f"{c.how:<8} {c.path:<{width}}  {sizes}")
    still = [c for c in changes if c.how == "same"]
    if still:
        lines.append(f"{'same':<8} {len(still)} file{'s' * (len(still) > 1)}")
    return lines
