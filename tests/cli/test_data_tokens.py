"""``seqrl data tokens`` and the road of a recipe of token documents: checked, prepared, drawn, trained, read again."""

import json

import pytest
import torch

from seqrl import bundle
from seqrl.core.errors import RecipeError
from seqrl.data.documents_tokenizer import DocumentTokenizer
from seqrl.train import recipe as recipes
from seqrl.train import run
from seqrl.train.prepare import loader_for, open_data, tokenizer_for

RECIPE = """
name: said
data:
  sources:
    - {kind: jsonl, path: PATH}
  held_out: 0.2
tokens:
  pack: 48
  documents:
    fields: "[task],vision"
    text: {tokenizer: missions, new: ["<vision>", "</vision>"]}
    frames: {vocab: 8, tokens: 3}
    swap: 0.5
model:
  kind: worlds.lwm
  body: {model_type: llama, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 32}
train:
  steps: 4
  batch: 2
  save_every: 2
  log_every: 1
  validate_every: 4
  validate_windows: 4
  losses: {text: 0.5, vision: 0.5}
  device: cpu
evaluate: {at_end: false}
"""


@pytest.fixture
def recipe(home):
    """A recipe's file; its data are ten videos of some frames each."""
    made = [{"task": f"go to the {c} ball", "vision": [[i % 8, 1, 2]] * (1 + i % 3)} for i, c in enumerate(["red", "grey"] * 5)]
    path = home / "data.jsonl"
    path.write_text("\n".join(map(json.dumps, made)), encoding="utf-8")
    file = home / "said.yaml"
    file.write_text(RECIPE.replace("PATH", str(path)), encoding="utf-8")
    return file


def test_prepared_once_and_copied(seqrl, recipe, home):
    code, out, err = seqrl("data", "tokens", str(recipe))
    assert code == 0
    assert "data.jsonl" in out
    assert "a frame is 3 codes and its end" in out
    assert "preparing 10/10 examples" in err
    code, out, err = seqrl("data", "tokens", str(recipe), "tokens.pack=12", "--out", str(home / "other"))
    assert code == 0
    assert "preparing" not in err
    assert "of 10 examples are longer and lose their end; raise tokens.pack" in out
    here, there = (sorted(p.relative_to(c) for p in (c / "documents").rglob("*.*")) for c in (home / "cache", home / "other"))
    assert here == there
    assert len(here) > 3


def test_an_example_is_drawn(seqrl, recipe, home):
    code, out, _ = seqrl("tokens", "show", str(recipe), "--episode", "2", "--steps", "2", "--html", str(home / "page.html"))
    assert code == 0
    assert "<s>go to the red ball<vision>[frame 1][frame 2] ... [frame 3, the last]</vision></s>" in out
    assert "[frame 1]" in (home / "page.html").read_text(encoding="utf-8")
    code, _, err = seqrl("tokens", "show", str(recipe), "--episode", "10")
    assert code == 2
    assert "there are 0 to 9" in err


def test_a_fitted_tokenizer_is_taken(seqrl, recipe, home):
    kept = home / "kept.json"
    assert seqrl("tokens", "fit", str(recipe), "--out", str(kept))[0] == 0
    plain, made = (recipes.load(str(recipe), more) for more in ([], [f"tokens.fitted={kept}", "tokens.pack=96"]))
    fresh, taken = (tokenizer_for(r, open_data(r)) for r in (plain, made))
    assert fresh.digest == taken.digest
    assert (fresh.length, taken.length) == (48, 96)
    made = recipes.load(str(recipe), [f"tokens.fitted={kept}", "tokens.documents.prepend=hello"])
    with pytest.raises(RecipeError, match=r"fitted with other tokens.documents"):
        tokenizer_for(made, open_data(made))


def test_other_recipes_need_no_preparation(seqrl):
    code, _, err = seqrl("data", "tokens", "dt_cartpole")
    assert code == 2
    assert "need no preparation" in err


def test_a_run_and_its_bundle(recipe, home):
    made = recipes.load(str(recipe))
    outcome = run.start(made, home / "run")
    assert {"loss/text", "loss/vision", "val/loss/vision"} <= set(outcome.metrics)
    found = bundle.load(home / "run")
    assert isinstance(found.tokenizer, DocumentTokenizer)
    data = open_data(made)
    again = tokenizer_for(made, data)
    assert found.tokenizer.ports() == again.ports()
    assert found.tokenizer.digest == again.digest
    batches = [loader_for(made, data, t, "cpu").draw(0, 0, 2).ids for t in (found.tokenizer, again)]
    assert torch.equal(*batches)
    # Stopped half-way, it goes on as if it had not been.
    half = run.start(recipes.load(str(recipe), ["train.steps=2"]), home / "half")
    assert half.metrics
    text = (home / "half" / "recipe.yaml").read_text(encoding="utf-8").replace("steps: 2\n", "steps: 4\n", 1)
    (home / "half" / "recipe.yaml").write_text(text, encoding="utf-8")
    run.resume(home / "half")
    ours, theirs = (bundle.load(home / n).model.state_dict() for n in ("run", "half"))
    assert all(torch.equal(ours[n], theirs[n]) for n in ours)


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["tokens.documents=null", "tokens.pack=null"], "reads token documents: give tokens.documents"),
        (["tokens.pack=null"], "give tokens.pack, the tokens in a row"),
        (["model={kind: policies.gato}"], "reads no token documents"),
        (["tokens.documents.fields='[task'"], "no field; write names"),
        (["tokens.documents.frames={kind: vw}"], "unknown kind 'vw'; did you mean 'vq'"),
        (["tokens.documents.frames={kind: cells, moist: 3}"], "unknown key; did you mean 'most'"),
        (["tokens.documents.swip=0.3"], "unknown key; did you mean 'swap'"),
        (["tokens.slots.task.kind=text"], "token documents have none"),
        (["train.losses={texts: 1}"], "no 'texts'; did you mean 'text'"),
        (["data.sources.0.top=0.5"], "data.sources.0.top: token documents have none"),
        (["data.sources.0.group='a b'"], "letters, digits"),
        (["data.sources.0.fields='[x'"], "data.sources.0.fields"),
        (["data.delayed=true"], "hold no returns"),
        (["evaluate.at_end=true"], "is played nowhere; leave at_end and every out"),
    ],
)
def test_what_does_not_go_together_is_told(recipe, overrides, told):
    with pytest.raises(RecipeError) as e:
        recipes.load(str(recipe), overrides)
    assert told in str(e.value)


def test_lines_are_for_documents_alone():
    text = "name: x\ndata: {sources: [{kind: jsonl, path: x, group: a}]}\nmodel: {kind: policies.decision}\n"
    with pytest.raises(RecipeError) as e:
        recipes.parse(text, "x.yaml")
    assert "'jsonl' holds no episodes but examples" in str(e.value)
    assert "group: is for tokens.documents" in str(e.value)
