"""A push shows what changes and is one commit on top of what it saw; what others have added stays."""

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

import seqrl
from seqrl.cli.app import app
from seqrl.core.errors import BundleError, HubError, UserError
from seqrl.hub.push import push

BUNDLE = {"config.json", "model.safetensors", "tokenizer.json", "recipe.yaml", "metrics.json"}
OURS = BUNDLE | {"README.md", "publication.json"}


def how(done):
    return {c.path: c.how for c in done.changes}


def test_a_dry_run_says_everything_and_sends_nothing(practice, run, bare):
    done = push(run, "me/tiny", dry_run=True)
    assert how(done) == dict.fromkeys(OURS, "new")
    assert (done.commit, done.tag) == (None, None)
    assert [m for m, _, _ in practice.log if m != "GET"] == []
    assert not (run / "published.json").exists()


def test_a_push_is_one_commit_with_a_tag_and_is_remembered(practice, run, bare, api, titles):
    shown = []
    done = push(run, "me/tiny", show=lambda changes, notes: shown.append(len(changes)))
    assert shown == [len(OURS)]
    assert titles()[0] == "tiny, step 3"
    assert len([1 for m, p, _ in practice.log if m == "POST" and "/commit/" in p]) == 1
    assert set(api.list_repo_files("me/tiny")) - {".gitattributes"} == OURS
    assert {t.name: t.target_commit for t in api.list_repo_refs("me/tiny").tags} == {"step-3": done.commit}
    (kept,) = json.loads((run / "published.json").read_text()).values()
    assert (kept["repo"], kept["commit"], kept["tags"]) == ("me/tiny", done.commit, ["step-3"])
    files = json.loads(Path(api.hf_hub_download("me/tiny", "publication.json")).read_text())["files"]
    assert set(files) == OURS


def test_what_is_published_is_what_was_trained(practice, run, bare):
    push(run, "me/tiny")
    ours, theirs = seqrl.load(run), seqrl.load("me/tiny")
    assert {k: v.numpy().tobytes() for k, v in ours.model.state_dict().items()} == {
        k: v.numpy().tobytes() for k, v in theirs.model.state_dict().items()
    }
    assert theirs.tokenizer.to_json() == ours.tokenizer.to_json()


def test_the_whole_publication_has_card_and_code_and_is_loaded_by_name(practice, run, api):
    done = push(run, "me/tiny", license="apache-2.0")
    card = Path(api.hf_hub_download("me/tiny", "README.md")).read_text()
    assert "license: apache-2.0" in card
    assert "me/tiny" in card
    assert done.notes == ()
    assert "auto_map" in json.loads(Path(api.hf_hub_download("me/tiny", "config.json")).read_text())
    assert seqrl.load("me/tiny").metrics["step"] == 3
    again = push(run, "me/tiny", license="apache-2.0")
    assert set(how(again).values()) == {"same"}


def test_pushed_again_nothing_changes(practice, run, bare, titles):
    first = push(run, "me/tiny")
    again = push(run, "me/tiny")
    assert set(how(again).values()) == {"same"}
    assert (again.commit, again.tag) == (first.commit, first.tag)
    assert titles().count("tiny, step 3") == 1


def test_what_is_no_longer_written_goes_and_what_others_added_stays(practice, run, bare, api, monkeypatch):
    from seqrl.hub import staging

    monkeypatch.setattr(staging, "_add_code", lambda folder: (folder / "code.py").write_text("x = 1\n") and [])
    push(run, "me/tiny")
    api.upload_file(path_or_fileobj=b"mine", path_in_repo="notes.txt", repo_id="me/tiny")
    monkeypatch.setattr(staging, "_add_code", lambda folder: [])
    monkeypatch.setattr(staging, "_add_card", lambda folder, *_: (folder / "README.md").write_text("---\n---\nother\n"))
    done = push(run, "me/tiny", force=True)
    assert {p: h for p, h in how(done).items() if h != "same"} == {
        "README.md": "changed",
        "code.py": "gone",
        "publication.json": "changed",
    }
    assert set(api.list_repo_files("me/tiny")) - {".gitattributes"} == OURS | {"notes.txt"}


def test_another_model_of_the_same_step_gets_a_tag_of_its_own(practice, run, bare, api):
    push(run, "me/tiny")
    weights = run / "checkpoints" / "last" / "bundle" / "metrics.json"
    weights.write_text(weights.read_text().replace('"step": 3', '"step": 3, "more": 1'))
    assert push(run, "me/tiny").tag == "step-3.2"
    assert push(run / "checkpoints" / "step-00000002", "me/tiny", force=True).tag == "step-2"
    assert sorted(t.name for t in api.list_repo_refs("me/tiny").tags) == ["step-2", "step-3", "step-3.2"]
    assert [seqrl.load("me/tiny", revision=r).metrics["step"] for r in ("step-2", "step-3")] == [2, 3]
    assert seqrl.load("me/tiny@step-3").metrics["step"] == 3


def test_a_bundle_alone_can_be_pushed(practice, run, bare, titles):
    folder = run / "checkpoints" / "last" / "bundle"
    away = folder.resolve().rename(run / "alone")
    push(away, "me/alone", message="by hand")
    assert titles("me/alone")[0] == "by hand"
    assert {p.name for p in away.iterdir()} == BUNDLE


def test_a_private_one_is_private_and_a_public_one_does_not_become_so_by_the_way(practice, run, bare, api):
    push(run, "me/secret", private=True)
    assert api.model_info("me/secret").private
    push(run, "me/open")
    with pytest.raises(HubError, match="is public, and --private does not change that"):
        push(run, "me/open", private=True)


def test_a_kind_that_cannot_carry_its_code_goes_without(run, monkeypatch):
    from seqrl.hub import staging

    def refuse(folder):
        (folder / "half.py").write_text("")
        (folder / "config.json").write_text("{}")
        raise UserError("it needs a Hub body")

    monkeypatch.setattr(staging, "_add_card", lambda *_: None)
    monkeypatch.setitem(sys.modules, "seqrl.hub.portable", SimpleNamespace(make_portable=refuse))
    folder = run.parent / "staged"
    folder.mkdir()
    staged = staging.stage(run, folder, "me/tiny")
    assert any("it needs a Hub body" in n for n in staged.notes)
    assert not (folder / "half.py").exists()
    assert json.loads((folder / "config.json").read_text())["width"] == 16


@pytest.mark.parametrize(
    "name", ["tiny", "a/b/c", "me/x y", "../me", "hf://", "hf://me", "me/a..b", "hf://datasets/me/x", "me/x@v1"]
)
def test_what_is_no_name_to_publish_at_is_refused(run, name):
    with pytest.raises(HubError, match="no repository|leave @v1 out"):
        push(run, name)


def test_the_command_prints_the_table_and_where_it_went(practice, run, bare):
    said = CliRunner().invoke(app, ["push", str(run), "me/tiny", "--dry-run"]).output
    assert "new      model.safetensors" in said
    assert "this was a dry run" in said
    said = CliRunner().invoke(app, ["push", str(run), "me/tiny"]).output
    assert f"published: {practice.url}/me/tiny at " in said
    assert "tagged step-3" in said
    said = CliRunner().invoke(app, ["push", str(run), "me/tiny"]).output
    assert "same     7 files" in said
    assert "nothing to change" in said


def test_datasets_and_manifests_have_doors_of_their_own(monkeypatch, tmp_path):
    called = []
    done = SimpleNamespace(commit=None, url="there", changes=(), tag=None)
    verdict = SimpleNamespace(entry=SimpleNamespace(repo="me/a"), told=("mean 400 (at least 300)",))

    def push_dataset(*a, show, progress, **settings):
        called.append((a, settings))
        return done

    def push_manifest(*a, show, **settings):
        called.append((a, settings))
        return [(verdict, done)]

    monkeypatch.setitem(sys.modules, "seqrl.hub.dataset", SimpleNamespace(push_dataset=push_dataset))
    monkeypatch.setitem(sys.modules, "seqrl.hub.manifest", SimpleNamespace(push_manifest=push_manifest))
    invoke = CliRunner().invoke
    assert invoke(app, ["push", "--dataset", "my/data-v0", "me/data", "--private"]).exit_code == 0
    said = invoke(app, ["push", "--manifest", "m.yaml", "me/a", "--dry-run"])
    assert "me/a: mean 400 (at least 300)\nthis was a dry run" in said.output
    assert called == [
        (("my/data-v0", "me/data"), {"private": True, "dry_run": False, "license": None, "message": None}),
        (("m.yaml", True, "me/a"), {"message": None, "force": False}),
    ]
    wrong = (["--dataset", "x"], ["--manifest", "m", "x", "y"], ["a"], [], ["--dataset", "x", "me/x", "--force"])
    assert [isinstance(invoke(app, ["push", *w]).exception, UserError) for w in wrong] == [True] * len(wrong)


def test_what_is_no_bundle_is_not_pushed(practice, tmp_path):
    with pytest.raises(BundleError, match="no such folder"):
        push(tmp_path / "nothing", "me/x")
    assert practice.log == []


def test_a_strangers_folder_is_not_taken_for_a_run(run, tmp_path, bare, monkeypatch):
    """Its recipe may name any module that is installed, or that lies beside it; pushing it must not import that."""
    pulled = tmp_path / "pulled"
    shutil.copytree(run / "checkpoints" / "last" / "bundle", pulled)
    shutil.copytree(pulled, pulled / "checkpoints" / "last" / "bundle")
    (tmp_path / "evil.py").write_text("raise SystemExit('executed')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for folder in (pulled, pulled / "checkpoints" / "last" / "bundle"):
        recipe = (folder / "recipe.yaml").read_text()
        (folder / "recipe.yaml").write_text(recipe.replace("kind: policies.decision", "kind: evil.model"))
    with pytest.raises(BundleError, match="asks for code of another package"):
        push(pulled, "me/x", dry_run=True)
    assert "evil" not in sys.modules


def test_what_a_config_names_besides_settings_is_not_published(practice, run, bare, api):
    path = run / "checkpoints" / "last" / "bundle" / "config.json"
    named = {"auto_map": {"AutoModel": "evil/repo--x.M"}, "attn_implementation": "evil/kernel", "_name_or_path": "evil/base"}
    path.write_text(json.dumps(json.loads(path.read_text()) | named))
    push(run, "me/tiny")
    config = Path(api.hf_hub_download("me/tiny", "config.json")).read_text()
    assert "evil" not in config
    assert seqrl.load("me/tiny").metrics["step"] == 3


def test_the_card_names_the_tag_it_is_found_under(practice, run, api, tmp_path):
    other = shutil.copytree(run, tmp_path / "other", symlinks=True)
    metrics = other / "checkpoints" / "last" / "bundle" / "metrics.json"
    metrics.write_text(json.dumps(json.loads(metrics.read_text()) | {"loss": 0.5}))
    first, second, again = push(run, "me/tiny"), push(other, "me/tiny", force=True), push(other, "me/tiny")
    assert (first.tag, second.tag, again.tag) == ("step-3", "step-3.2", "step-3.2")
    assert again.commit == second.commit
    for done in (first, second):
        card = Path(api.hf_hub_download("me/tiny", "README.md", revision=done.commit)).read_text()
        assert f'"me/tiny", "{done.tag}"' in card


def test_another_publication_is_not_replaced_unasked(practice, run, bare, tmp_path):
    other = shutil.copytree(run, tmp_path / "other", symlinks=True)
    metrics = other / "checkpoints" / "last" / "bundle" / "metrics.json"
    metrics.write_text(json.dumps(json.loads(metrics.read_text()) | {"loss": 0.5}))
    push(run, "me/tiny")
    with pytest.raises(HubError, match="holds tiny, step 3, published from another run or machine, and this is tiny, step 3"):
        push(other, "me/tiny")
    with pytest.raises(HubError, match="a later step of this run, and this is tiny, step 2"):
        push(run / "checkpoints" / "step-00000002", "me/tiny")
    assert push(run / "checkpoints" / "step-00000002", "me/tiny", force=True).tag == "step-2"
