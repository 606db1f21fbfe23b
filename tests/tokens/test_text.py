"""Texts and the shelf's tokenizer: every text comes back, and nothing of a stranger's is read or run."""

import json

import numpy as np
import pytest
import transformers
from hypothesis import given
from hypothesis import strategies as st

from seqrl.core import shelf
from seqrl.core.episode import Modality
from seqrl.core.errors import DataError, RecipeError
from seqrl.data.mixture import Mixture, read_tokenizer
from seqrl.data.tokenizer import Tokenizer
from seqrl.tokens import text
from seqrl.tokens.text import Codec, Config

TEXT = Modality("text", (), "str")
MISSIONS = [
    "go to the red ball",
    "pick up a grey key on your left, then open the yellow door",
    "put the purple box next to the green key after you go to the blue door behind you",
    "put carrot on plate",
]


def fitted(texts=MISSIONS, **settings):
    codec = Codec(Config(**settings), TEXT)
    codec.fit(np.array(texts, np.str_)[:, None])
    return codec


CODEC = fitted()


FILES = {n: shelf.find("tokenizers", n, ".json") for n in shelf.names("tokenizers", ".json")}
ON_SHELF = {n: json.loads(file.read_text(encoding="utf-8")) for n, file in FILES.items()}
VOCABULARIES = [name for name, raw in ON_SHELF.items() if "model" in raw]


def test_what_else_is_on_the_shelf_is_fitted_for_a_recipe_of_its_name():
    assert "missions" in VOCABULARIES
    for name in ON_SHELF.keys() - set(VOCABULARIES):
        assert isinstance(read_tokenizer(FILES[name]), Mixture | Tokenizer)
        assert name in shelf.names("recipes")
        with pytest.raises(RecipeError, match=name):
            text.load(name)


@pytest.mark.parametrize("name", VOCABULARIES)
def test_every_tokenizer_on_the_shelf_gives_any_text_back(name):
    tokenizer, _ = text.load(name)

    @given(said=st.text(max_size=60))
    def check(said):
        assert tokenizer.decode(tokenizer.encode(said, add_special_tokens=False).ids, skip_special_tokens=False) == said

    check()
    # No machine's places and no doubled ids: the file is nothing but a vocabulary.
    ids = sorted(tokenizer.get_vocab().values())
    assert ids == list(range(len(ids)))


def test_a_mission_is_as_many_tokens_as_words():
    counts = CODEC.lengths(CODEC.encode(np.array(MISSIONS)))
    assert counts.tolist() == [len(m.replace(",", " ,").split()) for m in MISSIONS]
    assert CODEC.width == counts.max()


def test_codes_are_the_tokenizers_ids_and_then_padding():
    tokenizer, _ = text.load("missions")
    ids = tokenizer.encode(MISSIONS[0]).ids
    codes = CODEC.encode(np.array([[MISSIONS[0]]]))
    assert CODEC.vocab == tokenizer.get_vocab_size() + 1
    assert CODEC.pad == tokenizer.get_vocab_size()
    assert codes[0].tolist() == ids + [CODEC.pad] * (CODEC.width - len(ids))


@given(said=st.lists(st.text(max_size=20), min_size=1, max_size=4))
def test_any_text_comes_back(said):
    # Numpy's own texts cannot end with NUL.
    said = [t.rstrip("\0") for t in said]
    codec = Codec(Config(length=80), TEXT)
    codec.load_state(CODEC.state() | {"length": 80})
    codes = codec.encode(np.array(said, object))
    assert codes.min() >= 0
    assert codes.max() < codec.vocab
    assert codec.decode(codes).tolist() == [[t] for t in said]


def test_an_empty_text_still_feeds_one_token():
    codec = fitted(["", ""])
    codes = codec.encode(np.array(["", "go"]))
    assert codec.width == 1
    assert codes[0].tolist() == [codec.pad]
    assert codec.lengths(codes).tolist() == [1, 1]
    assert codec.decode(codes).tolist() == [[""], ["go"]]
    assert codec.encode(np.empty((0, 1), np.str_)).shape == (0, 1)


def test_the_same_text_is_encoded_once(monkeypatch):
    codec, asked = fitted(), []
    known = codec._ids
    monkeypatch.setattr(codec, "_ids", lambda texts: asked.extend(texts) or known(texts))
    rows = np.array(MISSIONS * 50)
    first = codec.encode(rows)
    assert (codec.encode(rows[:, None]) == first).all()
    assert sorted(asked) == sorted(MISSIONS)


def test_what_is_remembered_has_an_end(monkeypatch):
    monkeypatch.setattr(text, "_REMEMBERED", 3)
    codec = fitted()
    for i in range(5):
        said = np.array([f"{i}", "go", f"{i} go"])
        assert codec.decode(codec.encode(said)).ravel().tolist() == said.tolist()
        assert len(codec._known) <= 3
    assert codec.decode(codec.encode(np.array(MISSIONS))).ravel().tolist() == MISSIONS


def test_a_text_too_long_is_said_when_fitting_and_cut_when_playing():
    with pytest.raises(DataError, match=r"'put the purple box .*takes 18 tokens, and 'length' is 5; set it to 18"):
        fitted(length=5)
    codec = fitted(MISSIONS[:1], length=5)
    assert codec.decode(codec.encode(np.array(MISSIONS[2:3]))).tolist() == [["put the purple box next"]]


@pytest.mark.parametrize("wrong", [None, 3.5, b"bytes", "\ud800"])
def test_what_is_no_text_is_refused(wrong):
    with pytest.raises(DataError, match="is no text"):
        CODEC.encode(np.array(["go", wrong], object))


def test_a_slot_takes_one_text():
    with pytest.raises(RecipeError, match="several texts"):
        Codec(Config(), Modality("text", (2,), "str"))
    with pytest.raises(RecipeError, match="a vector value"):
        Codec(Config(), Modality("vector", (1,), "float32"))
    with pytest.raises(DataError, match="2 side by side"):
        CODEC.encode(np.array([["go", "up"]]))


# ---- where tokenizers come from -------------------------------------------------------------------------------------


def test_a_file_and_a_folder_are_as_good_as_the_shelf(tmp_path):
    file = tmp_path / "tokenizer.json"
    file.write_text(shelf.text("tokenizers", str(shelf.find("tokenizers", "missions", ".json"))), encoding="utf-8")
    for name in (file, tmp_path):
        assert fitted(tokenizer=str(name)).state() == CODEC.state()
        assert fitted(tokenizer=str(name)).share == CODEC.share


def test_a_tokenizer_that_is_nowhere(tmp_path):
    with pytest.raises(RecipeError, match="did you mean 'missions'"):
        fitted(tokenizer="misions")
    with pytest.raises(RecipeError, match="there is no tokenizer.json in this folder"):
        fitted(tokenizer=str(tmp_path))
    with pytest.raises(RecipeError, match="there is no such file"):
        fitted(tokenizer=str(tmp_path / "other.json"))
    (tmp_path / "broken.json").write_text("{}")
    with pytest.raises(RecipeError, match="no tokenizer.json of the tokenizers library"):
        fitted(tokenizer=str(tmp_path / "broken.json"))


def test_the_hub_is_asked_for_owner_and_name_and_for_no_code(monkeypatch):
    asked = []

    def answer(name, **options):
        asked.append((name, options))
        return transformers.PreTrainedTokenizerFast(tokenizer_object=text.load("missions")[0])

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", answer)
    codec = fitted(tokenizer="owner/name")
    assert asked == [("owner/name", {"use_fast": True, "trust_remote_code": False})]
    assert codec.decode(codec.encode(np.array(MISSIONS))).ravel().tolist() == MISSIONS

    def fail(name, **options):
        raise OSError("no such repository\nand much advice")

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", fail)
    with pytest.raises(RecipeError, match=r"'owner/name': neither a file .* no such repository$"):
        fitted(tokenizer="owner/name")


def test_a_saved_codec_needs_and_asks_for_no_other_file(monkeypatch):
    def never(name):
        raise AssertionError("a bundle must not look for files")

    monkeypatch.setattr(text, "load", never)
    codec = Codec(Config(tokenizer="stranger/thing"), TEXT)
    codec.load_state(json.loads(json.dumps(CODEC.state())))
    assert (codec.encode(np.array(MISSIONS)) == CODEC.encode(np.array(MISSIONS))).all()


PANICS = {"type": "Precompiled", "precompiled_charsmap": "AAAA"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"tokenizer": "{}"},
        {"tokenizer": ""},
        {"tokenizer": None},
        {"tokenizer": {"model": "BPE"}},
        {"tokenizer": '{"version": "1.0", "model": {"type": "BPE", "vocab": {}, "merges": []}}'},
        {"tokenizer": '{"version": "1.0", "model": {"type": "WordLevel", "vocab": {"a": 4294967294}, "unk_token": "a"}}'},
        {"tokenizer": json.dumps(json.loads(CODEC.state()["tokenizer"]) | {"normalizer": PANICS})},
        {"length": 0},
        {"length": "5"},
        {"length": True},
        {"length": 10**9},
    ],
)
def test_a_broken_state_is_a_value_error(wrong):
    # The tokenizer of a bundle makes a BundleError of these.
    with pytest.raises(ValueError, match="."):
        Codec(Config(), TEXT).load_state(CODEC.state() | wrong)


def test_a_tokenizer_that_does_not_know_a_word_says_so(tmp_path):
    words = {"version": "1.0", "model": {"type": "WordLevel", "vocab": {"go": 0}, "unk_token": "[UNK]"}}
    (tmp_path / "tokenizer.json").write_text(json.dumps(words))
    with pytest.raises(DataError, match="this tokenizer fails at a text"):
        fitted(tokenizer=str(tmp_path))


def test_cutting_and_padding_of_the_tokenizer_itself_are_switched_off(tmp_path):
    tokenizer, _ = text.load("missions")
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=40)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert fitted(tokenizer=str(tmp_path)).state() == CODEC.state()
