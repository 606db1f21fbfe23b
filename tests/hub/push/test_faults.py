"""What goes wrong on the way to a Hub and back: in the end it is done, or one message says why, and nothing is half done.

Each test is a row of docs/faults.md, which the last one holds to it.
"""

import errno
import json
import re
import shutil
from pathlib import Path

import pytest
from huggingface_hub import HfApi, constants
from huggingface_hub.utils import close_session

import seqrl
from seqrl.core.errors import BundleError, HubError
from seqrl.hub.pull import pull
from seqrl.hub.push import push
from seqrl.remote import client

ROOT = Path(__file__).resolve().parents[3]
NAME = "me/tiny"


@pytest.fixture
def published(practice, run, bare, waits):
    """A run that is published already, and a cache that knows nothing of it."""
    return push(run, NAME).commit


def cached(name="*"):
    """Every content in the cache that is not a note."""
    home = Path(constants.HF_HUB_CACHE)
    return [p for p in home.rglob(name) if p.is_file() and not {"refs", "seqrl", ".no_exist", ".locks"} & set(p.parts)]


def requests(practice, method, part):
    return len([1 for m, p, _ in practice.log if m == method and part in p])


def nothing_is_published(api, titles):
    """The repository is not there, or is as empty as it was made."""
    try:
        return set(api.list_repo_files(NAME)) <= {".gitattributes"} and "tiny, step 3" not in titles()
    except Exception as e:
        return "404" in str(e)


# Publishing


def test_too_many_requests_are_waited_out(practice, run, bare, waits, api):
    practice.fail("GET", f"/api/models/{NAME}", [(429, {"Retry-After": "7"}), 429])
    assert push(run, NAME).tag == "step-3"
    assert waits[:2] == [7.0, 2.0]


def test_a_busy_server_is_asked_again(practice, run, bare, waits, titles):
    practice.fail("POST", "/commit/", [503, 500])
    practice.fail("POST", "/tag/", [502])
    assert push(run, NAME).tag == "step-3"
    assert titles().count("tiny, step 3") == 1
    assert waits[:2] == [1.0, 2.0]


def test_a_server_that_stays_busy_is_a_message(practice, run, bare, waits, api, titles):
    practice.fail("POST", "/commit/", [503] * 5)
    with pytest.raises(HubError, match=r"me/tiny: nothing was published: .* answers 503 \(5 tries\); do the same again later"):
        push(run, NAME)
    assert waits == [1.0, 2.0, 4.0, 8.0]
    assert nothing_is_published(api, titles)
    assert push(run, NAME).tag == "step-3"


def test_a_server_that_accepts_and_stalls(practice, run, bare, waits, titles, monkeypatch):
    monkeypatch.setattr(client, "PATIENCE", 0.5)
    # The client keeps one session, and with it the patience it was given.
    close_session()
    practice.fail("POST", "/commit/", [("slow", 3.0)])
    assert push(run, NAME).tag == "step-3"
    assert waits == [1.0]
    assert titles().count("tiny, step 3") == 1
    close_session()


def test_a_connection_dropped_before_the_commit_arrived(practice, run, bare, waits, titles):
    practice.fail("POST", "/commit/", ["drop"])
    push(run, NAME)
    assert titles().count("tiny, step 3") == 1


def test_a_connection_dropped_after_the_commit_arrived(practice, run, bare, waits, titles, api):
    practice.fail("POST", "/commit/", ["lost"])
    done = push(run, NAME)
    assert titles().count("tiny, step 3") == 1
    assert done.commit == api.model_info(NAME).sha
    assert requests(practice, "POST", "/commit/") == 1


def test_somebody_commits_right_after_ours_whose_answer_was_lost(practice, run, bare, waits, api, titles, monkeypatch):
    practice.fail("POST", "/commit/", ["lost"])

    def meanwhile(_):
        if "theirs" not in titles():
            api.upload_file(path_or_fileobj=b"x", path_in_repo="README.md", repo_id=NAME, commit_message="theirs")

    monkeypatch.setattr("time.sleep", meanwhile)
    done = push(run, NAME)
    assert titles()[:2] == ["theirs", "tiny, step 3"]
    assert {t.target_commit for t in api.list_repo_refs(NAME).tags} == {done.commit} != {api.model_info(NAME).sha}


def test_half_an_upload_is_sent_again(practice, run, bare, waits):
    practice.fail("PUT", "/practice-lfs/", ["half", "drop"])
    push(run, NAME)
    assert seqrl.load(NAME).metrics["step"] == 3


def test_an_upload_that_arrives_damaged_publishes_nothing(practice, run, bare, waits, api, titles):
    practice.fail("PUT", "/practice-lfs/", ["corrupt"])
    with pytest.raises(HubError, match="nothing was published"):
        push(run, NAME)
    assert nothing_is_published(api, titles)
    push(run, NAME)
    assert seqrl.load(NAME).metrics["step"] == 3


def test_somebody_commits_at_the_same_moment(practice, run, bare, published, api, titles):
    (run / "checkpoints" / "last" / "bundle" / "metrics.json").write_text(json.dumps({"format": 1, "step": 4}))

    def meanwhile(*_):
        api.upload_file(path_or_fileobj=b"x", path_in_repo="theirs.txt", repo_id=NAME, commit_message="theirs")

    with pytest.raises(HubError, match="somebody else has published there at the same moment"):
        push(run, NAME, show=meanwhile)
    assert titles()[0] == "theirs"


def test_somebody_has_published_since(practice, run, bare, published, api, titles):
    api.upload_file(path_or_fileobj=b"x", path_in_repo="theirs.txt", repo_id=NAME, commit_message="their fix")
    theirs = api.model_info(NAME).sha
    said = rf"since this run's last push \({published[:8]}\) there is a commit {theirs[:8]} .*\('their fix'\).*--force"
    with pytest.raises(HubError, match=said):
        push(run, NAME)
    assert any("it would be refused" in n for n in push(run, NAME, dry_run=True).notes)
    (run / "checkpoints" / "last" / "bundle" / "metrics.json").write_text(json.dumps({"format": 1, "step": 4}))
    push(run, NAME, force=True)
    assert titles()[:2] == ["tiny, step 4", "their fix"]


def test_a_wrong_token(practice, run, bare, waits, monkeypatch, api, titles):
    monkeypatch.setenv("HF_TOKEN", "hf_nobodys")
    with pytest.raises(HubError, match="your access token was refused; log in with: hf auth login"):
        push(run, NAME)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(HubError, match="no access token is set.*hf auth login"):
        push(run, NAME)
    assert nothing_is_published(api, titles)
    assert waits == []


def test_somebody_elses_account(practice, run, bare, waits):
    with pytest.raises(HubError, match=r"stranger/tiny cannot be made: your token may not do this.*write access"):
        push(run, "stranger/tiny")


def test_a_truncated_checkpoint_is_not_published(practice, run, bare, api, titles):
    weights = run / "checkpoints" / "last" / "bundle" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(BundleError, match=r"model\.safetensors: truncated"):
        push(run, NAME)
    assert practice.log == []


def test_an_access_token_in_a_file(practice, run, bare):
    recipe = run / "checkpoints" / "last" / "bundle" / "recipe.yaml"
    secret = "hf_" + "aBcD1234" * 5
    recipe.write_text(recipe.read_text() + f"note: {secret}\n")
    with pytest.raises(HubError, match=r"recipe\.yaml:\d+: a Hugging Face token") as e:
        push(run, NAME)
    assert secret not in str(e.value)
    assert practice.log == []


def test_a_push_that_was_killed_leaves_the_old_state(practice, run, bare, published, api, monkeypatch):
    (run / "checkpoints" / "last" / "bundle" / "metrics.json").write_text(json.dumps({"format": 1, "step": 4}))

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as m:
        m.setattr(HfApi, "create_commit", killed)
        with pytest.raises(KeyboardInterrupt):
            push(run, NAME)
    assert api.model_info(NAME).sha == published
    assert push(run, NAME).tag == "step-4"


# Fetching


def test_a_missing_repository(practice, waits):
    with pytest.raises(
        HubError, match=r"there is no me/nothing on 127.0.0.1:\d+, or it is private.*no folder me/nothing here either"
    ):
        seqrl.load("me/nothing")
    assert waits == []


def test_a_missing_revision(practice, published):
    with pytest.raises(HubError, match="it has no revision 'step-9'"):
        seqrl.load(NAME, revision="step-9")


def test_a_repository_that_holds_no_bundle(practice):
    practice.plant("me/other", {"config.json": b"{}", "pytorch_model.bin": b"\x80\x04."})
    with pytest.raises(BundleError, match=r"no bundle of seqrl's; .* seqrl import me/other"):
        seqrl.load("me/other")
    assert requests(practice, "GET", "resolve") == 0


def test_a_private_repository_without_a_token(practice, run, bare, waits, monkeypatch):
    push(run, "me/secret", private=True)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(HubError, match="or it is private and no token is set"):
        seqrl.load("me/secret")


def test_a_busy_server_while_fetching(practice, published):
    practice.fail("GET", "/resolve/", [503, 503])
    practice.fail("HEAD", "/resolve/", [500])
    assert seqrl.load(NAME).metrics["step"] == 3


def test_half_a_download_goes_on(practice, published):
    practice.fail("GET", "/practice-lfs/", ["half"])
    practice.fail("GET", "tokenizer.json", ["half", "drop"])
    assert seqrl.load(NAME).metrics["step"] == 3


@pytest.mark.parametrize("part", ["/practice-lfs/", "tokenizer.json"])
def test_a_damaged_download_is_fetched_again(practice, published, part):
    practice.fail("GET", part, ["corrupt"])
    assert seqrl.load(NAME).metrics["step"] == 3
    assert requests(practice, "GET", part) == 2


@pytest.mark.parametrize("part", ["/practice-lfs/", "tokenizer.json"])
def test_a_download_damaged_twice_is_refused_and_removed(practice, published, part):
    practice.fail("GET", part, ["corrupt"] * 2)
    with pytest.raises(HubError, match="arrived twice with other content than the Hub says it has, and was removed"):
        seqrl.load(NAME)
    name = "model.safetensors" if "lfs" in part else part
    assert not cached(name)
    assert seqrl.load(NAME).metrics["step"] == 3


def test_a_damaged_cache_is_noticed(practice, published, monkeypatch):
    path = seqrl.load(NAME).path / "model.safetensors"
    content = path.read_bytes()
    path.resolve().write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert (seqrl.load(NAME).path / "model.safetensors").read_bytes() == content


def test_a_full_disk_before_a_pull(practice, published, tmp_path, monkeypatch):
    with monkeypatch.context() as m:
        m.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1000))
        with pytest.raises(HubError, match=r"kB are to be fetched and 1.0 kB are free .* HF_HOME"):
            pull(NAME, tmp_path / "mine")
    assert not (tmp_path / "mine").exists()
    assert not cached("*.safetensors")


@pytest.mark.parametrize("where", ["the cache", "the folder"])
def test_a_disk_that_fills_up_during_a_pull(practice, published, tmp_path, monkeypatch, where):
    def full(source, target, **_):
        if hasattr(target, "write"):
            target.write(b"half")
        else:
            Path(target).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as m:
        m.setattr(*(("huggingface_hub.file_download.http_get", full) if where == "the cache" else (shutil, "copyfile", full)))
        with pytest.raises(HubError, match="no space left on the disk"):
            pull(NAME, tmp_path / "new" / "mine")
    assert not (tmp_path / "new").exists()
    assert not [p for p in cached() if p.suffix == ".incomplete" or p.read_bytes() == b"half"]
    assert pull(NAME, tmp_path / "new" / "mine")[1] == published


def test_a_pull_that_was_interrupted(practice, published, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as m:
        m.setattr("os.rename", stop)
        with pytest.raises(KeyboardInterrupt):
            pull(NAME, tmp_path / "mine")
    assert not list(tmp_path.glob("*mine*"))


def test_truncated_weights_in_a_repository(practice, published, api, run):
    weights = (run / "checkpoints" / "last" / "bundle" / "model.safetensors").read_bytes()
    api.upload_file(path_or_fileobj=weights[:-100], path_in_repo="model.safetensors", repo_id=NAME)
    with pytest.raises(BundleError, match="truncated"):
        seqrl.load(NAME)


def test_a_bundle_of_a_newer_version(practice, published, api):
    api.upload_file(path_or_fileobj=b'{"format": 99}', path_in_repo="metrics.json", repo_id=NAME)
    with pytest.raises(BundleError, match=r"written by a newer seqrl .*pip install -U seqrl"):
        seqrl.load(NAME)


@pytest.mark.parametrize(
    "bad", ["../evil.txt", "/etc/evil", "a/../../evil", ".git/hooks/post-checkout", "a\\..\\evil", "C:evil", "x\0y"]
)
def test_a_file_name_that_leads_out_of_the_folder(practice, published, tmp_path, bad):
    practice.plant(NAME, {bad: b"evil"})
    with pytest.raises(HubError, match="leads out of its folder; nothing is fetched"):
        pull(NAME, tmp_path / "deep" / "mine")
    assert not list(tmp_path.rglob("*evil*"))
    # Of what was not asked for by name, nothing is touched.
    assert seqrl.load(NAME).metrics["step"] == 3


def test_two_names_that_are_one_elsewhere(practice, published, tmp_path):
    practice.plant(NAME, {"readme.md": b"other"})
    with pytest.raises(HubError, match="cannot lie in one folder everywhere"):
        pull(NAME, tmp_path / "mine")


def test_a_settings_file_as_large_as_a_disk(practice, published, api, monkeypatch):
    monkeypatch.setattr("seqrl.bundle._LARGEST", {"recipe.yaml": 1000})
    with pytest.raises(HubError, match=r"recipe\.yaml has .*, more than any such file should; it is not fetched"):
        seqrl.load(NAME)
    assert requests(practice, "GET", "/resolve/") == 0


def test_no_network_and_a_copy_here(practice, published, capsys):
    seqrl.load(NAME)
    practice.stop()
    assert seqrl.load(NAME).metrics["step"] == 3
    said = capsys.readouterr().err
    assert f"using the copy of {published[:8]} that is kept here" in said
    assert "trying again" not in said
    assert seqrl.load(NAME, revision=published).metrics["step"] == 3


def test_no_network_and_no_copy(practice, published, waits):
    practice.stop()
    waits.clear()
    with pytest.raises(HubError, match=r"cannot be reached \(5 tries\); is there a network"):
        seqrl.load(NAME)
    assert waits == [1.0, 2.0, 4.0, 8.0]


def test_offline_mode(practice, published, tmp_path, monkeypatch, capsys):
    seqrl.load(NAME)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    before = len(practice.log)
    assert seqrl.load(NAME).metrics["step"] == 3
    assert "kept here (offline mode)" in capsys.readouterr().err
    with pytest.raises(HubError, match="offline mode is on and it is not in the cache; unset HF_HUB_OFFLINE"):
        pull(NAME, tmp_path / "mine")
    assert len(practice.log) == before


def test_every_row_of_the_page_is_a_test_and_every_test_a_row():
    rows = re.findall(r"`(test_\w+)` *\|", (ROOT / "docs" / "faults.md").read_text(encoding="utf-8"))
    here = {n for n in globals() if n.startswith("test_")} - {"test_every_row_of_the_page_is_a_test_and_every_test_a_row"}
    assert len(rows) == len(set(rows))
    assert set(rows) == here
