"""Tables of anybody's making: other names, other files, and what is wrong in them told with file, row and column."""

import json

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from seqrl.core.errors import DataError
from seqrl.data.store import prepare
from seqrl.sources import _rows, rows


def table(lengths=(4, 1, 7), **more):
    """Columns with LeRobot's names; ``None`` leaves one out."""
    rng, count = np.random.default_rng(0), sum(lengths)
    ends = np.cumsum(lengths) - 1
    columns = {
        "observation.state": list(rng.standard_normal((count, 3)).astype(np.float32)),
        "action": list(rng.uniform(-1, 1, (count, 2)).astype(np.float32)),
        "episode_index": np.repeat(np.arange(len(lengths)), lengths),
        "frame_index": np.concatenate([np.arange(T) for T in lengths]),
        "next.reward": rng.standard_normal(count).astype(np.float32),
        "next.done": np.isin(np.arange(count), ends),
    } | more
    return pa.table({n: v for n, v in columns.items() if v is not None})


def save(folder, *tables, group=3, ends="parquet"):
    folder.mkdir(exist_ok=True)
    for k, one in enumerate(tables):
        path = folder / f"part-{k:03d}.{ends}"
        if ends == "parquet":
            parquet.write_table(one, path, row_group_size=group)
            continue
        new = pa.ipc.new_file if ends == "feather" else pa.ipc.new_stream
        with pa.OSFile(str(path), "wb") as sink, new(sink, one.schema) as writer:
            writer.write_table(one, max_chunksize=group)
    return folder


def source(folder, **more):
    return rows.Source(rows.Config(id=str(folder), **more))


def everything(found):
    return [found.episode(i) for i in range(len(found))]


def equal(a, b):
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        for part in ("obs", "act"):
            assert {n: v.tolist() for n, v in getattr(x, part).items()} == {n: v.tolist() for n, v in getattr(y, part).items()}
        for part in ("rew", "terminated", "truncated"):
            assert getattr(x, part).tolist() == getattr(y, part).tolist()


def test_lerobots_names_are_understood(tmp_path):
    made = table()
    found = source(save(tmp_path / "x", made))
    episode = found.episode(2)
    state = np.array(made["observation.state"].to_pylist(), np.float32)
    assert list(episode.obs) == ["state"]
    np.testing.assert_array_equal(episode.obs["state"], np.concatenate([state[5:], state[-1:]]))
    np.testing.assert_array_equal(episode.act["action"], np.array(made["action"].to_pylist(), np.float32)[5:])
    np.testing.assert_array_equal(episode.rew, made["next.reward"].to_numpy()[5:])
    assert episode.truncated.tolist() == [False] * 6 + [True]
    assert not episode.terminated.any()
    assert episode.info == {"final_observation": "unknown"}
    assert found.lengths.tolist() == [4, 1, 7]


@pytest.mark.parametrize("ends", ["parquet", "arrow", "feather"])
@pytest.mark.parametrize("cuts", [(), (5,), (2, 9), (0, 12)])
@pytest.mark.parametrize("piece", [1, 1 << 24])
def test_however_it_is_cut_it_is_the_same(tmp_path, monkeypatch, ends, cuts, piece):
    made = table()
    wanted = everything(source(save(tmp_path / "x", made)))
    monkeypatch.setattr(_rows, "_PIECE", piece)
    pieces = [made[a:b] for a, b in zip((0, *cuts), (*cuts, len(made)), strict=True)]
    equal(everything(source(save(tmp_path / "y", *pieces, ends=ends))), wanted)
    found = source(tmp_path / "y")
    assert found.lengths.tolist() == [4, 1, 7]
    equal(list(found.walk(1)), wanted[1:])
    assert list(found.walk(3)) == []


def test_other_names(tmp_path):
    made = table(episode_index=None, frame_index=None, **{"next.reward": None, "next.done": None})
    made = made.append_column("s", made["observation.state"]).append_column(
        "over", pa.array(np.isin(np.arange(12), [3, 4, 11]))
    )
    made = made.append_column("a", pa.array(np.arange(12) % 3)).append_column("words", pa.array([f"go {i}" for i in range(12)]))
    made = made.append_column(
        "picture", pa.array([[[[k, 1, 2]] * 2] * 2 for k in range(12)], pa.list_(pa.list_(pa.list_(pa.uint8()))))
    )
    obs = {"state": "s", "mission": "words", "image": "picture"}
    found = source(
        save(tmp_path / "x", made), obs=obs, act={"move": "a"}, terminated="over", choices={"move": 3}, env="CartPole-v1"
    )
    kinds = {n: (m.kind, m.shape) for n, m in {**found.spec.obs, **found.spec.act}.items()}
    assert kinds == {
        "state": ("vector", (3,)),
        "mission": ("text", ()),
        "image": ("image", (2, 2, 3)),
        "move": ("discrete", ()),
    }
    assert found.lengths.tolist() == [4, 1, 7]
    episode = prepare(found).episode(2)
    assert episode.terminated.tolist() == [False] * 6 + [True]
    assert not episode.truncated.any()
    assert not episode.rew.any()
    assert episode.obs["mission"].tolist() == [f"go {i}" for i in (*range(5, 12), 11)]
    assert episode.obs["image"][1, 0, 0].tolist() == [6, 1, 2]
    assert found.spec.env["id"] == "CartPole-v1"


def test_what_datasets_saved_is_read(tmp_path):
    import datasets

    made = table()
    datasets.Dataset(made).save_to_disk(str(tmp_path / "x"), num_shards=2)
    (tmp_path / "x" / "cache-1234.arrow").write_bytes(b"no part of it")
    equal(everything(source(tmp_path / "x")), everything(source(save(tmp_path / "y", made))))


def test_files_can_be_chosen_and_none_lies_elsewhere(tmp_path):
    folder = save(tmp_path / "x", table())
    save(tmp_path / "x" / "data", table((2,)))
    save(tmp_path / "y", table((3, 3)))
    (tmp_path / "x" / "data" / "away.parquet").symlink_to(tmp_path / "y" / "part-000.parquet")
    assert source(folder).lengths.tolist() == [2]
    assert source(folder, files="x/*.parquet".removeprefix("x/")).lengths.tolist()[-1] == 7
    with pytest.raises(DataError, match=r"there is no .*file in it like \.\./y/\*"):
        source(folder, files="../y/*")
    with pytest.raises(DataError, match="no such folder"):
        source(tmp_path / "none")


def test_the_content_and_the_columns_make_the_fingerprint(tmp_path):
    folder = save(tmp_path / "x", table())
    assert source(folder).fingerprint() == source(save(tmp_path / "y", table())).fingerprint()
    assert source(folder).fingerprint() != source(folder, bounds={"action": (-1, 1)}).fingerprint()


def test_a_conversion_goes_on_inside_of_a_file(tmp_path, home, monkeypatch):
    from seqrl.data import partial

    monkeypatch.setattr(partial, "EPISODES", 2)
    folder, seen = (
        save(tmp_path / "x", table((4, 1, 7))[:8], table((4, 1, 7))[8:], table((3, 3), episode_index=[7] * 3 + [8] * 3)),
        [],
    )

    def stop(done, total):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(source(folder), stop)
    store = prepare(source(folder), lambda done, total: seen.append((done, total)))
    assert seen[0][0] == 4
    equal([store.episode(i) for i in range(5)], everything(source(folder)))


STATES = np.zeros((12, 3)).tolist()
WRONG = {
    "ragged": (
        {"observation.state": [*STATES[:7], [1.0], *STATES[8:]]},
        {},
        "row 7: column 'observation.state' has 1 values, and 3",
    ),
    "missing": ({"next.reward": [0.0] * 5 + [None] + [0.0] * 6}, {}, "row 5: column 'next.reward' has no value there"),
    "inner": ({"action": [[0.0, None]] * 12}, {}, "row 0: column 'action' has no value there"),
    "order": (
        {"frame_index": [0, 1, 2, 3, 0, 0, 1, 2, 3, 5, 4, 6]},
        {},
        "row 9: column 'frame_index' does not count up by one",
    ),
    "flag": (
        {"next.done": [False] * 6 + [True] * 6},
        {},
        r"row 6: column 'next.done' says that the episode ends.*\(episode 2\)",
    ),
    "twice": (
        {"episode_index": [0, 0, 1, 1, 0, 2, 2, 2, 2, 2, 2, 2], "frame_index": None},
        {},
        "row 4: episode 0 comes a second time",
    ),
    "no column": ({}, {"reward": "rewrd"}, "no column 'rewrd'"),
    "no obs": ({"observation.state": None}, {}, r"no column is called observation or observation\.\*"),
    "struct": ({"action": [{"a": 1}] * 12}, {}, "column 'action' holds struct.*no number and no text"),
    "no end": ({"episode_index": None, "next.done": None}, {}, "nothing says where an episode ends"),
    "whole numbers": ({"action": [1] * 12}, {}, r"say how many choices there are with choices: \{action: N\}"),
    "no whole": ({}, {"choices": {"action": 3}}, "no single whole number"),
    "unknown": ({}, {"bounds": {"actoin": (0, 1)}}, "did you mean 'action'"),
    "list reward": ({"next.reward": [[1.0, 2.0]] * 12}, {}, "'next.reward' is no single number, as reward must be"),
    "text reward": ({"next.reward": ["x"] * 12}, {}, "'next.reward' is no single number"),
    "nan": ({"next.reward": [0.0] * 5 + [np.nan] + [0.0] * 6}, {}, "episode 2, step 0: reward is nan"),
    "outside": ({}, {"bounds": {"action": (0, 1)}}, "wrong action bounds"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_told_with_its_place(tmp_path, home, what):
    columns, config, said = WRONG[what]
    folder = save(tmp_path / "x", table(**columns))
    with pytest.raises(DataError, match=said) as told:
        prepare(source(folder, **config))
    assert "x" in str(told.value).split(":")[0]
    assert not list((home / "cache" / "stores").glob("*"))


@pytest.mark.parametrize("ends", ["parquet", "arrow", "feather"])
def test_what_is_cut_off_or_something_else(tmp_path, ends):
    folder = save(tmp_path / "x", table(), ends=ends)
    (path,) = folder.iterdir()
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"PAR1", b"ARROW1", bytes(100)):
        path.write_bytes(content)
        with pytest.raises(DataError, match=f"x/part-000.{ends}"):
            everything(source(folder))


def test_files_that_differ(tmp_path):
    other = table((2,), **{"action": [[1.0, 2.0, 3.0]] * 2, "episode_index": [9, 9]})
    with pytest.raises(DataError, match=r"part-001\.parquet: row 0: column 'action' has 3 values, and 2 elsewhere"):
        everything(source(save(tmp_path / "x", table(), other)))
    other = table((2,), **{"action": [["a"] * 2] * 2, "episode_index": [9, 9]})
    with pytest.raises(DataError, match=r"part-001\.parquet: row 0: column 'action' holds string"):
        everything(source(save(tmp_path / "y", table(), other)))
    with pytest.raises(DataError, match=r"part-001\.parquet: there is no column 'action' in it"):
        everything(source(save(tmp_path / "z", table(), table((2,), action=None))))


def test_a_little_that_would_fill_the_memory_is_refused_before(tmp_path, monkeypatch):
    folder = tmp_path / "x"
    folder.mkdir()
    parquet.write_table(table((10_000,), **{"action": [[0.0] * 64] * 10_000}), folder / "a.parquet", compression="zstd")
    monkeypatch.setattr(_rows, "_BOMB", 1 << 20)
    monkeypatch.setattr(_rows, "_RATIO", 5)
    with pytest.raises(DataError, match=r"a\.parquet: [\d,]+ bytes packed into [\d,]+; write it with smaller row groups"):
        everything(source(folder))
    monkeypatch.setattr(_rows, "_BOMB", 1 << 40)
    monkeypatch.setattr(_rows, "_ROW", 100)
    with pytest.raises(DataError, match="a row of .* bytes; no row has more than 100"):
        everything(source(folder))


@pytest.mark.parametrize("ends", ["arrow", "feather"])
def test_compressed_batches_lie_in_memory_one_at_a_time(tmp_path, monkeypatch, ends):
    folder, made = tmp_path / "x", table((10_000,), picture=[[0.0] * 64] * 10_000)
    folder.mkdir()
    new = pa.ipc.new_file if ends == "feather" else pa.ipc.new_stream
    path = folder / f"a.{ends}"
    with (
        pa.OSFile(str(path), "wb") as sink,
        new(sink, made.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer,
    ):
        writer.write_table(made, max_chunksize=1000)
    before, most = pa.total_allocated_bytes(), []
    opened = _rows.Table(path, "a")
    assert opened.rows == 10_000
    assert pa.total_allocated_bytes() - before < 200_000
    for _row, _piece in opened.pieces(["picture", "action"]):
        most.append(pa.total_allocated_bytes() - before)
        del _piece
    assert len(most) == 10
    assert max(most) < 2_000_000 < made["picture"].nbytes
    monkeypatch.setattr(_rows, "_BOMB", 1 << 18)
    monkeypatch.setattr(_rows, "_RATIO", 1)
    with pytest.raises(DataError, match=rf"a\.{ends}: [\d,]+ bytes packed into [\d,]+; write it with smaller batches"):
        everything(source(folder, obs={"picture": "picture"}))


def test_what_may_pass_is_not_called_broken(tmp_path, monkeypatch):
    folder = save(tmp_path / "x", table())

    def fails(*args, **more):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(parquet, "ParquetFile", fails)
    with pytest.raises(DataError, match=r"x/part-000\.parquet: cannot be read \(Too many open files\)"):
        everything(source(folder))


def test_folders_of_one_name_are_told_apart(tmp_path):
    a, b = (save(tmp_path / n / "pusht", table()) for n in "ab" if (tmp_path / n).mkdir() is None)
    assert source(a).id == source(b).id
    assert source(a).place != source(b).place


def test_a_wrong_offset_is_found_before_it_is_followed(tmp_path):
    far = pa.ListArray.from_buffers(
        pa.list_(pa.float32()),
        2,
        [None, pa.py_buffer(np.array([0, 1 << 28, 2], np.int32))],
        children=[pa.array([1.0, 2.0], pa.float32())],
    )
    folder = save(tmp_path / "x", table((2,)).drop_columns("action").append_column("action", far), ends="arrow")
    with pytest.raises(DataError, match=r"part-000\.arrow"):
        everything(source(folder))


def test_its_config_is_plain_json(tmp_path):
    assert json.loads(rows.tiny(tmp_path).model_dump_json())["kind"] == "rows"
