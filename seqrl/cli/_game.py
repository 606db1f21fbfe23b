"""A dream in somebody's hands: which key does what, and how it stands. Terminals, windows and lines are only its screens."""

from typing import TYPE_CHECKING, Any

import numpy as np

from seqrl.core.errors import UserError

if TYPE_CHECKING:
    from seqrl.rollout.dream import DreamEnv

_ARROWS = ("left", "right", "up", "down")
_NUDGE = 0.25
"""Share of half its range that a key moves a continuous action."""


class Game:
    """One dream, stepped by keys.

    Keys are words: ``left right up down space r q``, digits, and for continuous actions numbers with commas (``0.5,-1``). A
    choice is made by its digit, or the first four by the arrows. Of several numbers ``up`` and ``down`` choose one, ``left``
    and ``right`` lower and raise it (and step). ``space`` steps with what the policy does, or with nothing done.
    """

    def __init__(self, env: "DreamEnv", act: Any = None, seed: int = 0) -> None:
        """
        Args:
            env: of one row. seed: of the first dream.
            act: a policy that acts at ``space`` (``rollout.acting.Acting``), or None.
        """
        self.env, self.player, self.seed = env, act, seed
        ((self.name, _), *more) = self._fields()
        if more:
            raise UserError(f"play: actions of several fields ({self.name}, {more[0][0]}, ...) have no keys")
        m = env.bridge.tokenizer.spec.act[self.name]
        self.choices = list(m.n) if m.n else []
        self.start = list(m.start or (0,) * len(self.choices))
        self.shape, self.dtype = m.shape, m.dtype
        self.low, self.high = (np.array(v if v else [e] * m.size, float) for v, e in ((m.low, -1.0), (m.high, 1.0)))
        self.low, self.high = np.nan_to_num(self.low, neginf=-1.0), np.nan_to_num(self.high, posinf=1.0)
        self.chosen = 0
        self.begin()

    def _fields(self) -> list[tuple[str, Any]]:
        tokenizer = self.env.bridge.tokenizer
        return [(f, tokenizer.spec.act[f]) for f in tokenizer.slots["action"].fields]

    def begin(self) -> None:
        """A new dream; every one has a seed of its own."""
        self.env.reset(seed=self.seed)
        self.seed += 1
        if self.player is not None:
            self.player.begin()
        self.steps, self.total, self.reward, self.said = 0, 0.0, 0.0, ""
        self.over, self.action = "", self._nothing()

    def _nothing(self) -> np.ndarray:
        """Nothing done: the first choice, or numbers as near to 0 as they may be."""
        return np.zeros(len(self.choices)) if self.choices else np.clip(np.zeros(len(self.low)), self.low, self.high)

    def press(self, key: str) -> bool:
        """What a key does; False where it leaves. Raises UserError for a key that means nothing here."""
        if key == "q":
            return False
        if key == "r":
            self.begin()
            return True
        wanted = self._wanted(key)
        if wanted is not None and not self.over:
            self._step(wanted)
        return True

    def _wanted(self, key: str) -> Any:
        """The action of a key, as the environment has it with one row; None where the key only chooses among numbers."""
        if key == "space":
            self.action = self._nothing()
            return self.player() if self.player is not None else self._row()
        if len(self.choices) == 1:
            number = _ARROWS.index(key) if key in _ARROWS else int(key) if key.isdecimal() else -1
            if not 0 <= number < self.choices[0]:
                raise UserError(f"key '{key}': the actions are 0 to {self.choices[0] - 1} (or arrows), space, r and q")
            self.action = np.array([number])
            return self._row()
        if key in ("up", "down"):
            self.chosen = (self.chosen + (1 if key == "down" else -1)) % len(self.action)
            return None
        if key in ("left", "right"):
            sign = 1 if key == "right" else -1
            step = 1.0 if self.choices else _NUDGE * (self.high - self.low)[self.chosen] / 2
            self.action = self.action.astype(float)
            self.action[self.chosen] += sign * step
        else:
            self.action = self._typed(key)
        top = np.array(self.choices) - 1 if self.choices else self.high
        self.action = np.clip(self.action, np.zeros_like(top) if self.choices else self.low, top)
        return self._row()

    def _typed(self, key: str) -> np.ndarray:
        try:
            found = np.array([float(x) for x in key.split(",")])
        except ValueError as e:
            raise UserError(f"key '{key}': arrows, space, r, q, or {len(self.action)} numbers with commas between") from e
        if len(found) != len(self.action) or not np.isfinite(found).all():
            raise UserError(f"key '{key}': an action is {len(self.action)} numbers, with commas between")
        return found

    def _row(self) -> Any:
        from seqrl.rollout.dream import nested

        value = self.action + np.array(self.start) if self.choices else self.action
        return nested({self.name: value.reshape(1, *self.shape).astype(self.dtype)}, "action")

    def _step(self, action: Any) -> None:
        from seqrl.rollout.dream import flat

        self.said = np.array2string(np.ravel(flat(action, "action")[self.name]), precision=2, separator=",")[1:-1].strip()
        _, reward, terminated, truncated, _ = self.env.step(action)
        if self.player is not None:
            self.player.receive(reward)
        self.reward, self.steps = float(reward[0]), self.steps + 1
        self.total += self.reward
        self.over = "the dream ended" if terminated[0] else "that is as far as it goes" if truncated[0] else ""

    # ---- how it stands ----------------------------------------------------------------------------------------------

    def picture(self) -> np.ndarray:
        """What is seen now: a picture ``(h, w, 3)`` uint8, or numbers ``(D,)``."""
        from seqrl.rollout.reel import seen_now

        return seen_now(self.env)

    def names(self) -> tuple[str, ...]:
        """Of the numbers."""
        from seqrl.rollout.reel import names_of, screen

        return names_of(self.env.bridge, screen(self.env.bridge))

    def status(self) -> str:
        """One line: where it is and what it brought."""
        done = f"action {self.said}   " if self.said else ""
        line = f"step {self.steps}   {done}reward {self.reward:.3g}   return {self.total:.4g}   goes on {self.env.cont[0]:.0%}"
        return f"{line}   {self.over}: r begins anew, q leaves" if self.over else line

    def help(self) -> str:
        """The keys."""
        if len(self.choices) == 1:
            many = self.choices[0]
            does = f"0 to {many - 1}" + (" or arrows" if many > 1 else "")
        else:
            does = "left and right change a number, up and down choose which" if len(self.action) > 1 else "left and right"
        return f"{does}; space {'lets the policy act' if self.player else 'does nothing'}; r begins anew; q leaves"
