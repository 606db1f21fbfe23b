"""A run that begins with a repository of the Hub: it writes down which commit that was, and which it is when it goes on."""

import json
import shutil

import pytest
from huggingface_hub import HfApi
from safetensors.torch import load_file

from seqrl import bundle
from seqrl.core.errors import UserError
from seqrl.train import recipe as recipes
from seqrl.train import run

TEXT = """
name: small
data: {sources: [{kind: minari, id: tests/cartpole-v0}], held_out: 0.1}
tokens: {context: 5}
model: {kind: policies.decision, width: 16, layers: 1, heads: 2, dropout: 0.0}
train: {steps: 1, batch: 4, lr: 1e-2, save_every: 1, device: cpu, validate_windows: 4}
evaluate: {at_end: false}
"""


def small(*overrides):
    return recipes.parse(TEXT, "small.yaml", overrides)


def publish(hub, folder, repo):
    api = HfApi(hub.url, token=hub.token)
    api.create_repo(repo, exist_ok=True)
    return api.upload_folder(folder_path=folder, repo_id=repo).oid


@pytest.mark.parametrize("name", ["me/small", "hf://me/small@main"])
def test_a_run_begins_with_a_commit_and_says_which(cartpole, practice, tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    base = bundle.find(run.start(small(), tmp_path / "base").run)
    commit = publish(practice, base, "me/small")
    out = run.start(small(f"init={name}", "train.steps=2", "train.seed=3"), tmp_path / "fine").run
    lineage = json.loads((bundle.find(out) / "metrics.json").read_text())["lineage"]
    assert (lineage["base_model"], lineage["revision"], lineage["step"]) == ("me/small", commit, 1)
    assert set(lineage["loaded"]) == set(load_file(base / "model.safetensors"))
    assert f"init      me/small@{commit[:12]}, step 1: tensors {len(lineage['loaded'])} loaded" in capsys.readouterr().err
    recipe = recipes.parse((out / "recipe.yaml").read_text(), "r")
    assert (recipe.init.name, recipe.init.revision) == (name.partition("@")[0], commit)
    # Somebody publishes another; a run without a checkpoint begins with the commit that it wrote down.
    other = bundle.find(run.start(small("train.seed=9", "train.steps=3"), tmp_path / "other").run)
    assert publish(practice, other, "me/small") != commit
    shutil.rmtree(out / "checkpoints")
    run.resume(out)
    assert json.loads((bundle.find(out) / "metrics.json").read_text())["lineage"] == lineage


def test_what_is_not_there_is_told_before_anything_is_made(cartpole, practice, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="me/nothing"):
        run.start(small("init=me/nothing"), tmp_path / "r")
    assert not (tmp_path / "r").exists()
