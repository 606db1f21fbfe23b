"""Repositories by name: what is read as one, what a load fetches, and a pull's whole folder."""

import os

import pytest
from typer.testing import CliRunner

import seqrl
from seqrl import bundle
from seqrl.cli.app import app
from seqrl.core.errors import BundleError, HubError
from seqrl.hub.pull import pull
from seqrl.hub.push import push

NAME = "me/tiny"


@pytest.fixture
def published(practice, run, bare):
    return push(run, NAME).commit


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    return tmp_path / "cwd"


def asked(practice, since=0):
    return [(m, p.rsplit("/", 1)[-1]) for m, p, _ in practice.log[since:] if m in ("GET", "HEAD")]


def test_a_load_fetches_the_bundle_alone_and_asks_once_the_next_time(practice, published, elsewhere):
    before = len(practice.log)
    loaded = seqrl.load(NAME)
    assert loaded.path.name == published
    fetched = {n for m, n in asked(practice, before) if m == "GET"}
    assert "README.md" not in fetched
    assert {"config.json", "tokenizer.json", "recipe.yaml", "metrics.json"} <= fetched
    before = len(practice.log)
    seqrl.load(NAME)
    assert asked(practice, before) == [("GET", "tiny")]
    before = len(practice.log)
    seqrl.load(NAME, revision=published)
    assert practice.log[before:] == []


def test_a_newer_state_is_seen_and_an_older_one_stays(practice, published, elsewhere, run):
    seqrl.load(NAME)
    newer = push(run / "checkpoints" / "step-00000002", NAME, force=True).commit
    assert seqrl.load(NAME).path.name == newer
    assert seqrl.load(f"hf://{NAME}@step-3").path.name == published
    assert [seqrl.load(NAME, revision=r).metrics["step"] for r in (newer, published)] == [2, 3]


def test_a_folder_here_wins_and_the_scheme_decides(practice, published, elsewhere, run):
    os.makedirs("me")
    before = len(practice.log)
    with pytest.raises(BundleError, match=r"no such folder; .* a repository of that name on the Hub would be hf://me/tiny"):
        bundle.find(NAME)
    run.rename("me/tiny")
    assert bundle.find(NAME).resolve().is_relative_to(elsewhere)
    with pytest.raises(BundleError, match="a folder here, and has no revision 'step-3'; for the Hub's say hf://me/tiny"):
        bundle.find(NAME, "step-3")
    assert practice.log[before:] == []
    assert bundle.find(f"hf://{NAME}").name == published


def test_a_path_never_goes_to_the_hub(practice, published, elsewhere):
    from pathlib import Path

    before = len(practice.log)
    for name in ("./me/tiny", "/me/tiny", "tiny", "a/b/c", "runs/tiny", "runs/tiny@v1", Path("me/tiny")):
        with pytest.raises(BundleError, match="no such folder"):
            bundle.find(name)
    assert practice.log[before:] == []


def test_a_pull_is_the_whole_publication(practice, published, elsewhere):
    said = CliRunner().invoke(app, ["pull", NAME])
    assert said.output == f"tiny  me/tiny at {published[:8]}\n"
    assert {p.name for p in (elsewhere / "tiny").iterdir()} == {
        *bundle.FILES,
        *("README.md", "publication.json", ".gitattributes"),
    }
    assert not any(p.is_symlink() for p in (elsewhere / "tiny").iterdir())
    assert seqrl.load("tiny").metrics["step"] == 3


def test_a_pull_takes_the_place_of_nothing(practice, published, elsewhere, run):
    (elsewhere / "mine").mkdir()
    (elsewhere / "mine" / "x").write_text("")
    with pytest.raises(HubError, match="something at this place already; name another with --to"):
        pull(NAME, elsewhere / "mine")
    (elsewhere / "empty").mkdir()
    pull(NAME, elsewhere / "empty")
    push(run / "checkpoints" / "step-00000002", NAME, force=True)
    pull(NAME, elsewhere / "new" / "deep", "step-3")
    assert seqrl.load("empty").metrics["step"] == seqrl.load("new/deep").metrics["step"] == 3
    assert sorted(p.name for p in elsewhere.iterdir()) == ["empty", "mine", "new"]


def test_a_pull_needs_no_network_the_second_time(practice, published, elsewhere):
    pull(NAME, elsewhere / "a")
    practice.stop()
    pull(NAME, elsewhere / "b")
    assert seqrl.load("b").metrics["step"] == 3


def test_a_dataset_can_be_pulled(practice, elsewhere):
    practice.plant("me/data", {"data/x.parquet": b"PAR1", "README.md": b"hi"}, kind="dataset")
    pull("hf://datasets/me/data")
    assert (elsewhere / "data" / "data" / "x.parquet").read_bytes() == b"PAR1"


def test_what_is_no_name_or_empty(practice, elsewhere, api):
    with pytest.raises(HubError, match="no repository's name"):
        pull("nothing")
    practice.plant("me/empty", {})
    with pytest.raises(HubError, match="this repository is empty"):
        pull("me/empty")
    assert list(elsewhere.iterdir()) == []


def test_evaluate_and_the_commands_take_a_name(practice, published, elsewhere, cartpole):
    report = seqrl.evaluate(NAME, revision="step-3", episodes=2, envs=2, targets=[30])
    assert report.targets
    said = CliRunner().invoke(app, ["eval", f"{NAME}@step-3", "--episodes", "2", "--targets", "30"])
    assert said.exit_code == 0, said.output
