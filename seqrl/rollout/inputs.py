"""What a policy is fed while it acts, slot by slot: who can fill it, and when.

Slots in front of the steps are read once, when an episode begins. Slots of a step come from what is seen, from the return
that is left, or are constants; what is made of rewards is only known when the world has answered, and can stand behind the
action alone. B rows.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from seqrl.core.errors import UserError


class Inputs:
    """The slots of one tokenizer's layout as an agent fills them.

    Attributes:
        front: slots in front of the steps. step: fed slots of a step, in order. late: those of them behind the action.
        conditioned: whether a return is asked for.
        answered: the late slots that are made of rewards.
    """

    def __init__(self, tokenizer: Any) -> None:
        """Raises UserError where the layout has a slot that nothing can fill while acting."""
        layout, self.tokenizer = tokenizer.layout, tokenizer
        self.front, self.step = (tuple(s.name for s in part) for part in (layout.prefix, layout.step))
        self.late = self.step[self.step.index("action") + 1 :] if "action" in self.step else ()
        self.conditioned = "return" in (*self.front, *self.step)
        known = {n: set(tokenizer.slots[n].fields) for n in (*self.front, *self.step) if n != "action"}
        self._seen = {n for n, fields in known.items() if fields <= set(tokenizer.spec.obs)}
        self.answered = tuple(n for n in self.late if known[n] <= {"reward", "done"})
        filled = {*self._seen, *self.answered, "return"}
        missing = [n for n, fields in known.items() if n not in filled and fields != {"separator"}]
        if missing:
            raise UserError(f"layout '{layout}': while acting there is nothing to fill {', '.join(missing)} with")
        self.now = tuple(n for n in self.step if n != "action" and n not in self.answered)

    def at_beginning(self, rows: np.ndarray, obs: Mapping[str, np.ndarray], ask: np.ndarray) -> dict[str, np.ndarray]:
        """The slots in front, of the ``rows`` (R,) whose episodes begin: slot -> ``(R, width)``.

        Args:
            obs: name -> ``(B, *shape)``. ask: ``(B,)`` returns to ask for.
        """
        return {n: self._fill(n, obs, ask, rows) for n in self.front}

    def at_step(self, obs: Mapping[str, np.ndarray], ask: np.ndarray) -> dict[str, np.ndarray]:
        """The slots of a step, but for the action and what is made of rewards: slot -> ``(B, width)``."""
        return {n: self._fill(n, obs, ask) for n in self.now}

    def at_answer(self, reward: Any) -> dict[str, np.ndarray]:
        """What is made of the rewards ``(B,)`` of steps that did not end their episode: slot -> ``(B, width)``."""
        found = self.tokenizer.encode_rewards(reward)
        return {n: found[n] for n in self.answered}

    def _fill(self, name: str, obs: Mapping[str, np.ndarray], ask: np.ndarray, rows: Any = slice(None)) -> np.ndarray:
        if name in self._seen:
            return self.tokenizer.encode_slot(name, {f: obs[f][rows] for f in self.tokenizer.slots[name].fields})
        if name == "return":
            return self.tokenizer.encode_return(ask[rows])
        return np.zeros((len(ask[rows]), 1), np.int64)
