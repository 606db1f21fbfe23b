"""The examples that a model of documents was not trained on, out of its own bundle, as clips."""

from typing import Any

import numpy as np

from seqrl.core import kinds
from seqrl.core.config import validate
from seqrl.core.errors import BundleError, DataError
from seqrl.data.dataset import DataConfig
from seqrl.data.documents import DocumentData, DocumentLoader
from seqrl.data.documents_tokenizer import DocumentTokenizer
from seqrl.rollout._documents import Clip, read_document
from seqrl.sources._files import Progress


class HeldOut:
    """Held-out examples by their number.

    Args:
        recipe: of the bundle, as plain data. tokenizer: of the bundle.

    Raises:
        UserError: the data are not there, nothing of them was held out, or the recipe asks for code of another package.
    """

    def __init__(self, recipe: Any, tokenizer: DocumentTokenizer, progress: Progress | None = None) -> None:
        config = validate(DataConfig, dict(recipe["data"]), {}, "data")
        for raw in config.sources:
            # Somebody else's bundle, perhaps: nothing it names is imported.
            if not kinds.is_own(str(raw.get("kind")), "sources"):
                raise BundleError(f"recipe.yaml: asks for code of another package ({raw.get('kind')}), which a bundle may not")
        loader = DocumentLoader(DocumentData(config, tokenizer.config, progress), tokenizer, progress=progress)
        if loader.held_out is None:
            raise DataError("no examples are held out of this model's data; train it with data.held_out=0.1, or name a file")
        self._stores, self._pool, self.ports = loader.stores, loader.held_out, tokenizer.ports()

    def __len__(self) -> int:
        return len(self._pool.number)

    def ids(self, i: int) -> list[int]:
        """Ids of example ``i``; raises DataError where there is none."""
        if not 0 <= i < len(self):
            raise DataError(f"there is no held-out example {i}; there are 0 to {len(self) - 1}")
        store = self._stores[int(self._pool.source[i])]
        return store.example(int(self._pool.number[i]))[0].tolist()

    def clip(self, i: int) -> Clip:
        """Example ``i`` taken apart; raises DataError where it has no video."""
        return read_document(self.ports, self.ids(i))

    def beginnings(self) -> list[int]:
        """The numbers of the first example of each episode (or line)."""
        units = [(s, int(self._stores[s].unit[n])) for s, n in self._pairs()]
        return [i for i, unit in enumerate(units) if i == 0 or unit != units[i - 1]]

    def _pairs(self) -> list[tuple[int, int]]:
        return list(zip(self._pool.source.tolist(), self._pool.number.tolist(), strict=True))

    def long_clips(self, frames: int, most: int) -> list[Clip]:
        """At most ``most`` clips of at least ``frames`` frames, spread over all there are; cut to that many."""
        each = self.ports.frame + 1
        length = np.array([int(self._stores[s].length[n]) for s, n in self._pairs()])
        found: list[Clip] = []
        able = [i for i in np.flatnonzero(length >= frames * each).tolist() if len(self.clip(i).codes) >= frames]
        for at in np.linspace(0, len(able) - 1, min(most, len(able))).astype(int).tolist():
            clip = self.clip(able[at])
            found.append(Clip(clip.codes[:frames], clip.text, clip.after, clip.actions[: frames - 1]))
        return found
