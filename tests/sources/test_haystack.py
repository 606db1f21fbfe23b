"""Haystacks to learn from: what is asked for is in the text, only answers are trained, and a number is a line."""

import re

import numpy as np
import pytest
from pydantic import ValidationError

from seqrl.data.dataset import DataConfig
from seqrl.data.documents import DocumentData, DocumentLoader
from seqrl.data.documents_tokenizer import DocumentTokenizer
from seqrl.data.slots import TokensConfig
from seqrl.sources._needle_words import Words, every_word, is_right, sentences
from seqrl.sources.haystack import Config, Source, tiny

SHORT = {"needle": " The magic number of {key} is {value}.", "question": " The magic number of {key} is", "answer": " {value}."}


def test_what_is_asked_for_is_in_the_text():
    source = Source(Config(**SHORT, examples=100, words=(40, 300), numbers=(10, 99), needles=8))
    counts, lengths = [], []
    for i in range(len(source)):
        line = source.example(i)
        hidden = dict(re.findall(r"magic number of (\w+) is (\d+)\.", line["text"]))
        asked = [n for n in line if n.startswith("question")]
        for n in range(len(asked)):
            city = re.search(r"of (\w+) is", line[f"question{n}"])[1]
            assert line[f"answer{n}"] == f" {hidden[city]}."
        assert len(asked) == len(hidden) <= 8
        assert line["fields"] == ",".join(["[text]", *(f"[question{n}],answer{n}" for n in range(len(asked)))])
        counts.append(len(asked))
        whole = "".join(v for k, v in line.items() if k != "fields")
        lengths.append(len(whole.replace(".", " .").split()))
    assert {1, 8} <= set(counts)
    assert 30 <= min(lengths) < 60 < 200 < max(lengths) <= 310


def test_a_number_is_a_line_and_a_seed_is_a_source(tmp_path):
    config = tiny(tmp_path)
    one, two = Source(config), Source(config.model_copy(update={"seed": 1}))
    assert one.example(1) == Source(config).example(1) != one.example(2)
    assert one.example(1) != two.example(1)
    assert one.fingerprint() == Source(config).fingerprint() != two.fingerprint()


def test_the_tokenizer_of_the_shelf_has_a_word_for_every_word(home):
    tokens = TokensConfig(pack=256, documents={"fields": "text", "text": {"tokenizer": "needles"}, "weigh": "tokens"})
    tokenizer = DocumentTokenizer(tokens)
    recall = {"needle": " Remember {key} {value}.", "question": " Recall {key}", "answer": " {value}."}
    for text in (t for said in (SHORT, recall) for t in every_word(Words(**said, numbers=(10, 99)))):
        assert len(tokenizer.text(text)) == len(text.replace(".", " .").split())
    source = {"kind": "haystack", **SHORT, "numbers": [10, 99], "words": [40, 120], "examples": 20}
    loader = DocumentLoader(DocumentData(DataConfig(sources=[source]), tokens), tokenizer)
    batch = loader.draw(0, 0, 2)
    trained = tokenizer.words(batch.target[batch.weight > 0].tolist())
    assert re.fullmatch(r"( \d\d\.|</s>|<s>)+", trained)


@pytest.mark.parametrize(
    ("said", "right"),
    [
        (" 1234567.", True),
        ("It is 1,234,567, as I said", True),
        (" 12345678", False),
        (" 123456", False),
        ("", False),
    ],
)
def test_a_number_is_read_out_of_an_answer(said, right):
    assert is_right(said, 1234567) is right


def test_sentences_have_eight_words_with_their_stop():
    made = sentences(np.random.default_rng(0))
    for _ in range(50):
        assert re.fullmatch(r" The( \w+){2} \w+ the( \w+){2}\.", next(made))


@pytest.mark.parametrize(
    "wrong",
    [
        {"needle": "The number is {value}."},
        {"question": "Which number has {city}?"},
        {"numbers": (9, 9)},
        {"words": (100, 50)},
    ],
)
def test_settings_that_cannot_be(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        Config(**wrong)
