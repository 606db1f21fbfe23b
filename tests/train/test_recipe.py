import json

import pytest

from seqrl.core import shelf
from seqrl.core.errors import RecipeError
from seqrl.train import recipe as recipes
from seqrl.train import schema

SHELF = shelf.names("recipes")


def test_there_are_recipes():
    assert {"dt_cartpole", "bc_cartpole", "dt_hopper_medium", "bc10_hopper_mixed"} <= set(SHELF)


@pytest.mark.parametrize("name", SHELF)
def test_every_recipe_on_the_shelf_is_whole(name):
    recipe = recipes.load(name)
    assert recipe.name == name
    assert recipes.parse(recipe.dump(), "again.yaml") == recipe
    facts = shelf.header(shelf.text("recipes", name))
    assert {"paper", "command", "hardware", "minutes", "expected"} <= set(facts)
    assert f"seqrl train {name}" in facts["command"]
    assert float(facts["minutes"]) < 60
    assert any(c.isdigit() for c in facts["expected"]), "a recipe tells the number that a run of it gave"


def test_the_schema_on_the_shelf_is_the_codes():
    path = shelf.folder("recipes") / "schema.json"
    assert json.loads(path.read_text()) == json.loads(json.dumps(schema.json_schema())), "run: python -m seqrl.train.schema"


BAD = """
name: x
data:
  sources:
    - {kind: minary, id: a/b-v0}
    - {kind: minari, idd: a/b-v0}
    - {kind: minari, id: a/b-v0, weight: -1}
tokens:
  layout: return state action
  slots:
    stat: {kind: vector}
    action: {kind: bins, bnis: 3}
model: {kind: policies.decision, widht: 3}
train: {stepz: 5, lr: fast}
"""


def test_every_mistake_of_a_recipe_at_once():
    with pytest.raises(RecipeError) as e:
        recipes.parse(BAD, "bad.yaml", ["evaluate.episode=3"])
    said = str(e.value)
    for line in (
        "bad.yaml:5: data.sources.0.kind: unknown kind 'minary'; did you mean 'minari'?",
        "bad.yaml:6: data.sources.1.idd: unknown key; did you mean 'id'?",
        "bad.yaml:7: data.sources.2.weight",
        "bad.yaml:11: tokens.slots.stat: the layout has no such slot; did you mean 'state'?",
        "bad.yaml:12: tokens.slots.action.bnis: unknown key; did you mean 'bins'?",
        "bad.yaml:13: model.widht: unknown key; did you mean 'width'?",
        "bad.yaml:14: train.stepz: unknown key; did you mean 'steps'?",
        "bad.yaml:14: train.lr:",
        "command line 'evaluate.episode=3': evaluate.episode: unknown key; did you mean 'episodes'?",
    ):
        assert line in said, said


def test_a_loss_the_model_does_not_answer_is_named(small, tmp_path):
    from seqrl.core.errors import UserError
    from seqrl.train import run

    with pytest.raises(UserError, match="'reward'"):
        run.start(small("train.losses.reward=1"), tmp_path / "r")


def test_targets_of_a_layout_without_a_return_are_a_mistake_of_the_recipe():
    with pytest.raises(RecipeError, match="evaluate.targets: layout 'state action' has no return to ask for"):
        recipes.load("bc_cartpole", ["evaluate.targets=[100]"])
