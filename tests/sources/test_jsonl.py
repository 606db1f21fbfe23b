"""Ready examples, a line each: what is read, and what is told of lines that are none, with file and line."""

import json

import numpy as np
import pytest

from seqrl.core.errors import DataError
from seqrl.data.dataset import DataConfig
from seqrl.data.documents import DocumentData
from seqrl.data.documents_tokenizer import DocumentTokenizer
from seqrl.data.slots import TokensConfig
from seqrl.sources import jsonl


def prepared(path, **said):
    said = {"frames": {"vocab": 8, "tokens": 2}, "text": {"new": ["<vision>", "</vision>"]}} | said
    config = TokensConfig(pack=64, documents=said)
    data = DocumentData(DataConfig(sources=[{"kind": "jsonl", "path": str(path)}]), config)
    tokenizer = DocumentTokenizer(config, data.modality())
    return data.prepare(tokenizer)[0], tokenizer


def write(folder, *lines):
    path = folder / "made.jsonl"
    path.write_text("\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines), encoding="utf-8")
    return path


def test_lines_are_read_where_they_stand(tmp_path):
    path = write(tmp_path, {"a": 1}, "", {"a": "é"}, "  ", {"a": [3]}, "")
    source = jsonl.Source(jsonl.Config(path=str(path)))
    assert source.id == "made.jsonl"
    assert source.place(1) == f"{path}:3"
    assert len(source) == 4
    assert [source.example(i)["a"] for i in (1, 0, 3)] == ["é", 1, [3]]
    with pytest.raises(DataError, match=r"made.jsonl:4: this is no JSON"):
        source.example(2)
    assert source.fingerprint() == jsonl.Source(jsonl.Config(path=str(path))).fingerprint()


def test_an_example_of_each_sort(home):
    path = write(
        home,
        {"fields": "[q],vision,a", "q": "go", "a": "left", "vision": [1, 2, 3, 4]},
        {"fields": "vision+[did]", "vision": [[1, 2], [3, 4]], "did": ["left"]},
        {"fields": "[q+a]", "q": "go", "a": "left"},
    )
    store, tokenizer = prepared(path)
    p = tokenizer.ports()
    q, a, both = (tokenizer.text(t) for t in ("go", "left", "go left"))
    video = [p.text + 1, p.text + 2, p.frame_end, p.text + 3, p.text + 4, p.video_end]
    ids, trained = store.example(0)
    assert ids.tolist() == [p.bos, *q, *p.opens, *video, *p.closes, *a, p.eos]
    assert trained.tolist() == [False] * (1 + len(q)) + [True] * (8 + len(a) + 1)
    ids, trained = store.example(1)
    assert ids.tolist() == [p.bos, *p.opens, *video[:3], *a, *video[3:], *p.closes, p.eos]
    assert np.flatnonzero(~trained).tolist() == [0, *range(5, 5 + len(a))]
    assert store.example(2)[0].tolist() == [p.bos, *both, p.eos]
    assert store.example(2)[1].tolist() == [False] * (1 + len(both)) + [True]


VIDEO = {"fields": "vision", "vision": [1, 2]}


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{not json", "this is no JSON"),
        ("[1, 2]", "one object in braces"),
        ({"fields": "vision", "vision": [1, 8]}, "a code is 0 to 7"),
        ({"fields": "vision", "vision": [1, -1]}, "a code is 0 to 7"),
        ({"fields": "vision", "vision": [1, 2, 3]}, "a frame is 2 codes"),
        ({"fields": "vision", "vision": [1.5, 2]}, "a frame is 2 codes"),
        ({"fields": "vision", "vision": []}, "a frame is 2 codes"),
        ({"fields": "vision", "vision": [[1, 2], [3]]}, "unequal length"),
        ({"fields": "vision", "vision": "1 2"}, "a frame is 2 codes"),
        ({"fields": "[tusk],vision", "task": "go", "vision": [1, 2]}, "no field 'tusk'; did you mean 'task'"),
        ({"fields": "task", "task": 3}, "no text"),
        ({"fields": "[task", "task": "go"}, "no field; write names"),
        ('{"fields": "task", "task": "\\ud800"}', "no text"),
        ({"fields": 3, "task": "go"}, "'fields' is a text"),
        ({"fields": "vision+did", "vision": [1, 2], "did": ["left"]}, "0 actions between"),
        ({"fields": "vision+did", "vision": [1, 2], "did": "left"}, "list of words"),
    ],
)
def test_what_is_wrong_is_told_with_file_and_line(home, line, told):
    with pytest.raises(DataError, match=told) as e:
        prepared(write(home, VIDEO, "", line))
    assert "made.jsonl:3: " in str(e.value)
    # Mended, it is prepared, and nothing of before is in the way.
    assert len(prepared(write(home, VIDEO, "", VIDEO))[0]) == 2


def test_no_file_and_nothing_in_it(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        jsonl.Source(jsonl.Config(path=str(tmp_path / "no.jsonl")))
    with pytest.raises(DataError, match="no examples"):
        jsonl.Source(jsonl.Config(path=str(write(tmp_path, "", ""))))


def test_tiny(home):
    source = jsonl.Source(jsonl.tiny(home))
    assert len(source) == 3
    assert source.example(2)["task"] == "go 2"
