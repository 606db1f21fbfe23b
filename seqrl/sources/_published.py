"""Where a dataset in tables lies: in a folder, or in a repository on the Hub, whose rows need not all be here at once."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from seqrl.core.errors import DataError
from seqrl.sources import _parquet
from seqrl.sources._files import cache_home

SPEC_LIMIT = 64 << 20
"""Bytes of ``spec.json``, at most."""


def repo_of(id: str) -> Any:
    """The repository on the Hub that a name means, or None where it is a folder.

    Raises:
        DataError: neither a folder nor a name.
    """
    from seqrl.remote.names import SCHEME, read_name

    if not id.startswith(SCHEME) and Path(id).expanduser().is_dir():
        return None
    repo = read_name(id)
    local = not id.startswith(SCHEME) and Path(id.split("/")[0] or "/").expanduser().is_dir()
    if repo is None or local:
        known = f"; for a dataset on the Hub write hf://datasets/{id}" if repo else ", and no name on the Hub is like that"
        raise DataError(f"{id}: there is no such folder{known}")
    return replace(repo, kind="dataset")


def find(id: str, keep: bool = True) -> tuple[Path, Any]:
    """The folder of a dataset; of a name, the folder in the cache that its tables are brought into, and its ``Shards``, where
    those of the rows are not to stay, or None.

    Raises:
        DataError: neither a folder nor a name. HubError: the Hub has none, or cannot be asked.
    """
    repo = repo_of(id)
    if repo is None:
        return Path(id).expanduser(), None
    from seqrl.remote.download import fetch
    from seqrl.remote.shards import Shards

    def lists(names: Any) -> list[str]:
        return [n for n in names if _parquet.EPISODES.fullmatch(n)]

    def rows(names: Any) -> list[str]:
        return sorted(n for n in names if _parquet.STEPS.fullmatch(n))

    limits = {_parquet.SPEC: SPEC_LIMIT}
    shards = None if keep else Shards(repo, rows, cache_home() / "shards", "parquet")
    # Without the content's sha256 (of small files a Hub only knows git's) what is read could not be named before.
    if shards is not None and all(f.sha256 for f in shards.files):
        return fetch(shards.repo, [_parquet.SPEC], limits=limits, more=lists), shards
    return fetch(repo, [_parquet.SPEC], limits=limits, more=lambda names: [*lists(names), *rows(names)]), None
