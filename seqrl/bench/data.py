"""The content of what a cell learns from, as a digest that goes into its name.

Data that are not on this machine yet are brought or made here, once, before any run begins, and not by many runs at a time.
"""

import hashlib
import os
from pathlib import Path
from typing import Any

from seqrl import bundle
from seqrl.bench.plan import Cell
from seqrl.core import kinds
from seqrl.core.config import validate
from seqrl.core.errors import UserError
from seqrl.data.convert import FORMAT
from seqrl.data.dataset import OWN
from seqrl.report.folder import as_list, read_json
from seqrl.sources import _files, _published


class Contents:
    """Digests of data, each looked up once."""

    def __init__(self, fetch: bool = True) -> None:
        """``fetch``: whether data that are not here may be downloaded, or collected."""
        self.fetch = fetch
        self._known: dict[str, str | UserError] = {}

    def of(self, cell: Cell) -> str:
        """What a cell learns from, and what it begins with.

        Raises:
            UserError: the data are not to be had; the same again for every cell of theirs.
        """
        key = repr((cell.recipe.data.sources, cell.recipe.init, cell.recipe.world))
        if key not in self._known:
            try:
                self._known[key] = self._look(cell)
            except UserError as e:
                self._known[key] = e
        found = self._known[key]
        if isinstance(found, UserError):
            raise found
        return found

    def _look(self, cell: Cell) -> str:
        said = [fingerprint(raw, i, self.fetch) for i, raw in enumerate(cell.recipe.data.sources)]
        for name, revision in [(i.name, i.revision) for i in [cell.recipe.init] if i] + [(cell.recipe.world, None)]:
            if name:
                if not self.fetch and not os.path.isdir(name):
                    raise UserError(f"{name}: there is no such folder here, and only a run asks the Hub for it")
                folder = bundle.find(name, revision)
                parts = [*sorted(folder.glob("*.safetensors")), folder / "config.json", folder / "tokenizer.json"]
                said.append(_files.digest(folder, parts))
        return "|".join(said)


def fingerprint(raw: dict[str, Any], number: int = 0, fetch: bool = True) -> str:
    """The content hash of a recipe's source.

    Raises:
        UserError: it is not to be had, or (``fetch`` false) is not here yet.
    """
    module = kinds.load(str(raw["kind"]), "sources")
    own = {k: v for k, v in raw.items() if k not in OWN}
    if not fetch and _is_far(str(raw["kind"]), str(own.get("id"))):
        raise UserError(f"{own['id']} is on a Hub; a run brings it here")
    if not fetch and "download" in module.Config.model_fields:
        own["download"] = False
    config = validate(module.Config, own, {}, f"data.sources.{number}")
    if not fetch and str(raw["kind"]) == "collected" and not (_files.datasets_home() / str(config.id)).exists():
        raise UserError(f"{config.id} is not there yet; a run collects it")
    return str(module.Source(config).fingerprint())


def _is_far(kind: str, id: str) -> bool:
    """Whether data are somewhere else: tables may have a repository's bare name."""
    return id.startswith("hf://") or (kind in ("parquet", "rows") and _published.repo_of(id) is not None)


def stores(fingerprints: str) -> set[str]:
    """How a checkpoint may call data of these fingerprints: the names of their stores, in this format or an earlier one."""
    names = [f"{version}:{one}" for one in fingerprints.split("|") for version in range(1, FORMAT + 1)]
    return {hashlib.sha256(name.encode()).hexdigest()[:32] for name in names}


def learned_from(folder: Path, step: int) -> list[str]:
    """The names of the stores that the checkpoint of ``step`` was trained on."""
    state = read_json(folder / "checkpoints" / f"step-{step:08d}" / "trainer" / "state.json")
    return [str(x) for x in as_list(state.get("data"))]
