"""Where the rows of a batch begin: a pure function of (seed, step), so that resuming needs no loader state.

Every step of every training episode is drawn equally often (or by its source's weight): a window starts at the drawn step and
runs to the context's end or the episode's, whichever comes first; or, where windows are to be full, it holds the drawn step
somewhere and is as long as the context and the episode allow. The draw belongs to the *global* batch and each rank takes
its part of it, so the data do not depend on how many processes share the work, nor on how a batch is cut for accumulation.
"""

from dataclasses import dataclass

import numpy as np

from seqrl.data.dataset import Selection


@dataclass(frozen=True)
class Starts:
    """B drawn windows: ``row`` first row, ``time`` step within the episode, ``length`` real steps; each ``(B,)`` int64."""

    row: np.ndarray
    time: np.ndarray
    length: np.ndarray


class Windows:
    """Draws windows of up to ``context`` steps from a set of episodes."""

    def __init__(self, episodes: Selection, context: int, full: bool = False) -> None:
        self.context, self.full = context, full
        self._row, self._length, self._weight = episodes.row, episodes.length, episodes.weight
        self._mass = np.cumsum(episodes.length * episodes.weight)

    def _at(self, mass: np.ndarray, back: np.ndarray) -> Starts:
        """The windows of the steps at ``mass``, which lie ``back`` (0 to 1) of a window behind the beginning, if full."""
        episode = np.searchsorted(self._mass, mass, side="right")
        episode = np.minimum(episode, len(self._row) - 1)
        before = self._mass[episode] - self._length[episode] * self._weight[episode]
        time = ((mass - before) / self._weight[episode]).astype(np.int64)
        # Rounding at the border of two episodes may step one over; a step that is none must never be drawn.
        time = np.clip(time, 0, self._length[episode] - 1)
        if self.full:
            time = time - (back * self.context).astype(np.int64)
            time = np.clip(time, 0, np.maximum(self._length[episode] - self.context, 0))
        return Starts(self._row[episode] + time, time, np.minimum(self.context, self._length[episode] - time))

    def draw(self, seed: int, step: int, rows: int, rank: int = 0, world: int = 1) -> Starts:
        """The windows of one training step.

        Args:
            seed, step: what the draw is a function of.
            rows: B of this rank; the global batch has ``rows * world``.
            rank, world: which part of it is wanted.
        """
        # The step stands in a word of the counter that drawing itself never reaches, so no two steps share numbers.
        noise = np.random.Generator(np.random.Philox(key=seed, counter=[0, step, 0, 0]))
        mine = slice(rank * rows, (rank + 1) * rows)
        mass = noise.random(rows * world)[mine] * self._mass[-1]
        return self._at(mass, noise.random(rows * world)[mine] if self.full else mass)

    def spread(self, rows: int) -> Starts:
        """``rows`` windows evenly spread over all steps, the same every time; for validation."""
        # Steps of the golden ratio fill the interval evenly, however many there are.
        back = np.arange(rows) * (5**0.5 - 1) / 2 % 1.0
        return self._at((np.arange(rows) + 0.5) / rows * self._mass[-1], back)
