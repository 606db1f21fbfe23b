"""Datasets of the Hub, converted part by part: two are here at a time, and what stops it costs no part that was done."""

import shutil

import numpy as np
import pytest
from huggingface_hub import HfApi

from seqrl.core.episode import Episode, EpisodeSpec, Modality
from seqrl.core.errors import DataError, HubError
from seqrl.data import partial
from seqrl.data.store import prepare
from seqrl.remote import client, kept
from seqrl.remote.names import Repo
from seqrl.sources import _parquet, parquet, rows

SPEC = EpisodeSpec(
    "tests/parts-v0",
    {"observation": Modality("vector", (3,), "float64"), "mission": Modality("text", (), "str")},
    {"action": Modality("vector", (2,), "float32")},
)
LENGTHS = (4, 9, 1, 7, 5, 12, 3, 8)


def episode(i, T):
    rng = np.random.default_rng(i)
    obs = {"observation": rng.standard_normal((T + 1, 3)), "mission": np.array([f"go {k % 3}" for k in range(T + 1)])}
    last = np.arange(T) == T - 1
    act = {"action": rng.standard_normal((T, 2)).astype(np.float32)}
    return Episode(obs, act, rng.standard_normal(T).astype(np.float32), last, np.zeros(T, bool), i, {"seed": i})


def published(practice, folder, shift=0):
    """Plants the dataset, in parts of about nine rows."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    _parquet.write_parquet((episode(i + shift, T) for i, T in enumerate(LENGTHS)), SPEC, folder, group=400, file=1100)
    files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    practice.plant("org/parts", files, "dataset")
    return sorted(n for n in files if n.startswith("steps/"))


@pytest.fixture
def folder(practice, home, monkeypatch):
    monkeypatch.setattr(client.time, "sleep", lambda s: None)
    monkeypatch.setattr(partial, "EPISODES", 1)
    folder = home / "published"
    assert len(published(practice, folder)) > 4
    return folder


def hub(**more):
    return parquet.Source(parquet.Config(id="hf://datasets/org/parts", **more))


def local(folder):
    return parquet.Source(parquet.Config(id=str(folder)))


def content(path):
    return {p.name: p.read_bytes() for p in sorted(path.iterdir())}


def here(home):
    return sorted(p.name for p in (home / "cache" / "shards").rglob("part-*.parquet"))


def fetched(practice, folder="steps"):
    """Which parts were asked for, in order; the content then comes from an address that does not name them."""
    return [p.split("/")[-1] for m, p, _ in practice.log if m == "HEAD" and "resolve" in p and f"/{folder}/" in p]


def elsewhere(practice, folder, monkeypatch, tmp_path):
    """The store of the same from a folder, in another cache."""
    with monkeypatch.context() as m:
        m.setenv("SEQRL_CACHE", str(tmp_path / "elsewhere"))
        return content(prepare(local(folder)).path)


def test_two_parts_are_here_at_a_time_and_none_at_the_end(practice, folder, home, monkeypatch, tmp_path):
    source, most = hub(), []
    assert source.fingerprint() == local(folder).fingerprint()
    store = prepare(source, lambda done, total: most.append(len(here(home))))
    assert max(most) <= 2
    assert here(home) == []
    assert not list((home / "hf" / "hub").rglob("steps"))
    assert content(store.path) == elsewhere(practice, folder, monkeypatch, tmp_path)
    # Each once, and never again now that they are converted.
    assert fetched(practice) == sorted(set(fetched(practice))) != []
    before = len(fetched(practice))
    assert prepare(hub()).path == store.path
    assert len(fetched(practice)) == before


def test_it_goes_on_with_the_part_it_was_at(practice, folder, home, monkeypatch, tmp_path):
    def stop(done, total):
        if done == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(hub(), stop)
    before, seen = len(fetched(practice)), []
    store = prepare(hub(), lambda done, total: seen.append(done))
    assert seen == [7, 8]
    assert "part-00000.parquet" not in fetched(practice)[before:]
    assert here(home) == []
    assert content(store.path) == elsewhere(practice, folder, monkeypatch, tmp_path)


@pytest.mark.parametrize("fault", ["drop", "half", "corrupt", 503])
def test_faults_on_the_way(practice, folder, home, monkeypatch, tmp_path, fault):
    practice.fail("GET", "part-00002", [fault])
    store = prepare(hub())
    assert content(store.path) == elsewhere(practice, folder, monkeypatch, tmp_path)


def test_a_hub_that_goes_away_loses_nothing(practice, folder, home, monkeypatch, tmp_path):
    practice.fail("*", "part-00003", [503] * 100)
    with pytest.raises(HubError, match="part-00003"):
        prepare(hub())
    practice.faults.clear()
    seen = []
    store = prepare(hub(), lambda done, total: seen.append(done))
    assert seen[0] > 1
    assert content(store.path) == elsewhere(practice, folder, monkeypatch, tmp_path)


def test_without_network_the_store_is_found(practice, folder, home, monkeypatch):
    store = prepare(hub())
    practice.fail("*", "/", ["drop"] * 1000)
    assert prepare(hub()).path == store.path


def test_kept_where_asked_for(practice, folder, home):
    prepare(hub(keep=True))
    assert here(home) == []
    assert len(list((kept.cache(Repo("org/parts", None, "dataset")) / "snapshots").rglob("part-*.parquet"))) > 5


def test_what_is_in_the_cache_already_is_read_there_and_stays(practice, folder, home):
    parquet.find("org/parts", keep=True)
    before = len(fetched(practice))
    prepare(hub())
    assert len(fetched(practice)) == before
    assert len(list((kept.cache(Repo("org/parts", None, "dataset")) / "snapshots").rglob("part-*.parquet"))) > 5


def test_any_order_is_possible(practice, folder, same_episode):
    source = hub()
    for i in (7, 0, 3, 2, 7):
        same_episode(source.episode(i), local(folder).episode(i))
    source.close()


def test_a_new_version_is_another_dataset(practice, folder, home):
    first, commit = prepare(hub()).path, HfApi().dataset_info("org/parts").sha
    published(practice, home / "published", shift=100)
    assert HfApi().dataset_info("org/parts").sha != commit
    assert prepare(hub()).path != first


def test_parts_with_fewer_rows_than_promised_are_refused(practice, folder, home):
    practice.plant("org/parts", {"steps/part-00001.parquet": (folder / "steps" / "part-00000.parquet").read_bytes()}, "dataset")
    with pytest.raises(DataError, match="not in order|rows, but it says"):
        prepare(hub())
    assert not list((home / "cache" / "stores").glob("*"))


# ---- tables of anybody's making ---------------------------------------------------------------------------------------


def planted(practice, home):
    import pyarrow as pa
    from pyarrow import parquet as files

    lengths = np.array(LENGTHS)
    count, rng = lengths.sum(), np.random.default_rng(0)
    columns = {
        "observation.state": list(rng.standard_normal((count, 3)).astype(np.float32)),
        "action": list(rng.uniform(-1, 1, (count, 2)).astype(np.float32)),
        "episode_index": np.repeat(np.arange(len(lengths)), lengths),
        "next.reward": rng.standard_normal(count).astype(np.float32),
    }
    whole, folder = pa.table(columns), home / "anybody" / "data"
    folder.mkdir(parents=True)
    for k, at in enumerate(range(0, count, 10)):
        files.write_table(whole[at : at + 10], folder / f"part-{k:05d}.parquet", row_group_size=4)
    data = {f"data/{p.name}": p.read_bytes() for p in folder.iterdir()}
    practice.plant("org/anybody", data | {"meta/info.json": b"{}", "meta/x.parquet": b"no data"}, "dataset")
    return folder.parent


def test_anybodys_rows_come_part_by_part(practice, home, monkeypatch, tmp_path):
    monkeypatch.setattr(partial, "EPISODES", 1)
    folder, most = planted(practice, home), []

    def anybody():
        return rows.Source(rows.Config(id="org/anybody"))

    def stop(done, total):
        most.append(len(here(home)))
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(anybody(), stop)
    seen, before = [], len(fetched(practice, "data"))
    store = prepare(anybody(), lambda done, total: seen.append((done, len(here(home)))))
    assert [done for done, _ in seen] == [6, 7, 8]
    # Neither the columns nor what is done with need the first files again.
    assert not {"part-00000.parquet", "part-00001.parquet"} & set(fetched(practice, "data")[before:])
    assert max([*most, *(n for _, n in seen)]) <= 2
    assert here(home) == []
    with monkeypatch.context() as m:
        m.setenv("SEQRL_CACHE", str(tmp_path / "elsewhere"))
        same = prepare(rows.Source(rows.Config(id=str(folder))))
    assert {n: v for n, v in content(store.path).items() if n.endswith("steps.arrow")} == {
        n: v for n, v in content(same.path).items() if n.endswith("steps.arrow")
    }
    assert store.episodes.length.tolist() == list(LENGTHS)


def test_two_readings_of_one_repository_leave_each_other_alone(practice, home):
    planted(practice, home)
    one, other = (rows.Source(rows.Config(id="org/anybody", **more)) for more in ({}, {"bounds": {"action": (-1, 1)}}))
    walk = one.walk(3)
    next(walk)
    mine = list((home / "cache" / "shards").rglob("part-*.parquet"))
    assert len(prepare(other)) == len(LENGTHS)
    assert mine
    assert all(p.is_file() for p in mine)
    assert len(list(walk)) == len(LENGTHS) - 4


def test_notes_are_of_the_files_that_were_chosen(practice, home):
    planted(practice, home)
    # Files hold ten rows: the second begins inside of an episode, and alone has all that are in it.
    assert len(rows.Source(rows.Config(id="org/anybody"))) == len(LENGTHS)
    ends = np.cumsum(LENGTHS)
    alone = rows.Source(rows.Config(id="org/anybody", files="data/part-00001*"))
    assert len(alone) == 1 + ((ends > 10) & (ends < 20)).sum()
    assert len(list(alone.walk(len(alone) - 1))) == 1


def test_notes_go_with_what_the_file_before_ends_with(practice, home):
    planted(practice, home)
    # One folder for both, as if they were read for the same.
    both, second = (rows.Source(rows.Config(id="org/anybody", files=f"data/part-0000{n}.parquet")) for n in ("[01]", "1"))
    second._shards.folder = both._shards.folder
    assert len(both) > 2
    ends = np.cumsum(LENGTHS)
    assert len(second) == 1 + ((ends > 10) & (ends < 20)).sum()


def test_a_file_that_was_fetched_and_taken_away_is_fetched_again(practice, home):
    planted(practice, home)
    shards = rows.Source(rows.Config(id="org/anybody"))._shards
    shards.path(0)
    shards._ahead.join()
    shards._ahead.found.unlink()
    assert shards.path(1).is_file()
    shards.close()


def test_a_disk_without_room_for_a_part_is_told_by_its_setting(practice, home, monkeypatch):
    from types import SimpleNamespace

    from seqrl.remote import download

    planted(practice, home)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda p: SimpleNamespace(free=1))
    with pytest.raises(HubError, match="1 bytes are free at .* set SEQRL_CACHE to a folder"):
        rows.Source(rows.Config(id="org/anybody")).episode(0)
