"""The practice Hub and the unmodified clients: huggingface_hub, transformers, datasets, minari, in a process of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from seqrl.hub.practice import PracticeHub


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What ``clients.py`` found; the Hub serves in this process while it runs."""
    folder = tmp_path_factory.mktemp("clients")
    with PracticeHub(accounts={"hf_practice": "me", "hf_other": "other"}) as hub:
        env = {k: v for k, v in os.environ.items() if not k.startswith("HF_")} | {
            "HF_ENDPOINT": hub.url,
            "HF_TOKEN": hub.token,
            "HF_HOME": str(folder / "hf"),
            "HF_HUB_DISABLE_XET": "1",
            "MINARI_REMOTE": "hf://org",
            "MINARI_DATASETS_PATH": str(folder / "minari"),
        }
        script = [sys.executable, str(Path(__file__).with_name("clients.py")), str(folder)]
        ran = subprocess.run(script, env=env, capture_output=True, text=True, timeout=240)
        assert ran.returncode == 0, ran.stderr[-4000:]
        # What is asked outside of the endpoints we have may be refused, but nothing broke.
        assert not [line for line in hub.log if line[2] == 0 or line[2] >= 500]
    return json.loads(ran.stdout.splitlines()[-1])


def test_files_come_back_as_they_were(told):
    found = told["files"]
    assert found["url"].endswith("/org/walker")
    assert found["same"]
    assert found["twice"] == ["HfHubHTTPError", 409]
    assert found["siblings"] == [".gitattributes", "README.md", "big.safetensors", "empty.txt", "sub/naïve name.json"]
    assert found["same_bytes"]
    assert found["lfs"][0] == 256 * 9000
    assert found["etag"] == found["lfs"][1]
    assert found["ranged"] == [1, 2, 3]
    assert found["exists"] == [True, False, False]


def test_the_card_is_read(told):
    assert told["files"]["tags"] == ["seqrl", "trajectories", "license:mit"]
    assert told["files"]["metric"] == 91.5
    assert told["commits"]["license"] == "apache-2.0"


def test_folders_are_listed(told):
    assert ["sub", "RepoFolder"] in told["files"]["tree"]
    assert told["files"]["below"] == ["sub/naïve name.json"]
    assert told["files"]["known"] == ["sub", "README.md"]


def test_what_is_missing_is_named_by_the_client(told):
    kinds = ["RemoteEntryNotFoundError", "RevisionNotFoundError", "RepositoryNotFoundError"]
    assert told["files"]["missing"] == [[k, 404] for k in kinds]


def test_a_commit_is_one(told):
    found = told["commits"]
    assert found["files"] == [".gitattributes", "README.md", "big.safetensors", "config.json", "copy.safetensors"]
    assert found["late"] == ["HfHubHTTPError", 412]
    assert found["idle"]
    assert found["titles"] == ["second", "first", "initial commit"]
    assert found["authors"] == ["me"]


def test_tags_and_branches(told):
    found = told["commits"]
    assert found["refs"] == [["main", "next"], ["step-2000"]]
    assert found["tagged"]
    assert found["on_tag"]
    assert found["twice"] == ["HfHubHTTPError", 409]
    assert found["gone"] == ["RevisionNotFoundError", 404]


def test_pull_requests(told):
    found = told["pulls"]
    assert (found["revision"], found["before"], found["read"]) == ("refs/pr/1", False, "from a pull request")
    assert found["events"].count("commit") == 2
    assert "comment" in found["events"]
    assert found["after"] == [True, True]
    assert found["status"] == "merged"
    assert found["conflicts"] == ["config.json"]
    assert found["clash"] == ["HfHubHTTPError", 409]
    assert found["all"] == [[3, "closed", True], [2, "open", True], [1, "merged", True]]
    assert found["refs"] == ["refs/pr/1", "refs/pr/2", "refs/pr/3"]


def test_private_repositories_and_tokens(told):
    found = told["rights"]
    assert found["names"] == ["me", "other", ["org"]]
    assert found["kept"] == 64
    assert found["listed"] == [["me/secret"], []]
    assert [found[k][1] for k in ("foreign", "foreign_name", "anonymous", "wrong")] == [403, 403, 401, 401]
    assert found["public_now"] is False
    assert found["hidden"] == [["RepositoryNotFoundError", 404], ["RepositoryNotFoundError", 401]]
    assert found["moved"] == [".gitattributes", "w.bin"]
    assert found["deleted"] == ["RepositoryNotFoundError", 404]


def test_lists_and_collections(told):
    found = told["rights"]
    assert found["collection"] == ["My finest", [["org/walker", "quick"], ["org/moved", None]]]
    assert found["twice"] == ["HfHubHTTPError", 409]
    assert found["collections"] == [[True, 1]]
    assert found["search"] == ["org/walker"]


def test_transformers(told):
    assert told["models"] == {"equal": True, "own": [[4.0, 4.0, 4.0]], "module": "transformers_modules"}


def test_datasets(told):
    found = told["tables"]
    assert found["rows"] == [1000, 7]
    assert found["equal"]
    assert found["streamed"] == list(range(990, 1000))
    assert found["names"] == ["episodes", "steps"]


def test_minari(told):
    assert told["trajectories"] == {"hdf5": True, "arrow": True, "listed": ["tests/arrow-v0", "tests/hdf5-v0"]}
