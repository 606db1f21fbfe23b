"""Suites: every mistake with its place, and cells that are named by what decides their result."""

from dataclasses import replace

import pytest

from seqrl.bench import plan
from seqrl.bench.data import Contents
from seqrl.bench.suite import SHELF
from seqrl.core import shelf
from seqrl.core.errors import RecipeError, UserError
from seqrl.train.recipe import parse

NAMES = shelf.names(SHELF)


def test_there_are_suites():
    assert {"smoke", "local", "minari-mujoco", "minari-pointmaze"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_suite_on_the_shelf_is_whole(name):
    suite = plan.load(name)
    config = suite.config
    assert config.name == name
    assert config.about
    assert len(suite.cells) == len(config.methods) * len(config.datasets) * len(config.seeds)
    facts = shelf.header(shelf.text(SHELF, name))
    assert f"seqrl bench {name}" in facts["command"]
    assert {"hardware", "minutes"} <= set(facts)
    assert all(m.about for m in config.methods.values())
    assert len({c.name("") for c in suite.cells}) == len(suite.cells)


def test_the_local_suite_is_72_runs_of_ours():
    cells = plan.load("local").cells
    assert len(cells) == 72
    assert {c.recipe.evaluate.episodes for c in cells} == {50}
    asked = {c.dataset.split("/")[1]: c.recipe.evaluate.targets for c in cells if c.method == "DT"}
    assert asked == {"hopper": [3600], "walker2d": [5000], "halfcheetah": [12000]}
    assert all(c.recipe.evaluate.targets is None for c in cells if c.method != "DT")
    # Seed by seed, so that a whole table is there early.
    assert [c.seed for c in cells] == [0] * 24 + [1] * 24 + [2] * 24


def test_what_holds_where(suite):
    (cell,) = [c for c in suite.cells if (c.method, c.dataset, c.seed) == ("DT", "tests/cartpole-v0", 1)]
    assert cell.recipe.train.seed == 1
    assert cell.recipe.train.steps == 4
    assert cell.recipe.evaluate.targets == [100, 20]
    assert cell.recipe.data.sources == [{"kind": "minari", "id": "tests/cartpole-v0"}]
    (other,) = [c for c in suite.cells if (c.method, c.dataset, c.seed) == ("DT", "tests/other-v0", 1)]
    assert other.recipe.evaluate.targets == [50], "a setting of one method on one dataset"
    assert parse(cell.recipe.dump(), "cell.yaml") == cell.recipe


def test_a_name_follows_the_result_and_nothing_else(suite):
    cell = suite.cells[0]
    raw = cell.recipe.model_dump(mode="json")

    def changed(**parts):
        return {**raw, **{k: {**raw[k], **v} if isinstance(v, dict) else v for k, v in parts.items()}}

    for same in (
        changed(name="another"),
        changed(train={"log_every": 7, "save_every": 9, "trackers": ["tensorboard"], "device": "cuda"}),
        changed(engine={"kind": "fsdp", "processes": 2}),
        changed(train={"came_to_be_since": None}),
    ):
        assert plan.digest(same, "d") == plan.digest(raw, "d")
    for other in (
        changed(train={"lr": 0.5}),
        changed(train={"seed": 9}),
        changed(evaluate={"episodes": 9}),
        changed(model={"width": 999}),
    ):
        assert plan.digest(other, "d") != plan.digest(raw, "d")
    assert plan.digest(raw, "other data") != plan.digest(raw, "d")
    assert cell.name("d").startswith("DT-tests-cartpole-v0-0-")
    assert len(cell.name("d").rpartition("-")[2]) == 12


BAD = """
name: bad
methods:
  DT: {recipe: dt_cartpole, set: {tokens.contxt: 3, train.lr: fast, name: x}}
  BC: {recipe: bc_cartpol}
  W: {recipe: rssm_cartpole}
datasets:
  - {id: a/b-v0, target: [3]}
  - {id: a/b-v0, methods: {DTT: {train.lr: 1}}}
seeds: 0
published:
  - {name: P, source: s, comparable: false, scores: {DT: {a/c-v0: 1}}}
"""


def refused(tmp_path, text, *overrides):
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(RecipeError) as e:
        plan.load(str(tmp_path / "bad.yaml"), overrides)
    return str(e.value).replace(f"{tmp_path}/", "")


def test_every_mistake_of_a_suite_at_once(tmp_path):
    said = refused(tmp_path, BAD)
    for line in (
        "bad.yaml:8: datasets.0.target: unknown key; did you mean 'targets'?",
        "bad.yaml:10: seeds: a number of seeds from 1",
        "bad.yaml:12: published.0: say why they may not be compared",
    ):
        assert line in said, said
    mended = BAD.replace("target: [3]", "targets: [3]").replace("seeds: 0", "seeds: [0, 5]")
    said = refused(tmp_path, mended.replace("comparable: false", "comparable: true"))
    for line in (
        "bad.yaml:4: methods.DT.set.name: a suite sets this itself",
        "bad.yaml:9: datasets.1.id: 'a/b-v0' stands there twice",
        "bad.yaml:9: datasets.1.methods: there is no method 'DTT'; did you mean 'DT'?",
        "bad.yaml:12: published.0.scores.DT: there is no dataset 'a/c-v0'; did you mean 'a/b-v0'?",
    ):
        assert line in said, said


CELLS = """
name: bad
methods:
  DT: {recipe: dt_cartpole, set: {tokens.contxt: 3, train.lr: fast}}
  BC: {recipe: bc_cartpol}
  W: {recipe: rssm_cartpole}
  E: {recipe: bc_cartpole, set: {evaluate.at_end: false}}
  G: {recipe: bc_cartpole, set: {train.log_every: 3}}
datasets:
  - {id: a/b-v0}
evaluate: {episode: 3}
"""


def test_every_mistake_in_the_recipes_of_its_cells_at_once(tmp_path):
    said = refused(tmp_path, CELLS, "train.stepz=3")
    for line in (
        "bad.yaml:4: tokens.contxt: unknown key; did you mean 'context'?",
        "bad.yaml:4: train.lr:",
        "bad.yaml:5: methods.BC.recipe: no recipe 'bc_cartpol'; did you mean 'bc_cartpole'?",
        "bad.yaml:11: evaluate.episode: unknown key; did you mean 'episodes'?",
        "command line 'train.stepz=3': train.stepz: unknown key; did you mean 'steps'?",
    ):
        assert line in said, said
    said = refused(
        tmp_path,
        CELLS.replace("contxt: 3, train.lr: fast", "context: 3")
        .replace("_cartpol}", "_cartpole}")
        .replace("episode:", "episodes:"),
    )
    for line in (
        "bad.yaml:6: methods.W: worlds.rssm does not act",
        "bad.yaml:7: methods.E on a/b-v0: evaluate.at_end is false",
        "methods BC and G are one and the same run on a/b-v0",
    ):
        assert line in said, said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "name: x\nmethods: {A: {recipe: dt_cartpole, set: {evaluate.targets: null}}}\ndatasets: [{id: a/b-v0}]",
            "say which is asked",
        ),
        (
            "name: x\nmethods: {A: {recipe: bc_cartpole}}\ndatasets: [{id: a/b-v0, set: {evaluate.targets: [3]}}]",
            "has no return to ask for",
        ),
        ("name: cells\nmethods: {A: {recipe: bc_cartpole}}\ndatasets: [{id: a/b-v0}]", "where the runs of all suites lie"),
        ("name: x\nmethods: {A: {recipe: gato_six}}\ndatasets: [{id: a/b-v0}]", "sources, and a suite names one"),
        ("[1, 2]", "a suite is a mapping"),
        ("name: x\nmethods: {A: {recipe: bc_cartpole, set: {'a=b': 1}}}\ndatasets: [{id: a/b-v0}]", "is no key of a recipe"),
        ("name: x\nmethods: {A: {recipe: bc_cartpole, set: {train.lr: 2020-01-01}}}\ndatasets: [{id: a/b-v0}]", "train.lr"),
    ],
)
def test_a_mistake_is_told(tmp_path, text, said):
    assert said in refused(tmp_path, text)


def test_a_recipe_that_lies_beside_its_suite(tmp_path):
    (tmp_path / "mine.yaml").write_text(shelf.text("recipes", "bc_cartpole"))
    (tmp_path / "s.yaml").write_text(
        "name: s\nmethods: {A: {recipe: mine.yaml, set: {engine: fsdp, engine.processes: 2}}}\ndatasets: [{id: a/b-v0}]\n"
    )
    suite = plan.load(str(tmp_path / "s.yaml"), seeds=4)
    assert len(suite.cells) == 4
    assert suite.cells[0].recipe.engine.kind == "fsdp"


def test_an_unknown_suite_is_told_the_closest():
    with pytest.raises(RecipeError, match="did you mean 'local'"):
        plan.find("locl")


def test_what_stands_in_two_places_is_as_the_last_says(tmp_path):
    (tmp_path / "s.yaml").write_text(
        "name: s\nmethods: {A: {recipe: bc_cartpole, set: {train.steps: 400}}}\n"
        "datasets: [{id: a/b-v0, set: {train.steps: 800}, methods: {A: {train.steps: 400}}}]\n"
    )
    assert {c.recipe.train.steps for c in plan.load(str(tmp_path / "s.yaml")).cells} == {400}


def test_two_datasets_of_one_source_are_told_as_such(tmp_path):
    source = "source: {kind: minari, id: c/d-v0}"
    said = refused(
        tmp_path, f"name: x\nmethods: {{A: {{recipe: bc_cartpole}}}}\ndatasets: [{{id: a, {source}}}, {{id: b, {source}}}]"
    )
    assert "A on a and A on b are one and the same run; leave one out" in said


def test_a_look_at_what_is_there_asks_no_hub(suite):
    cell = suite.cells[0]

    def refusal(**parts):
        with pytest.raises(UserError) as e:
            Contents(fetch=False).of(replace(cell, recipe=cell.recipe.model_copy(update=parts)))
        return str(e.value)

    for kind in ("rows", "parquet"):
        data = cell.recipe.data.model_copy(update={"sources": [{"kind": kind, "id": "nobody/nothing"}]})
        assert refusal(data=data) == "nobody/nothing is on a Hub; a run brings it here"
    assert refusal(world="nobody/nothing").startswith("nobody/nothing: there is no such folder here")


def test_a_name_follows_the_config_of_the_bundle_a_run_begins_with(suite, tmp_path):
    for name in ("tokenizer.json", "model.safetensors", "config.json"):
        (tmp_path / name).write_text("{}")
    cell = replace(suite.cells[0], recipe=suite.cells[0].recipe.model_copy(update={"world": str(tmp_path)}))
    before = Contents().of(cell)
    (tmp_path / "config.json").write_text('{"activation": "relu"}')
    assert Contents().of(cell) != before


def test_what_is_read_is_what_the_table_says(tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text("""
name: own
methods: {A: {recipe: bc_cartpole, set: {data.sources: [{kind: minari, id: tests/another-v0}]}}}
datasets: [{id: tests/cartpole-v0}]
""")
    (cell,) = plan.load(str(file), seeds=1).cells
    assert cell.recipe.data.sources == [{"kind": "minari", "id": "tests/cartpole-v0"}]
