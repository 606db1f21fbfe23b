"""Trajectories in tables of anybody's making: Parquet or Arrow files with a row a step, in a folder or on the Hub.

LeRobot's names are understood without a word (``observation.state``, ``action``, ``episode_index``, ``next.reward``,
``next.done``), as are folders that Hugging Face's ``save_to_disk`` wrote; other columns are named in the recipe. A row holds
an observation, the action done there, and what followed. The observation after an episode's last action stands in no row: the
last one takes its place, and ``info["final_observation"]`` says "unknown". Rows of an episode stand one behind the other, also
over the border of two files.

Files are read in pieces, one after the other. From the Hub each is fetched while the one before is read, and let go afterwards.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from seqrl.core.config import Frozen
from seqrl.core.episode import Episode, EpisodeSpec, Modality
from seqrl.core.errors import DataError
from seqrl.sources._files import cache_home, digest, joint_digest
from seqrl.sources._published import repo_of
from seqrl.sources._rows import ENDS, Shape, Table, values
from seqrl.sources._rows_columns import columns_of, shapes_of, spec_of


class Config(Frozen):
    """Tables with a row a step."""

    kind: Literal["rows"] = "rows"
    id: str
    """A folder, or a dataset's name on the Hub: ``org/name``, ``org/name@revision``, ``hf://datasets/org/name``."""
    files: str | None = None
    """Which files of it, as a pattern such as ``data/train-*.parquet``; where null those below ``data``, or all there are."""
    obs: dict[str, str] = {}
    """name -> its column; where empty, the columns called ``observation`` or ``observation.*`` that hold numbers or texts."""
    act: dict[str, str] = Field({"action": "action"}, min_length=1)
    """name -> its column."""
    reward: str | None = None
    """The reward that followed; where null next.reward or reward, and 0 everywhere without such a column."""
    terminated: str | None = None
    """Whether the episode ended for good; where null next.terminated or terminated, and never without such a column."""
    truncated: str | None = None
    """Whether it was cut off; where null next.truncated, truncated or next.done. The last row of an episode always ends it."""
    episode: str | None = None
    """The episode a row is of; where null episode_index or episode, and without such a column episodes end where flags say."""
    step: str | None = None
    """The number of the step in its episode, which must count up by one; where null frame_index or step, if there."""
    choices: dict[str, int] = {}
    """Names of single whole numbers that are choices, and how many there are, from 0 on."""
    bounds: dict[str, tuple[float, float]] = {}
    """Names of numbers that stay between two bounds, such as actions in [-1, 1]."""
    env: str | None = None
    """The gymnasium id of the environment to evaluate in."""
    keep: bool = False
    """Whether what was fetched from the Hub stays in its cache; otherwise each file goes once it is converted."""


def tiny(folder: Path) -> Config:
    """Three episodes as LeRobot writes them, of which one lies in two files; for the contract tests."""
    import pyarrow as pa
    from pyarrow import parquet

    rng = np.random.default_rng(0)
    episode = np.repeat([0, 1, 2], [4, 1, 7])
    frame = np.concatenate([np.arange(4), np.arange(1), np.arange(7)])
    columns = {
        "observation.state": list(rng.standard_normal((12, 3)).astype(np.float32)),
        "action": list(rng.uniform(-1, 1, (12, 2)).astype(np.float32)),
        "episode_index": episode,
        "frame_index": frame,
        "next.reward": rng.standard_normal(12).astype(np.float32),
        "next.done": np.isin(np.arange(12), [3, 4, 11]),
    }
    table, target = pa.table(columns), folder / "rows"
    (target / "data" / "chunk-000").mkdir(parents=True)
    for k, part in enumerate((table[:7], table[7:])):
        parquet.write_table(part, target / "data" / "chunk-000" / f"file-{k:03d}.parquet", row_group_size=3)
    return Config(id=str(target), bounds={"action": (-1.0, 1.0)})


class Source:
    """The episodes of one folder or repository of tables."""

    def __init__(self, config: Config) -> None:
        """Raises DataError where there is no such folder, or no table in it."""
        self.config, self._shards, repo = config, None, repo_of(config.id)
        if repo is None:
            self.folder = Path(config.id).expanduser()
            inside = self.folder.resolve()
            self.id, self.place = inside.name, str(inside)
            paths = [
                p for p in self.folder.rglob("*") if p.suffix in ENDS and p.is_file() and p.resolve().is_relative_to(inside)
            ]
            self.names = self._chosen([p.relative_to(self.folder).as_posix() for p in paths])
        else:
            self.id = self.place = repo.id
            self._from_hub(repo)
        if not self.names:
            raise DataError(
                f"{config.id}: there is no {' or '.join(ENDS)} file in it" + (f" like {config.files}" if config.files else "")
            )
        self._open: tuple[int, Table] | None = None
        # Of every file that was looked through: its rows, the episodes that begin in it, and what it ends with.
        self._notes: list[list[Any]] = []

    def _from_hub(self, repo: Any) -> None:
        from seqrl.remote.download import fetch
        from seqrl.remote.shards import Shards

        told = self.config.model_dump_json(exclude={"id", "keep"})
        shards = Shards(repo, self._chosen, cache_home() / "shards", f"rows {told}")
        self.names = [f.path for f in shards.files]
        if self.config.keep or not all(f.sha256 for f in shards.files):
            self.folder = fetch(shards.repo, self.names)
        else:
            self.folder, self._shards = shards.folder, shards

    def _chosen(self, names: Any) -> list[str]:
        # Hidden things, and what Hugging Face's datasets computes beside what it saved, are no part of the data.
        hidden = (".", "cache-")
        found = sorted(n for n in names if n.endswith(ENDS) and not any(p.startswith(hidden) for p in n.split("/")))
        if self.config.files is not None:
            return [n for n in found if Path(n).match(self.config.files)]
        return [n for n in found if n.startswith("data/")] or found

    # ---- files ------------------------------------------------------------------------------------------------------

    def _table(self, k: int) -> Table:
        """File ``k``, opened; one is at a time."""
        if self._open is None or self._open[0] != k:
            self._open = None
            path = self.folder / self.names[k] if self._shards is None else self._shards.path(k)
            table = Table(path, f"{self.id}/{self.names[k]}")
            self._open = (k, table)
        return self._open[1]

    def _found(self, what: str, find: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What ``find`` gives, as plain JSON; noted of shards, so that whoever goes on need not fetch the first file for it."""
        told = self._shards.noted() if self._shards else {}
        if not isinstance(told.get(what), dict):
            told |= {what: find()}
            if self._shards:
                self._shards.remember(told | self._shards.noted())
        return told[what]

    @cached_property
    def _columns(self) -> dict[str, dict[str, str]]:
        return self._found("columns", lambda: columns_of(self.config, self._table(0)))

    @cached_property
    def _shapes(self) -> dict[str, Shape]:
        """column -> what it holds, by the first row there is."""
        held = self._found("shapes", self._first_row)
        return {n: Shape(dtype, tuple(shape)) for n, (dtype, shape) in held.items()}

    def _first_row(self) -> dict[str, Any]:
        for k in range(len(self.names)):
            if held := shapes_of(self._table(k), self._columns):
                return {n: (s.dtype, s.shape) for n, s in held.items()}
        raise DataError(f"{self.id} is empty: it has no rows")

    @property
    def _wanted(self) -> list[str]:
        return list(dict.fromkeys(c for part in self._columns.values() for c in part.values()))

    @cached_property
    def spec(self) -> EpisodeSpec:
        """Numbers are vectors, open where no bounds are given; choices are those the recipe names."""
        return spec_of(self.config, self.id, self._columns, self._shapes)

    # ---- episodes ---------------------------------------------------------------------------------------------------

    def _note(self, k: int) -> list[Any]:
        """Of file ``k``: its rows, the episodes that begin in it, and the last row's episode, or whether it ended one."""
        while len(self._notes) <= k:
            j = len(self._notes)
            told = self._shards.noted() if self._shards else {}
            # Which episodes begin here depends on what the file before ends with.
            before = self._notes[j - 1][2] if j else None
            key = json.dumps([self.names[j], self._columns["rest"], before], sort_keys=True)
            known = told.get(key)
            if not (isinstance(known, list) and len(known) == 3 and all(isinstance(x, int) for x in known[:2])):
                begins, last = self._cuts(j)
                known = [self._table(j).rows, len(begins), last]
                if self._shards:
                    self._shards.remember(self._shards.noted() | {key: known})
            self._notes.append(known)
        return self._notes[k]

    def _cuts(self, k: int) -> tuple[np.ndarray, Any]:
        """The rows of file ``k`` in which an episode begins, and what its last row says."""
        rest, table = self._columns["rest"], self._table(k)
        named = [rest["episode"]] if "episode" in rest else [rest[n] for n in ("terminated", "truncated") if n in rest]
        before, found = (self._note(k - 1)[2] if k else None), []
        seen = set() if before is None else {before}
        for row, piece in table.pieces(named):
            read = [values(a, f"{table.label}\0{n}", row, self._shapes[n]).reshape(len(a), -1) for n, a in piece.items()]
            if "episode" in rest:
                ids = read[0][:, 0]
                fresh = np.append(before is None or ids[0] != before, ids[1:] != ids[:-1]) if len(ids) else np.zeros(0, bool)
                before = ids[-1].item() if len(ids) else before
            else:
                ended = np.any([v[:, 0] != 0 for v in read], axis=0)
                fresh = np.append(before is None or bool(before), ended[:-1]) if len(ended) else np.zeros(0, bool)
                before = bool(ended[-1]) if len(ended) else before
            found.append(np.flatnonzero(fresh) + row)
            if "episode" in rest:
                for at, id in zip(found[-1].tolist(), ids[fresh].tolist(), strict=True):
                    if id in seen:
                        said = f"row {at}: episode {id} comes a second time; sort the rows by episode"
                        raise DataError(f"{table.label}: {said}")
                    seen.add(id)
        return np.concatenate([np.zeros(0, np.int64), *found]), before

    def expected(self) -> int:
        """How many episodes there are; a guess as long as files have not been looked through."""
        seen = max(1, len(self._notes))
        begun = sum(self._note(k)[1] for k in range(seen))
        return begun if seen == len(self.names) else round(begun / seen * len(self.names))

    def __len__(self) -> int:
        return sum(self._note(k)[1] for k in range(len(self.names)))

    @cached_property
    def lengths(self) -> np.ndarray:
        """``(N,)`` int64: steps of each episode. Looks through every file; converting does not need it."""
        starts, at = [], 0
        for k in range(len(self.names)):
            starts.append(self._cuts(k)[0] + at)
            at += self._note(k)[0]
        return np.diff(np.concatenate([*starts, [at]]))

    def fingerprint(self) -> str:
        """Hex digest of the content and of what the recipe makes of it."""
        if self._shards is None:
            content = digest(self.folder, [self.folder / n for n in self.names])
        else:
            content = joint_digest({f.path: str(f.sha256) for f in self._shards.files})
        told = self.config.model_dump(exclude={"id", "files", "keep"})
        return hashlib.sha256(json.dumps(["rows", 1, content, told], sort_keys=True).encode()).hexdigest()

    def episode(self, i: int) -> Episode:
        """Episode ``i``; where it lies is found by looking through the files before it."""
        return next(self.walk(i))

    def walk(self, first: int = 0) -> Iterator[Episode]:
        """The episodes from ``first`` on; in memory are one of them and a piece of a file."""
        start, number, pieces = 0, first, []
        while start < len(self.names) and self._note(start)[1] <= first:
            first -= self._note(start)[1]
            start += 1
        for k in range(start, len(self.names)):
            self._note(k)
            begins, table = self._cuts(k)[0], self._table(k)
            skip = int(begins[first]) if k == start else 0
            for row, piece in table.pieces(self._wanted, skip):
                made = {n: values(a, f"{table.label}\0{n}", row, self._shapes[n]) for n, a in piece.items()}
                count = len(next(iter(made.values())))
                inner = begins[(begins >= row) & (begins < row + count)] - row
                for a, b in zip([0, *inner], [*inner, count], strict=True):
                    if a in inner and pieces:
                        yield self._episode(number, pieces)
                        number, pieces = number + 1, []
                    if b > a:
                        pieces.append((k, row + a, {n: v[a:b] for n, v in made.items()}))
        if pieces:
            yield self._episode(number, pieces)

    def _episode(self, i: int, pieces: list[tuple[int, int, dict[str, np.ndarray]]]) -> Episode:
        rows = {n: np.concatenate([p[n] for _, _, p in pieces]) for n in pieces[0][2]}
        T, rest = len(next(iter(rows.values()))), self._columns["rest"]

        def wrong(step: int, what: str, said: str) -> DataError:
            for k, row, piece in pieces:
                count = len(piece[rest[what]])
                if step < count:
                    return DataError(f"{self.id}/{self.names[k]}: row {row + step}: column '{rest[what]}' {said} (episode {i})")
                step -= count
            raise AssertionError

        def number(what: str) -> np.ndarray:
            return rows[rest[what]].reshape(T, -1)[:, 0] if what in rest else np.zeros(T)

        if "step" in rest and (odd := np.flatnonzero(np.diff(number("step").astype(np.int64)) != 1)).size:
            raise wrong(
                int(odd[0]) + 1, "step", "does not count up by one; rows of an episode stand in order, one after the other"
            )
        flags = {what: number(what) != 0 for what in ("terminated", "truncated")}
        for what, flag in flags.items():
            if (odd := np.flatnonzero(flag[:-1])).size:
                raise wrong(int(odd[0]), what, "says that the episode ends, and it goes on in the next row")
        flags["truncated"][-1] = not flags["terminated"][-1]
        obs = {n: self._fit(rows[c], self.spec.obs[n], T) for n, c in self._columns["obs"].items()}
        obs = {n: np.concatenate([v, v[-1:]]) for n, v in obs.items()}
        act = {n: self._fit(rows[c], self.spec.act[n], T) for n, c in self._columns["act"].items()}
        return Episode(obs, act, number("reward").astype(np.float32), *flags.values(), i, {"final_observation": "unknown"})

    @staticmethod
    def _fit(value: np.ndarray, m: Modality, T: int) -> np.ndarray:
        return value if m.kind == "text" else value.astype(m.dtype, copy=False).reshape(T, *m.shape)

    def close(self) -> None:
        """Lets go what was fetched only to be converted."""
        self._open = None
        if self._shards is not None:
            self._shards.close()
