"""Which rows and columns of one model's weights mean the same as which of another's.

Two models of one kind differ in shape where their data do: other fields in a state, another action, more codes, other domains.
A width alone says nothing of what it is made of, so every such row or column gets a label made of what the tokenizer knows: the
slot, the field by its name in the space, its shape, and which of its numbers or choices it is. What has the same label on both
sides means the same. Weights without labels are compared by shape.

Where several slots are one vector before the first matrix, its model says of which (``JOINED``: prefix of names -> ``numbers``,
``pictures`` or ``action``). Such weights are taken where all of that is the same in the same order, and else not at all.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from torch import nn

from seqrl.core.episode import EpisodeSpec
from seqrl.data.mixture import Mixture
from seqrl.data.slots import COMPUTED, SlotCodec
from seqrl.data.tokenizer import Tokenizer

Labels = Sequence[Hashable]
# Tables whose rows are numbered, wherever they come from.
_NUMBERED = ("embed_time", "positions")
_ANSWERS = ("heads", "head", "outs", "numbers", "codes")


def dims(slot: SlotCodec, spec: EpisodeSpec) -> list[Hashable]:
    """A label for each number (or code) of a slot's value: field, shape, and which of the field's it is.

    What does not come from single numbers of fields (pictures, texts, chunks) is alike only where all of it is.
    """
    known, found = {**COMPUTED, **spec.act, **spec.obs}, []
    for field in slot.fields:
        m = known[field]
        each = list(zip(m.n, m.start or (0,) * len(m.n), strict=True)) if m.n else [()] * max(m.size, 1)
        found += [(field, m.shape, i, *(e[1:] if m.n else ())) for i, e in enumerate(each)]
    if slot.modality.kind in ("image", "text") or len(found) != slot.codec.width:
        whole = (slot.fields, tuple(known[f] for f in slot.fields), slot.config.model_dump_json())
        return [(whole, i) for i in range(slot.codec.width)]
    return found


def _codes(slot: SlotCodec) -> Hashable:
    """What one of a slot's codes means the same in: for choices their number, for bins and the like all settings."""
    kind = getattr(slot.config, "kind", "")
    return kind if kind in ("discrete", "vector", "scale") else slot.config.model_dump_json()


def domains_of(tokenizer: Any) -> Mapping[str, Tokenizer]:
    """domain -> its tokenizer, "" for a plain one; none of token documents."""
    if isinstance(tokenizer, Mixture):
        return tokenizer.domains
    return {"": tokenizer} if isinstance(tokenizer, Tokenizer) else {}


class Names:
    """The labels of a model's weights.

    Args:
        model: of any kind. tokenizer: what it reads through.
        alone: leave the name of its domain out, so that two models of one domain each can be compared.
    """

    def __init__(self, model: nn.Module, tokenizer: Any, alone: bool) -> None:
        self.model = model
        self._slots: dict[str, tuple[Labels, int, Hashable]] = {}
        self._dims: dict[tuple[str, str], tuple[Labels, Hashable]] = {}
        domains = domains_of(tokenizer)
        self.only = next(iter(domains)) if alone else ""
        for name, own in domains.items():
            for slot, made in own.slots.items():
                labels, codes = dims(made, own.spec), _codes(made)
                self._dims[name, slot] = labels, codes
                self._slots[f"{name}-{slot}" if name else slot] = labels, made.codec.vocab, (self._domain(name), slot, codes)
        # What reads steps as vectors knows one domain.
        self._parts = self._made_of(*next(iter(domains.items()))) if len(domains) == 1 else {}
        self._tables = self._ranged()

    def _domain(self, name: str) -> str:
        return "" if name == self.only else name

    def common(self, name: str) -> str:
        """A parameter's name with the name of an only domain left out."""
        parts = name.split(".")
        return ".".join(p.removeprefix(f"{self.only}-") if self.only else p for p in parts)

    def joined(self, name: str) -> Hashable:
        """What a parameter that reads or answers several slots as one vector is made of, in order; None of any other."""
        known = getattr(type(self.model), "JOINED", {})
        parts = next((parts for prefix, parts in known.items() if name.startswith(prefix)), ())
        return tuple((part, self._parts[part]) for part in parts if part in self._parts) or None

    def _made_of(self, domain: str, own: Tokenizer) -> dict[str, Hashable]:
        """What a step is seen as, and acted: a vector of numbers, pictures by the name of their slot, an action."""
        step = [slot.name for slot in own.layout.step]
        seen = step[: step.index("action")] if "action" in step else step
        pictures = [n for n in seen if own.slots[n].modality.kind == "image" and not own.slots[n].codec.vocab]

        def told(slot: str) -> Hashable:
            labels, codes = self._dims[domain, slot]
            return slot, own.slots[slot].codec.vocab, tuple(labels), codes

        numbers, action = tuple(told(n) for n in seen if n not in pictures), tuple(told(n) for n in step if n == "action")
        return {"numbers": numbers, "pictures": tuple(pictures), "action": action}

    def axes(self, name: str, shape: Sequence[int]) -> list[dict[int, Labels]]:
        """Labels of a parameter's axes, as choices: each choice ``axis -> labels`` would do; the likeliest first."""
        if name in self._tables:
            return [{0: self._tables[name]}]
        parts = name.split(".")
        if any(p in _NUMBERED for p in parts):
            return [{0: range(shape[0])}]
        # Between a feature and what is said of a slot, nothing is numbered as the slot is.
        slot = next((self._slots[p] for p in parts if p in self._slots), None) if "bodies" not in parts else None
        if slot is None:
            return []
        labels, vocab, what = slot
        rows = [(what, d, v) for d in labels for v in range(vocab)] if vocab else [(what, d) for d in labels]
        answers = any(p in _ANSWERS for p in parts)
        order = range(len(shape)) if answers or vocab else range(len(shape) - 1, -1, -1)
        fits = [a for a in order if shape[a] in (len(rows), 2 * len(rows))]
        # Two for each: means and deviations.
        return [{a: rows if shape[a] == len(rows) else [(k, r) for k in range(2) for r in rows]} for a in fits]

    def _ranged(self) -> dict[str, Labels]:
        """Tables of codes of several slots, by the ranges of ids that were dealt out, and of places within a step."""
        found = {}
        for path, module in self.model.named_modules():
            ranges, places = getattr(module, "ranges", None), getattr(module, "_places", None)
            if not isinstance(ranges, Mapping):
                continue
            ends = [r.start + (r.tokens - 1) * r.stride + r.size for r in ranges.values()]
            for name, p in module.named_parameters():
                at = f"{path}.{name}" if path else name
                if name.startswith(("table.", "codes.")) and ends:
                    found[at] = self._rows(module, max(ends) - p.shape[0], p.shape[0])
                elif name == "places.weight" and isinstance(places, Mapping):
                    found[at] = self._placed(module, places, p.shape[0])
        return found

    def _rows(self, module: Any, first: int, count: int) -> Labels:
        labels: list[Hashable] = [("row", i) for i in range(count)]
        for (domain, slot), r in module.ranges.items():
            names, codes = self._dims.get((domain, slot), ((), None))
            for k in range(r.tokens):
                token = names[k] if len(names) == r.tokens else k
                # Slots that share a range speak the same codes, which one word names.
                who = (self._domain(domain), slot, token, codes) if r.stride else module.domains[domain].ports.shares[slot]
                for c in range(r.size):
                    i = r.start + k * r.stride + c - first
                    if 0 <= i < count:
                        labels[i] = (who, c)
        return labels

    def _placed(self, module: Any, places: Mapping[str, Sequence[int]], count: int) -> Labels:
        if getattr(self.model.config, "places", "own") == "shared":
            # Numbered from the beginning of a step; the last is that of all actions.
            return [*range(count - 1), "action"]
        labels: list[Hashable] = [("place", i) for i in range(count)]
        for domain, index in places.items():
            d = module.domains[domain]
            tokens = [(s, k) for s in (*d.prefix, *d.step) for k in range(d.tokens(s))]
            for token, i in zip(tokens, index, strict=True):
                labels[i] = (self._domain(domain), *token)
        return labels
