"""A bundle is whole or refused with one clear message, and nothing in it is ever executed."""

import json
import shutil

import pytest
import torch
import yaml

import seqrl
from seqrl import bundle
from seqrl.core.errors import BundleError
from seqrl.train import recipe as recipes
from seqrl.train import run

TEXT = """
name: tiny
data: {sources: [{kind: minari, id: tests/cartpole-v0}]}
tokens: {context: 4}
model: {kind: policies.decision, width: 16, layers: 2, heads: 2}
train: {steps: 3, batch: 4, save_every: 2, device: cpu}
evaluate: {at_end: false, episodes: 2, envs: 2, targets: [50]}
"""


@pytest.fixture(scope="module")
def made(cartpole, tmp_path_factory):
    return run.start(recipes.parse(TEXT, "tiny.yaml"), tmp_path_factory.mktemp("runs") / "r").run


@pytest.fixture
def folder(made, tmp_path):
    return shutil.copytree(bundle.find(made), tmp_path / "b")


def test_a_run_a_checkpoint_and_a_bundle_are_all_loaded_by_name(made):
    last = made / "checkpoints" / "last"
    loaded = [bundle.load(p) for p in (made, last, last / "bundle")]
    weights = [list(b.model.state_dict().values()) for b in loaded]
    assert all(torch.equal(a, b) for other in weights[1:] for a, b in zip(weights[0], other, strict=True))
    assert not loaded[0].model.training
    assert seqrl.load(made).metrics["step"] == 3


def test_a_bundle_is_published_files_only(folder):
    names = {p.name for p in folder.iterdir()}
    assert names == {"config.json", "model.safetensors", "tokenizer.json", "recipe.yaml", "metrics.json"}


def test_the_tokenizer_comes_back_bit_for_bit(folder):
    tokenizer = bundle.load(folder).tokenizer
    assert json.loads(json.dumps(tokenizer.to_json())) == json.loads((folder / "tokenizer.json").read_text())


def test_saved_again_it_is_the_same(folder, tmp_path):
    one = bundle.load(folder)
    recipe = (folder / "recipe.yaml").read_text()
    bundle.save(tmp_path / "again", one.model, one.tokenizer, recipe, {k: v for k, v in one.metrics.items() if k != "format"})
    for name in ("model.safetensors", "tokenizer.json", "metrics.json", "recipe.yaml"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes(), name


def edit(path, change):
    raw = json.loads(path.read_text())
    change(raw)
    path.write_text(json.dumps(raw))


BROKEN = {
    "weights cut short": (
        lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:2000]),
        "truncated",
    ),
    "weights missing": (lambda f: (f / "model.safetensors").unlink(), "no model.safetensors"),
    "no safetensors at all": (lambda f: (f / "model.safetensors").write_bytes(b"\x80\x04rubbish" * 40), "truncated"),
    "tokenizer cut short": (lambda f: (f / "tokenizer.json").write_text('{"version": 1,'), "cannot be read"),
    "tokenizer of another thing": (lambda f: (f / "tokenizer.json").write_text('{"model": 1}'), "no seqrl tokenizer"),
    "tokenizer from the future": (lambda f: edit(f / "tokenizer.json", lambda r: r.update(version=99)), "newer seqrl"),
    "bundle from the future": (lambda f: edit(f / "metrics.json", lambda r: r.update(format=99)), "newer seqrl"),
    "metrics missing": (lambda f: (f / "metrics.json").unlink(), "no metrics.json"),
    "recipe no yaml": (lambda f: (f / "recipe.yaml").write_text("a: [1"), "cannot be read"),
    "recipe without a kind": (lambda f: (f / "recipe.yaml").write_text("name: x"), "names no model.kind"),
    "another model's weights": (lambda f: edit(f / "config.json", lambda r: r.update(width=32)), "belong together"),
    "more layers than weights": (lambda f: edit(f / "config.json", lambda r: r.update(layers=3)), "belong together"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_what_is_broken_is_refused_in_words(folder, how):
    breaks, said = BROKEN[how]
    breaks(folder)
    with pytest.raises(BundleError, match=said):
        bundle.load(folder)


def test_a_strangers_bundle_imports_nothing(folder, tmp_path, monkeypatch):
    (tmp_path / "evil_kind.py").write_text(f"open({str(tmp_path / 'was_run')!r}, 'w')\n")
    monkeypatch.syspath_prepend(tmp_path)
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe | {"model": {"kind": "evil_kind"}}))
    with pytest.raises(BundleError, match="code of another package"):
        bundle.load(folder)
    edit(folder / "config.json", lambda r: r.update(auto_map={"AutoModel": "evil_kind.Model"}))
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    bundle.load(folder)
    assert not (tmp_path / "was_run").exists()


def test_names_that_lead_nowhere(tmp_path):
    with pytest.raises(BundleError, match="no such folder"):
        bundle.find(tmp_path / "nothing")
    with pytest.raises(BundleError, match="neither a run folder nor a bundle"):
        bundle.find(tmp_path)
    (tmp_path / "recipe.yaml").write_text("name: x")
    with pytest.raises(BundleError, match="no complete checkpoint yet; go on with: seqrl train --resume"):
        bundle.find(tmp_path)


def test_nothing_a_bundle_names_is_imported_followed_or_fetched(folder, tmp_path, monkeypatch):
    """Every file of a bundle that could name code, weights elsewhere or somebody's repository."""
    (tmp_path / "evil_kind.py").write_text(f"open({str(tmp_path / 'was_run')!r}, 'w')\n")
    monkeypatch.syspath_prepend(tmp_path)
    good = {p.name: p.read_bytes() for p in folder.iterdir()}

    edit(folder / "tokenizer.json", lambda r: r["config"].update(slots={"state": {"kind": "evil_kind"}}))
    with pytest.raises(BundleError, match="slot 'state' asks for code of another package"):
        bundle.load(folder)
    (folder / "tokenizer.json").write_bytes(good["tokenizer.json"])

    recipe = yaml.safe_load(good["recipe.yaml"])
    recipe["data"]["sources"] = [{"kind": "evil_kind"}]
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    from seqrl.core.errors import RecipeError
    from seqrl.train.view import look

    with pytest.raises(RecipeError, match="which a bundle may not"):
        look(folder)

    # Of these, from_pretrained would follow every one; here they are not even looked at.
    edit(folder / "config.json", lambda r: r.update(attn_implementation="stranger/kernel", quantization_config={"x": 1}))
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "stranger/model"}')
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"x": "../outside/w.safetensors"}}')
    assert bundle.load(folder).model is not None
    assert not (tmp_path / "was_run").exists()
