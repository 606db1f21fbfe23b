"""Episodes made here: a policy plays a gymnasium environment, and what happened becomes a Minari dataset.

A recipe that names this kind collects when the dataset is not there, and from then on it is the same as ``minari``. What is
collected is a pure function of the settings: each episode has its own seeds, so it does not matter how many environments run
side by side.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from seqrl.core.config import Frozen
from seqrl.core.episode import Episode, EpisodeSpec
from seqrl.core.errors import DataError, EnvError
from seqrl.sources import minari
from seqrl.sources._catalog import env_of, local_name, metadata
from seqrl.sources._envs import make_env, spaces_of
from seqrl.sources._files import Progress, datasets_home, one_at_a_time
from seqrl.sources._laws import Law, Player, is_scripted, law_of, players_of
from seqrl.sources._spaces import Leaf, Space, leaves, put_together, take_apart
from seqrl.sources._write import save_minari, target_of

Policy = Callable[[dict[str, np.ndarray], np.ndarray, np.ndarray], dict[str, np.ndarray]]
"""``policy(obs, first, last_reward) -> actions`` for B environments: name -> ``(B, *shape)``, ``(B,)`` bool true where an
episode has just begun, ``(B,)`` float32 rewards of the step before (0 where one has just begun)."""
LEVELS = (0.0, 0.25, 0.4, 0.5, 0.6, 1.0)
_LONGEST = 100_000


class Config(Frozen):
    """A dataset that is collected when it is not there."""

    kind: Literal["collected"] = "collected"
    id: str
    """Its id among the Minari datasets, such as ``local/cartpole-mixed-v0``."""
    env: str
    """Id of the gymnasium environment."""
    episodes: int = Field(ge=1)
    """How many episodes."""
    settings: dict[str, Any] = {}
    """Settings of the environment itself, such as ``{observation: rgb}``: numbers and plain words."""
    policy: str = "scripted"
    """Who plays: ``random`` actions; ``scripted``, the law written for this environment; where the environment has players of
    its own, their names too, joined with ``+`` where they take turns (``memory+memoryless``)."""
    levels: tuple[float, ...] = Field(LEVELS, min_length=1)
    """But for ``random``: the share of steps that follow the law or player, the others being random; episodes take these in
    turn, and players once all levels are through."""
    seed: int = Field(0, ge=0)
    """Episode ``i`` resets its environment with ``seed + i``."""
    references: tuple[float, float] | None = None
    """Returns of a random and of an expert policy, for normalised scores."""

    @field_validator("settings")
    @classmethod
    def _are_plain(cls, settings: dict[str, Any]) -> dict[str, Any]:
        # Some environments open whatever file a setting names.
        for key, value in settings.items():
            if not isinstance(value, bool | int | float) and not re.fullmatch(r"\w[\w.-]*", str(value)):
                raise ValueError(f"'{key}' must be a number or a plain word (got {value!r})")
        return settings

    @model_validator(mode="after")
    def _somebody_plays(self) -> "Config":
        try:
            players_of(self.env, self.policy)
        except DataError as e:
            raise ValueError(str(e)) from e
        return self


def tiny(folder: Path) -> Config:
    """A few episodes of CartPole; for the contract tests."""
    return Config(id="tiny/collected-v0", env="CartPole-v1", episodes=3)


class Source:
    """The collected dataset: made on first use, then read."""

    def __init__(self, config: Config) -> None:
        """Raises DataError where the id holds other data, EnvError where the environment cannot be made."""
        if not (datasets_home() / local_name(config.id)).exists():
            settings = config.model_dump(exclude={"kind"})
            with one_at_a_time(datasets_home() / f"{config.id}.collected"):
                if not (datasets_home() / config.id).exists():
                    collect(**settings)
        _check_same(config)
        self._data = minari.Source(minari.Config(id=config.id, download=False))
        # The recipe's win: data collected by hand (``seqrl data collect``) are the same but name none.
        self._references = config.references if config.references != self._data.references else None

    @property
    def spec(self) -> EpisodeSpec:
        spec = self._data.spec
        return spec if self._references is None else replace(spec, references=self._references)

    @property
    def lengths(self) -> np.ndarray:
        return self._data.lengths

    def fingerprint(self) -> str:
        # A store keeps the spec, so other references are another store.
        content = self._data.fingerprint()
        return content if self._references is None else f"{content}:{self._references}"

    def __len__(self) -> int:
        return len(self._data)

    def episode(self, i: int) -> Episode:
        return self._data.episode(i)


def _check_same(config: Config) -> None:
    """Raises DataError where the dataset that is there came about otherwise; of a stranger's only the environment is known."""
    found = metadata(config.id)
    wanted = _settings(config.env, config.episodes, config.policy, config.seed, config.levels, config.settings)
    made = found.get("seqrl") or {k: v["id"] for k, v in [("env", env_of(found))] if v}
    compared = [*wanted, *(k for k in made if k not in wanted)] if "seqrl" in found else list(made)
    other = [k for k in compared if made.get(k) != wanted.get(k)]
    if other:
        said = "; ".join(f"{k} {made.get(k)}, here {wanted.get(k)}" for k in other)
        raise DataError(
            f"'{config.id}' is there, but was collected with other settings ({said}); choose another id, or take it as it is: "
            f"{{kind: minari, id: {config.id}}}"
        )


def _settings(
    env: str, episodes: int, policy: str, seed: int, levels: Sequence[float], settings: Mapping[str, Any]
) -> dict[str, Any]:
    mixed = {"levels": list(levels)} if is_scripted(env, policy) else {}
    own = {"settings": dict(settings)} if settings else {}
    return {"env": env, "episodes": episodes, "policy": policy, "seed": seed, **mixed, **own}


def collect(
    env: str,
    episodes: int,
    id: str,
    policy: str | Policy = "random",
    seed: int = 0,
    levels: Sequence[float] = LEVELS,
    references: tuple[float, float] | None = None,
    rows: int = 16,
    name: str | None = None,
    progress: Progress | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Path:
    """Plays ``episodes`` whole episodes and saves them as the local Minari dataset ``id``.

    Args:
        policy: ``random``, ``scripted``, names of the environment's own players joined with ``+``, or a ``Policy`` called with
            all running environments at once.
        rows: B, how many environments run side by side (never more than there are episodes).
        name: what to call a ``Policy`` in the metadata.
        settings: those of the environment (its kwargs), kept in the metadata.

    Returns:
        the folder of the dataset.

    Raises:
        DataError: the id is taken or none, or nobody of that name plays this environment. EnvError: it cannot be made.
    """
    target_of(id)
    players = [] if callable(policy) else players_of(env, policy)
    law = law_of(env) if policy == "scripted" and not players else None
    settings = dict(settings or {})
    envs = [make_env(env, settings) for _ in range(min(rows, episodes))]
    spaces = spaces_of(envs[0])
    seen, acted = leaves(spaces[0], "observation"), leaves(spaces[1], "action")
    running = [_Row(e, spaces[1], seen) for e in envs]
    choose = policy if callable(policy) else _builtin(law, players, running, acted, levels)
    label = name or (policy if isinstance(policy, str) else "policy")
    about = {
        "author": "seqrl",
        "algorithm_name": label,
        "description": f"{episodes} episodes of {env}, policy {label}, seed {seed}.",
    }
    obs, act = ({leaf.name: leaf.modality for leaf in part} for part in (seen, acted))
    which = {"id": env} | ({"kwargs": settings} if settings else {})
    spec = EpisodeSpec(id, obs, act, which, None, references, about)
    with closing(_play(running, choose, acted, episodes, seed, progress)) as played:
        return save_minari(played, spec, id, spaces, _settings(env, episodes, label, seed, levels, settings))


class _Row:
    """One running environment and what it has lived through so far."""

    def __init__(self, env: Any, space: Space, observed: list[Leaf]) -> None:
        self.env, self.actions_of, self._space, self._observed = env, env.action_space, space, observed
        self.number = -1

    def begin(self, number: int, seed: int) -> None:
        self.number, self.seed, self.first, self.last_reward = number, seed + number, True, 0.0
        # The environment has the seed itself; random actions, coin and player get streams that are independent of it.
        for_actions, for_coin, for_player = np.random.SeedSequence([seed, number]).spawn(3)
        self.actions_of.seed(int(for_actions.generate_state(1)[0]))
        self.coin, self.player_seed = np.random.default_rng(for_coin), int(for_player.generate_state(1)[0])
        self.actions: list[dict[str, Any]] = []
        self.rewards: list[float] = []
        self.obs = [self._seen(self.env.reset(seed=self.seed)[0])]

    def _seen(self, obs: Any) -> dict[str, Any]:
        # Copies, because some environments hand out the array they go on writing to.
        parts = take_apart(self._observed, obs)
        return {leaf.name: np.array(parts[leaf.name], dtype=leaf.modality.dtype) for leaf in self._observed}

    def step(self, action: dict[str, Any]) -> Episode | None:
        """Does an action; the whole episode when that was its last."""
        obs, reward, terminated, truncated, _ = self.env.step(put_together(self._space, action, "action"))
        self.obs.append(self._seen(obs))
        self.actions.append(action)
        self.rewards.append(float(reward))
        self.first, self.last_reward = False, float(reward)
        if len(self.rewards) > _LONGEST:
            raise EnvError(f"{self.env.spec.id}: episode {self.number} does not end within {_LONGEST} steps")
        return self._episode(bool(terminated), bool(truncated)) if terminated or truncated else None

    def _episode(self, terminated: bool, truncated: bool) -> Episode:
        ends = [np.zeros(len(self.rewards), bool) for _ in range(2)]
        ends[0][-1], ends[1][-1] = terminated, truncated
        obs, act = ({n: np.array([v[n] for v in values]) for n in values[0]} for values in (self.obs, self.actions))
        return Episode(obs, act, np.array(self.rewards, np.float32), *ends, self.number, {"seed": self.seed})


def _play(
    rows: list[_Row], choose: Policy, acted: list[Leaf], episodes: int, seed: int, progress: Progress | None
) -> Iterator[Episode]:
    """Whole episodes in order of their number, however many run at once; the environments are closed at the end.

    A row that has nothing left to play stays in the batch, since a policy with a memory counts on that; it is told that an
    episode begins at every step, so that its memory does not grow, and its actions go unheeded.
    """
    numbers = iter(range(episodes))
    ready: dict[int, Episode] = {}
    given = 0
    try:
        playing = dict.fromkeys(rows)
        for row, number in zip(rows, numbers, strict=False):
            row.begin(number, seed)
        while playing:
            obs = {name: np.array([r.obs[-1][name] for r in rows]) for name in rows[0].obs[0]}
            first, reward = np.array([r.first for r in rows]), np.array([r.last_reward for r in rows], np.float32)
            chosen = choose(obs, first, reward)
            cast = {leaf.name: np.asarray(chosen[leaf.name]).astype(leaf.modality.dtype, copy=False) for leaf in acted}
            for i, row in enumerate(rows):
                episode = row.step({name: values[i] for name, values in cast.items()}) if row in playing else None
                if episode is not None:
                    ready[row.number] = episode
                    number = next(numbers, None)
                    if number is None:
                        del playing[row]
                        row.first, row.last_reward = True, 0.0
                    else:
                        row.begin(number, seed)
            while given in ready:
                yield ready.pop(given)
                given += 1
                if progress:
                    progress(given, episodes)
    finally:
        for row in rows:
            row.env.close()


def _builtin(law: Law | None, players: list[Player], rows: list[_Row], acted: list[Leaf], levels: Sequence[float]) -> Policy:
    """Each row follows law or player in its episode's share of the steps and is random in the others; without one, in all."""
    playing: list[Callable[[], Any]] = [lambda: None] * len(rows)

    def choose(obs: dict[str, np.ndarray], first: np.ndarray, last_reward: np.ndarray) -> dict[str, np.ndarray]:
        for i in np.flatnonzero(first) if players else ():
            player = players[rows[i].number // len(levels) % len(players)]
            playing[i] = player(rows[i].env.unwrapped, rows[i].player_seed)
        # A player is asked at every step, so that it sees what came of the random ones.
        lawful = law(obs["observation"]) if law else [play() for play in playing]
        by_chance = [not (law or players) or row.coin.random() >= levels[row.number % len(levels)] for row in rows]
        samples = [take_apart(acted, row.actions_of.sample()) if c else None for c, row in zip(by_chance, rows, strict=True)]
        return {
            leaf.name: np.array([lawful[i] if s is None else s[leaf.name] for i, s in enumerate(samples)]) for leaf in acted
        }

    return choose
