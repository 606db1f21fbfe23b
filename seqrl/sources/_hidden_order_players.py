"""Who plays Hidden Order, and what of it could be known: an oracle, a player with a memory, one without, and a judge.

The judge says of every touch of an episode whether its outcome followed from what had been seen before. A world model is asked
about those touches alone, since the others are a coin to everybody; one without memory cannot tell them from a coin either.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from seqrl.core.episode import Episode
from seqrl.core.errors import DataError
from seqrl.sources._hidden_order import AHEAD, FORWARD, LEFT, RIGHT, HiddenOrder


@dataclass
class Knowledge:
    """What the touches so far tell about the order of ``balls`` colours: its beginning, and what does not come next."""

    balls: int
    known: list[int] = field(default_factory=list)
    refuted: set[int] = field(default_factory=set)

    def foretells(self, rank: int, colour: int) -> bool | None:
        """Whether touching ``colour`` at ``rank`` will be right; None where that cannot be known."""
        if rank < len(self.known):
            return self.known[rank] == colour
        if colour in self.known or colour in self.refuted:
            return False
        return True if len(self.known) + len(self.refuted) == self.balls - 1 else None

    def learn(self, rank: int, colour: int, right: bool) -> None:
        """Takes in the outcome of a touch."""
        # Below the first unknown rank nothing is new.
        if rank == len(self.known):
            if right:
                self.known.append(colour)
                self.refuted.clear()
            else:
                self.refuted.add(colour)


class Player:
    """Plays one environment, of which it sees the whole board; a new one for every episode, called once a step.

    It keeps count of what really happened, so its steps may be replaced by random ones.
    """

    def __init__(self, env: HiddenOrder, seed: int) -> None:
        self.env, self._rng = env, np.random.default_rng(seed)

    def __call__(self) -> int:
        """The next action: the first of a shortest way to one of the balls it wants, touching no other."""
        return self._toward(self.wants())

    def wants(self) -> set[int]:
        """The colours it would touch next."""
        raise NotImplementedError

    def _there(self) -> set[int]:
        return {c for c, present in enumerate(self.env.present) if present}

    def _toward(self, wanted: set[int]) -> int:
        """Breadth first over places and directions, forward first; among balls that are equally near, any."""
        env = self.env
        at = {env.cells[c]: c for c in self._there()}
        seen, layer = {(env.place, env.facing)}, [(env.place, env.facing, -1)]
        while layer:
            reached: list[tuple[tuple[int, int], int, int]] = []
            found: dict[int, int] = {}
            for place, facing, first in layer:
                for action in (FORWARD, LEFT, RIGHT):
                    to, turned = place, facing
                    if action == FORWARD:
                        to = place[0] + AHEAD[facing][0], place[1] + AHEAD[facing][1]
                        if not (0 <= to[0] < env.size and 0 <= to[1] < env.size):
                            continue
                        if to in at:
                            if at[to] in wanted:
                                found.setdefault(at[to], action if first < 0 else first)
                            continue
                    else:
                        turned = (facing + (1 if action == RIGHT else -1)) % 4
                    if (to, turned) not in seen:
                        seen.add((to, turned))
                        reached.append((to, turned, action if first < 0 else first))
            if found:
                return list(found.values())[self._rng.integers(len(found))]
            layer = reached
        # Behind the others: whatever it does costs a wrong touch.
        return FORWARD


class Oracle(Player):
    """Knows the order."""

    def wants(self) -> set[int]:
        return {self.env.order[self.env.rank]}


class Memoryless(Player):
    """Goes to the nearest ball, whatever came of it before; it needs some random steps to ever try another."""

    def wants(self) -> set[int]:
        return self._there()


class Memory(Player):
    """Goes to what it has found out, and then to the nearest ball that has not been refuted there."""

    def __init__(self, env: HiddenOrder, seed: int) -> None:
        super().__init__(env, seed)
        self._knows, self._rank = Knowledge(env.balls), env.rank

    def wants(self) -> set[int]:
        if self.env.touched is not None:
            self._knows.learn(self._rank, *self.env.touched)
        self._rank = self.env.rank
        can_be = {c for c in self._there() if self._knows.foretells(self._rank, c) is not False}
        return {c for c in can_be if self._knows.foretells(self._rank, c)} or can_be


class Careless(Memory):
    """Remembers, but before every second touch or so it goes to the nearest ball regardless: touches of all kinds."""

    def __init__(self, env: HiddenOrder, seed: int) -> None:
        super().__init__(env, seed)
        self._cares = True

    def wants(self) -> set[int]:
        if self.env.touched is not None:
            self._cares = bool(self._rng.random() < 0.5)
        wise = super().wants()
        return wise if self._cares else self._there()


PLAYERS: dict[str, type[Player]] = {"memory": Memory, "careless": Careless, "memoryless": Memoryless, "oracle": Oracle}
SCRIPTED = "memory+careless+memoryless"
"""Who ``policy: scripted`` is here: all that do not cheat."""


@dataclass(frozen=True)
class Touches:
    """What each of the ``T`` steps of an episode touched, and whether that could be foretold.

    Args:
        colour: ``(T,)`` int64, the ball's colour, -1 where none was touched.
        right: ``(T,)`` bool, it was the next of the order.
        rewarded: ``(T,)`` bool, it paid.
        determined: ``(T,)`` bool, right or wrong, and so its reward, followed from earlier steps of the episode.
    """

    colour: np.ndarray
    right: np.ndarray
    rewarded: np.ndarray
    determined: np.ndarray

    def counts(self, said: np.ndarray) -> tuple[int, int, int, int]:
        """For rewards foretold as ``said (T,)`` bool: counts among the determined touches alone, to sum over episodes.

        Returns:
            (rewarded touches foretold as such, rewarded touches, others foretold as such, others). Balanced accuracy is the
            mean of the two shares.
        """
        yes, no = self.determined & self.rewarded, self.determined & ~self.rewarded
        return int((said & yes).sum()), int(yes.sum()), int((~said & no).sum()), int(no.sum())


def touches(episode: Episode, settings: Mapping[str, Any] | None = None) -> Touches:
    """Plays an episode again from its seed and judges its touches; works for every kind of observation.

    Args:
        episode: of ``seqrl/HiddenOrder-v0``, whose ``info`` has the seed; its only action is called ``action``.
        settings: those of its environment.

    Raises:
        DataError: the episode has no seed, or other rewards than these settings give.
    """
    seed = episode.info.get("seed")
    if seed is None:
        raise DataError(f"episode {episode.id}: without its seed nobody can tell which order was hidden")
    env = HiddenOrder(**(settings or {}))
    env.reset(seed=int(seed))
    knows = Knowledge(env.balls)
    colour = np.full(len(episode), -1)
    right, rewarded, determined = np.zeros((3, len(episode)), bool)
    for t, action in enumerate(episode.act["action"]):
        rank = env.rank
        _, reward, *_ = env.step(int(action))
        if np.float32(reward) != episode.rew[t]:
            wrong = f"step {t} paid {episode.rew[t]:g}, here {reward:g}"
            raise DataError(f"episode {episode.id}: {wrong}; name the settings of the environment it was played in")
        if env.touched is not None:
            colour[t], right[t] = env.touched
            rewarded[t] = reward != 0
            determined[t] = knows.foretells(rank, *env.touched[:1]) is not None
            knows.learn(rank, *env.touched)
    return Touches(colour, right, rewarded, determined)
