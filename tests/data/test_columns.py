"""Columns that are computed: of a large store a few episodes at a time or where they are looked at, to the same bits."""

import numpy as np
import pytest

from seqrl.core.errors import DataError
from seqrl.data import columns, loader
from seqrl.data.columns import Terms, done, last_rows, returns, rewards
from seqrl.data.dataset import DataConfig, Dataset
from seqrl.data.loader import Loader, fit
from seqrl.data.slots import TokensConfig
from seqrl.data.store import prepare
from seqrl.data.tables import Tables
from seqrl.data.tokenizer import Tokenizer

TERMS = [Terms(), Terms(discount=0.9), Terms(penalty=100.0), Terms(delayed=True), Terms(penalty=5.0, delayed=True)]
LENGTHS = (5, 1, 9, 40, 3, 17, 2)


@pytest.fixture
def store(home, memory):
    return prepare(memory(LENGTHS))


def large(monkeypatch, block=20):
    """From now on every store is a large one."""
    monkeypatch.setattr(columns, "SMALL", 0)
    monkeypatch.setattr(columns, "_BLOCK", block)


@pytest.mark.parametrize("terms", TERMS)
@pytest.mark.parametrize("block", [1, 20, 1 << 20])
def test_a_large_store_has_the_numbers_of_a_small_one(store, monkeypatch, terms, block):
    small = [np.array(f) for f in (returns(store, terms), rewards(store, terms), done(store), last_rows(store))]
    large(monkeypatch, block)
    found = [returns(store, terms), rewards(store, terms), done(store), last_rows(store)]
    rows = np.array([[3, 0, 83], [12, 11, 5]])
    for a, b in zip(small, found, strict=True):
        assert b.shape == a.shape == (store.rows,)
        assert len(b) == store.rows
        assert b[:].tobytes() == a.tobytes()
        assert b[:].dtype == a.dtype
        assert b[rows].tolist() == b.take(rows, axis=0, mode="clip").tolist() == a[rows].tolist()
        assert b[7:9].tolist() == a[7:9].tolist()


def test_what_needs_whole_episodes_is_computed_once_and_mapped(store, monkeypatch):
    large(monkeypatch)
    first = returns(store, Terms())
    assert isinstance(first.base, np.memmap)
    (path,) = (store.path / "computed").iterdir()
    assert path.stat().st_size == 4 * store.rows
    monkeypatch.setattr(columns, "_write", None)
    assert returns(store, Terms()).tobytes() == first.tobytes()
    with pytest.raises(TypeError):
        returns(store, Terms(discount=0.5))


def test_one_that_was_cut_off_is_computed_anew(store, monkeypatch):
    large(monkeypatch)
    wanted = returns(store, Terms()).tobytes()
    (path,) = (store.path / "computed").iterdir()
    path.write_bytes(b"cut")
    assert returns(store, Terms()).tobytes() == wanted


def test_a_full_disk_is_one_message_and_nothing_half_written(store, monkeypatch):
    large(monkeypatch)

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(columns.os, "replace", full)
    with pytest.raises(DataError, match=r"return-.*could not be written: no space left on the disk; set SEQRL_CACHE"):
        returns(store, Terms())
    assert list((store.path / "computed").iterdir()) == []


@pytest.mark.parametrize("layout", ["return state action", "state action > reward done"])
@pytest.mark.parametrize("settings", [{}, {"discount": 0.9}, {"termination_penalty": 7.0}])
def test_batches_are_the_same_to_the_bit(home, memory, monkeypatch, layout, settings):
    source, other = memory(LENGTHS), memory((8, 30))

    def batches(budget):
        config = DataConfig(sources=[{"kind": "minari", "id": "x"}] * 2, held_out=0.2, **settings)
        data = Dataset([prepare(source), prepare(other)], config)
        tokenizer = Tokenizer(TokensConfig(layout=layout, context=4), data.spec)
        fit(tokenizer, data)
        made = Loader(data, tokenizer, budget=budget)
        drawn = [made.draw(3, step, 16).values for step in range(3)] + [b.values for b in made.validation(8, 8)]
        return tokenizer.to_json()["state"], [{n: v.numpy().tobytes() for n, v in values.items()} for values in drawn]

    wanted = [batches(budget) for budget in (None, 0)]
    large(monkeypatch)
    assert [batches(budget) for budget in (None, 0)] == wanted


def test_codecs_see_an_even_sample_of_what_is_too_much(home, memory, monkeypatch):
    data = Dataset([prepare(memory((30, 1, 50, 7)))], DataConfig(sources=[{"kind": "minari"}], held_out=0))
    asked = np.concatenate([np.arange(r, r + n) for r, n in zip(data.train.row, data.train.length, strict=True)])
    for stride in (1, 3, 100):
        assert loader._every(stride, data.train.row, data.train.length).tolist() == asked[::stride].tolist()
    assert loader._every(3, np.zeros(0, int), np.zeros(0, int)).tolist() == []
    seen = []
    tokenizer = Tokenizer(TokensConfig(layout="state action"), data.spec)
    monkeypatch.setattr(tokenizer.slots["state"].codec, "fit", lambda values: seen.append(len(values)))
    monkeypatch.setattr(loader, "SAMPLE", 20)
    fit(tokenizer, data, most=88)
    fit(tokenizer, data, most=87)
    assert seen == [88, 18]


def test_tables_of_many_gigabytes_are_not_made_unasked(store, monkeypatch):
    data = Dataset([store], DataConfig(sources=[{"kind": "minari"}], held_out=0))
    tokenizer = Tokenizer(TokensConfig(context=4), data.spec)
    fit(tokenizer, data)
    assert Tables(data, tokenizer).resident
    monkeypatch.setattr("seqrl.data.tables._MOST", 100)
    assert not Tables(data, tokenizer).resident
    assert Tables(data, tokenizer, budget=1e6).resident
