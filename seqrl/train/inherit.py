"""What a tokenizer keeps of another's: the statistics of whatever means the same in both.

A model reads a state as so many deviations from a mean. Fine-tuned on data with another mean, it would have to learn the state
anew; with the statistics it was trained with, only what is different is different. So by default a run that begins with a
bundle keeps them, slot by slot and number by number, and fits what is new to its own data.
"""

from typing import Any

from seqrl.data.dataset import clash
from seqrl.data.documents_tokenizer import DocumentTokenizer
from seqrl.data.mixture import Mixture
from seqrl.data.slots import SlotCodec
from seqrl.data.tokenizer import Tokenizer
from seqrl.train.align import dims


def inherit(made: Any, before: Any) -> tuple[Any, dict[str, str]]:
    """A tokenizer with what another one knows.

    Args:
        made: fitted to the data. before: the other.

    Returns:
        ``made``, changed (of token documents ``before`` itself, for rows of the new length), and slot -> what became of its
        statistics: ``kept``, ``kept in part``, or why they were fitted anew.
    """
    if isinstance(made, DocumentTokenizer):
        return _of_documents(made, before)
    told = {}
    for name, (own, theirs) in _pairs(made, before).items():
        found = dict.fromkeys(own.slots, "new domain") if theirs is None else _slots(own, theirs)
        told |= {f"{name}-{slot}" if name else slot: said for slot, said in found.items()}
    return made, told


def lend(made: Any, before: Any) -> None:
    """Gives a tokenizer that is not fitted yet the trained encoders of another, where a slot's settings and spaces agree."""
    for own, theirs in _pairs(made, before).values():
        for name, slot in own.slots.items() if theirs else ():
            other = theirs.slots.get(name)
            if other and hasattr(other.codec, "tensors") and slot.config == other.config and _same(slot, other, own, theirs):
                slot.codec.load_state(other.codec.state())
                slot.codec.load_tensors(other.codec.tensors())


def _pairs(made: Any, before: Any) -> dict[str, tuple[Tokenizer, Tokenizer | None]]:
    """domain ("" for a plain tokenizer) -> ours, and theirs if there is one."""
    if isinstance(made, Mixture) and isinstance(before, Mixture):
        if len(made.domains) == len(before.domains) == 1:
            return {n: (own, next(iter(before.domains.values()))) for n, own in made.domains.items()}
        return {n: (own, before.domains.get(n)) for n, own in made.domains.items()}
    return {"": (made, before)} if isinstance(made, Tokenizer) and isinstance(before, Tokenizer) else {}


def _same(ours: SlotCodec, theirs: SlotCodec, made: Tokenizer, before: Tokenizer) -> bool:
    """Whether two slots are made of the same fields, of the same spaces."""
    return ours.fields == theirs.fields and not any(_space(f, made, before) for f in ours.fields)


def _of_documents(made: DocumentTokenizer, before: Any) -> tuple[Any, dict[str, str]]:
    if not isinstance(before, DocumentTokenizer) or before.documents != made.documents:
        return made, {"documents": "other settings"}
    if (before.modality and before.modality.shape) != (made.modality and made.modality.shape):
        return made, {"documents": "other pictures"}
    raw = before.to_json()
    raw["documents"]["config"]["pack"] = made.length
    return DocumentTokenizer.from_json(raw, "init", True, before.tensors()), {"documents": "kept"}


def _slots(made: Tokenizer, before: Tokenizer) -> dict[str, str]:
    return {name: _slot(name, made, before) for name in made.slots}


def _slot(name: str, made: Tokenizer, before: Tokenizer) -> str:
    """Gives one slot of ``made`` the statistics of ``before``'s, as far as they are of the same."""
    ours, theirs = made.slots[name], before.slots.get(name)
    if theirs is None:
        return "new slot"
    if ours.config != theirs.config:
        return "other settings"
    for key in ("discount", "delayed", "termination_penalty"):
        if name in ("return", "reward") and getattr(made, key) != getattr(before, key):
            return f"another {key}"
    spaces = {f: s for f in ours.fields for s in [_space(f, made, before)] if s}
    if _same(ours, theirs, made, before):
        ours.codec.load_state(theirs.codec.state())
        if hasattr(theirs.codec, "tensors"):
            ours.codec.load_tensors(theirs.codec.tensors())
        return "kept"
    mine, old = dims(ours, made.spec), dims(theirs, before.spec)
    both = [(mine.index(d), old.index(d)) for d in mine if d in old and d[0] not in spaces]
    if not both or not _mix(ours.codec, theirs.codec, both):
        return "other spaces"
    return f"kept in {len(both)} of {len(mine)}"


def _space(field: str, made: Tokenizer, before: Tokenizer) -> str | None:
    """In what the space of a field is another one; None where it is not, or the field is computed."""
    for what in ("obs", "act"):
        ours, theirs = (getattr(t.spec, what).get(field) for t in (made, before))
        if ours is not None:
            return "missing" if theirs is None else clash(theirs, ours, what == "act")
    return None


def _mix(ours: Any, theirs: Any, both: list[tuple[int, int]]) -> bool:
    """Statistics number by number, where a codec keeps a list of them; whether it does."""
    state, old = ours.state(), theirs.state()
    lists = {k for k, v in state.items() if isinstance(v, list) and len(v) == ours.width}
    lists = {k for k in lists if isinstance(old.get(k), list) and len(old[k]) == theirs.width}
    if not lists or any(state[k] != old.get(k) for k in set(state) - lists):
        return False
    for key in lists:
        for i, j in both:
            state[key][i] = old[key][j]
    ours.load_state(state)
    return True
