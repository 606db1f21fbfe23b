"""The loader: the same batches from tables and from the file, and what the tokenizer is fitted on."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from seqrl.core.episode import Modality
from seqrl.data import loader, tables
from seqrl.data.dataset import DataConfig, Dataset
from seqrl.data.loader import Loader, fit
from seqrl.data.slots import TokensConfig
from seqrl.data.store import prepare
from seqrl.data.tokenizer import Tokenizer


def dataset_of(memory, *lengths, **data):
    stores = [prepare(memory(each)) for each in lengths]
    return Dataset(stores, DataConfig(sources=[{"kind": "minari"}] * len(stores), held_out=0, **data))


def fitted(dataset, **tokens):
    tokenizer = Tokenizer(TokensConfig(context=4, **tokens), dataset.spec)
    fit(tokenizer, dataset)
    return tokenizer


def equal(a, b):
    assert a.values.keys() == b.values.keys()
    mask = a.mask[..., None]
    assert all(torch.equal(a.values[n] * mask, b.values[n] * mask) for n in a.values)
    assert torch.equal(a.time, b.time)
    assert torch.equal(a.length, b.length)


def test_tables_are_the_same_whatever_the_block(home, memory, monkeypatch):
    dataset = dataset_of(memory, (5, 1, 9), (7, 2))
    tokenizer = fitted(dataset, layout="return state action > reward done")
    whole = Loader(dataset, tokenizer)
    monkeypatch.setattr(tables, "_BLOCK", 4)
    parts = Loader(dataset, tokenizer)
    assert all(torch.equal(whole.tables.tables[d], parts.tables.tables[d]) for d in ("float32", "int64"))
    equal(whole.draw(0, 3, 64), parts.draw(0, 3, 64))
    equal(whole.draw(0, 3, 64), Loader(dataset, tokenizer, budget=0).draw(0, 3, 64))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_device_gets_the_same_batches(home, memory):
    dataset = dataset_of(memory, (5, 1, 9), (7, 2))
    tokenizer = fitted(dataset)
    here, there = Loader(dataset, tokenizer), Loader(dataset, tokenizer, "cuda")
    for step in range(20):
        batch = there.draw(0, step, 64)
        assert batch.time.is_cuda
        equal(here.draw(0, step, 64), batch.to("cpu"))


def test_targets_are_what_an_agent_is_asked_for(home, memory):
    lengths = (30, 4, 25)
    dataset = dataset_of(memory, lengths, (8,), discount=0.9)
    rewards = [e.rew.astype(float) for s in dataset.stores for e in (s.episode(i) for i in range(len(s)))]
    asked = [float(r @ 0.9 ** np.arange(len(r))) for r in rewards]
    facts = fitted(dataset).returns
    assert list(facts) == ["min", "max", "mean", "q10", "q50", "q90"]
    assert facts["max"] == pytest.approx(max(asked), rel=1e-5)
    assert facts["q50"] == pytest.approx(np.median(asked), rel=1e-5)
    assert facts["mean"] == pytest.approx(np.mean(asked), rel=1e-5)
    totals = [r.sum() for r in rewards]
    for data in ({}, {"delayed": True}):
        facts = fitted(dataset_of(memory, lengths, (8,), **data)).returns
        assert facts["max"] == pytest.approx(max(totals))
        assert facts["min"] == pytest.approx(min(totals))


@pytest.mark.parametrize(("most", "seen"), [(1000, 60), (60, 60), (59, 30), (31, 30), (20, 20)])
def test_fitting_sees_no_more_than_it_is_allowed(home, memory, most, seen):
    dataset = dataset_of(memory, (20, 40))
    tokenizer = Tokenizer(TokensConfig(), dataset.spec)
    tokenizer.fit = lambda columns, *_, **__: sizes.update({(n, f): len(c) for n, s in columns.items() for f, c in s.items()})
    sizes = {}
    fit(tokenizer, dataset, most)
    assert set(sizes.values()) == {seen}


def test_means_are_learned_from_fewer_steps_than_extremes(home, memory, monkeypatch):
    monkeypatch.setattr(loader, "SAMPLE", 10)
    dataset = dataset_of(memory, (20, 40))
    tokenizer = Tokenizer(TokensConfig(slots={"action": {"kind": "bins", "spacing": "uniform"}}), dataset.spec)
    sizes = {}
    tokenizer.fit = lambda columns, *_, **__: sizes.update({n: len(next(iter(c.values()))) for n, c in columns.items()})
    fit(tokenizer, dataset, 30)
    assert sizes == {"return": 30, "state": 10, "action": 30}


def test_the_longest_text_is_known_however_seldom(home, memory):
    long, lengths = "an errand that is far longer than any other", (20, 3, 20)
    spec, episodes = memory.spec(), [memory.episode(T, i, seed=i) for i, T in enumerate(lengths)]
    spec = replace(spec, obs={**spec.obs, "mission": Modality("text", (), "str")})
    for i, e in enumerate(episodes):
        e.obs["mission"] = np.where((np.arange(len(e) + 1) == 1) & (i == 1), long, "go")
    dataset = Dataset([prepare(memory.of(spec, episodes))], DataConfig(sources=[{"kind": "minari"}], held_out=0))
    tokenizer = Tokenizer(TokensConfig(layout="task | state action", context=4), dataset.spec)
    fit(tokenizer, dataset, 4)
    codec = tokenizer.slots["task"].codec
    assert codec.decode(codec.encode(np.array([long]))).item() == long


def test_ending_for_good_costs_what_the_recipe_says(home, memory):
    plain, costly = (dataset_of(memory, (5, 3), termination_penalty=p) for p in (0, 100))
    for store, other in zip(plain.stores, costly.stores, strict=True):
        assert len(store) == len(other)
    a, b = (tables.store_columns(d, 0, {"reward", "return"}) for d in (plain, costly))
    ends = plain.stores[0].column("terminated").astype(bool)
    assert ends.any()
    np.testing.assert_allclose(b["reward"], a["reward"] - 100 * ends)
    steps = plain.stores[0].column("episode")
    real = np.flatnonzero(~np.append(steps[1:] != steps[:-1], True))
    np.testing.assert_allclose(b["return"][real], a["return"][real] - 100, rtol=1e-5)
    np.testing.assert_allclose(loader.asked_returns(costly), loader.asked_returns(plain) - 100, rtol=1e-5)
