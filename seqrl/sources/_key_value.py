"""Key and value: pairs go by once among many steps of noise, and much later somebody asks for one of them.

The needle in a haystack for trajectories: from how long ago a policy can still find one observation again, and among how many.
What is seen in a step does not depend on what is done, so the same questions can be put at every length and depth (``reset``
takes both as options). Associative recall as in Arora et al. 2023 (Zoology, arXiv 2312.04927), spread over an episode.
Registered on import as ``seqrl/KeyValue-v0``.
"""

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np

from seqrl.core.errors import EnvError

ID = "seqrl/KeyValue-v0"


class KeyValue(gymnasium.Env):
    """Steps of two numbers: a *key* and a *value*.

    A pair is a step with one of ``keys`` keys and one of ``values`` values. A question is a step with a key that has been there
    and the value 0, and asks for what stood beside it. All other steps are noise: one of ``noise`` keys that are never asked
    for, with any value.

    The keys of noise are 0 to ``noise - 1``, and then come the others; values are 1 to ``values``. They are seen as one vector
    of zeros and two ones (``vector``: one token of a stream, so that finding a pair takes one look), or as two choices
    (``codes``: ``key`` and ``value``, so that a value must first be joined to the key in front of it). Actions: 1 to ``values``
    answer, 0 does nothing. A right answer pays 1 and everything else nothing; the episode terminates with its last step.

    ``info`` has ``asked`` (whether this step is a question), ``right`` (how many have been answered right) and, behind the last
    step, ``success`` (all have). ``answer`` is what would be right now, 0 where nothing is asked.
    """

    metadata = {"render_modes": []}

    def __init__(
        self,
        keys: int = 32,
        values: int = 32,
        noise: int = 32,
        least: int = 16,
        most: int = 256,
        pairs: int = 16,
        questions: float = 1.0,
        observation: str = "vector",
    ) -> None:
        """Draws nothing yet: ``reset`` does.

        Args:
            keys, values, noise: how many there are of each.
            least, most: steps of an episode, drawn between them, every doubling as often as any other.
            pairs: most pairs of an episode, and never more than fit into half of it. There is at least one.
            questions: for each pair, on average at most; there is at least one.
            observation: ``vector``, ``(noise + keys + values + 1,)`` float32, or ``codes``, a dictionary of two choices.

        Raises:
            EnvError: a setting outside of what can be.
        """
        ranges = {
            "keys": (keys, 1, 65_536),
            "values": (values, 2, 65_536),
            "noise": (noise, 1, 65_536),
            "least": (least, 2, 10_000_000),
            "most": (most, 2, 10_000_000),
            "pairs": (pairs, 1, 65_536),
        }
        for name, (value, low, high) in ranges.items():
            if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
                raise EnvError(f"{ID}: {name} must be a whole number from {low} to {high:,} (got {value!r})")
        if least > most:
            raise EnvError(f"{ID}: least ({least}) is above most ({most})")
        if not isinstance(questions, int | float) or isinstance(questions, bool) or not 0 <= questions <= 100:
            raise EnvError(f"{ID}: questions must be a number from 0 to 100 (got {questions!r})")
        if observation not in ("vector", "codes"):
            raise EnvError(f"{ID}: observation must be one of vector, codes (got {observation!r})")
        self.keys, self.values, self.noise, self.observation = keys, values, noise, observation
        self.least, self.most, self.pairs, self.questions = least, most, pairs, float(questions)
        part, seen = gymnasium.spaces.Discrete, noise + keys + values + 1
        self.observation_space = (
            gymnasium.spaces.Box(0.0, 1.0, (seen,), np.float32)
            if observation == "vector"
            else gymnasium.spaces.Dict({"key": part(noise + keys), "value": part(values + 1)})
        )
        self.action_space = part(values + 1)

    def reset(self, *, seed: int | None = None, options: Mapping[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Draws an episode from the seed.

        Args:
            options: ``{"length": T, "depths": [d, ...], "asked": R}`` hides a pair at each depth (0: the first step, 1: the
                last before the questions) of an episode of T steps, the last R of which ask for R of them.

        Raises:
            EnvError: options that cannot be.
        """
        super().reset(seed=seed)
        if options and "length" in options:
            self._hide(*_checked(options, self.keys))
        else:
            self._scatter()
        self.right = self._t = 0
        return self._see(), self._info()

    def _noise(self, T: int) -> None:
        """T steps of noise and the one behind them."""
        rng = self.np_random
        self._key, self._value = rng.integers(self.noise, size=T + 1), rng.integers(1, self.values + 1, size=T + 1)
        self._answer = np.zeros(T + 1, np.int64)

    def _scatter(self) -> None:
        """Pairs and questions wherever there is room, each question behind its pair."""
        rng = self.np_random
        T = round(float(np.exp(rng.uniform(np.log(self.least), np.log(self.most)))))
        self._noise(T)
        pairs = int(rng.integers(1, max(1, min(self.pairs, self.keys, T // 2)) + 1))
        asked = max(1, min(int(rng.integers(0, round(pairs * self.questions) + 1)), T - pairs))
        keys, values = self.noise + rng.permutation(self.keys)[:pairs], rng.integers(1, self.values + 1, size=pairs)
        # A step that holds the first pair of all, and then in any order; who asks knows what is there by then.
        places = np.sort(rng.permutation(T)[: pairs + asked])
        is_pair = np.zeros(pairs + asked, bool)
        is_pair[rng.permutation(pairs + asked - 1)[: pairs - 1] + 1] = True
        is_pair[0] = True
        for place, pair, known in zip(places, is_pair, np.cumsum(is_pair), strict=True):
            which = int(known) - 1 if pair else int(rng.integers(known))
            self._key[place] = keys[which]
            self._value[place] = values[which] if pair else 0
            self._answer[place] = 0 if pair else values[which]

    def _hide(self, T: int, depths: np.ndarray, asked: int) -> None:
        """Pairs at some depths in front of the questions; where two would fall on one step, the later one is moved."""
        rng, N = self.np_random, len(depths)
        self._noise(T)
        keys, values = self.noise + rng.permutation(self.keys)[:N], rng.integers(1, self.values + 1, size=N)
        body = T - asked
        order = np.argsort(depths, kind="stable")
        places = np.zeros(N, np.int64)
        free = 0
        for n, which in enumerate(order.tolist()):
            # Never so late that those behind it find no room.
            places[which] = free = min(max(free, round(float(depths[which]) * (body - 1))), body - N + n)
            free += 1
        self._key[places], self._value[places] = keys, values
        for r, which in enumerate(rng.permutation(N)[:asked].tolist()):
            self._key[body + r], self._value[body + r], self._answer[body + r] = keys[which], 0, values[which]

    @property
    def answer(self) -> int:
        """The right answer to what is asked now, 0 where nothing is."""
        return int(self._answer[self._t])

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Answers, or lets the step go by."""
        paid = float(self.answer > 0 and int(action) == self.answer)
        self.right += int(paid)
        self._t += 1
        over = self._t == len(self._answer) - 1
        return self._see(), paid, over, False, self._info(over)

    def _see(self) -> Any:
        key, value = self._key[self._t], self._value[self._t]
        if self.observation == "codes":
            return {"key": np.int64(key), "value": np.int64(value)}
        seen = np.zeros(self.observation_space.shape, np.float32)
        seen[[key, self.noise + self.keys + value]] = 1.0
        return seen

    def _info(self, over: bool = False) -> dict[str, Any]:
        info = {"asked": self.answer > 0, "right": self.right}
        return info | ({"success": self.right == int((self._answer > 0).sum())} if over else {})


def _checked(options: Mapping[str, Any], keys: int) -> tuple[int, np.ndarray, int]:
    """Length, depths and number of questions of an episode that is asked for."""
    depths = np.asarray(options.get("depths", [0.5]), np.float64)
    length, asked = int(options["length"]), int(options.get("asked", 1))
    if depths.ndim != 1 or not 1 <= len(depths) <= keys or not ((depths >= 0) & (depths <= 1)).all():
        raise EnvError(f"{ID}: depths are 1 to {keys} numbers from 0 to 1 (got {options.get('depths')!r})")
    if not 1 <= asked <= len(depths):
        raise EnvError(f"{ID}: of {len(depths)} pairs 1 to {len(depths)} can be asked for (got {asked})")
    if length < len(depths) + asked:
        raise EnvError(f"{ID}: {len(depths)} pairs and {asked} questions need {len(depths) + asked} steps (got {length})")
    return length, depths, asked


if ID not in gymnasium.registry:
    gymnasium.register(ID, f"{__name__}:KeyValue")
