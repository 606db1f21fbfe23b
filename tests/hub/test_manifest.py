"""A manifest publishes what has reached what it must, all of it or nothing."""

import re

import pytest

from seqrl.core.errors import HubError, RecipeError
from seqrl.hub import manifest
from seqrl.remote.client import api
from seqrl.train import recipe as recipes
from seqrl.train import run

RECIPE = """
name: tiny
data: {sources: [{kind: minari, id: tests/cartpole-v0}]}
tokens: {context: 4}
model: {kind: policies.decision, width: 16, layers: 2, heads: 2}
train: {steps: 2, batch: 4, save_every: 2, device: cpu}
evaluate: {at_end: true, episodes: 3, envs: 3, targets: [20, 50]}
"""


@pytest.fixture(scope="module")
def made(cartpole, tmp_path_factory):
    home = tmp_path_factory.mktemp("manifest")
    (home / "tiny.yaml").write_text(RECIPE)
    run.start(recipes.parse(RECIPE, "tiny.yaml"), home / "run")
    return home


def write(made, *entries):
    lines = [
        f"  - {{repo: {repo}, recipe: {made}/tiny.yaml, run: {made}/run, least: {least}, episodes: {n}{more}}}"
        for repo, least, n, more in entries
    ]
    (made / "m.yaml").write_text("models:\n" + "\n".join(lines) + "\n")
    return str(made / "m.yaml")


def repositories(hub):
    return {m.id for m in api().list_models()}


def test_what_has_reached_it_is_published(practice, made):
    file = write(made, ("org/tiny", "{mean: 1}", 3, ", license: mit"))
    [(verdict, pushed)] = manifest.push_manifest(file)
    assert verdict.told[0].endswith("(at least 1)")
    assert pushed.commit
    assert repositories(practice) == {"org/tiny"}
    assert api().model_info("org/tiny").card_data.license == "mit"


def test_nothing_is_published_where_one_has_not(practice, made):
    file = write(made, ("org/tiny", "{mean: 1}", 3, ""), ("org/other", "{mean: 400}", 3, ""))
    with pytest.raises(HubError, match=r"(?s)org/other: .*mean is .* at least 400 was asked for.*nothing was published"):
        manifest.push_manifest(file)
    assert repositories(practice) == set()


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (("org/x", "{mean: 1}", 20, ""), "is of 3 episodes, and 20 were asked for"),
        (("org/x", "{meen: 1}", 3, ""), "did you mean 'mean'"),
        (("org/x", "{mean: 1}", 3, ", most: {loss: 0.0001}"), "loss is .* at most 0.0001"),
    ],
)
def test_why_not_is_told(made, entry, words):
    verdict = manifest.check_entry(manifest.read_manifest(write(made, entry)).models[0])
    assert len(verdict.why_not) == 1
    assert re.search(words, verdict.why_not[0])


def test_a_run_of_another_recipe_is_refused(made, tmp_path):
    (tmp_path / "tiny.yaml").write_text(RECIPE.replace("width: 16", "width: 32"))
    (tmp_path / "m.yaml").write_text(
        f"models: [{{repo: org/x, recipe: {tmp_path}/tiny.yaml, run: {made}/run, least: {{mean: 1}}, episodes: 3}}]"
    )
    verdict = manifest.check_entry(manifest.read_manifest(str(tmp_path / "m.yaml")).models[0])
    assert "trained with model.width=16" in verdict.why_not[0]
    assert "says 32" in verdict.why_not[0]


def test_a_run_that_is_not_there_says_how_to_make_it(made, tmp_path):
    (tmp_path / "m.yaml").write_text(f"models: [{{repo: org/x, recipe: {made}/tiny.yaml, run: nowhere, least: {{mean: 1}}}}]")
    verdict = manifest.check_entry(manifest.read_manifest(str(tmp_path / "m.yaml")).models[0])
    assert "seqrl train" in verdict.why_not[0]


def test_only_one_of_it(practice, made):
    file = write(made, ("org/tiny", "{mean: 1}", 3, ""), ("org/other", "{mean: 400}", 3, ""))
    manifest.push_manifest(file, only="org/tiny")
    assert repositories(practice) == {"org/tiny"}
    with pytest.raises(HubError, match="did you mean 'org/tiny'"):
        manifest.push_manifest(file, only="org/tiney")


def test_mistakes_are_told_with_their_lines(tmp_path):
    (tmp_path / "m.yaml").write_text("models:\n  - {repo: x, recipe: dt_cartpole, least: {}}\n  - {repoo: a/b}\n")
    with pytest.raises(RecipeError) as e:
        manifest.read_manifest(str(tmp_path / "m.yaml"))
    assert "m.yaml:2" in str(e.value)
    assert "did you mean 'repo'" in str(e.value)


def test_the_shelf_is_whole():
    from seqrl.core import shelf

    for name in shelf.names("hub/manifests"):
        for entry in manifest.read_manifest(name).models:
            assert shelf.find("recipes", entry.recipe).is_file()


def differences(had, wanted):
    return [place for place, _, _ in manifest._differences(manifest._told(had), manifest._told(wanted))]


def test_data_of_another_name_are_other_data():
    def source(id):
        return {"data": {"sources": [{"kind": "minari", "id": id}]}}

    assert differences(source("mujoco/hopper/expert-v0"), source("mujoco/walker2d/expert-v0")) == ["data.sources"]


def test_what_a_run_began_with_counts_in_either_spelling():
    had = {"init": {"from": "runs/dt", "revision": "abc", "statistics": "keep"}}
    assert differences(had, {"init": "runs/dt"}) == []
    assert differences(had, {"init": "runs/other"}) == ["init.from"]
    assert differences(had, {}) == ["init"]
    assert differences({"train": {"freeze": ["trunk.*"]}}, {}) == ["train.freeze"]
