"""A mixture: the tokenizers of several domains, for one model that reads rows packed with all of them.

A domain keeps its own layout, codecs and statistics, so each is a ``Tokenizer`` of its own, and whoever plays or draws one
domain needs nothing else. On disk a mixture is one ``tokenizer.json`` like any other.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seqrl.core.contracts import Ports
from seqrl.core.errors import BundleError
from seqrl.core.plain import read_json
from seqrl.data.dataset import Dataset
from seqrl.data.documents_tokenizer import DocumentTokenizer
from seqrl.data.loader import fit
from seqrl.data.slots import TokensConfig
from seqrl.data.tensors import below, read_tensors, write_tensors
from seqrl.data.tokenizer import VERSION, Tokenizer


class Mixture:
    """domain -> its tokenizer, all for rows of L tokens.

    Args:
        domains: at least one.
    """

    packed = True

    def __init__(self, domains: Mapping[str, Tokenizer]) -> None:
        self.domains = dict(domains)
        self.length = int(next(iter(self.domains.values())).config.pack or 0)

    @classmethod
    def build(cls, config: TokensConfig, datasets: Mapping[str, Dataset]) -> "Mixture":
        """Unfitted tokenizers for the datasets of each domain; raises RecipeError where recipe and data do not fit."""
        return cls({name: Tokenizer(config.of_domain(name), dataset.spec) for name, dataset in datasets.items()})

    def fit(self, datasets: Mapping[str, Dataset]) -> None:
        """Fits every domain's codecs on its own training episodes.

        Raises:
            RecipeError: a row does not hold a single step of some domain.
        """
        for name, tokenizer in self.domains.items():
            fit(tokenizer, datasets[name])
            _ = tokenizer.context

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


def read_tokenizer(path: Path, trust: bool = False) -> Tokenizer | Mixture | DocumentTokenizer:
    """A tokenizer, a mixture of them, or that of token documents, from its file.

    Raises:
        BundleError: there is no such file, it is no tokenizer or a newer seqrl's, it names code of another package while
            ``trust`` is false, or the weights of an encoder it reads with are not whole.
    """
    try:
        raw = read_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as e:
        raise BundleError(f"{path.parent}: there is no {path.name} in it, so it is no seqrl bundle") from e
    except (OSError, ValueError) as e:
        raise BundleError(f"{path}: cannot be read: {e}") from e
    if not isinstance(raw, dict):
        raise BundleError(f"{path}: this is no seqrl tokenizer")
    tensors = read_tensors(path)
    if "documents" in raw:
        return DocumentTokenizer.from_json(raw, str(path), trust, tensors)
    if "domains" not in raw:
        return Tokenizer.from_json(raw, str(path), trust, tensors)
    domains = raw["domains"]
    if not isinstance(domains, dict) or not domains:
        raise BundleError(f"{path}: this is no seqrl tokenizer (no domains in it)")
    made = {
        str(name): Tokenizer.from_json(part, f"{path}, domain '{name}'", trust, below(name, tensors))
        for name, part in domains.items()
    }
    if len({t.config.pack for t in made.values()}) != 1 or not all(t.packed for t in made.values()):
        raise BundleError(f"{path}: its domains are for rows of different lengths")
    return Mixture(made)
