"""``seqrl needle``: a table, a map, a file, and one message for every mistake."""

import json

import pytest
import torch
import yaml

from seqrl import bundle as bundles
from seqrl.cli.needle import length
from seqrl.core.errors import UserError
from seqrl.data.documents_tokenizer import DocumentTokenizer
from seqrl.data.slots import TokensConfig
from seqrl.worlds import lwm


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A bundle of a model that knows nothing yet, of rows of 128 tokens."""
    folder = tmp_path_factory.mktemp("bundle")
    torch.manual_seed(0)
    tokenizer = DocumentTokenizer(TokensConfig(pack=128, documents={"fields": "text", "text": {"tokenizer": "needles"}}))
    made = lwm.Model(lwm.Config.tiny(tokenizer.ports(), 128, losses=["text"]))
    source = {"kind": "haystack", "needle": " Keep {key} {value}.", "question": " Say {key}", "numbers": [10, 99]}
    recipe = yaml.safe_dump({"name": "x", "model": {"kind": "worlds.lwm"}, "data": {"sources": [source]}})
    bundles.save(folder, made, tokenizer, recipe, {"step": 0})
    return str(folder)


def test_a_table_a_map_and_a_file(seqrl, model, tmp_path):
    png, file = tmp_path / "map.png", tmp_path / "found.json"
    words = ("needle", model, "--lengths", "96,64,256", "--depths", "0,1", "--rounds", "2", "--rope-base", "1e5")
    code, said, progress = seqrl(*words, "--png", str(png), "--json", str(file))
    assert code == 0
    assert "hiding 12/12 needles" in progress
    assert said.index("64") < said.index("96") < said.index("256 *")
    assert "* with rope base 100000" in said
    assert png.read_bytes().startswith(b"\x89PNG")
    found = json.loads(file.read_text(encoding="utf-8"))
    assert (found["lengths"], found["depths"], found["questions"]) == ([96, 64, 256], [0, 1], 2)
    assert found["rope_bases"] == [None, None, 1e5]
    assert len(found["cells"]) == 6
    assert all(set(one) == {"key", "value", "said", "right", "length", "depths"} for one in found["said"])


def test_several_needles_and_a_text_of_ones_own(seqrl, model, tmp_path):
    text = tmp_path / "book.txt"
    text.write_text("A fox ran. It saw a dog! Then it slept.", encoding="utf-8")
    code, said, _ = seqrl(
        "needle", model, "--lengths", "128", "--needles", "3", "--asked", "2", "--episodes", "2", "--haystack", str(text)
    )
    assert code == 0
    assert "3 hidden, 2 asked for" in said
    assert "4 questions a cell" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--lengths", "1k"), "--rope-base"),
        (("--lengths", "long"), "'long' is no number"),
        (("--lengths", "16"), "too few"),
        (("--depths", "0,2", "--lengths", "96"), "depths"),
        (("--needles", "2", "--depths", "0"), "--depths is for one needle"),
        (("--needles", "2", "--asked", "3"), "asked"),
        (("--haystack", "nowhere.txt"), "nowhere.txt"),
        (("--png", "nowhere/map.png"), "nowhere"),
    ],
)
def test_a_mistake_gets_one_message(seqrl, model, words, said):
    code, _, error = seqrl("needle", model, *words)
    assert code == 2
    assert said in error
    assert len(error.strip().splitlines()) == 1


def test_lengths_as_people_write_them():
    assert [length(w) for w in ("512", "1k", "4K", "1M", "1.5k")] == [512, 1024, 4096, 1 << 20, 1536]
    for wrong in ("", "k", "0", "-4", "1.5", "4kb"):
        with pytest.raises(UserError, match="--lengths"):
            length(wrong)
