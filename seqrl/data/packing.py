"""Packed batches: spans of episodes from several domains, laid into rows of L tokens without cross-talk.

A draw is a pure function of (seed, step), so resuming needs no loader state. Which spans are drawn and where they stand is
said in data/spans.py; here their values are fetched, and what every step counts is settled.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from seqrl.core.errors import DataError, RecipeError
from seqrl.core.packed import PackedBatch, Part
from seqrl.data.dataset import Dataset, Selection, domains_of
from seqrl.data.mixture import Mixture
from seqrl.data.slots import Prompts
from seqrl.data.spans import Document, Pool, Spans, documents, place, shares
from seqrl.data.tables import Tables


@dataclass(frozen=True)
class _Domain:
    """What drawing must know of a domain: tokens of a step, most steps of a document, and its prefix."""

    name: str
    tables: Tables
    width: int
    context: int
    prefix: tuple[str, ...]
    steps: tuple[str, ...]


class Packer:
    """Serves PackedBatches of the training episodes, and of fixed held-out spans."""

    def __init__(
        self,
        datasets: Mapping[str, Dataset],
        mixture: Mixture,
        sources: list[dict[str, Any]],
        device: Any = "cpu",
        prompts: Prompts | None = None,
        budget: float | None = None,
        weigh: Literal["tokens", "rows", "documents"] = "tokens",
    ) -> None:
        """
        Args:
            datasets, mixture: by domain; the mixture is fitted.
            sources: the recipe's ``data.sources``, for their ``weight`` and ``tokens``.
            device: where batches are made. budget: bytes all tables may take; None allows half of what is free.
            prompts: demonstrations in front of some documents; they count nothing in the loss.
            weigh: what counts the same in the loss, see ``tokens.weigh``.

        Raises:
            RecipeError: weights that are none, or a prompt longer than the row allows.
            DataError: a source has a weight or a budget and nothing to draw.
        """
        self.length, self.device, self.weigh = mixture.length, torch.device(device), weigh
        self.datasets, self.prompts = datasets, prompts
        self._domains = []
        left = budget
        for name, dataset in datasets.items():
            tokenizer = mixture.domains[name]
            layout, tables = tokenizer.layout, Tables(dataset, tokenizer, device, left)
            left = None if left is None else left - sum(t.nbytes for t in tables.tables.values())
            fronts, steps = (tuple(s.name for s in part) for part in (layout.prefix, layout.step + layout.readout))
            self._domains.append(_Domain(name, tables, layout.step_width, tokenizer.context, fronts, steps))
            self._check_prompt(tokenizer)
        numbers = [domains_of(sources)[name] for name in datasets]
        self._train = self._pool([d.train for d in datasets.values()], sources, numbers)
        for i, raw in enumerate(sources):
            if not (self._train.source == i).any():
                # A share of the tokens that nothing can fill would silently go to the others.
                said = f"'top' and 'held_out' leave none of its episodes to train on ({raw.get('id')})"
                raise DataError(f"data.sources.{i}: {said}")
        held = [d.held_out for d in datasets.values()]
        self.held_out = self._pool(held, sources, numbers) if any(len(h) for h in held) else None

    def _check_prompt(self, tokenizer: Any) -> None:
        layout, L = tokenizer.layout, self.length
        if self.prompts and 2 * layout.prefix_width + (self.prompts.steps + 1) * layout.step_width > L:
            room = (L - 2 * layout.prefix_width) // layout.step_width - 1
            raise RecipeError(
                f"tokens.prompts.steps={self.prompts.steps}: {tokenizer.spec.id} takes {layout.step_width} tokens a step, so "
                f"the prompt leaves no room for a step behind it in a row of {L}; "
                + (f"at most {room}" if room > 0 else "raise tokens.pack")
            )

    def _pool(self, parts: list[Selection], sources: list[dict[str, Any]], numbers: list[list[int]]) -> Pool:
        out: dict[str, list[np.ndarray]] = {n: [] for n in ("domain", "source", "row", "length", "front", "span", "tokens")}
        for d, (domain, part) in enumerate(zip(self._domains, parts, strict=True)):
            part = self._within_budget(domain, part, sources, numbers[d])
            out["domain"].append(np.full(len(part), d))
            out["source"].append(np.array(numbers[d], np.int64)[part.store] if len(part) else np.empty(0, np.int64))
            out["row"].append(part.row)
            out["length"].append(part.length)
            out["front"].append(self._fronts(domain, part.row))
            out["span"].append(part.length + domain.context - 1)
            out["tokens"].append(part.length * domain.context * domain.width + out["front"][-1] * out["span"][-1])
        flat = {n: np.concatenate(v) for n, v in out.items()}
        # By source, whatever the order in which the recipe names the sources of several domains: prompts count on it.
        order = np.argsort(flat["source"], kind="stable")
        flat = {n: v[order] for n, v in flat.items()}
        share = shares(sources, flat["source"], flat["length"], flat["span"], flat["tokens"])
        return Pool(*(flat[n] for n in ("domain", "source", "row", "length", "front")), np.cumsum(flat["span"] * share))

    def _within_budget(self, domain: _Domain, part: Selection, sources: list[dict[str, Any]], numbers: list[int]) -> Selection:
        """The episodes of each source that its budget of tokens leaves, chosen by a fixed permutation; at least one."""
        keep = np.ones(len(part), bool)
        order = np.random.Generator(np.random.PCG64(1)).permutation(len(part))
        for store, number in enumerate(numbers):
            most = sources[number].get("tokens")
            if most is None:
                continue
            if not isinstance(most, int | float) or isinstance(most, bool) or not most > 0:
                raise RecipeError(f"data.sources.{number}.tokens: a number of tokens above 0 (got {most!r})")
            mine = order[part.store[order] == store]
            used = np.cumsum(part.length[mine] * domain.width)
            keep[mine[1:][used[1:] > most]] = False
        return part.pick(keep)

    def _fronts(self, domain: _Domain, row: np.ndarray) -> np.ndarray:
        """``(N,)`` real prefix tokens of the episodes that begin at ``row``."""
        total = np.zeros(len(row), np.int64)
        if domain.prefix and len(row):
            codes = domain.tables.rows(row, set(domain.prefix))
            for name in domain.prefix:
                total += _real(domain.tables.codecs[name], codes[name].cpu()).numpy()
        return total

    # ---- drawing ----------------------------------------------------------------------------------------------------

    def draw(self, seed: int, step: int, rows: int, rank: int = 0, world: int = 1) -> PackedBatch:
        """The training batch of a step, a pure function of its arguments: rows ``rank * rows`` on of the global batch."""
        noise = np.random.Generator(np.random.Philox(key=seed, counter=[0, step, 0, 0]))
        spans = self._place(self._train, self._stream(self._train, noise, self.prompts), rows * world)
        return self._batch(self._train, spans, rank * rows, rows)

    def validation(self, windows: int, batch: int) -> Iterator[PackedBatch]:
        """About ``windows`` spans of the held-out episodes, the same every time, in batches of ``batch`` rows."""
        if self.held_out is None:
            return
        # Several rows' worth of spans stand in a row; the number of batches follows from how long spans are.
        noise = np.random.Generator(np.random.Philox(key=0, counter=[0, 0, 1, 0]))
        stream, left = self._stream(self.held_out, noise), windows
        while left > 0:
            spans = self._place(self.held_out, stream, batch)
            left -= max(len(spans.episode), 1)
            yield self._batch(self.held_out, spans, 0, batch)

    def _stream(self, pool: Pool, noise: np.random.Generator, ask: Prompts | None = None) -> Iterator[Document]:
        return documents(pool, [d.context for d in self._domains], noise, ask)

    def _place(self, pool: Pool, stream: Iterator[Document], rows: int) -> Spans:
        return place(pool, [d.width for d in self._domains], self.length, stream, rows)

    # ---- batches ----------------------------------------------------------------------------------------------------

    def _batch(self, pool: Pool, spans: Spans, first: int, rows: int) -> PackedBatch:
        L, widths = self.length, np.array([d.width for d in self._domains])
        # Weights first: what a document counts must not depend on which rank its row is on.
        width = widths[pool.domain[spans.episode]]
        weight = self._weights(spans, width)
        mine = (spans.row >= first) & (spans.row < first + rows)
        spans, weight = Spans(*(getattr(spans, f)[mine] for f in spans.__dataclass_fields__)), weight[mine]
        front = pool.front[spans.episode]
        tokens = front + spans.steps * widths[pool.domain[spans.episode]]
        start = (spans.row - first) * L + spans.at
        every, inner = _ragged(tokens)
        pack, pos = np.full(rows * L, -1, np.int64), np.zeros(rows * L, np.int64)
        pack[start[every] + inner] = spans.document[every]
        pos[start[every] + inner] = spans.pos[every] + inner
        parts = {}
        for d, domain in enumerate(self._domains):
            here = np.flatnonzero(pool.domain[spans.episode] == d)
            if len(here):
                parts[domain.name] = self._part(pool, domain, spans, here, start + front, start, weight)
        return PackedBatch(parts, *(torch.from_numpy(t.reshape(rows, L)).to(self.device) for t in (pack, pos)))

    def _weights(self, spans: Spans, width: np.ndarray) -> np.ndarray:
        """``(N,)`` what each span's steps count: nothing in a prompt; in rows, the tokens of a step; where documents count
        equally, their share of all steps."""
        weight = 1.0 - spans.prompt
        if self.weigh == "rows":
            weight = weight * width
        if self.weigh == "documents":
            document = np.unique(np.stack([spans.row, spans.document]), axis=1, return_inverse=True)[1].ravel()
            steps = np.bincount(document, spans.steps * weight)[document]
            weight = weight * (spans.steps * weight).sum() / np.maximum(steps, 1) / (document.max(initial=0) + 1)
        return weight

    def _part(
        self,
        pool: Pool,
        domain: _Domain,
        spans: Spans,
        here: np.ndarray,
        steps_at: np.ndarray,
        start: np.ndarray,
        weight: np.ndarray,
    ) -> Part:
        every, inner = _ragged(spans.steps[here])
        span = here[every]
        row, time = pool.row[spans.episode[span]], spans.time[span] + inner
        values = domain.tables.rows(row + time, set(domain.steps))
        lengths = {}
        if domain.prefix:
            fronts = domain.tables.rows(pool.row[spans.episode[here]], set(domain.prefix))
            lengths = {n: _real(domain.tables.codecs[n], fronts[n].cpu()).to(self.device) for n in domain.prefix}
            values |= fronts

        def send(x: np.ndarray, dtype: Any = np.int64) -> torch.Tensor:
            return torch.from_numpy(np.ascontiguousarray(x, dtype)).to(self.device)

        at = steps_at[span] + inner * domain.width
        return Part(
            values,
            send(at),
            send(time),
            send(weight[span], np.float32),
            send(start[here]),
            lengths,
            send(weight[here], np.float32),
            frozenset(domain.prefix),
            joint=self.weigh != "tokens",
        )


def _ragged(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Counting up to each of ``counts`` in turn: which one, and how far, both ``(sum of counts,)``."""
    every = np.repeat(np.arange(len(counts)), counts)
    return every, np.arange(len(every)) - np.repeat(np.cumsum(counts) - counts, counts)


def _real(codec: Any, codes: torch.Tensor) -> torch.Tensor:
    """``[N]`` real tokens of a slot's values: all of them, but for a codec that fills up with padding."""
    if hasattr(codec, "lengths"):
        return torch.from_numpy(np.asarray(codec.lengths(codes.numpy()), np.int64))
    return torch.full((len(codes),), codec.tokens, dtype=torch.int64)
