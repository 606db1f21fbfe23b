"""How the shelf's tokenizers are made, and how to make one's own: byte-level BPE on a handful of sentences.

Every byte is a token, so any text comes back exactly as it was, and every word of the training texts is one token, with the
space before it (the scheme of GPT-2, Radford et al. 2019). Small vocabularies suit small worlds: a mission of BabyAI is about
as many tokens as it has words. The shelf's ``missions`` is made by::

    python -m seqrl.tokens._train_text --minigrid 100 instructions.txt --out tokenizers/missions.json
"""

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from seqrl.core.config import read_text
from seqrl.core.errors import RecipeError

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def train(texts: Iterable[str], vocab: int = 1024) -> "Tokenizer":
    """A tokenizer whose tokens are the 256 bytes and the commonest pieces of words of ``texts``.

    The same texts in the same numbers give the same tokenizer, in whatever order they come.

    Args:
        texts: sentences; a piece counts as often as it is there.
        vocab: most ids, at least 256. Fewer are made where all words are whole before.

    Raises:
        RecipeError: ``vocab`` is below 256, or there are no texts.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    if vocab < 256:
        raise RecipeError(f"a tokenizer of bytes has at least 256 ids (got {vocab})")
    texts = list(texts)
    if not any(texts):
        raise RecipeError("there are no texts to train a tokenizer on")
    made = Tokenizer(models.BPE())
    # No space is put before the first word, for it could not be told from one that was there.
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=vocab, min_frequency=1, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator(texts, trainer)
    return made


def minigrid_missions(seeds: int) -> list[str]:
    """The missions of every BabyAI and MiniGrid level that is installed, ``seeds`` of each, repeated where they repeat.

    Raises:
        RecipeError: minigrid is not installed.
    """
    import contextlib
    import io
    import warnings

    import gymnasium

    try:
        import minigrid  # noqa: F401  it registers its levels
    except ImportError as e:
        raise RecipeError("minigrid is not installed; pip install 'seqrl[minigrid]'") from e
    found = []
    for name in sorted(gymnasium.registry):
        # The wheel of minigrid 3 lacks the pictures its WFC levels are made from.
        if name.startswith(("BabyAI-", "MiniGrid-")) and "-WFC-" not in name:
            # The level generator prints every layout it rejects, and old versions of levels are as good as new ones here.
            with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                env = gymnasium.make(name, disable_env_checker=True)
                found += [str(env.reset(seed=seed)[0]["mission"]) for seed in range(seeds)]
                env.close()
    # A playground has no mission.
    return [mission for mission in found if mission]


def main(arguments: Sequence[str] | None = None) -> None:
    """The command: reads files with one text a line, trains, writes the tokenizer, and says what it made."""
    parser = argparse.ArgumentParser(prog="python -m seqrl.tokens._train_text", description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path, help="texts, one a line")
    parser.add_argument("--minigrid", type=int, default=0, metavar="N", help="also N missions of every level of minigrid")
    parser.add_argument("--vocab", type=int, default=1024, help="most ids (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("tokenizer.json"), help="the file to write (default: %(default)s)")
    asked = parser.parse_args(arguments)
    try:
        texts = [line for file in asked.files for line in read_text(file).splitlines() if line.strip()]
        texts += minigrid_missions(asked.minigrid)
        made = train(texts, asked.vocab)
        made.save(str(asked.out))
    except RecipeError as e:
        parser.error(str(e))
    counts = [len(found.ids) for found in made.encode_batch(sorted(set(texts)))]
    print(
        f"{asked.out}: {made.get_vocab_size()} ids from {len(texts)} texts ({len(counts)} different), "
        f"{sum(counts) / len(counts):.1f} tokens each, at most {max(counts)}"
    )


if __name__ == "__main__":
    main()
