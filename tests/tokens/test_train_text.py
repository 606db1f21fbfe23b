"""Tokenizers of one's own: the same texts give the same file, and the command makes what the codec reads."""

import sys
import types

import gymnasium
import numpy as np
import pytest

from seqrl.core.episode import Modality
from seqrl.core.errors import RecipeError
from seqrl.tokens import _train_text
from seqrl.tokens.text import Codec, Config

TEXTS = ["fetch the blue cup", "fetch the red cup", "wait"]


def test_every_word_becomes_one_token_and_order_does_not_matter():
    made = _train_text.train(TEXTS)
    assert made.encode("fetch the red cup").tokens == ["fetch", "Ġthe", "Ġred", "Ġcup"]
    assert made.to_str() == _train_text.train(TEXTS[::-1]).to_str() == _train_text.train(TEXTS).to_str()
    assert made.get_vocab_size() < 320


def test_the_vocabulary_ends_where_it_is_told_to():
    assert _train_text.train(TEXTS, 260).get_vocab_size() == 260
    assert _train_text.train(TEXTS, 256).encode("wait").tokens == list("wait")


def test_what_cannot_be_trained_on():
    with pytest.raises(RecipeError, match="at least 256"):
        _train_text.train(TEXTS, 255)
    with pytest.raises(RecipeError, match="no texts"):
        _train_text.train(["", ""])


def test_the_command_writes_what_the_codec_reads(tmp_path, capsys):
    (tmp_path / "texts.txt").write_text("\n".join([*TEXTS, "", "éclair"]), encoding="utf-8")
    _train_text.main([str(tmp_path / "texts.txt"), "--out", str(tmp_path / "mine.json")])
    assert "ids from 4 texts (4 different)" in capsys.readouterr().out
    codec = Codec(Config(tokenizer=str(tmp_path / "mine.json")), Modality("text", (), "str"))
    codec.fit(np.array(TEXTS))
    assert codec.decode(codec.encode(np.array(TEXTS))).ravel().tolist() == TEXTS


def test_the_command_says_what_is_missing(tmp_path, capsys):
    with pytest.raises(SystemExit):
        _train_text.main([str(tmp_path / "none.txt")])
    assert "none.txt: cannot be read" in capsys.readouterr().err


class Level:
    """An environment with a mission, which prints what it rejects."""

    def __init__(self, name):
        self.name = name

    def reset(self, seed):
        print("Sampling rejected")
        return {"mission": "" if "Playground" in self.name else f"go to ball {seed}"}, {}

    def close(self):
        pass


def test_missions_are_those_of_the_levels(monkeypatch, capsys):
    levels = ["BabyAI-GoTo-v0", "MiniGrid-Playground-v0", "MiniGrid-WFC-Maze-v0", "CartPole-v1"]
    monkeypatch.setitem(sys.modules, "minigrid", types.ModuleType("minigrid"))
    monkeypatch.setattr(gymnasium, "registry", dict.fromkeys(levels))
    monkeypatch.setattr(gymnasium, "make", lambda name, **options: Level(name))
    assert _train_text.minigrid_missions(2) == ["go to ball 0", "go to ball 1"]
    assert capsys.readouterr().out == ""


def test_without_minigrid_its_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "minigrid", None)
    with pytest.raises(RecipeError, match=r"seqrl\[minigrid\]"):
        _train_text.minigrid_missions(1)
