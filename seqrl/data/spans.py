"""Which spans of which episodes a packed batch is made of, and where in its rows they stand. Plain numbers, no tensors.

Sources are drawn so that each has its weight's share of the *tokens*. Within a source a span begins anywhere from ``T - 1``
steps before an episode to its last step and is cut to the episode, T being the most steps of a document: so every step is
covered by just T spans and drawn equally often, and spans that begin with the episode, as a model sees them when it plays, are
common. Spans fill the rows one behind the other; what does not fit any more is cut between two steps and goes on in the next
row as a document of its own. Only the end of the last span of a batch is lost.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from seqrl.core.errors import RecipeError
from seqrl.data.slots import Prompts

Document = list[tuple[int, int, int, bool]]
"""One or two spans ``(episode, first step, steps, whether it is a prompt)``, the prompt in front."""


@dataclass(frozen=True)
class Pool:
    """Episodes to draw from, of all sources; every array has one entry an episode.

    Args:
        domain, source: numbers. row: first row within the domain. length: steps. front: real tokens of the prefix.
        mass: cumulated probability, unnormalised, of drawing a span of the episode.
    """

    domain: np.ndarray
    source: np.ndarray
    row: np.ndarray
    length: np.ndarray
    front: np.ndarray
    mass: np.ndarray


@dataclass(frozen=True)
class Spans:
    """Placed spans, ``(N,)`` each: episode, first step and steps; row, first token in it, document and position there."""

    episode: np.ndarray
    time: np.ndarray
    steps: np.ndarray
    row: np.ndarray
    at: np.ndarray
    document: np.ndarray
    pos: np.ndarray
    prompt: np.ndarray


def documents(
    pool: Pool, contexts: Sequence[int], noise: np.random.Generator, ask: Prompts | None = None
) -> Iterator[Document]:
    """Documents without end, as the generator draws them.

    Args:
        pool: what to draw from. contexts: T of each domain.
        ask: how many get a prompt, and of what.
    """
    context = np.array(contexts)
    while True:
        u = noise.random((64, 5))
        episode = np.minimum(np.searchsorted(pool.mass, u[:, 0] * pool.mass[-1], side="right"), len(pool.mass) - 1)
        length, T = pool.length[episode], context[pool.domain[episode]]
        begin = np.floor(u[:, 1] * (length + T - 1)).astype(np.int64) - (T - 1)
        end = np.minimum(begin + T, length)
        begin = np.maximum(begin, 0)
        shown = _prompts(pool, episode, u, ask) if ask else None
        for i, span in enumerate(zip(episode.tolist(), begin.tolist(), (end - begin).tolist(), strict=True)):
            front = [shown[i]] if shown and shown[i] is not None else []
            yield [*front, (*span, False)]


def _prompts(pool: Pool, episode: np.ndarray, u: np.ndarray, ask: Prompts) -> list[Any]:
    """A prompt from another episode of the same source for the chosen share of documents, None for the others."""
    found: list[Any] = []
    for i, e in enumerate(episode.tolist()):
        low, high = np.searchsorted(pool.source, [pool.source[e], pool.source[e] + 1]).tolist()
        if u[i, 2] >= ask.share or high - low < 2:
            found.append(None)
            continue
        # Any of the others, each as likely: skip over the episode itself.
        other = low + int(u[i, 3] * (high - low - 1))
        other += other >= e
        steps = min(ask.steps, int(pool.length[other]))
        latest = int(pool.length[other]) - steps
        anywhere = int((u[i, 4] - ask.end) / max(1 - ask.end, 1e-9) * (latest + 1))
        begin = latest if u[i, 4] < ask.end else anywhere
        found.append((other, min(begin, latest), steps, True))
    return found


def place(pool: Pool, widths: Sequence[int], L: int, stream: Iterator[Document], rows: int) -> Spans:
    """Fills ``rows`` rows of ``L`` tokens.

    A loop over documents, in whole numbers only: microseconds each, where a row takes a model milliseconds.

    Args:
        widths: tokens of a step in each domain.
        stream: documents, as ``documents`` makes them.
    """
    placed: list[tuple[int, ...]] = []
    row, used, document, domain, front = 0, 0, 0, pool.domain, pool.front
    for spans in stream:
        pos = 0
        for episode, time, steps, prompt in spans:
            W, P = widths[domain[episode]], int(front[episode])
            while steps:
                fit = min(steps, (L - used - P) // W)
                if fit <= 0:
                    row, used, document, pos = row + 1, 0, 0, 0
                    if row == rows:
                        return Spans(*np.array(placed, np.int64).reshape(-1, 8).T)
                    continue
                placed.append((episode, time, fit, row, used, document, pos, prompt))
                used, pos, time, steps = used + P + fit * W, pos + P + fit * W, time + fit, steps - fit
        document += 1
    raise AssertionError("the stream of documents has no end")


def shares(
    sources: list[dict[str, Any]], source: np.ndarray, length: np.ndarray, span: np.ndarray, tokens: np.ndarray
) -> np.ndarray:
    """``(episodes,)`` how likely a start of a span of each episode is, so that every source has its share of the tokens.

    Without weights every step is equally likely, whatever the most steps of a document are in its domain.
    """
    given = [raw.get("weight") for raw in sources]
    if all(w is None for w in given):
        return 1.0 / (span - length + 1)
    if any(w is None for w in given):
        raise RecipeError("data.sources: give every source a weight, or none")
    for i, w in enumerate(given):
        if not isinstance(w, int | float) or isinstance(w, bool) or not 0 < w < np.inf:
            raise RecipeError(f"data.sources.{i}.weight: a number above 0 (got {w!r}); leave a source out to not use it")
    each = np.bincount(source, tokens, len(sources))
    return np.array(given, np.float64)[source] / np.maximum(each, 1)[source]
