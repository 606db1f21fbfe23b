"""A small run to publish, made once; pushes without card and code where only the sending is looked at; no waiting."""

import shutil

import pytest
from huggingface_hub import HfApi

TEXT = """
name: tiny
data: {sources: [{kind: minari, id: tests/cartpole-v0}]}
tokens: {context: 4}
model: {kind: policies.decision, width: 16, layers: 2, heads: 2}
train: {steps: 3, batch: 4, device: cpu}
evaluate: {episodes: 2, envs: 2, targets: [50]}
"""


@pytest.fixture(scope="session")
def made(cartpole, tmp_path_factory):
    """What a training leaves behind, with random weights: it costs seconds less than to train."""
    from seqrl import bundle
    from seqrl.train import recipe as recipes
    from seqrl.train.prepare import open_data, tokenizer_for
    from seqrl.train.run import build_model

    run = tmp_path_factory.mktemp("runs") / "r"
    recipe = recipes.parse(TEXT, "tiny.yaml")
    tokenizer = tokenizer_for(recipe, open_data(recipe))
    for step in (2, 3):
        place = run / "checkpoints" / f"step-{step:08d}" / "bundle"
        bundle.save(place, build_model(recipe, tokenizer, step), tokenizer, recipe.dump(), {"step": step})
    (run / "checkpoints" / "last").symlink_to("step-00000003")
    (run / "recipe.yaml").write_text(recipe.dump())
    (run / "metrics.jsonl").write_text("")
    return run


@pytest.fixture
def run(made, tmp_path):
    """A run of one's own, at step 3, with a checkpoint at step 2."""
    return shutil.copytree(made, tmp_path / "run", symlinks=True)


@pytest.fixture
def bare(monkeypatch):
    """Publications of the bundle and two lines of card."""
    from seqrl.hub import staging

    monkeypatch.setattr(staging, "_add_code", lambda folder: [])
    monkeypatch.setattr(staging, "_add_card", lambda folder, *_: (folder / "README.md").write_text("---\n---\na card\n"))


@pytest.fixture
def waits(monkeypatch):
    """The seconds that would have been waited."""
    kept = []
    monkeypatch.setattr("time.sleep", kept.append)
    return kept


@pytest.fixture
def api(practice):
    return HfApi(endpoint=practice.url, token=practice.token)


@pytest.fixture
def titles(api):
    """``titles(repo)``: of its commits, newest first."""
    return lambda repo="me/tiny": [c.title for c in api.list_repo_commits(repo)]
