"""The sources of a recipe of token documents: opened, and prepared to ids for a tokenizer."""

from typing import Any

import numpy as np

from seqrl.core import kinds
from seqrl.core.config import validate
from seqrl.core.episode import Modality
from seqrl.core.errors import RecipeError
from seqrl.data import documents_store, store
from seqrl.data.dataset import OWN, DataConfig
from seqrl.data.documents_config import choices_of
from seqrl.data.documents_origins import Lines, Trajectories, resolve
from seqrl.data.documents_store import DocumentStore
from seqrl.data.documents_tokenizer import DocumentTokenizer
from seqrl.data.slots import TokensConfig
from seqrl.sources._files import Progress

_FITTED = 2_000_000
"""Frames that a codec is fitted on, at most; evenly thinned beyond."""


class DocumentData:
    """The sources of a recipe of token documents, opened.

    Attributes:
        config, tokens: the recipe's ``data`` and ``tokens``.
        origins: a ``Store`` of episodes, or a source of lines, for each of ``data.sources``.
    """

    def __init__(self, config: DataConfig, tokens: TokensConfig, progress: Progress | None = None) -> None:
        """Raises UserError where a source is unknown, broken, or has no such fields."""
        self.config, self.tokens = config, tokens
        self.origins: list[Any] = []
        for i, raw in enumerate(config.sources):
            module = kinds.load(str(raw["kind"]), "sources")
            own = {k: v for k, v in raw.items() if k not in OWN}
            source = module.Source(validate(module.Config, own, {}, f"data.sources.{i}"))
            self.origins.append(source if kinds.gives_examples(str(raw["kind"])) else store.prepare(source, progress))

    def fields(self, i: int) -> str | list[str]:
        """The fields of source ``i`` (of lines, where they name none)."""
        return self.config.sources[i].get("fields") or self.tokens.documents.fields

    @property
    def names(self) -> list[str]:
        """What the sources are called."""
        return [o.spec.id if isinstance(o, store.Store) else o.id for o in self.origins]

    def fingerprints(self) -> list[str]:
        """What is learned from, exactly."""
        return [o.path.name if isinstance(o, store.Store) else o.fingerprint() for o in self.origins]

    def pictures(self) -> list[tuple[store.Store, str]]:
        """``(store, name)`` of every field of pictures that the recipe reads; raises RecipeError where they differ in shape."""
        found: dict[tuple[int, str], None] = {}
        for i, origin in enumerate(self.origins):
            if not isinstance(origin, store.Store):
                continue
            try:
                names = [p.name for c in choices_of(self.fields(i)) for f in c if not f.mark for p in f.parts]
            except ValueError as e:
                raise RecipeError(f"data.sources.{i}.fields: {e}") from e
            found |= {(i, f): None for what, f in (resolve(n, origin.spec) for n in names) if what == "vision"}
        made = [(self.origins[i], f) for i, f in found]
        kinds_of = {(s.spec.obs[f].shape, s.spec.obs[f].dtype) for s, f in made}
        if len(kinds_of) > 1:
            said = ", ".join(f"{f} of {s.spec.id}: {'x'.join(map(str, s.spec.obs[f].shape))}" for s, f in made)
            raise RecipeError(f"tokens.documents.fields: one codec reads all pictures, and these differ in shape ({said})")
        return made

    def modality(self) -> Modality | None:
        """That of the pictures; None where there are none."""
        made = self.pictures()
        return made[0][0].spec.obs[made[0][1]] if made else None

    def frames(self) -> np.ndarray | None:
        """``(N, H*W*C)`` pictures to fit a codec on, those of the data; None where there are none."""
        made = self.pictures()
        stride = max(1, -(-sum(s.rows for s, _ in made) // _FITTED))
        parts = [s.column(f"obs.{f}")[::stride].reshape(-1, s.spec.obs[f].size) for s, f in made]
        return None if not parts else parts[0] if len(parts) == 1 else np.concatenate(parts)

    def prepare(self, tokenizer: DocumentTokenizer, progress: Progress | None = None) -> list[DocumentStore]:
        """Every source's examples, prepared now where they were not; what was begun is gone on with."""
        made = []
        for i, (origin, name, mark) in enumerate(zip(self.origins, self.names, self.fingerprints(), strict=True)):
            fields = self.fields(i)
            kind = Trajectories if isinstance(origin, store.Store) else Lines
            # Lines say fields of their own, and whether those can change places is looked at while they are prepared.
            turned = ["swapped"] if kind is Lines and tokenizer.documents.swap else []
            key = [mark, tokenizer.digest, fields, *turned]
            made.append(documents_store.prepare(kind(origin, tokenizer, fields), name, key, tokenizer.ports(), progress))
        return made
