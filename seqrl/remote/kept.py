"""What of a repository is here already, and known to be whole: the cache that Hugging Face's libraries share, and our notes.

A note lies beside the cache's copy of a commit. It names all files that the repository has there, and those that were held
against their digest, with size and time of change: so nothing is hashed twice, a file that changed since is noticed, and a
complete state can be used where nobody can be asked.
"""

import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from seqrl.core.plain import read_json
from seqrl.remote.names import Repo
from seqrl.remote.state import RemoteFile, State, is_same


def cache(repo: Repo) -> Path:
    """The repository's folder in Hugging Face's cache."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / f"{repo.kind}s--{repo.id.replace('/', '--')}"


def _notes(folder: Path) -> Path:
    return folder.parent.parent / "seqrl" / f"{folder.name}.json"


def _stamp(path: Path) -> list[int]:
    return [(s := path.stat()).st_size, s.st_mtime_ns]


def _noted(folder: Path) -> tuple[list[str], dict[str, list[int]]]:
    """Of a commit's folder: all names the repository has there, and file -> size and time of change of what was verified."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        found = read_json(_notes(folder).read_text(encoding="utf-8"))
        return list(found["names"]), dict(found["verified"])
    return [], {}


def is_verified(folder: Path, file: RemoteFile) -> bool:
    """Whether a file is here, and was held against its digest since it last changed; one that was not is now, once."""
    path = folder / file.path
    with suppress(OSError):
        if _noted(folder)[1].get(file.path) == _stamp(path):
            return True
        if is_same(path, file):
            return True
        remove(path)
    return False


def remember(repo: Repo, state: State, folder: Path, files: Sequence[RemoteFile]) -> None:
    """Notes what is whole here; a cache that cannot be written only means looking once more next time."""
    names, noted = _noted(folder)
    new = noted | {f.path: _stamp(folder / f.path) for f in files}
    with suppress(OSError):
        if new != noted or not names:
            place = _notes(folder)
            place.parent.mkdir(parents=True, exist_ok=True)
            aside = place.with_suffix(f".{os.getpid()}.part")
            aside.write_text(json.dumps({"names": sorted(state.files), "verified": new}), encoding="utf-8")
            os.replace(aside, place)
        # The client notes which commit a branch or tag was, when it fetches; here it may have had nothing to fetch.
        name = repo.revision or "main"
        if name != state.commit:
            ref = cache(repo) / "refs" / name
            if not ref.is_file() or ref.read_text() != state.commit:
                ref.parent.mkdir(parents=True, exist_ok=True)
                ref.write_text(state.commit)


def find(repo: Repo, choose: Callable[[Sequence[str]], Sequence[str]]) -> Path | None:
    """The folder of a state whose chosen files are all here and whole, as far as is known without asking anybody."""
    home, name = cache(repo), repo.revision or "main"
    with suppress(OSError, ValueError):
        ref = home / "refs" / name
        folder = home / "snapshots" / (ref.read_text().strip() if ref.is_file() else name)
        names, noted = _noted(folder)
        if names and all(noted.get(f) == _stamp(folder / f) for f in choose(names)):
            return folder
    return None


def remove(path: Path) -> None:
    """Takes a file out of the cache: its name in the snapshot is a link to the content, which other commits may share."""
    content = path.resolve()
    path.unlink()
    content.unlink(missing_ok=True)
