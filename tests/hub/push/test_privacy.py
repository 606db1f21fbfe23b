"""No token and no path of this machine is published, and nothing else is touched."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import save_file

import seqrl
from seqrl.core.errors import HubError
from seqrl.hub import privacy, secrets
from seqrl.hub.push import push

# Put together here, so that no file of the repository holds what looks like one.
TOKENS = {
    "hf" + "_" + "AbCd" * 9: "a Hugging Face token",
    "gh" + "p_" + "0123456789" * 4: "a GitHub token",
    "AK" + "IA" + "ABCDEFGH12345678": "an AWS key",
    "-----BEGIN RSA PRI" + "VATE KEY-----": "a private key",
    "https://me:pass" + "word@host/x": "an address with a password",
    "sk-" + "proj-" + "a1" * 20: "an API key",
}
BOB = "/".join(["", "home", "bob", "data"])
HARMLESS = ["hf_hub_download_and_more_words_with_underscores", "https://host:8080/a@b", "hf_short", "a" * 64, "user:name@host"]


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home folder and a working folder of this test's own."""
    home = tmp_path / "people" / "ann"
    (home / "here").mkdir(parents=True)
    monkeypatch.setattr(Path, "home", lambda: home)
    monkeypatch.chdir(home / "here")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    return home


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "staged").mkdir()
    return tmp_path / "staged"


@pytest.mark.parametrize("secret", TOKENS)
@pytest.mark.parametrize("name", ["README.md", "a.json", "code.py", "deep/x.bin"])
def test_tokens_are_found_by_place_and_never_printed(folder, secret, name):
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes((b"\0" if name.endswith("bin") else b"one\n") + f"two {secret} three".encode())
    (found,) = secrets.find(folder)
    assert found == f"{name}{'' if name.endswith('bin') else ':2'}: {TOKENS[secret]}"
    with pytest.raises(HubError, match="there are secrets in it") as e:
        secrets.refuse_secrets(folder)
    assert secret not in str(e.value)


def test_what_only_looks_like_one_passes(folder):
    (folder / "a.md").write_text("\n".join(HARMLESS))
    assert secrets.find(folder) == []


def test_the_secrets_of_this_process_are_known(folder, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "any-form-at-all")
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef")
    (folder / "a.txt").write_text("x any-form-at-all\n0123456789abcdef")
    assert secrets.find(folder) == ["a.txt:1: your access token", "a.txt:2: the value of WANDB_API_KEY"]


def test_a_token_in_the_head_of_the_weights(folder):
    save_file({"w": torch.zeros(3)}, folder / "m.safetensors", metadata={"by": next(iter(TOKENS))})
    assert secrets.find(folder) == ["m.safetensors:1: a Hugging Face token"]


def test_settings_keep_the_last_word_of_a_path(home, folder):
    values = {
        str(home / "runs" / "world"): "world",
        str(home / "here" / "my data.hdf5"): "my data.hdf5",
        "~/data/x": "x",
        "../../other/run": "run",
        BOB: "data",
        "C:\\Users\\bob\\x.yaml": "x.yaml",
        f"seqrl train --out {home}/runs/a world={home}/b": "seqrl train --out a world=b",
    }
    stay = ["mujoco/hopper/medium-v0", "/camera", "/robot/camera", f"https://host{BOB}", "m/s", "runs/world", "/", "a\\b", ""]
    raw = {"a": list(values), "b": stay, str(home / "key"): 1}
    for name, write in {"x.json": json.dumps, "y.yaml": yaml.safe_dump}.items():
        (folder / name).write_text(write(raw))
    told = privacy.clean(folder)
    for name, read in {"x.json": json.loads, "y.yaml": yaml.safe_load}.items():
        assert read((folder / name).read_text()) == {"a": list(values.values()), "b": stay, "key": 1}
    assert f"x.json: {home / 'runs' / 'world'} -> world" in told
    assert len(told) == 2 * (len(values) + 1)
    assert privacy.clean(folder) == []


def test_what_a_tokenizer_has_learned_is_left_alone(home, folder):
    vocabulary = {f"{home}/x": 0, "/usr/bin": 1}
    raw = {"config": {"slots": {"state": {"encoder": f"{home}/vq"}}}, "state": {"task": vocabulary}}
    (folder / "tokenizer.json").write_text(json.dumps(raw))
    privacy.clean(folder)
    found = json.loads((folder / "tokenizer.json").read_text())
    assert found["config"]["slots"]["state"] == {"encoder": "vq"}
    assert found["state"]["task"] == vocabulary


def test_untouched_files_keep_every_byte(home, folder):
    (folder / "a.yaml").write_text("# a comment\nx:   1e-3\n")
    (folder / "b.json").write_text('{"x":[1,   2]}')
    assert privacy.clean(folder) == []
    assert (folder / "a.yaml").read_text() == "# a comment\nx:   1e-3\n"


def test_prose_is_shortened_and_code_refused(home, folder):
    (folder / "README.md").write_text(f"From `{home}/runs/x`, see https://host{home}/y and {home}.\n")
    assert len(privacy.clean(folder)) == 2
    assert (folder / "README.md").read_text() == f"From `x`, see https://host{home}/y and ann\n"
    (folder / "code.py").write_text(f'#!/usr/bin/env python\nx = "{home}/data"\n')
    with pytest.raises(HubError, match=r"names places of this machine:\n  code.py:2"):
        privacy.clean(folder)


def test_free_text_in_weights_goes_and_their_numbers_stay(home, folder):
    save_file({"w": torch.arange(5.0)}, folder / "m.safetensors", metadata={"from": f"{home}/runs/x", "format": "pt"})
    other = folder.parent / "linked.safetensors"
    other.hardlink_to(folder / "m.safetensors")
    assert privacy.clean(folder) == ["m.safetensors: its metadata -> none"]
    with safe_open(folder / "m.safetensors", "pt") as f:
        assert f.metadata() == {"format": "pt"}
        assert f.get_tensor("w").tolist() == [0, 1, 2, 3, 4]
    with safe_open(other, "pt") as f:
        assert f.metadata()["from"] == f"{home}/runs/x"


def test_a_push_leaves_the_paths_here(home, practice, run, bare):
    bundle = run / "checkpoints" / "last" / "bundle"
    raw = yaml.safe_load((bundle / "recipe.yaml").read_text())
    (bundle / "recipe.yaml").write_text(yaml.safe_dump(raw | {"note": f"{home}/x/mine.yaml"}))
    done = push(run, "me/tiny")
    assert done.notes == (f"shortened  recipe.yaml: {home}/x/mine.yaml -> mine.yaml",)
    loaded = seqrl.load("me/tiny")
    assert loaded.recipe["note"] == "mine.yaml"
    assert f"{home}/x" in (bundle / "recipe.yaml").read_text()
    assert not [p for p in loaded.path.iterdir() if str(home).encode() in p.read_bytes()]


@pytest.mark.parametrize(
    ("value", "short"),
    [
        ("/cluster/people/alice/medium", "medium"),
        ("/p/project/alice/x.hdf5", "x.hdf5"),
        ("file:///export/alice/x", "x"),
        ("~alice/data", "data"),
        ("runs/../../alice/x", "x"),
        ("mujoco/hopper/medium-v0", "mujoco/hopper/medium-v0"),
        ("org/name", "org/name"),
        ("task | image direction > action", "task | image direction > action"),
    ],
)
def test_a_whole_value_from_a_root_or_a_home_is_shortened_on_any_machine(value, short):
    assert privacy.Places().short(value) == short
