"""One episode of a recipe's or a bundle's data as a Stream, for the drawing."""

from pathlib import Path

import numpy as np

from seqrl import bundle
from seqrl.core.config import read_text
from seqrl.core.errors import DataError
from seqrl.core.stream import Stream
from seqrl.data.dataset import open_dataset
from seqrl.data.loader import fit, store_columns
from seqrl.data.tokenizer import Tokenizer
from seqrl.train import recipe as recipes


def stream_of(name: str | Path, episode: int = 0) -> tuple[Stream, str]:
    """An episode, tokenised as the model reads it.

    Args:
        name: a recipe (its tokenizer is fitted now), or a bundle or run (the saved one is used).
        episode: which episode of the joined data.

    Returns:
        the stream, and one line that says what it is.

    Raises:
        DataError: there is no such episode.
    """
    folder = bundle.find(name) if Path(name).is_dir() else None
    if folder:
        # Somebody else's, perhaps: nothing it names is imported.
        recipe = recipes.parse(read_text(folder / "recipe.yaml"), str(folder / "recipe.yaml"), trust=False)
    else:
        recipe = recipes.load(str(name))
    dataset = open_dataset(recipe.data)
    tokenizer = Tokenizer.load(folder) if folder else Tokenizer(recipe.tokens, dataset.spec)
    if not folder:
        fit(tokenizer, dataset)
    counts = [len(s) for s in dataset.stores]
    if not 0 <= episode < sum(counts):
        raise DataError(f"--episode {episode}: {dataset.spec.id} has episodes 0 to {sum(counts) - 1}")
    at = int(np.searchsorted(np.cumsum(counts), episode, side="right"))
    store, inner = dataset.stores[at], episode - sum(counts[:at])
    whole, row = store.episode(inner), int(store.episodes.row[inner])
    returns = np.array(store_columns(dataset, at, {"return"})["return"][row : row + len(whole)])
    about = f"{store.spec.id}, episode {inner}: {len(whole)} steps, return {whole.total:.1f}"
    return tokenizer.stream(whole, returns, tuple(recipe.train.losses)), about
