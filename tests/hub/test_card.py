"""A card says what its bundle says, in formats that the Hub's own library reads; a stranger's words stay words."""

import ast
import json
import re
import shutil

import pytest
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries

from seqrl import bundle
from seqrl.core.errors import BundleError
from seqrl.hub.card import write_card
from seqrl.hub.facts import plain
from seqrl.train import recipe as recipes
from seqrl.train import run

TEXT = """
name: tiny
data: {sources: [{kind: minari, id: tests/cartpole-v0}]}
tokens: {context: 4}
model: {kind: policies.decision, width: 16, layers: 2, heads: 2}
train: {steps: 2, batch: 4, save_every: 2, device: cpu}
evaluate: {at_end: true, episodes: 3, envs: 3, targets: [20, 50, 90]}
"""


@pytest.fixture(scope="module")
def made(cartpole, tmp_path_factory):
    return run.start(recipes.parse(TEXT, "tiny.yaml"), tmp_path_factory.mktemp("runs") / "r").run


@pytest.fixture
def staged(made, tmp_path):
    return shutil.copytree(bundle.find(made), tmp_path / "staged")


def edit(folder, name, change):
    raw = json.loads((folder / name).read_text())
    change(raw)
    (folder / name).write_text(json.dumps(raw))


def test_scores_are_where_the_hub_looks_for_them(made, staged):
    write_card(staged, made, "org/tiny")
    card = ModelCard.load(staged / "README.md")
    report = json.loads((staged / "metrics.json").read_text())["report"]
    best = max(report["targets"], key=lambda t: t["mean"])
    found = {r.metric_type: r.metric_value for r in card.data.eval_results}
    assert found["mean_reward"] == f"{best['mean']:.2f} +/- {best['std']:.2f}"
    assert found["normalized_score"] == round(best["normalized"], 2)
    assert card.data.model_name == "tiny"
    assert card.data.library_name == "seqrl"
    assert {"seqrl", "decision", "CartPole-v1"} <= set(card.data.tags)
    assert re.search(rf"\| {best['mean']:,.1f} \|", card.text)


def test_pictures_are_there_and_shown(made, staged):
    write_card(staged, made, "org/tiny")
    shown = re.findall(r"!\[[^\]]*\]\(([^)]*)\)", (staged / "README.md").read_text())
    assert "sweep.png" in shown
    assert all((staged / name).is_file() for name in shown)
    assert (staged / "sweep.png").read_bytes().startswith(b"\x89PNG")


def test_without_its_run_it_is_a_card_nevertheless(staged):
    write_card(staged, None, "org/tiny")
    text = (staged / "README.md").read_text()
    assert "## Scores" in text
    assert "clip.gif" not in text


def test_without_scores_it_promises_none(made, staged):
    edit(staged, "metrics.json", lambda raw: raw.pop("report"))
    write_card(staged, None, "org/tiny")
    card = ModelCard.load(staged / "README.md")
    assert card.data.eval_results is None
    assert "## Scores" not in card.text


@pytest.mark.parametrize("id", ["mujoco/hopper/expert-v0", "D4RL/antmaze/umaze-diverse-v1", "D4RL/pen/human-v2"])
def test_scores_of_public_data_are_entries_of_their_leaderboard(made, staged, id):
    edit(staged, "tokenizer.json", lambda raw: raw["spec"].update(id=id))
    write_card(staged, made, "org/tiny")
    entries = parse_eval_result_entries(yaml.safe_load((staged / ".eval_results" / "minari.yaml").read_text()))
    assert [(e.dataset_id, e.task_id) for e in entries] == [(f"farama-minari/{id.partition('/')[0]}", id.partition("/")[2])]


@pytest.mark.parametrize("id", ["tests/cartpole-v0", "mujoco/hopper/mixed-v0", "me/hopper/expert-v0"])
def test_scores_of_other_data_are_not(made, staged, id):
    edit(staged, "tokenizer.json", lambda raw: raw["spec"].update(id=id))
    write_card(staged, made, "org/tiny")
    assert not (staged / ".eval_results").exists()


def test_lineage_is_told_and_only_a_repository_is_a_parent(made, staged):
    began = {"base_model": "org/base", "revision": "a" * 40, "loaded": ["x", "y"], "resized": [], "new": ["z"], "kind": "full"}
    edit(staged, "metrics.json", lambda raw: raw.update(lineage=began))
    write_card(staged, made, "org/tiny")
    card = ModelCard.load(staged / "README.md")
    assert card.data.base_model == "org/base"
    assert card.data.base_model_relation == "finetune"
    assert f"It began from org/base at revision `{'a' * 40}`: 2 tensors loaded, 1 tensor new." in card.text
    edit(staged, "metrics.json", lambda raw: raw.update(lineage=began | {"base_model": "runs/some", "revision": None}))
    write_card(staged, made, "org/tiny")
    assert ModelCard.load(staged / "README.md").data.base_model is None


def test_the_snippet_is_python_and_names_the_tag(made, staged):
    (staged / "processor_config.json").write_text("{}")
    write_card(staged, made, "org/tiny")
    snippet = re.search(r"```python\n(.*?)```", (staged / "README.md").read_text(), re.DOTALL)[1]
    ast.parse(snippet)
    assert '"org/tiny", "step-2"' in snippet
    assert 'gymnasium.make("CartPole-v1"' in snippet


def test_words_of_a_stranger_stay_words(made, staged):
    bad = "</details><script>alert(1)</script> [x](http://evil) | a\n# b `c`"
    edit(staged, "tokenizer.json", lambda raw: raw["spec"].update(id=bad))
    raw = yaml.safe_load((staged / "recipe.yaml").read_text())
    raw["name"] = bad + "\n```\n<b>"
    (staged / "recipe.yaml").write_text(yaml.safe_dump(raw))
    write_card(staged, None, "org/tiny")
    text = (staged / "README.md").read_text()
    told, _, fenced = text.partition("```yaml")
    assert "<script>" not in told.replace("\\<script\\>", "")
    assert "[x](http" not in told
    assert "```" not in fenced.rpartition("```")[0]


@pytest.mark.parametrize("name", ['x"); import os; (', "a b", "ü;"])
def test_a_strangers_names_do_not_become_code(made, staged, name):
    def rename(raw):
        raw["spec"]["obs"] = {name: raw["spec"]["obs"]["observation"]}

    (staged / "processor_config.json").write_text("{}")
    edit(staged, "tokenizer.json", rename)
    write_card(staged, None, "org/tiny")
    assert "gymnasium.make" not in (staged / "README.md").read_text()


def test_plain_is_one_line():
    assert "\n" not in plain("a\nb\r\nc")
    assert len(plain("x" * 1000)) == 300


def test_settings_that_are_no_numbers_are_left_out(made, staged):
    raw = yaml.safe_load((staged / "recipe.yaml").read_text())
    raw["train"] |= {"steps": "EVIL", "batch": "<script>"}
    (staged / "recipe.yaml").write_text(yaml.safe_dump(raw))
    edit(staged, "metrics.json", lambda raw: raw["report"].update(env="<b>[x](http://evil)</b>"))
    write_card(staged, None, "org/tiny")
    told = ModelCard.load(staged / "README.md").text.partition("```yaml")[0]
    assert "EVIL" not in told
    assert "<script>" not in told
    assert "in <b>" not in told
    edit(staged, "tokenizer.json", lambda raw: raw["returns"].update(q90="EVIL"))
    with pytest.raises(BundleError, match="this is no seqrl tokenizer"):
        write_card(staged, None, "org/tiny")
