"""Conversions that are stopped: killed anywhere, out of space, by Ctrl-C. They go on, and the store is the same to the byte."""

import errno
import json
import os
import resource
import signal
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from seqrl.core.episode import Episode, EpisodeSpec, Modality
from seqrl.core.errors import DataError, HubError
from seqrl.data import gather, partial
from seqrl.data.store import prepare
from seqrl.sources._files import one_at_a_time

SPEC = EpisodeSpec(
    "tests/talk-v0",
    {
        "seen": Modality("vector", (3,), "float32"),
        "mission": Modality("text", (), "str"),
        "none": Modality("vector", (0,), "uint8"),
    },
    {"action": Modality("discrete", (), "int64", n=(3,), start=(0,))},
)


def talk(T, i):
    rng = np.random.default_rng(i)
    said = np.array([f"go € {rng.integers(4)}\u2028" for _ in range(T + 1)])
    obs = {"seen": rng.standard_normal((T + 1, 3)).astype(np.float32), "mission": said, "none": np.zeros((T + 1, 0), np.uint8)}
    ends = np.arange(T) == T - 1
    info = {"seed": i, "note": "é"} if i % 2 else {}
    return Episode(
        obs, {"action": rng.integers(0, 3, T)}, rng.standard_normal(T).astype(np.float32), ends, ~ends & ends, i, info
    )


class Counted:
    """A source that says which episodes it was asked for."""

    spec = SPEC

    def __init__(self, lengths=(5, 1, 9, 0, 3, 7, 4), mark="a"):
        self.lengths, self.asked, self.mark = np.array(lengths, np.int64), [], mark

    def fingerprint(self):
        return f"counted {self.lengths.tolist()} {self.mark}"

    def __len__(self):
        return len(self.lengths)

    def episode(self, i):
        self.asked.append(i)
        return talk(int(self.lengths[i]), i)


def content(path):
    return {p.relative_to(path).as_posix(): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def stores(home):
    return sorted(p.name for p in (home / "cache" / "stores").glob("*"))


@pytest.fixture
def small(home, monkeypatch):
    """Everything in small pieces: certain after two episodes, moved a few bytes at a time."""
    monkeypatch.setattr(partial, "EPISODES", 2)
    monkeypatch.setattr(gather, "_BLOCK", 48)
    monkeypatch.setattr(gather, "_PIECE", 20)
    # Nothing here loses its power, and flushing a hundred conversions takes long.
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    return home


@pytest.fixture
def whole(home, monkeypatch, tmp_path_factory):
    """What an undisturbed conversion writes."""
    with monkeypatch.context() as m:
        m.setenv("SEQRL_CACHE", str(tmp_path_factory.mktemp("undisturbed")))
        return content(prepare(Counted()).path)


CALLS = ((os, "fsync"), (os, "replace"), (os, "truncate"), (os, "ftruncate"), (os, "pwrite"), (os, "pread"), (Path, "unlink"))
CALLS += ((Path, "rename"), (partial.Partial, "_append"), (partial.Partial, "commit"), (Path, "mkdir"))


def at_each_call(monkeypatch, strike):
    """Calls ``strike(k)`` in front of the k-th call of those that change something on the disk."""
    seen = [0]

    def watched(of, name):
        real = getattr(of, name)

        def call(*args, **more):
            seen[0] += 1
            strike(seen[0])
            return real(*args, **more)

        monkeypatch.setattr(of, name, call)

    for of, name in CALLS:
        watched(of, name)
    return seen


def killed(monkeypatch, k):
    """Converts in a process of its own, which is killed in front of its k-th such call; whether it was."""
    child = os.fork()
    if child == 0:
        at_each_call(monkeypatch, lambda n: os.kill(os.getpid(), signal.SIGKILL) if n == k else None)
        with suppress(BaseException):
            prepare(Counted())
        os._exit(0)
    return os.waitpid(child, 0)[1] == signal.SIGKILL


def test_killed_anywhere_it_goes_on_and_ends_the_same(small, whole, monkeypatch):
    with monkeypatch.context() as m:
        calls = at_each_call(m, lambda k: None)
        path = prepare(Counted()).path
    assert content(path) == whole
    assert calls[0] > 150
    for k in range(1, calls[0] - 5, 9):
        for p in path.parent.iterdir():
            partial.shutil.rmtree(p)
        assert killed(monkeypatch, k)
        # Struck again on the way, it still ends well.
        killed(monkeypatch, max(1, k // 2))
        source = Counted()
        assert content(prepare(source).path) == whole
        assert stores(small) == [path.name]


def test_what_is_certain_is_not_asked_for_again(small, whole):
    class Stopped(Counted):
        def episode(self, i):
            if i == 5:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().episode(i)

    if (child := os.fork()) == 0:
        prepare(Stopped())
    os.waitpid(child, 0)
    source, seen = Counted(), []
    path = prepare(source, lambda done, total: seen.append((done, total))).path
    # Counted as the same source: the class is no part of the content. Two episodes at most are lost.
    assert source.asked == [4, 5, 6]
    assert seen == [(5, 7), (6, 7), (7, 7)]
    assert content(path) == whole


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), HubError("nobody answers"), ValueError("odd")])
def test_what_passes_loses_nothing(small, whole, stop):
    class Stopped(Counted):
        def episode(self, i):
            if i == 5:
                raise stop
            return super().episode(i)

    with pytest.raises(type(stop)):
        prepare(Stopped())
    source = Counted()
    assert content(prepare(source).path) == whole
    assert source.asked == [5, 6]


@pytest.mark.parametrize(
    ("stop", "said"),
    [
        (OSError(errno.ESTALE, "Stale file handle"), "tests/talk-v0: cannot be read: Stale file handle; 5 episodes are kept"),
        (OSError("Can't read data (errno = 5, error message = 'I/O error')"), "cannot be read: .*; 5 episodes are kept"),
    ],
)
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_source_that_cannot_be_read_for_now_loses_nothing(small, whole, stop, said, wrapped):
    class Stopped(Counted):
        def episode(self, i):
            if i == 5 and wrapped:
                raise DataError("tests/talk-v0: cannot be read: Stale file handle") from stop
            if i == 5:
                raise stop
            return super().episode(i)

    with pytest.raises(DataError, match=said):
        prepare(Stopped())
    source = Counted()
    assert content(prepare(source).path) == whole
    assert source.asked == [5, 6]


def test_too_little_memory_loses_nothing(small, whole):
    class Stopped(Counted):
        def episode(self, i):
            if i == 5:
                raise DataError("row group 3 cannot be read") from MemoryError("malloc failed")
            return super().episode(i)

    with pytest.raises(DataError, match="row group 3 cannot be read; 5 episodes are kept"):
        prepare(Stopped())
    source = Counted()
    prepare(source)
    assert source.asked == [5, 6]


def test_more_infos_than_a_column_holds_are_told_at_once(small, monkeypatch):
    monkeypatch.setattr(partial, "_MOST_INFOS", 50)
    source = Counted()
    with pytest.raises(DataError, match="talk-v0: more than 50 bytes of info about the episodes up to 3; leave some"):
        prepare(source)
    assert source.asked == [0, 1, 2, 3]
    assert stores(small) == []


def test_broken_data_leave_nothing(small):
    class Broken(Counted):
        def episode(self, i):
            made = super().episode(i)
            if i == 5:
                made.rew[2] = np.nan
            return made

    with pytest.raises(DataError, match="episode 5, step 2: reward is nan"):
        prepare(Broken())
    assert stores(small) == []


def test_a_full_disk_at_any_write(small, whole, monkeypatch):
    said = set()
    for k in range(1, 400, 14):
        full = OSError(28, "No space left on device")

        def strike(n, k=k, full=full):
            if n >= k:
                raise full

        with monkeypatch.context() as m:
            at_each_call(m, strike)
            try:
                prepare(Counted())
            except DataError as e:
                said.add(str(e).partition("written: ")[2])
            else:
                break
        assert content(prepare(Counted()).path) == whole
        for p in (small / "cache" / "stores").iterdir():
            partial.shutil.rmtree(p)
    assert k > 150
    assert "no space left on the disk; nothing was left behind" in said
    assert "no space left on the disk; 7 episodes are kept, so doing it again goes on from there" in said


def test_a_disk_that_is_full_for_real(small, whole):
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        # A limit on the size of files stands in for the end of the disk.
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (250, 250))
        try:
            prepare(Counted(lengths=(5, 1, 9, 0, 3, 7, 4, 50, 50)))
        except DataError as e:
            os.write(write, str(e).encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(write)
    said = os.read(read, 10_000).decode()
    os.close(read)
    assert "could not be written: File too large" in said


def left_over(mark, place=""):
    """An interrupted conversion of the same dataset with other content."""
    there = place

    class Stopped(Counted):
        place = there

        def episode(self, i):
            if i == 4:
                raise KeyboardInterrupt
            return super().episode(i)

    with pytest.raises(KeyboardInterrupt):
        prepare(Stopped(mark=mark))


def test_a_changed_source_begins_anew_and_clears_up(small):
    left_over("before")
    (old,) = stores(small)
    assert old.endswith(".partial")
    source = Counted(mark="now")
    path = prepare(source).path
    assert source.asked == list(range(7))
    assert stores(small) == [path.name]


def test_another_dataset_of_the_same_name_is_left_alone(small):
    left_over("one", "one/pusht")
    (old,) = stores(small)
    source = Counted(mark="other")
    source.place = "other/pusht"
    path = prepare(source).path
    assert stores(small) == sorted([old, path.name])
    # What was begun goes on from another place, too, where the content is the same.
    moved = Counted(mark="one")
    moved.place = "moved/pusht"
    prepare(moved)
    assert moved.asked == [4, 5, 6]


def test_a_conversion_under_way_elsewhere_is_left_alone(small):
    left_over("elsewhere")
    (old,) = stores(small)
    with one_at_a_time(small / "cache" / "stores" / old[1 : -len(".partial")]):
        path = prepare(Counted(mark="now")).path
        assert stores(small) == sorted([old, path.name])


@pytest.mark.parametrize(
    "journal", ["", "{", "[]", '{"about": 1}', "gone", "shorter", "other columns", "[" * 100_000, "negative", "words"]
)
def test_what_cannot_be_trusted_is_begun_anew(small, whole, journal):
    left_over("a")
    (folder,) = (small / "cache" / "stores").iterdir()
    path = folder / "journal.json"
    told = json.loads(path.read_text())
    if journal == "gone":
        path.unlink()
    elif journal == "shorter":
        (folder / "0.raw").write_bytes(b"")
    elif journal == "other columns":
        path.write_text(json.dumps(told | {"about": told["about"] | {"columns": {}}}))
    elif journal == "negative":
        path.write_text(json.dumps(told | {"rows": -4}))
    elif journal == "words":
        (folder / "texts.raw").write_bytes(b"x" * told["texts"])
    else:
        path.write_text(journal)
    source = Counted()
    assert content(prepare(source).path) == whole
    assert source.asked == list(range(7))


def test_a_store_that_was_whole_but_for_its_name(small, whole, monkeypatch):
    def stop(self, target):
        raise KeyboardInterrupt

    with monkeypatch.context() as m:
        m.setattr(Path, "rename", stop)
        with pytest.raises(KeyboardInterrupt):
            prepare(Counted())
    source = Counted()
    assert content(prepare(source).path) == whole
    assert source.asked == []


def test_a_source_that_does_not_know_how_many_there_are(small, whole):
    class Walked(Counted):
        def __len__(self):
            raise AssertionError("it does not know")

        def expected(self):
            return 2

        def walk(self, first):
            return map(self.episode, range(first, len(self.lengths)))

    seen = []
    assert content(prepare(Walked(), lambda done, total: seen.append((done, total))).path) == whole
    assert seen == [(1, 2), (2, 2), (3, 3), (4, 4), (5, 5), (6, 6), (7, 7)]
