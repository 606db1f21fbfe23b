"""The practice Hub itself: it refuses what leads out of a folder, keeps what was committed, and fails when told to."""

import base64
import hashlib
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError

from seqrl.core.errors import UserError
from seqrl.hub.practice import PracticeHub
from seqrl.hub.practice.objects import git_id
from seqrl.hub.practice.trees import Entry, folders


def ask(hub, method, path, body=None, **headers):
    """(status, body) of a request as a client of no library would make it."""
    line = http.client.HTTPConnection(hub.url.removeprefix("http://"), timeout=20)
    try:
        data = json.dumps(body).encode() if isinstance(body, dict) else body
        line.request(method, path, data, {"Authorization": f"Bearer {hub.token}"} | headers)
        answer = line.getresponse()
        return answer.status, answer.read()
    finally:
        line.close()


def commit(hub, path, content=b"x", key="file"):
    lines = [{"key": "header", "value": {"summary": "s"}}]
    lines.append({"key": key, "value": {"path": path, "content": base64.b64encode(content).decode(), "encoding": "base64"}})
    return ask(hub, "POST", "/api/models/org/x/commit/main", "\n".join(map(json.dumps, lines)).encode())


@pytest.fixture
def repo(practice):
    ask(practice, "POST", "/api/repos/create", {"name": "x", "organization": "org"})
    return practice


ESCAPES = ["../x", "a/../../x", "/etc/x", "a\0b", ".git/config", "a/.GIT/x", "a\\..\\x", "C:/x", "", ".", "a//b", "a\nb"]
HEADER = b'{"key": "header", "value": {"summary": "s"}}\n'
FILE = b'{"key": "file", "value": {"path": "x", "content": "!", "encoding": "base64"}}'


@pytest.mark.parametrize("path", ESCAPES)
def test_a_path_that_leads_out_is_refused(repo, path):
    before = repo.site.repos.find("model", "org/x").heads["main"]
    assert commit(repo, path)[0] == 400
    assert ask(repo, "POST", "/api/models/org/x/preupload/main", {"files": [{"path": path, "size": 1}]})[0] == 400
    assert repo.site.repos.find("model", "org/x").heads["main"] == before


def test_a_planted_path_is_listed_and_served_from_nowhere_else(practice):
    practice.plant("org/evil", {"../../escape.txt": b"evil", "model.safetensors": b"\0" * 9})
    assert HfApi().list_repo_files("org/evil") == ["../../escape.txt", "model.safetensors"]
    assert ask(practice, "GET", "/org/evil/resolve/main/..%2F..%2Fescape.txt") == (200, b"evil")
    assert ask(practice, "GET", "/org/evil/resolve/main/..%2F..%2Frepo.json")[0] == 404
    assert not list(practice.root.parent.rglob("escape.txt"))


@pytest.mark.parametrize("name", ["../x", "a..b", "a--b", "-a", "x.git", "", "a/b", "a" * 97, ".x"])
def test_a_name_that_is_none_is_refused(practice, name):
    assert ask(practice, "POST", "/api/repos/create", {"name": name})[0] == 400


@pytest.mark.parametrize(
    "body",
    [
        b"no json",
        FILE,
        HEADER + FILE,
        HEADER + b"[1]",
        HEADER + b'{"key": "magic", "value": {"path": "x"}}',
        HEADER + b'{"key": "lfsFile", "value": {"path": "x", "oid": "' + b"0" * 64 + b'"}}',
        HEADER + b'{"key": "lfsFile", "value": {"path": "x", "oid": "../../x"}}',
    ],
)
def test_a_commit_of_nonsense_is_refused_whole(repo, body):
    head = repo.site.repos.find("model", "org/x").heads["main"]
    assert ask(repo, "POST", "/api/models/org/x/commit/main", body)[0] == 400
    assert repo.site.repos.find("model", "org/x").heads["main"] == head


def test_what_was_asked_for_adds_no_header(repo):
    line = http.client.HTTPConnection(repo.url.removeprefix("http://"))
    line.request("GET", "/org/x/resolve/a%0d%0aSet-Cookie:%20x/y")
    answer = line.getresponse()
    assert answer.status == 404
    assert answer.headers["Set-Cookie"] is None
    assert answer.headers["X-Error-Code"] == "RevisionNotFound"
    line.close()


def test_a_file_cannot_be_a_folder_too(repo):
    assert commit(repo, "a")[0] == 200
    assert commit(repo, "a/b")[0] == 400


def test_git_would_give_the_same_names(tmp_path):
    for path, text in (("a.txt", "1"), ("b/c.txt", "2"), ("b.txt", "3"), ("b/d/e", "4"), ("b0", "5")):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)

    def git(*words):
        return subprocess.run(["git", *words], cwd=tmp_path, capture_output=True, text=True, check=True).stdout.strip()

    git("init", "-q")
    git("add", ".")
    tree = git("write-tree")
    names = dict(reversed(line.split(maxsplit=2)[2].split("\t")) for line in git("ls-tree", "-r", tree).splitlines())
    files = {p: Entry(git_id("blob", (tmp_path / p).read_bytes()), 1) for p in names}
    assert {p: e.oid for p, e in files.items()} == names
    assert folders(files)[""] == tree
    assert folders(files)["b/d"] == git("rev-parse", f"{tree}:b/d")


def test_a_range_of_a_large_file(practice):
    data = bytes(range(256)) * 4
    practice.plant("org/r", {"w.bin": data})
    sha = hashlib.sha256(data).hexdigest()
    where = practice.site.link("get", sha).removeprefix(practice.url)
    for wanted, got in (("bytes=10-19", data[10:20]), ("bytes=1000-", data[1000:]), ("bytes=-5", data[-5:])):
        assert ask(practice, "GET", where, Range=wanted) == (206, got)
    assert ask(practice, "GET", where, Range="bytes=5000-")[0] == 416
    assert ask(practice, "GET", where.partition("?")[0])[0] == 403


def test_an_upload_is_what_it_says_or_nothing(repo):
    data = b"weights" * 1000
    sha = hashlib.sha256(data).hexdigest()
    where = repo.site.link("put", sha).removeprefix(repo.url)
    assert ask(repo, "PUT", where, data[:-1] + b"x")[0] == 400
    assert ask(repo, "PUT", where.replace("put=", "put=0"), data)[0] == 403
    assert not repo.site.objects.large(sha).exists()
    assert ask(repo, "PUT", where, iter([data[:9], data[9:]]))[0] == 200
    assert repo.site.objects.large(sha).read_bytes() == data
    assert not list((repo.root / "incoming").iterdir())


def test_everything_is_there_again(tmp_path):
    with PracticeHub(tmp_path / "hub") as hub:
        api = HfApi(hub.url, hub.token)
        api.create_repo("org/x")
        api.create_commit("org/x", [CommitOperationAdd("a", b"1")], commit_message="one", create_pr=True)
        api.create_tag("org/x", tag="v1")
        api.create_collection("Kept")
        told = api.model_info("org/x"), api.list_repo_refs("org/x", include_pull_requests=True), hub.site.link("put", "0" * 64)
        port = int(hub.url.rpartition(":")[2])
    with PracticeHub(tmp_path / "hub", port) as hub:
        api = HfApi(hub.url, hub.token)
        again = api.model_info("org/x"), api.list_repo_refs("org/x", include_pull_requests=True), hub.site.link("put", "0" * 64)
        assert again == told
        assert [c.title for c in api.list_collections(owner="me")] == ["Kept"]
        api.merge_pull_request("org/x", 1)
        assert api.file_exists("org/x", "a")


def test_a_temporary_hub_leaves_nothing():
    with PracticeHub() as hub:
        root = hub.root
        assert root.is_dir()
    assert not root.exists()


def test_a_taken_port_and_a_taken_folder_are_said(practice, tmp_path):
    port = int(practice.url.rpartition(":")[2])
    with pytest.raises(UserError, match=rf"port {port} cannot be had .*--port"):
        PracticeHub(tmp_path / "other", port).start()
    with pytest.raises(UserError, match="another practice Hub runs on this folder"):
        PracticeHub(practice.root).start()


def test_a_status_on_order_comes_once_and_with_its_headers(repo, monkeypatch):
    waits = []
    monkeypatch.setattr(time, "sleep", waits.append)
    repo.fail("POST", "preupload", [503, (429, {"Retry-After": "3"})])
    HfApi().upload_file(path_or_fileobj=b"1", path_in_repo="a", repo_id="org/x")
    assert [s for m, p, s in repo.log if "preupload" in p] == [503, 429, 200]
    assert len(waits) == 2
    assert waits[1] >= 3


@pytest.mark.parametrize(("word", "done"), [("drop", False), ("half", False), ("lost", True)])
def test_a_connection_lost_in_a_commit(repo, word, done):
    repo.fail("POST", "/commit/", [word])
    with pytest.raises((ConnectionError, http.client.HTTPException)):
        commit(repo, "a")
    assert repo.log[-1][2] == 0
    files = repo.site.repos.resolve(repo.site.repos.find("model", "org/x"), "main").files
    assert ("a" in files) == done


def test_half_and_wrong_downloads(practice):
    practice.plant("org/r", {"a.txt": b"0123456789", "w.bin": b"0123456789"})
    practice.fail("GET", "a.txt", ["half", "corrupt"])
    with pytest.raises(http.client.IncompleteRead):
        ask(practice, "GET", "/org/r/resolve/main/a.txt")
    status, wrong = ask(practice, "GET", "/org/r/resolve/main/a.txt")
    assert (status, len(wrong)) == (200, 10)
    assert wrong != b"0123456789"
    assert ask(practice, "GET", "/org/r/resolve/main/a.txt") == (200, b"0123456789")
    practice.fail("GET", "practice-lfs", ["half"])
    where = practice.site.link("get", hashlib.sha256(b"0123456789").hexdigest()).removeprefix(practice.url)
    with pytest.raises(http.client.IncompleteRead):
        ask(practice, "GET", where)


def test_half_and_wrong_uploads_leave_nothing(repo):
    data = os.urandom(1 << 20)
    sha = hashlib.sha256(data).hexdigest()
    where = repo.site.link("put", sha).removeprefix(repo.url)
    repo.fail("PUT", "practice-lfs", ["half", "corrupt"])
    with pytest.raises((ConnectionError, http.client.HTTPException)):
        ask(repo, "PUT", where, data)
    assert ask(repo, "PUT", where, data)[0] == 400
    assert not repo.site.objects.large(sha).exists()
    assert not list((repo.root / "incoming").iterdir())


def test_a_stranger_may_propose_and_not_commit(practice, tmp_path):
    with PracticeHub(tmp_path / "two", accounts={"hf_a": "ann", "hf_b": "bob"}, orgs=()) as hub:
        ann, bob = (HfApi(hub.url, token) for token in ("hf_a", "hf_b"))
        ann.create_repo("ann/x")
        weights = [CommitOperationAdd("w.bin", b"\0" * 999)]
        with pytest.raises(HfHubHTTPError, match="403"):
            bob.create_commit("ann/x", weights, commit_message="mine now")
        made = bob.create_commit("ann/x", weights, commit_message="better", create_pr=True)
        bob.create_commit("ann/x", [CommitOperationAdd("y", b"1")], commit_message="more", revision=made.pr_revision)
        with pytest.raises(HfHubHTTPError, match="403"):
            bob.merge_pull_request("ann/x", made.pr_num)
        ann.merge_pull_request("ann/x", made.pr_num)
        assert ann.list_repo_files("ann/x") == [".gitattributes", "w.bin", "y"]


def test_a_full_disk_is_an_answer_and_no_commit(repo, monkeypatch):
    head = repo.site.repos.find("model", "org/x").heads["main"]

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("seqrl.hub.practice.repos.write", full)
    assert commit(repo, "a")[0] == 507
    monkeypatch.undo()
    assert repo.site.repos.find("model", "org/x").heads["main"] == head
    assert commit(repo, "a")[0] == 200


def test_a_fault_that_is_none_is_refused(practice):
    with pytest.raises(ValueError, match="a fault is"):
        practice.fail("GET", "", ["fire"])


def test_two_commits_at_once_both_count_and_with_a_parent_one_does(repo):
    from concurrent.futures import ThreadPoolExecutor

    api, head = HfApi(), HfApi().model_info("org/x").sha

    def add(k, parent=None):
        try:
            api.create_commit("org/x", [CommitOperationAdd(f"{parent}{k}", b"1")], commit_message=str(k), parent_commit=parent)
        except HfHubHTTPError as e:
            return e.response.status_code
        return 200

    with ThreadPoolExecutor(6) as pool:
        assert sorted(pool.map(lambda k: add(k, head), range(6))) == [200, *[412] * 5]
        assert list(pool.map(add, range(6))) == [200] * 6
    assert len(api.list_repo_files("org/x")) == 1 + 1 + 6


def test_a_killed_hub_has_the_commit_or_not(tmp_path):
    code = "import sys; from seqrl.cli.hub import app; app(['--root', sys.argv[1], '--port', '0'])"
    root = tmp_path / "hub"
    served = subprocess.Popen([sys.executable, "-uc", code, str(root)], stdout=subprocess.PIPE, text=True)
    try:
        url = served.stdout.readline().strip().removeprefix("export HF_ENDPOINT=")
        assert served.stdout.readline().strip() == "export HF_TOKEN=hf_practice"
        api = HfApi(url, "hf_practice")
        api.create_repo("org/x")
        first = api.create_commit("org/x", [CommitOperationAdd("a", b"1")], commit_message="first").oid
        # In the middle of an upload: half of what was promised is sent.
        line = http.client.HTTPConnection(url.removeprefix("http://"))
        line.putrequest("POST", "/api/models/org/x/commit/main")
        for name, value in (("Authorization", "Bearer hf_practice"), ("Content-Length", "1000000")):
            line.putheader(name, value)
        line.endheaders(HEADER)
        time.sleep(0.2)
    finally:
        served.kill()
        served.wait()
        line.close()
    (root / "incoming" / "left").write_bytes(b"half")
    with PracticeHub(root) as hub:
        api = HfApi(hub.url, hub.token)
        assert [c.title for c in api.list_repo_commits("org/x")] == ["first", "initial commit"]
        assert api.model_info("org/x").sha == first
        assert not list((root / "incoming").iterdir())


def test_serve_ends_cleanly_with_ctrl_c(tmp_path):
    code = "import sys; from seqrl.cli.hub import app; app(['--port', '0', '--account', 'ann', '--account', 'bob'])"
    env = os.environ | {"TMPDIR": str(tmp_path)}
    served = subprocess.Popen([sys.executable, "-uc", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
    lines = [served.stdout.readline() for _ in range(5)]
    url = lines[0].strip().removeprefix("export HF_ENDPOINT=")
    assert lines[1] == "export HF_TOKEN=hf_practice_ann   # ann\n"
    assert lines[3] == "export HF_HUB_DISABLE_XET=1\n"
    assert "ann, bob, org" in lines[4]
    assert HfApi(url, "hf_practice_bob").whoami()["name"] == "bob"
    served.send_signal(signal.SIGINT)
    out, err = served.communicate(timeout=20)
    assert served.returncode == 0
    assert "GET    200 /api/whoami-v2" in out
    assert out.endswith("# stopped\n")
    assert not err
    assert not list(Path(tmp_path).glob("practice-hub-*"))


def test_a_browser_sees_what_is_public_and_runs_nothing(practice):
    practice.plant("org/x", {"README.md": b"<script>alert(1)</script>", "a b.txt": b"1"})
    practice.plant("me/secret", {"README.md": b"hidden"}, private=True)
    practice.plant("org/rows", {"x.parquet": b"1"}, "dataset")
    line = http.client.HTTPConnection(practice.url.removeprefix("http://"))
    line.request("GET", "/")
    front = line.getresponse().read().decode()
    assert '<a href="/org/x">' in front
    assert '<a href="/datasets/org/rows">' in front
    assert "secret" not in front
    line.request("GET", "/me/secret")
    hidden = line.getresponse()
    assert (hidden.status, b"hidden" in hidden.read()) == (401, False)
    line.request("GET", "/org/x")
    page = line.getresponse()
    assert page.headers["Content-Security-Policy"].startswith("default-src 'none'")
    text = page.read().decode()
    assert "&lt;script&gt;" in text
    assert "<script" not in text
    assert '<a href="/org/x/resolve/main/a%20b.txt">' in text
    line.close()


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/api/models?limit=x", None),
        ("POST", "/api/models/org/x/preupload/main", {"files": [5]}),
        ("POST", "/api/models/org/x/preupload/main", {"files": [{"path": "a", "size": []}]}),
        ("POST", "/api/models/org/x/preupload/main", {"files": 5}),
        ("POST", "/org/x.git/info/lfs/objects/batch", {"objects": ["x"]}),
        ("POST", "/api/collections", {"item": 5}),
    ],
)
def test_nonsense_in_a_request_is_its_senders_fault(repo, capfd, method, path, body):
    status, said = ask(repo, method, path, body)
    assert status == 400
    assert "cannot be understood" in json.loads(said)["error"]
    assert "Traceback" not in capfd.readouterr().err
    assert ask(repo, "GET", "/api/models")[0] == 200


def test_a_defect_of_ours_shows_itself(repo, capfd, monkeypatch):
    monkeypatch.setattr(repo.site.repos, "all", None)
    assert ask(repo, "GET", "/api/models")[0] == 500
    assert "Traceback" in capfd.readouterr().err


def test_a_root_that_is_a_file_is_one_message(tmp_path):
    (tmp_path / "x").write_text("mine")
    with pytest.raises(UserError, match=r"x: no Hub can keep its files there \(it is a file\); choose a folder with --root"):
        PracticeHub(tmp_path / "x").start()
    with pytest.raises(UserError, match="no Hub can keep its files there"):
        PracticeHub(tmp_path / "x" / "y").start()
    assert (tmp_path / "x").read_text() == "mine"
