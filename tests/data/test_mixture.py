"""A mixture on disk: a tokenizer for each domain in one file, restored bit for bit, and what a broken file is accused of."""

import json

import numpy as np
import pytest

from seqrl.core.errors import BundleError, RecipeError
from seqrl.data.dataset import DataConfig, Dataset
from seqrl.data.mixture import Mixture, read_tokenizer
from seqrl.data.slots import TokensConfig
from seqrl.data.store import prepare
from seqrl.data.tokenizer import Tokenizer

TOKENS = {
    "layout": "state action",
    "pack": 64,
    "slots": {"state": {"kind": "mulaw"}, "action": {"kind": "bins", "bins": 32, "spacing": "quantile"}},
    "domains": {"wide": {"layout": "return state action > done", "context": 2, "slots": {"state": {"kind": "vector"}}}},
}


@pytest.fixture
def datasets(home, memory):
    one = [prepare(memory((5, 1, 9), name="tests/narrow-v0"))]
    wide = [memory.episode(T, obs=7, act=1) for T in (4, 8)]
    two = [prepare(memory.of(memory.spec("tests/wide-v0", obs=7, act=1), wide))]
    config = DataConfig(sources=[{"kind": "minari"}], held_out=0)
    return {"narrow": Dataset(one, config), "wide": Dataset(two, config)}


def fitted(datasets, **tokens):
    made = Mixture.build(TokensConfig(**TOKENS | tokens), datasets)
    made.fit(datasets)
    return made


def test_each_domain_has_its_own_layout_codecs_and_statistics(datasets):
    made = fitted(datasets)
    narrow, wide = made.domains["narrow"], made.domains["wide"]
    assert str(narrow.layout) == "state action"
    assert str(wide.layout) == "return state action > done"
    assert (narrow.layout.step_width, wide.layout.step_width) == (3 + 2, 1 + 1 + 1)
    assert (narrow.context, wide.context) == (64 // 5, 2)
    ports = made.ports()
    assert ports["narrow"].vocabs == {"state": 1024, "action": 32}
    assert ports["narrow"].shares["state"] == "mulaw1024"
    assert ports["wide"].vocabs["state"] == 0, "a domain's codec takes the place of the one for all"
    assert narrow.slots["action"].codec.edges.shape[0] == 2
    assert wide.slots["action"].codec.edges.shape[0] == 1


def test_it_comes_back_from_its_file_bit_for_bit(datasets, tmp_path):
    made = fitted(datasets)
    made.save(tmp_path)
    again = read_tokenizer(tmp_path / "tokenizer.json")
    assert isinstance(again, Mixture)
    assert again.length == made.length == 64
    assert json.dumps(again.to_json()) == json.dumps(made.to_json())
    for name, dataset in datasets.items():
        episode = dataset.stores[0].episode(1)
        ours, theirs = (m.domains[name].stream(episode, np.zeros(len(episode)), ("action",)) for m in (made, again))
        assert all(np.array_equal(ours.values[n], theirs.values[n]) for n in ours.values)
        assert all(np.array_equal(ours.tracks[n], theirs.tracks[n]) for n in ours.tracks)


def test_one_tokenizer_is_read_by_the_same_door(datasets, tmp_path):
    fitted(datasets).domains["narrow"].save(tmp_path)
    assert isinstance(read_tokenizer(tmp_path / "tokenizer.json"), Tokenizer)


def test_a_row_that_holds_no_step_is_said_when_fitting(datasets):
    with pytest.raises(RecipeError, match=r"tokens.pack=4: a row holds not one step of tests/narrow-v0, .* raise it to 5"):
        fitted(datasets, pack=4)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda raw: "", "cannot be read"),
        (lambda raw: "[1]", "this is no seqrl tokenizer"),
        (lambda raw: "[" * 100_000, "cannot be read"),
        (lambda raw: {"domains": {}}, "no domains in it"),
        (lambda raw: {"domains": {"a": {}}}, "domain 'a': this is no seqrl tokenizer"),
        (lambda raw: {**raw, "domains": {"a": raw["domains"]["narrow"] | {"version": 99}}}, "newer seqrl"),
        (lambda raw: {"version": "1.0", "model": {"vocab": {}}}, "this is no seqrl tokenizer"),
    ],
)
def test_a_broken_file_is_named(datasets, tmp_path, change, said):
    made = change(fitted(datasets).to_json())
    file = tmp_path / "tokenizer.json"
    file.write_text(made if isinstance(made, str) else json.dumps(made))
    with pytest.raises(BundleError, match=said):
        read_tokenizer(file)


def test_domains_of_rows_of_different_lengths_do_not_go_together(datasets, tmp_path):
    raw = fitted(datasets).to_json()
    raw["domains"]["wide"]["config"]["pack"] = 32
    (tmp_path / "tokenizer.json").write_text(json.dumps(raw))
    with pytest.raises(BundleError, match="rows of different lengths"):
        read_tokenizer(tmp_path / "tokenizer.json")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(BundleError, match="there is no tokenizer.json in it"):
        read_tokenizer(tmp_path / "tokenizer.json")


def test_a_codec_of_another_package_is_not_imported(datasets, tmp_path):
    raw = fitted(datasets).to_json()
    raw["domains"]["narrow"]["config"]["slots"]["state"] = {"kind": "os.path"}
    (tmp_path / "tokenizer.json").write_text(json.dumps(raw))
    with pytest.raises(BundleError, match=r"domain 'narrow'.*code of another package \(os.path\)"):
        read_tokenizer(tmp_path / "tokenizer.json")
