"""Looking at what a model reads: an episode of a recipe's or a bundle's data as a Stream, and how full its batches are."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from seqrl import bundle
from seqrl.core.config import read_text
from seqrl.core.contracts import Codec
from seqrl.core.errors import BundleError, DataError, RecipeError, did_you_mean
from seqrl.core.stream import Stream
from seqrl.data.dataset import Dataset
from seqrl.data.mixture import Mixture, read_tokenizer
from seqrl.data.packing import Packer
from seqrl.data.store import Progress
from seqrl.data.tables import store_columns
from seqrl.data.tokenizer import Tokenizer
from seqrl.data.windows import Windows
from seqrl.remote.names import SCHEME, read_name
from seqrl.train import recipe as recipes
from seqrl.train.prepare import Data, inherited, open_data, settled
from seqrl.train.recipe import Recipe


@dataclass(frozen=True)
class View:
    """What there is to look at.

    Args:
        recipe, data: the run. fitted: its tokenizer, or the mixture of its domains.
        domain: the one that is looked at; "" where rows are not packed.
    """

    recipe: Recipe
    data: Data
    fitted: Tokenizer | Mixture
    domain: str

    @property
    def domains(self) -> tuple[str, ...]:
        """All there are; none where rows are not packed."""
        return tuple(self.fitted.domains) if isinstance(self.fitted, Mixture) else ()

    @property
    def tokenizer(self) -> Tokenizer:
        """That of the domain looked at."""
        return self.fitted.domains[self.domain] if isinstance(self.fitted, Mixture) else self.fitted

    @property
    def dataset(self) -> Dataset:
        """That of the domain looked at."""
        return self.data[self.domain] if isinstance(self.data, dict) else self.data

    @property
    def codecs(self) -> Mapping[str, Codec]:
        """slot -> its codec."""
        return {n: s.codec for n, s in self.tokenizer.slots.items()}

    def stream(self, episode: int = 0) -> tuple[Stream, str]:
        """An episode of the joined data as a Stream, and one line that says what it is.

        Raises:
            DataError: there is no such episode, or there is no step in it.
        """
        dataset = self.dataset
        counts = [len(s) for s in dataset.stores]
        if not 0 <= episode < sum(counts):
            raise DataError(f"--episode {episode}: {dataset.spec.id} has episodes 0 to {sum(counts) - 1}")
        at = int(np.searchsorted(np.cumsum(counts), episode, side="right"))
        store, inner = dataset.stores[at], episode - sum(counts[:at])
        whole, row = store.episode(inner), int(store.episodes.row[inner])
        if not len(whole):
            raise DataError(f"--episode {episode}: this episode of {store.spec.id} has no steps; choose another")
        # As the model is told them: delayed, or less a penalty for ending.
        told = {n: np.array(v[row : row + len(whole)]) for n, v in store_columns(dataset, at, {"return", "reward"}).items()}
        about = f"{store.spec.id}, episode {inner}: {len(whole):,} steps, return {whole.total:.1f}"
        whole = replace(whole, rew=told["reward"].astype(np.float32))
        return self.tokenizer.stream(whole, told["return"], tuple(self.recipe.train.losses)), about

    def sizes(self) -> str:
        """Tokens of a step and steps of a row, in words."""
        layout, context = self.tokenizer.layout, self.tokenizer.context
        steps = f"{layout.step_width} tokens a step" if layout.step_width > 1 else "1 token a step"
        front = f" behind up to {layout.prefix_width} in front" if layout.prefix_width else ""
        if not self.tokenizer.packed:
            return f"{steps}{front}, windows of {context} steps: {layout.length(context):,} tokens"
        return f"{steps}{front}, at most {context:,} steps in a document, rows of {self.tokenizer.config.pack:,} tokens"

    def filled(self, batches: int = 4) -> float:
        """Share of the places in a few training batches that hold a token; nothing but what they hold is encoded."""
        rows, seed = self.recipe.train.batch, self.recipe.train.seed
        if not isinstance(self.data, dict):
            windows = Windows(self.data.train, self.fitted.context)
            drawn = [windows.draw(seed, step, rows).length.mean() for step in range(batches)]
            return float(np.mean(drawn) / self.fitted.context)
        packer = Packer(self.data, self.fitted, self.recipe.data.sources, "cpu", self.recipe.tokens.prompts, budget=0)
        return float(np.mean([packer.draw(seed, step, min(rows, 16)).efficiency for step in range(batches)]))


def _is_bundle(name: str | Path) -> bool:
    """Whether a name means a folder or a repository, and not a recipe: a file, or a word of the shelf."""
    path = Path(name)
    if path.is_dir() or path.exists() or path.suffix in (".yaml", ".yml"):
        return path.is_dir()
    if not isinstance(name, str) or path.parent.is_dir() or path.parts[0] == "recipes":
        return isinstance(name, str) and name.startswith(SCHEME)
    return read_name(name) is not None


def look(name: str | Path, domain: str | None = None, progress: Progress | None = None) -> View:
    """Opens what a recipe or a bundle learns from.

    Args:
        name: a recipe (its tokenizer is fitted now), or a bundle, run or repository of the Hub (the saved one is used).
        domain: one of a recipe of packed rows; the first where None.

    Raises:
        RecipeError: there is no such domain, or what the recipe itself is accused of.
        BundleError: the bundle's tokenizer and recipe do not belong together.
    """
    folder = bundle.find(name) if _is_bundle(name) else None
    if folder:
        # Somebody else's, perhaps: nothing it names is imported.
        recipe = recipes.parse(read_text(folder / "recipe.yaml"), str(folder / "recipe.yaml"), trust=False)
        fitted: Tokenizer | Mixture | None = read_tokenizer(folder / "tokenizer.json")
        if fitted.packed != (recipe.tokens.pack is not None):
            raise BundleError(f"{folder}: recipe.yaml and tokenizer.json do not belong together (only one packs rows)")
    else:
        recipe, fitted = settled(recipes.load(str(name))), None
    if domain is not None and recipe.tokens.pack is None:
        raise RecipeError(f"--domain {domain}: {name} has no domains, for it reads windows; leave --domain out")
    data = open_data(recipe, progress)
    if isinstance(data, dict):
        known = tuple(fitted.domains) if isinstance(fitted, Mixture) else tuple(data)
        if odd := sorted(set(known) ^ set(data)):
            raise BundleError(f"{folder}: only one of recipe.yaml and tokenizer.json has the domain '{odd[0]}'")
        if domain is not None and domain not in known:
            raise RecipeError(f"--domain {domain}: no such domain{did_you_mean(domain, known)} (there are: {', '.join(known)})")
        domain = domain or known[0]
    return View(recipe, data, fitted or inherited(recipe, data)[0], domain or "")
