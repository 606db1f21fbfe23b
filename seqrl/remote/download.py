"""Files of a repository, brought into the cache that all of Hugging Face's libraries share: whole, or not at all.

Only files that were asked for by name are fetched. Their sizes are known before the first byte is, so that a full disk is a
message and not a crash. What arrived is held against the digest the Hub has of it (sha256 of a large file, git's of a small
one); a wrong file is removed and fetched once more. A complete state leaves a note (``kept``), so that the next use costs one
request, and none where there is no network.
"""

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

from seqrl.core.errors import HubError
from seqrl.remote import kept
from seqrl.remote.client import NoAnswerError, api, ask, endpoint, note, offline
from seqrl.remote.names import Repo
from seqrl.remote.state import SECONDS, RemoteFile, State, is_same, state_of

__all__ = ["MissingError", "State", "check_names", "fetch", "size", "state_of"]


class MissingError(HubError):
    """The repository is there, but not what was asked for; ``name`` is the first file of it."""

    def __init__(self, message: str, name: str) -> None:
        super().__init__(message)
        self.name = name


def fetch(
    repo: Repo,
    files: Sequence[str] = (),
    optional: Sequence[str] = (),
    limits: Mapping[str, int] | None = None,
    more: Callable[[Sequence[str]], Iterable[str]] | None = None,
) -> Path:
    """Brings files of a repository here.

    Args:
        repo: which, and which state of it.
        files: names that must be there.
        optional: names that may be there.
        limits: ``{name: bytes}`` that a file may have at most; what is read into memory whole should be here.
        more: gives further names, of all that the repository has; they must be safe to write (``check_names``).

    Returns:
        the folder of that commit in the cache, named by the commit; it may hold other files as well.

    Raises:
        MissingError: the repository has not all of ``files``.
        HubError: no such repository, no network and no copy here, no space, a file wrong twice, or larger than its limit.
    """

    def choose(names: Sequence[str]) -> list[str]:
        wanted = [*files, *(n for n in optional if n in names), *(more(names) if more else ())]
        return list(dict.fromkeys(wanted))

    here = kept.find(repo, choose)
    if here and repo.revision == here.name:
        return here
    try:
        state = state_of(repo, await_network=here is None)
    except NoAnswerError as e:
        if here is None:
            raise
        why = "offline mode" if offline() else str(e)
        note(f"{repo}: using the copy of {here.name[:8]} that is kept here ({why})")
        return here
    chosen = []
    for name in choose(list(state.files)):
        if name not in state.files:
            raise MissingError(f"{repo}: there is no {name} in it", name)
        chosen.append(file := state.files[name])
        if file.size > (limits or {}).get(name, file.size):
            raise HubError(f"{repo}: {name} has {size(file.size)}, more than any such file should; it is not fetched")
    folder = kept.cache(repo) / "snapshots" / state.commit
    missing = [f for f in chosen if not kept.is_verified(folder, f)]
    if missing:
        check_space(repo, folder, missing)
        for f in sorted(missing, key=lambda f: f.size):
            bring(repo.at(state.commit), f, folder)
    kept.remember(repo, state, folder, chosen)
    return folder


def check_names(repo: Repo, names: Iterable[str]) -> None:
    """Raises HubError where a file of a repository is called so that it would not lie inside the folder it is copied to, or
    where two could not lie beside each other."""
    seen: dict[str, str] = {}
    for name in names:
        parts = name.split("/")
        odd = any(p in ("", ".", "..") or p.lower() == ".git" or p != p.strip() or p.endswith(".") for p in parts)
        if odd or PurePosixPath(name).is_absolute() or any(c in "\\:" or not c.isprintable() for c in name):
            raise HubError(f"{repo}: it holds a file called {name!r}, which leads out of its folder; nothing is fetched")
        if (other := seen.setdefault(name.casefold(), name)) != name:
            raise HubError(f"{repo}: '{name}' and '{other}' cannot lie in one folder everywhere; nothing is fetched")


def bring(repo: Repo, file: RemoteFile, folder: Path, own: bool = False) -> None:
    """One file, fetched and verified; raises HubError where it is wrong twice.

    Args:
        folder: the folder of that commit in the cache; or, where ``own``, any other that the file is to lie in.
    """
    from huggingface_hub import hf_hub_download

    client = api()
    path = folder / file.path
    for _ in range(2):
        ask(
            f"{file.path} of {repo} cannot be fetched",
            lambda: hf_hub_download(
                repo.id,
                file.path,
                repo_type=repo.kind,
                revision=repo.revision,
                endpoint=endpoint(),
                token=client.token,
                etag_timeout=SECONDS,
                library_name="seqrl",
                **({"local_dir": folder} if own else {}),
            ),
            repo,
        )
        if is_same(path, file):
            return
        note(f"{file.path} of {repo} arrived damaged; it was removed")
        kept.remove(path)
    raise HubError(
        f"{repo}: {file.path} arrived twice with other content than the Hub says it has, and was removed; "
        "try later, or tell its owner"
    )


def check_space(repo: Repo, folder: Path, files: Sequence[RemoteFile], setting: str = "HF_HOME") -> None:
    """Raises HubError where files are larger than what is free. Args: setting: the variable that says where they lie."""
    there = next(p for p in folder.parents if p.exists())
    needed, free = sum(f.size for f in files), shutil.disk_usage(there).free
    if needed > free:
        raise HubError(
            f"{repo}: {size(needed)} are to be fetched and {size(free)} are free at {there}; "
            f"free some, or set {setting} to a folder on another disk"
        )


def size(count: float) -> str:
    """Bytes in the largest unit that keeps the number readable."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if count >= 100 or unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError
