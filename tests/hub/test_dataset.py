"""Publishing a dataset: tables that every tool reads, a card, one commit; and the same episodes back, bit for bit."""

import numpy as np
import pytest
import yaml
from huggingface_hub import HfApi

from seqrl.core.episode import Episode, EpisodeSpec, Modality
from seqrl.core.errors import DataError, HubError
from seqrl.data.store import prepare
from seqrl.hub.dataset import push_dataset
from seqrl.sources import _write, minari, parquet

ID = "tests/mixed-v0"
ENV = {"id": "CartPole-v1", "kwargs": {}, "max_episode_steps": 500, "additional_wrappers": []}


def save(id=ID, word="go", author="me", count=5):
    """A dataset with a vector, a picture, a text and discrete actions."""
    obs = {
        "position": Modality("vector", (2, 2), "float64", (-np.inf,) * 4, (np.inf,) * 4),
        "camera": Modality("image", (8, 8, 3), "uint8"),
        "mission": Modality("text", (), "str"),
    }
    about = {"author": author, "description": "Made for <a test> | of tables", "algorithm_name": "dice"}
    act = {"action": Modality("discrete", (), "int64", n=(3,), start=(0,))}
    spec = EpisodeSpec(id, obs, act, ENV, references=(1.0, 9.0), about=about)
    rng = np.random.default_rng(0)

    def episode(i, T):
        seen = {
            "position": rng.standard_normal((T + 1, 2, 2)),
            "camera": rng.integers(0, 256, (T + 1, 8, 8, 3), np.uint8),
            "mission": np.array([f"{word} {k % 3}" for k in range(T + 1)]),
        }
        last = np.arange(T) == T - 1
        rew = rng.standard_normal(T).astype(np.float32)
        return Episode(
            seen, {"action": rng.integers(0, 3, T)}, rew, last & (i % 2 == 0), last & (i % 2 == 1), i, {"seed": 7 + i}
        )

    _write.save_minari([episode(i, 3 + 2 * i) for i in range(count)], spec, id)
    return minari.Source(minari.Config(id=id))


def test_what_was_published_comes_back(practice, home, same_episode):
    source = save()
    shown = []
    done = push_dataset(ID, "org/mixed", show=lambda changes, notes: shown.extend(changes))
    assert done.url == f"{practice.url}/datasets/org/mixed"
    assert [c.path for c in shown] == [c.path for c in done.changes if c.how == "new"]
    api = HfApi()
    assert api.dataset_info("org/mixed").sha == done.commit
    assert [c.title for c in api.list_repo_commits("org/mixed", repo_type="dataset")] == [ID, "initial commit"]
    # A name alone is the Hub's; the source brings it here by itself.
    back = parquet.Source(parquet.Config(id="org/mixed"))
    assert back.spec == source.spec
    assert len(back) == len(source) == 5
    for i in (4, 0, 3, 1, 2):
        same_episode(back.episode(i), source.episode(i))
    store = prepare(back)
    for i in range(5):
        same_episode(store.episode(i), source.episode(i))


def test_the_same_again_is_no_commit_and_less_is_taken_away(practice, home, monkeypatch):
    save()
    first = push_dataset(ID, "org/mixed")
    again = push_dataset(ID, "org/mixed")
    assert again.commit == first.commit
    assert {c.how for c in again.changes} == {"same"}
    practice.plant("org/mixed", {"steps/part-00001.parquet": b"old", "notes.txt": b"theirs"}, "dataset")
    third = push_dataset(ID, "org/mixed")
    assert [(c.path, c.how) for c in third.changes if c.how != "same"] == [("steps/part-00001.parquet", "gone")]
    assert "notes.txt" in HfApi().list_repo_files("org/mixed", repo_type="dataset")


def test_a_dry_run_sends_nothing(practice, home):
    save()
    done = push_dataset(ID, "org/mixed", dry_run=True)
    assert done.commit is None
    assert {c.path for c in done.changes} == {
        "README.md",
        "spec.json",
        "steps/part-00000.parquet",
        "episodes/part-00000.parquet",
    }
    assert not [line for line in practice.log if line[0] != "GET"]


def test_the_card_says_what_it_holds(practice, home):
    save()
    push_dataset(ID, "org/mixed", license="cc-by-4.0")
    from pathlib import Path

    text = Path(HfApi().hf_hub_download("org/mixed", "README.md", repo_type="dataset")).read_text()
    head = yaml.safe_load(text.split("---\n")[1])
    assert head["license"] == "cc-by-4.0"
    assert [c["config_name"] for c in head["configs"]] == ["steps", "episodes"]
    assert head["size_categories"] == ["n<1K"]
    assert "CartPole-v1" in head["tags"]
    assert "5 episodes, 35 steps of `CartPole-v1`" in text
    assert "| `observation.camera` | image | 8x8x3 | uint8 |" in text
    assert "Made for \\<a test\\> \\| of tables" in text
    assert "| author | me |" in text
    assert 'load_dataset("org/mixed", "steps", split="train")' in text
    save("tests/other-v0")
    push_dataset("tests/other-v0", "org/other")
    text = Path(HfApi().hf_hub_download("org/other", "README.md", repo_type="dataset")).read_text()
    assert yaml.safe_load(text.split("---\n")[1])["license"] == "unknown"
    assert "| licence | not told; ask whoever made the data |" in text


def test_every_tool_reads_the_tables(practice, home, tmp_path):
    import datasets

    source = save()
    push_dataset(ID, "org/mixed")
    kept = {"cache_dir": str(tmp_path / "datasets")}
    steps = datasets.load_dataset("org/mixed", "steps", split="train", **kept)
    episodes = datasets.load_dataset("org/mixed", "episodes", split="train", **kept)
    assert len(steps) == 35 + 5
    assert episodes["length"][:] == source.lengths.tolist()
    assert episodes["seed"][:] == [7, 8, 9, 10, 11]
    second = source.episode(1)
    rows = steps.filter(lambda row: row["episode"] == 1)
    assert rows["final"][:] == [False] * 5 + [True]
    assert rows["observation.mission"][:] == second.obs["mission"].tolist()
    np.testing.assert_array_equal(np.array(rows["observation.position"][:]).reshape(6, 2, 2), second.obs["position"])
    np.testing.assert_array_equal(np.array(rows["action"][:5]), second.act["action"])
    np.testing.assert_array_equal(np.array(rows["reward"][:5], np.float32), second.rew)
    streamed = datasets.load_dataset("org/mixed", "steps", split="train", streaming=True, **kept)
    assert sum(1 for _ in streamed) == 40


def test_a_path_of_this_machine_loses_all_but_its_end(practice, home, tmp_path):
    save(author=str(tmp_path / "runs" / "best"))
    done = push_dataset(ID, "org/mixed")
    assert len(done.notes) == 2
    back = parquet.Source(parquet.Config(id="org/mixed"))
    assert back.spec.about["author"] == ["best"]
    for path in back.folder.rglob("*"):
        assert not path.is_file() or str(tmp_path).encode() not in path.read_bytes()


@pytest.mark.parametrize("place", ["word", "author"])
def test_a_secret_stops_everything(practice, home, place):
    save(**{place: "hf_" + "a1B2" * 9})
    with pytest.raises(HubError, match="a Hugging Face token"):
        push_dataset(ID, "org/mixed")
    assert not practice.log


def test_somebody_else_published_in_between(practice, home):
    save()
    push_dataset(ID, "org/mixed")
    save("tests/other-v0", count=2)
    meanwhile = lambda *_: practice.plant("org/mixed", {"theirs.txt": b"1"}, "dataset")  # noqa: E731
    with pytest.raises(HubError, match="somebody else has published"):
        push_dataset("tests/other-v0", "org/mixed", show=meanwhile)
    assert "theirs.txt" in HfApi().list_repo_files("org/mixed", repo_type="dataset")


def test_an_answer_that_was_lost_is_no_second_commit(practice, home, monkeypatch):
    from seqrl.remote import client

    monkeypatch.setattr(client.time, "sleep", lambda s: None)
    save()
    practice.fail("POST", "/commit/", ["lost"])
    done = push_dataset(ID, "org/mixed")
    assert len(HfApi().list_repo_commits("org/mixed", repo_type="dataset")) == 2
    assert HfApi().dataset_info("org/mixed").sha == done.commit


@pytest.mark.parametrize("name", ["mixed", "a/b/c", "org/mixed@v1", "../x"])
def test_what_is_no_name_is_refused(practice, home, name):
    with pytest.raises(HubError, match="no repository|leave @v1 out"):
        push_dataset(ID, name)


def test_what_is_no_dataset_is_refused(practice, home):
    with pytest.raises(DataError, match="no dataset 'tests/none-v0'"):
        push_dataset("tests/none-v0", "org/x")
    assert not [line for line in practice.log if line[0] != "GET"]


def test_a_folder_of_the_machine_is_no_name_of_the_hub(practice, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    with pytest.raises(DataError, match="no such folder; for a dataset on the Hub write hf://datasets/data/mine"):
        parquet.Source(parquet.Config(id="data/mine"))
    assert not practice.log
    with pytest.raises(DataError, match="no such folder"):
        parquet.Source(parquet.Config(id="/data/mine/deep"))
    with pytest.raises(HubError, match="there is no datasets/org/none"):
        parquet.Source(parquet.Config(id="org/none"))


def test_a_dataset_that_is_another_kind_of_repository_is_said(practice):
    practice.plant("org/pictures", {"train.parquet": b"x"}, "dataset")
    with pytest.raises(HubError, match=r"there is no spec\.json in it"):
        parquet.Source(parquet.Config(id="hf://datasets/org/pictures"))
