"""A language model's vocabulary in a policy: its own rows for words, rows of ours for everything else that is a code.

What a pretrained decoder knows of words lies in its embedding and its output matrix, so texts are fed to it as the ids it
learned. Actions and observations made of codes get rows of their own behind them, which begin like words (RT-2, Brohan et
al. 2023, arXiv 2307.15818, section 3.2, gives actions the ids of words that are hardly used) and are trained even where the
model itself is not. A slot is answered over its own rows and no others, so an action is never a word.

Letters: K tokens of a slot, D width, R words of the model, N rows of ours, V codes of a slot.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init

from seqrl.core.contracts import Ports
from seqrl.core.errors import RecipeError
from seqrl.nn.bodies import words_of
from seqrl.nn.pretrained import Pretrained
from seqrl.nn.ranges import Range, lay_ranges
from seqrl.nn.streams import Domain

# How far a new row stands from the mean of all words, in their standard deviations: too near to shout down what is known.
_NEAR = 0.1


def is_text(ports: Ports, slot: str) -> bool:
    """Whether a slot speaks the ids of a tokenizer."""
    return ports.shares.get(slot, "").startswith("text")


def deal(domains: Mapping[str, Domain], words: int, shared: bool) -> tuple[int, dict[tuple[str, str], Range]]:
    """Ids for all slots: words keep the body's, everything else comes behind them.

    Args:
        words: R. shared: as in ``nn.ranges.lay_ranges``.

    Returns:
        the first id that is free, and (domain, slot) -> its range. A text's padding is the first id behind its own words.
    """
    ports = {n: d.ports for n, d in domains.items()}
    texts = {(n, s): p.vocabs[s] for n, p in ports.items() for s in p.vocabs if is_text(p, s)}
    others = {n: replace(p, vocabs={s: 0 if (n, s) in texts else v for s, v in p.vocabs.items()}) for n, p in ports.items()}
    total, ranges = lay_ranges(others, shared, max(words, *texts.values()) if texts else words)
    return total, ranges | {(n, s): Range(0, 0, v, ports[n].widths[s]) for (n, s), v in texts.items()}


def check_words(domains: Mapping[str, Domain], words: int, base: str | None = None) -> None:
    """Holds the texts against the words of a body.

    Args:
        words: R, rows of the body's vocabulary. base: where its tokenizer may lie; looked for only if given.

    Raises:
        RecipeError: a text is read out, or its tokenizer is not the body's, as far as numbers tell.
    """
    texts = [(d, slot) for d in domains.values() for slot in d.slots if is_text(d.ports, slot)]
    found = words_of(base) if texts and base else None
    for d, slot in texts:
        has = d.ports.vocabs[slot] - 1
        if slot in d.readout:
            raise RecipeError(f"layout '{d.layout}' (domain {d.name}): '{slot}' is a text and stands behind '>'; texts are fed")
        theirs, whose = words if found is None or has > words else found, f"'{base}'" if base else "the body"
        if has > words or has != (found or has):
            raise RecipeError(
                f"domain {d.name}: the tokenizer of '{slot}' has {has} ids, and {whose} has {theirs}: words would be taken for "
                f"others; set tokens.slots.{slot}.tokenizer={base or 'the one of the body'}"
            )


def quiet_ids(config: Mapping[str, Any], words: int, count: int) -> list[int]:
    """The last ``count`` ids of a vocabulary, those of special tokens left out; raises RecipeError where there are too few."""
    said: list[Any] = [config.get(f"{n}_token_id") for n in ("bos", "eos", "pad", "unk", "sep", "decoder_start")]
    special = {i for one in said for i in (one if isinstance(one, Iterable) else [one])}
    found = [i for i in range(words - 1, -1, -1) if i not in special][:count]
    if len(found) < count:
        raise RecipeError(f"model.actions: least_used takes {count} words from a body of {words}; take new, or fewer bins")
    return found[::-1]


class Words(nn.Module):
    """Ids to vectors: the body's words, then rows of ours. Called like an ``nn.Embedding``.

    Args:
        body: not held as a part of this, for its weights are the trunk's.
        total: R + N. begin: whether our rows begin as copies of the body's last words, or near the mean of all.
    """

    def __init__(self, body: Pretrained, total: int, begin: Literal["least_used", "new"]) -> None:
        super().__init__()
        self._body, self.begin = (body,), begin
        self.words = body.embedding.weight.shape[0]
        self.own = nn.Embedding(total - self.words, body.width)

    @property
    def body(self) -> Pretrained:
        return self._body[0]

    def forward(self, ids: Tensor) -> Tensor:
        """``[...]`` ids to ``[..., D]``."""
        embedding = self.body.embedding
        x = embedding(ids.clamp(max=self.words - 1))
        if not len(self.own.weight):
            return x
        # Some models scale their words on the way in, and ours must be as loud.
        own = self.own((ids - self.words).clamp(min=0)) * getattr(embedding, "scalar_embed_scale", 1.0)
        return torch.where((ids < self.words)[..., None], x, own.to(x.dtype))

    def draw(self, config: Mapping[str, Any], weight: Tensor, of: Tensor) -> None:
        """Fills ``weight [N, D]``, rows of ours, from ``of [R, D]``, the body's."""
        if self.begin == "least_used":
            rows = of[quiet_ids(config, len(of), len(weight))]
        else:
            mean, spread = of.float().mean(0), of.float().std(0)
            rows = mean + _NEAR * spread * torch.randn_like(weight)
        init.copy_(weight, rows.to(weight.dtype))


class WordHead(nn.Module):
    """Scores over a range of ids, as ``nn.ranges.RangeHead``: the body's own for words, products with rows of ours behind.

    Where the body ties its output to its embedding, so do our rows; else they are a second matrix.
    """

    def __init__(self, table: Words) -> None:
        super().__init__()
        self._table = (table,)
        self.own = None if table.body.head is None else nn.Parameter(torch.empty_like(table.own.weight))

    @property
    def rows(self) -> Tensor:
        """``[N, D]``."""
        return self._table[0].own.weight if self.own is None else self.own

    def _score(self, x: Tensor, first: int, end: int) -> Tensor:
        table, found = self._table[0], []
        R, body = table.words, table.body
        if first < R:
            bias = None if body.head is None or body.head.bias is None else body.head.bias[first : min(end, R)]
            found.append(F.linear(x, body.head_weight[first : min(end, R)], bias))
        if end > R:
            found.append(F.linear(x, self.rows[max(first - R, 0) : end - R]))
        return (torch.cat(found, -1) if len(found) > 1 else found[0]).float()

    def forward(self, x: Tensor, range: Range, token: int | None = None) -> Tensor:
        """Float32 logits ``[..., K, V]``, or ``[..., V]`` of one of the K tokens; arguments as ``RangeHead``'s."""
        if token is not None or not range.stride or range.tokens == 1:
            first = range.start + (token or 0) * range.stride
            return self._score(x, first, first + range.size)
        first = range.start - self._table[0].words
        weight = self.rows[first : first + range.tokens * range.size].view(range.tokens, range.size, -1)
        return torch.einsum("...kd,kvd->...kv", x, weight).float()
