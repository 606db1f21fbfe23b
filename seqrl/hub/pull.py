"""A publication as a folder of one's own: everything that lies in a repository, whole or not at all.

The files come through the shared cache, verified; they are copied into a temporary neighbour of the folder, which is renamed
at the end. Nothing of it is executed or loaded, and a file whose name would lead out of the folder stops everything.
"""

import os
import shutil
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from seqrl.core.errors import HubError
from seqrl.remote.client import calling
from seqrl.remote.download import check_names, fetch
from seqrl.remote.names import read_name


def pull(name: str, to: Path | None = None, revision: str | None = None) -> tuple[Path, str]:
    """Copies a repository into a folder.

    Args:
        name: ``org/name[@revision]``, or ``hf://datasets/org/name`` for a dataset.
        to: the folder to make; the repository's own name in the current one where None.
        revision: branch, tag or commit; the newest where None.

    Returns:
        the folder, and the commit.

    Raises:
        HubError: no such repository or revision, no network and no copy in the cache, no space, something in the folder's
            place, or a file called so that it would lie elsewhere. The folder is then as it was.
    """
    repo = read_name(name, revision)
    if repo is None:
        raise HubError(f"{name}: this is no repository's name; say org/name, or hf://datasets/org/name for a dataset")
    target = Path(repo.id.rpartition("/")[2]) if to is None else to
    if target.is_symlink() or (target.exists() and not (target.is_dir() and not any(target.iterdir()))):
        raise HubError(f"{target}: there is something at this place already; name another with --to")
    names: list[str] = []

    def everything(there: Sequence[str]) -> list[str]:
        check_names(repo, there)
        names[:] = there
        return names

    source = fetch(repo, more=everything)
    if not names:
        raise HubError(f"{repo}: this repository is empty")
    with calling(f"{target} cannot be written"):
        _copy(source, names, target)
    return target, source.name


def _copy(source: Path, names: list[str], target: Path) -> None:
    """Copies files into a neighbour of ``target`` and gives it that name; leaves nothing where it does not end well."""
    aside = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}.part"
    made = [p for p in target.absolute().parents if not p.exists()]
    try:
        for name in names:
            place = aside / name
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, place)
            with place.open("rb") as file:
                os.fsync(file.fileno())
        aside.mkdir(parents=True, exist_ok=True)
        if target.exists():
            target.rmdir()
        os.rename(aside, target)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        with suppress(OSError):
            for parent in made:
                parent.rmdir()
        raise
