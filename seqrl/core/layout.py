"""The order of slots in a step: one small value that the embedder, the losses, the cache and the drawing all read.

Written as text::

    task | return state action > reward done
    ----   -------------------   -----------
    once   every step, fed       read out, never fed

Slots before ``|`` come once, in front. Slots after ``>`` are predicted from the last token of the step but never enter the
sequence. A fed slot is predicted from the token in front of it, so in ``return state action`` the action is read at the
state: nothing else in the house needs to know which token answers for which slot.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from seqrl.core.errors import RecipeError

_NAME = re.compile(r"[a-z][a-z0-9_]*$")


@dataclass(frozen=True)
class Slot:
    """A named place in the stream holding ``width`` (K) tokens per step."""

    name: str
    width: int = 1


@dataclass(frozen=True)
class Layout:
    """Which slots there are, in which order.

    Args:
        prefix: slots that stand once in front of the steps.
        step: slots of one environment step, in order; all are fed.
        readout: slots predicted at the last token of a step and never fed.
    """

    prefix: tuple[Slot, ...]
    step: tuple[Slot, ...]
    readout: tuple[Slot, ...] = field(default=())

    @classmethod
    def parse(cls, text: str, widths: Mapping[str, int] | None = None) -> "Layout":
        """Reads ``"task | return state action > reward done"``.

        Args:
            text: the layout; the parts before ``|`` and after ``>`` are optional.
            widths: tokens per step of each slot, 1 where not given.

        Raises:
            RecipeError: on an empty step, a repeated slot, a second ``|`` or ``>``, or a name that is no slot name.
        """
        head, _, tail = text.partition(">")
        before, bar, steps = head.rpartition("|")
        if ">" in tail or "|" in tail or "|" in before:
            raise RecipeError(f"layout '{text}': write at most one '|' and, after it, at most one '>'")
        parts = [part.split() for part in (before if bar else "", steps, tail)]
        names = [name for part in parts for name in part]
        for name in names:
            if not _NAME.match(name):
                raise RecipeError(f"layout '{text}': '{name}' is no slot name (lower-case letters, digits and _)")
            if names.count(name) > 1:
                raise RecipeError(f"layout '{text}': slot '{name}' stands there twice")
        if not parts[1]:
            raise RecipeError(f"layout '{text}': a step needs at least one slot, as in 'return state action'")
        widths = widths or {}
        return cls(*(tuple(Slot(name, widths.get(name, 1)) for name in part) for part in parts))

    def __str__(self) -> str:
        words = [" ".join(s.name for s in part) for part in (self.prefix, self.step, self.readout)]
        return (f"{words[0]} | " if words[0] else "") + words[1] + (f" > {words[2]}" if words[2] else "")

    @property
    def slots(self) -> tuple[Slot, ...]:
        """Every slot, in order; a slot's index here is its number in the ``slot`` track."""
        return self.prefix + self.step + self.readout

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(s.name for s in self.slots)

    @property
    def step_width(self) -> int:
        """Tokens that one environment step takes in the sequence."""
        return sum(s.width for s in self.step)

    @property
    def prefix_width(self) -> int:
        return sum(s.width for s in self.prefix)

    def length(self, steps: int) -> int:
        """L, the tokens of a row of ``steps`` environment steps."""
        return self.prefix_width + steps * self.step_width

    def offset(self, name: str) -> int:
        """Where slot ``name`` begins within its step (or within the prefix); readouts stand at the end of the step."""
        for part in (self.prefix, self.step):
            at = 0
            for slot in part:
                if slot.name == name:
                    return at
                at += slot.width
        if name in {s.name for s in self.readout}:
            return self.step_width
        raise RecipeError(f"layout '{self}' has no slot '{name}'")

    def reader(self, name: str) -> int:
        """Offset within the step of the token whose output predicts the first token of slot ``name``.

        -1 means the last token of the step before (or of the prefix): what a first slot is predicted from.
        """
        return self.offset(name) - 1

    def tracks(self, steps: int) -> dict[str, np.ndarray]:
        """The integer tracks of a row of ``steps`` steps, each ``(L,)`` int64.

        ``slot`` (index into ``slots``), ``time`` (environment step, -1 in the prefix), ``part`` (which of the slot's K
        tokens), ``pos`` (position in the row).
        """
        number = {s.name: i for i, s in enumerate(self.slots)}

        def block(part: tuple[Slot, ...]) -> tuple[np.ndarray, np.ndarray]:
            slot = np.array([number[s.name] for s in part for _ in range(s.width)], np.int64)
            inner = np.array([k for s in part for k in range(s.width)], np.int64)
            return slot, inner

        (slot_p, part_p), (slot_s, part_s) = block(self.prefix), block(self.step)
        return {
            "slot": np.concatenate([slot_p, np.tile(slot_s, steps)]),
            "time": np.concatenate([np.full(len(slot_p), -1), np.repeat(np.arange(steps), len(slot_s))]),
            "part": np.concatenate([part_p, np.tile(part_s, steps)]),
            "pos": np.arange(self.length(steps)),
        }

    def drawing(self, trained: tuple[str, ...] = ()) -> str:
        """A small picture of one step: what is fed, what each token predicts, ``*`` on what is trained."""
        fed = [s for s in self.step for _ in range(s.width)]
        answers = [""] * len(fed)
        for slot in self.step + self.readout:
            at = self.reader(slot.name)
            mark = "*" if slot.name in trained else ""
            if slot.name in trained or slot in self.readout:
                answers[at] = (answers[at] + " " + slot.name + mark).strip()
        cell = max(len(w) for w in [s.name for s in fed] + answers) + 2
        lines = ["".join(word.center(cell) for word in answers), "".join(("↑" if w else " ").center(cell) for w in answers)]
        lines.append("".join(f"[{s.name}]".center(cell) for s in fed))
        if self.prefix:
            lead = " ".join(f"[{s.name}]" for s in self.prefix) + " | "
            lines = [" " * len(lead) + line for line in lines[:2]] + [lead + lines[2]]
        return "\n".join(line.rstrip() for line in lines)
