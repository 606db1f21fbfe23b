"""The store: lossless, mapped, made once however many want it, made anew when it is broken, and frank about bad data."""

import dataclasses
import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seqrl.core.episode import Episode, EpisodeSpec, Modality
from seqrl.core.errors import DataError
from seqrl.data import convert, partial
from seqrl.data.store import Store, prepare
from seqrl.sources import _files, minari


def folders(home):
    """What lies among the stores, hidden things included."""
    return sorted(p.name for p in (home / "cache" / "stores").glob("*")) if (home / "cache" / "stores").exists() else []


def test_rows_and_episodes(home, memory):
    source = memory((5, 1, 9))
    store = prepare(source)
    e = store.episodes
    assert (store.steps, store.rows, len(store)) == (15, 18, 3)
    assert e.row.tolist() == [0, 6, 8]
    assert e.length.tolist() == [5, 1, 9]
    assert e.seed.tolist() == [100, 101, 102]
    assert e.index.tolist() == [0, 1, 2]
    assert e.terminated.tolist() == [True] * 3
    np.testing.assert_array_equal(e.total, [x.total for x in source.episodes])
    assert store.column("obs.observation").shape == (18, 3)
    assert store.column("episode").tolist() == [0] * 6 + [1] * 2 + [2] * 10
    last = e.row + e.length
    for name in ("act.action", "reward", "terminated", "truncated"):
        assert not store.column(name)[last].any()
    assert store.column("terminated").dtype == np.uint8


def test_columns_are_read_only_views_of_the_file(home, memory):
    store = prepare(memory())
    for name in store.names:
        column = store.column(name)
        assert not column.flags.writeable
        assert not column.flags.owndata
    with pytest.raises(DataError, match=r"no column 'obs.x'; there are obs.observation, act.action, reward"):
        store.column("obs.x")
    with pytest.raises(DataError, match="no text column"):
        store.text("reward", slice(0, 1))


def test_it_pickles_as_its_path(home, memory, same_episode):
    store = prepare(memory())
    there = pickle.loads(pickle.dumps(store))
    assert len(pickle.dumps(store)) < 1000
    same_episode(there.episode(2), store.episode(2))


def test_it_is_a_datasets_dataset(home, memory):
    import datasets

    store = prepare(memory())
    read = datasets.Dataset.from_file(str(store.path / convert.STEPS))
    assert len(read) == store.rows
    assert read[7]["obs.observation"] == store.column("obs.observation")[7].tolist()
    assert len(read.data.column("reward").chunks) == 1


# ---- any space there is ---------------------------------------------------------------------------------------------

FLOATS = st.sampled_from(["float16", "float32", "float64"])
INTEGERS = st.sampled_from(["int8", "uint8", "int16", "int32", "uint32", "int64", "bool"])
SHAPES = st.lists(st.integers(0, 3), max_size=3).map(tuple)


@st.composite
def modalities(draw):
    kind = draw(st.sampled_from(["vector", "integers", "discrete", "image", "text"]))
    shape = draw(SHAPES)
    if kind == "text":
        return Modality("text", (), "str")
    if kind == "image":
        return Modality("image", (3, 2, 1), "uint8")
    size = int(np.prod(shape))
    if kind == "discrete":
        n = draw(st.lists(st.integers(1, 5), min_size=size, max_size=size))
        start = draw(st.lists(st.integers(-3, 3), min_size=size, max_size=size))
        return Modality("discrete", shape, "int64", n=tuple(n), start=tuple(start))
    dtype = draw(FLOATS if kind == "vector" else INTEGERS)
    return Modality("vector", shape, dtype, (-np.inf,) * size, (np.inf,) * size)


def values_of(m, count, rng):
    if m.kind == "text":
        return np.array([f"{w} ö " for w in rng.choice(["", "go", "to the red ball", "€"], count)], dtype=str)
    if m.kind == "discrete":
        low = np.reshape(m.start, m.shape)
        return rng.integers(low, low + np.reshape(m.n, m.shape), (count, *m.shape))
    return rng.integers(0, 2 if m.dtype == "bool" else 100, (count, *m.shape)).astype(m.dtype)


@st.composite
def sources(draw):
    named = st.dictionaries(st.sampled_from(["a", "b", "c/d", "c/e", "7"]), modalities(), min_size=1, max_size=3)
    spec = EpisodeSpec("tests/random-v0", draw(named), draw(named), about={"seed": 1})
    rng = np.random.default_rng(draw(st.integers(0, 1 << 30)))
    episodes = []
    for i, T in enumerate([*draw(st.lists(st.integers(0, 6), min_size=1, max_size=4)), 2]):
        obs = {n: values_of(m, T + 1, rng) for n, m in spec.obs.items()}
        act = {n: values_of(m, T, rng) for n, m in spec.act.items()}
        info = {"seed": int(rng.integers(9)), "note": "x"} if rng.random() < 0.5 else {}
        flags = rng.random((2, T)) < 0.3
        episodes.append(Episode(obs, act, rng.standard_normal(T).astype(np.float32), *flags, i, info))
    return spec, episodes


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(made=sources())
def test_a_store_gives_back_every_bit(home, memory, same_episode, made):
    source = memory.of(*made)
    store = prepare(source)
    assert Store(store.path).spec == source.spec
    for i, episode in enumerate(source.episodes):
        same_episode(store.episode(i), episode)


def test_texts_are_numbers_on_disk(home, memory):
    spec = EpisodeSpec("t/t-v0", {"mission": Modality("text", (), "str")}, {"a": Modality("discrete", (), "int64", n=(2,))})
    words = [np.array(["go left"] * 3), np.array(["go right", "go left"])]
    episodes = [Episode({"mission": w}, {"a": np.ones(len(w) - 1, int)}, *np.zeros((3, len(w) - 1), np.float32)) for w in words]
    episodes = [
        dataclasses.replace(e, terminated=e.terminated.astype(bool), truncated=e.truncated.astype(bool)) for e in episodes
    ]
    store = prepare(memory.of(spec, episodes))
    assert store.column("obs.mission").tolist() == [0, 0, 0, 1, 0]
    assert store.text("obs.mission", np.array([3, 0])).tolist() == ["go right", "go left"]


# ---- made once, whole or not at all ---------------------------------------------------------------------------------


def test_it_is_converted_once(home, memory):
    source, seen = memory(), []
    first = prepare(source, lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    again = prepare(source, lambda *_: pytest.fail("converted twice"))
    assert again.path == first.path
    assert folders(home) == [first.path.name]


# Converts slowly in a process of its own; says which folder came out and how many episodes it converted itself.
SLOWLY = """
import time
from seqrl.data.store import prepare
from seqrl.sources import minari

done = []

def progress(i, total):
    done.append(i)
    print("converting", flush=True)
    time.sleep(0.15)

store = prepare(minari.Source(minari.tiny_config), progress)
print(store.path.name, len(done), store.episodes.total.sum())
"""


def start(id):
    code = SLOWLY.replace("minari.tiny_config", f"minari.Config(id={id!r})")
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


def test_two_processes_at_once_share_the_work(home):
    config = minari.tiny(home)
    both = [start(config.id) for _ in range(2)]
    said = [p.communicate(timeout=60)[0].splitlines()[-1].split() for p in both]
    assert said[0][0] == said[1][0]
    assert sorted(s[1] for s in said) == ["0", "3"]
    assert said[0][2] == said[1][2]
    assert folders(home) == [said[0][0]]


def swap(path, **columns):
    """The Arrow file with other columns in place of those it has."""
    import pyarrow as pa

    with pa.ipc.open_stream(path.read_bytes()) as stream:
        batch = stream.read_next_batch()
    batch = pa.record_batch({n: columns.get(n, batch[n]) for n in batch.schema.names})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    about = json.loads((path.parent / convert.ABOUT).read_text())
    about["sizes"][path.name] = path.stat().st_size
    (path.parent / convert.ABOUT).write_text(json.dumps(about))


def test_what_a_store_says_of_itself_is_not_believed(home, memory):
    import pyarrow as pa

    source = memory((5, 6))
    path = prepare(source).path
    for wrong in ({"row": [0, 7]}, {"row": [0, 1 << 60]}, {"length": [-1, 13]}, {"length": [6, 6]}):
        swap(path / convert.EPISODES, **{n: pa.array(v, pa.int64()) for n, v in wrong.items()})
        with pytest.raises(DataError, match="its episodes are not its rows"):
            Store(path)
        assert prepare(source).episodes.row.tolist() == [0, 6]
    swap(path / convert.STEPS, reward=pa.array([0.0] * 13, pa.float64()))
    with pytest.raises(DataError, match="other columns than its spec says"):
        Store(path)
    for about in ("[]", "{}", '{"sizes": 1}', '{"sizes": {}, "format": 1}', "[" * 100_000):
        (path / convert.ABOUT).write_text(about)
        with pytest.raises(DataError, match="not a store, or a broken one|written as format None"):
            Store(path)
    far = pa.StringArray.from_buffers(2, pa.py_buffer(np.array([0, 1 << 30, 2], np.int32)), pa.py_buffer(b"{}"))
    prepare(source)
    swap(path / convert.EPISODES, info=far)
    with pytest.raises(DataError, match="broken at episode 0"):
        Store(path).episode(0)


@pytest.mark.parametrize("what", ["cut", "longer", "gone", "no facts", "wrong facts"])
def test_a_broken_store_is_made_anew(home, memory, same_episode, what):
    source = memory((50, 60))
    path = prepare(source).path
    steps, about = path / convert.STEPS, path / convert.ABOUT
    if what == "cut":
        os.truncate(steps, steps.stat().st_size // 2)
    elif what == "longer":
        steps.write_bytes(steps.read_bytes() + b"x")
    elif what == "gone":
        (path / convert.EPISODES).unlink()
    elif what == "no facts":
        about.unlink()
    else:
        about.write_text("{")
    with pytest.raises(DataError, match="cut off|broken one"):
        Store(path)
    store = prepare(source)
    assert store.path == path
    same_episode(store.episode(1), source.episode(1))


def test_a_header_that_is_no_arrow_is_found_out(home, memory):
    source = memory()
    path = prepare(source).path
    content = bytearray((path / convert.STEPS).read_bytes())
    content[:64] = bytes(64)
    (path / convert.STEPS).write_bytes(content)
    with pytest.raises(DataError, match="broken"):
        Store(path)
    assert prepare(source).steps == source.lengths.sum()


@pytest.mark.parametrize("failure", [KeyboardInterrupt, OSError(28, "No space left on device"), ValueError("odd")])
def test_nothing_is_left_when_it_fails(home, memory, monkeypatch, failure):
    def broken(self, name, content):
        raise failure

    monkeypatch.setattr(partial.Partial, "_append", broken)
    wanted = DataError if isinstance(failure, OSError) else type(failure) if isinstance(failure, Exception) else failure
    with pytest.raises(wanted) as told:
        prepare(memory())
    if wanted is DataError:
        assert "no space left on the disk; nothing was left behind" in str(told.value)
    assert folders(home) == []


def test_a_full_disk_for_real(home, memory):
    # A limit on the size of files stands in for the end of the disk; it holds for a whole process, hence the child.
    code = """
import resource, signal, sys, numpy as np
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
from seqrl.core.errors import DataError
from seqrl.sources import collected
try:
    collected.collect("CartPole-v1", 400, "tests/large-v0", "scripted")
except DataError as e:
    print(e)
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "large-v0: could not be written: File too large; nothing was left behind" in said.stdout
    # HDF5 would fill the screen and crash.
    assert said.stderr == ""
    assert said.returncode == 0
    assert not (home / "datasets").exists()


def test_what_a_killed_writer_left_is_taken_up(home):
    config = minari.tiny(home)
    child = start(config.id)
    assert child.stdout.readline() == "converting\n"
    child.kill()
    child.communicate()
    assert any(name.endswith(".partial") for name in folders(home))
    store = prepare(minari.Source(config))
    assert folders(home) == [store.path.name]


def test_a_cache_that_cannot_be_written(home, memory, monkeypatch):
    (home / "file").touch()
    monkeypatch.setenv("SEQRL_CACHE", str(home / "file"))
    with pytest.raises(DataError, match="set SEQRL_CACHE"):
        prepare(memory())


def test_why_says_it_in_few_words():
    assert _files.why(OSError(28, "x")) == "no space left on the disk"
    assert _files.why(OSError(2, "No such file")) == "No such file"
    assert _files.why(ValueError("first\nsecond")) == "first"
    assert _files.why(ValueError()) == "ValueError"


# ---- bad data -------------------------------------------------------------------------------------------------------


def spoiled(memory, part, name, where, value):
    source = memory((5, 8), name="bad/data-v0")
    values = getattr(source.episodes[1], part)
    (values[name] if name else values)[where] = value
    return source


@pytest.mark.parametrize(
    ("part", "name", "where", "value", "said"),
    [
        ("obs", "observation", (7, 2), np.nan, "episode 1, step 7: obs.observation[2] is nan"),
        ("obs", "observation", (8, 0), np.inf, "episode 1, step 8: obs.observation[0] is inf"),
        ("act", "action", (0, 1), -np.inf, "episode 1, step 0: act.action[1] is -inf"),
        ("rew", None, (3,), np.nan, "episode 1, step 3: reward is nan"),
        ("act", "action", (4, 1), 1.7, "wrong action bounds: episode 1, step 4: act.action[1] is 1.7, outside [-1, 1]"),
        ("act", "action", (4, 0), -1.001, "episode 1, step 4: act.action[0] is -1.001, outside [-1, 1]"),
    ],
)
def test_bad_numbers_are_told_with_their_place(home, memory, part, name, where, value, said):
    with pytest.raises(DataError) as told:
        prepare(spoiled(memory, part, name, where, value))
    assert str(told.value).startswith("bad/data-v0: ")
    assert said in str(told.value)
    assert folders(home) == []


def test_rounding_is_no_mistake(home, memory):
    store = prepare(spoiled(memory, "act", "action", (4, 1), 1.00005))
    assert store.column("act.action").max() == np.float32(1.00005)


def test_choices_must_be_there(home, memory):
    spec = EpisodeSpec(
        "bad/choice-v0",
        {"o": Modality("discrete", (2,), "int64", n=(3, 4), start=(0, 1))},
        {"a": Modality("discrete", (), "int64", n=(2,))},
    )

    def source(o, a):
        flags = np.zeros((2, 1), bool)
        return memory.of(spec, [Episode({"o": np.array(o)}, {"a": np.array(a)}, np.zeros(1, np.float32), *flags)])

    prepare(source([[0, 4], [2, 1]], [1]))
    with pytest.raises(DataError, match=r"wrong action bounds: episode 0, step 0: act.a is 2, outside \[0, 1\]"):
        prepare(source([[0, 4], [2, 1]], [2]))
    with pytest.raises(DataError, match=r"wrong observation bounds: episode 0, step 1: obs.o\[1\] is 5, outside \[1, 4\]"):
        prepare(source([[0, 4], [2, 5]], [1]))


def test_an_episode_that_is_not_what_the_spec_says(home, memory):
    source = memory((3, 4))
    wrong = {"observation": source.episodes[1].obs["observation"].astype(np.float64)}
    source.episodes[1] = dataclasses.replace(source.episodes[1], obs=wrong)
    with pytest.raises(DataError, match="episode 1: obs.observation is float64 of shape .3,., but the spec says float32"):
        prepare(source)
    source.episodes[1] = dataclasses.replace(source.episodes[0], act={})
    with pytest.raises(DataError, match="episode 1 has act , but the spec action"):
        prepare(source)


def test_no_steps_at_all(home, memory):
    for lengths in ((), (0, 0)):
        with pytest.raises(DataError, match="tests/vectors-v0 is empty: it has no steps"):
            prepare(memory(lengths))
