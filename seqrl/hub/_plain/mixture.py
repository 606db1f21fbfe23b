"""Tokenizers as a published model needs them: read from their file, one or one a domain, and never fitted again."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seqrl.core.contracts import Ports
from seqrl.core.errors import BundleError
from seqrl.data.tensors import below, read_tensors, write_tensors
from seqrl.data.tokenizer import VERSION, Tokenizer


class Mixture:
    """domain -> its tokenizer, all for rows of L tokens; at least one."""

    packed = True

    def __init__(self, domains: Mapping[str, Tokenizer]) -> None:
        self.domains = dict(domains)
        self.length = int(next(iter(self.domains.values())).config.pack or 0)

    def ports(self) -> dict[str, Ports]:
        """domain -> what a model must know of it."""
        return {name: t.ports() for name, t in self.domains.items()}

    def to_json(self) -> dict[str, Any]:
        return {"version": VERSION, "domains": {name: t.to_json() for name, t in self.domains.items()}}

    def tensors(self) -> dict[str, Any]:
        """``domain/slot/name`` -> what the codecs keep in arrays (numpy)."""
        return {f"{name}/{key}": array for name, t in self.domains.items() for key, array in t.tensors().items()}

    def save(self, folder: Path) -> None:
        (folder / "tokenizer.json").write_text(json.dumps(self.to_json(), indent=1), encoding="utf-8")
        write_tensors(self.tensors(), folder / "tokenizer.json")


def read_tokenizer(path: Path, trust: bool = False) -> Tokenizer | Mixture:
    """A tokenizer, or a mixture of them, from its file; raises BundleError where that is not whole."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as e:
        raise BundleError(f"{path}: cannot be read: {e}") from e
    if not isinstance(raw, dict):
        raise BundleError(f"{path}: this is no seqrl tokenizer")
    tensors = read_tensors(path)
    if "domains" not in raw:
        return Tokenizer.from_json(raw, str(path), trust, tensors)
    return Mixture(
        {
            name: Tokenizer.from_json(part, f"{path}, domain '{name}'", trust, below(name, tensors))
            for name, part in raw["domains"].items()
        }
    )
