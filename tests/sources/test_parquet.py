"""Parquet from a folder: what is cut, mixed up or not what it says is refused; groups and files may end anywhere."""

import json
import shutil

import numpy as np
import pytest

from seqrl.core.episode import Episode, EpisodeSpec, Modality
from seqrl.core.errors import DataError
from seqrl.sources import _parquet, parquet


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "parquet" if parquet.tiny(tmp_path) else None


def source(folder):
    return parquet.Source(parquet.Config(id=str(folder)))


def read_all(folder):
    found = source(folder)
    return [found.episode(i) for i in range(len(found))]


KINDS = ["bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float16", "float32", "float64"]


@pytest.mark.parametrize("group", [1, 40, 10_000])
def test_every_dtype_and_shape_comes_back_whatever_the_groups(tmp_path, same_episode, group):
    rng = np.random.default_rng(1)
    shapes = {"": (), "/row": (3,), "/one": (1,), "/block": (2, 3, 2)}
    obs = {f"{k}{n}": Modality("vector", s, k) for k in KINDS for n, s in shapes.items()}
    act = {"action": Modality("vector", (2,), "float32"), "word": Modality("text", (), "str")}
    spec = EpisodeSpec("all/kinds-v0", obs, act)

    def bits(m, count):
        size = count * m.size * np.dtype(m.dtype).itemsize
        raw = np.frombuffer(rng.bytes(size), m.dtype) if m.dtype != "bool" else rng.integers(0, 2, size).astype(bool)
        return raw.reshape(count, *m.shape)

    def episode(i, T):
        words = np.array([f"é{k}" * (k % 3) for k in range(T)], dtype=np.str_)
        done = {"action": rng.standard_normal((T, 2)).astype(np.float32), "word": words}
        last = np.arange(T) == T - 1
        return Episode(
            {n: bits(m, T + 1) for n, m in obs.items()}, done, np.float32([-0.0] * T), last, ~last, f"e{i}", {"a": [i]}
        )

    made = [episode(i, T) for i, T in enumerate((5, 1, 12))]
    (tmp_path / "x").mkdir()
    _parquet.write_parquet(made, spec, tmp_path / "x", group=group * 1000, file=group * 3000)
    back = source(tmp_path / "x")
    assert back.spec == spec
    for i in (2, 0, 1):
        a, b = back.episode(i), made[i]
        assert (a.id, a.info) == (b.id, b.info)
        for part in ("obs", "act"):
            for name, values in getattr(b, part).items():
                again = getattr(a, part)[name]
                # By their bytes: not every bit pattern is a number that equals itself.
                assert again.tolist() == values.tolist() if values.dtype.kind == "U" else again.tobytes() == values.tobytes()
        assert a.rew.tobytes() == b.rew.tobytes()
        assert (a.terminated.tolist(), a.truncated.tolist()) == (b.terminated.tolist(), b.truncated.tolist())


def test_it_lies_in_several_files_and_groups(folder):
    parts = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.parquet"))
    assert parts[0] == "episodes/part-00000.parquet"
    assert len(parts) > 2
    assert len(source(folder)._groups) > 2


def test_the_fingerprint_is_of_the_content_and_not_of_the_place(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    assert source(tmp_path / "copy").fingerprint() == source(folder).fingerprint()
    (tmp_path / "copy" / "notes.txt").write_text("more")
    assert source(tmp_path / "copy").fingerprint() == source(folder).fingerprint()


def rewrite(folder, **changes):
    path = folder / "spec.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def spoil(folder, what):
    steps = sorted((folder / "steps").iterdir())
    if what == "no spec":
        (folder / "spec.json").unlink()
    elif what == "no json":
        (folder / "spec.json").write_text("{")
    elif what == "newer":
        rewrite(folder, format=99)
    elif what == "no spec in it":
        rewrite(folder, spec={"id": "x"})
    elif what == "other count":
        rewrite(folder, episodes=4)
    elif what == "cut":
        steps[0].write_bytes(steps[0].read_bytes()[:-30])
    elif what == "part missing":
        steps[0].unlink()
    elif what == "last part missing":
        steps[-1].unlink()
    elif what == "no episodes":
        shutil.rmtree(folder / "episodes")
    elif what == "other columns":
        shutil.copy(folder / "episodes" / "part-00000.parquet", steps[0])
    elif what == "swapped":
        other = steps[0].read_bytes()
        steps[0].write_bytes(steps[1].read_bytes())
        steps[1].write_bytes(other)


SPOILED = {
    "no spec": r"spec\.json: cannot be read",
    "no json": r"spec\.json: cannot be read",
    "newer": "format 99, this seqrl reads 1; update seqrl",
    "no spec in it": "this is no spec of episodes",
    "other count": "but it says",
    "cut": r"part-00000\.parquet: cut off or broken",
    "part missing": "a part is missing",
    "last part missing": "but it says",
    "no episodes": "a part is missing",
    "other columns": r"its columns are not those that spec\.json promises",
    "swapped": "are not in order|rows of",
}


@pytest.mark.parametrize("what", SPOILED)
def test_what_is_not_whole_is_refused(folder, what):
    spoil(folder, what)
    with pytest.raises(DataError, match=SPOILED[what]):
        read_all(folder)


def test_a_wrong_byte_is_refused(folder):
    path = sorted((folder / "steps").iterdir())[0]
    content = bytearray(path.read_bytes())
    content[60:64] = b"\xff\xff\xff\xff"
    path.write_bytes(content)
    with pytest.raises(DataError, match="cannot be read|cut off|not in order"):
        source(folder).episode(0)


def test_nothing_is_written_without_steps(tmp_path):
    (tmp_path / "x").mkdir()
    spec = EpisodeSpec("none/none-v0", {"observation": Modality("vector", (1,), "float32")}, {})
    with pytest.raises(DataError, match="is empty: it has no steps"):
        _parquet.write_parquet([], spec, tmp_path / "x")


def written(folder, text="", steps=2000):
    """One episode whose rows are all alike, written so that equal values lie in the file once."""
    from pyarrow import parquet as files

    folder.mkdir()
    obs = {"observation": Modality("vector", (16,), "float64"), "mission": Modality("text", (), "str")}
    spec = EpisodeSpec("same/rows-v0", obs, {"action": Modality("vector", (2,), "float32")})
    act, last = {"action": np.zeros((steps, 2), np.float32)}, np.arange(steps) == steps - 1
    seen = {"observation": np.zeros((steps + 1, 16)), "mission": np.array([text] * (steps + 1))}
    _parquet.write_parquet([Episode(seen, act, np.zeros(steps, np.float32), last, ~last, 0, {})], spec, folder)
    path = folder / "steps" / "part-00000.parquet"
    files.write_table(files.read_table(path), path)
    return files.ParquetFile(path).metadata.row_group(0).total_byte_size


def test_rows_that_would_be_large_in_memory_are_refused_before(tmp_path, monkeypatch):
    encoded = written(tmp_path / "x")
    monkeypatch.setattr(parquet, "_GROUP_LIMIT", 1 << 17)
    assert encoded < 1 << 16
    with pytest.raises(DataError, match=r"part-00000\.parquet: a row group of \d{3},\d{3} bytes"):
        source(tmp_path / "x")


def test_a_text_said_many_times_is_refused_before(tmp_path, monkeypatch):
    encoded = written(tmp_path / "x", "long" * 3000)
    monkeypatch.setattr(parquet, "_GROUP_LIMIT", 1 << 20)
    assert encoded < 1 << 16
    found = source(tmp_path / "x")
    with pytest.raises(DataError, match=r"an episode with 96,048,000 bytes of texts"):
        found.episode(0)


def test_more_episodes_than_promised_are_refused_before_they_are_read(folder, monkeypatch):
    import pyarrow as pa
    from pyarrow import parquet as files

    path = folder / "episodes" / "part-00000.parquet"
    table = files.read_table(path)
    files.write_table(pa.concat_tables([table] * 1000), path)
    monkeypatch.setattr(parquet, "_numpy", None)
    with pytest.raises(DataError, match="rows of 3000 episodes, but it says 15 of 3"):
        source(folder)


def test_columns_with_other_rows_than_their_group_are_refused():
    from types import SimpleNamespace as Stand

    import pyarrow as pa

    many = Stand(num_values=10**12)
    group = Stand(num_rows=4, total_byte_size=100, column=lambda c: many)
    with pytest.raises(ValueError, match="1,000,000,000,000 values of a in 4 rows"):
        parquet._size(group, pa.schema([("a", pa.int64())]))
