"""The encoded rows: computed fields, texts looked up when asked for, and actions where an episode has none any more."""

import numpy as np
import pytest

from seqrl.core.episode import Episode, EpisodeSpec, Modality
from seqrl.data.dataset import DataConfig, Dataset
from seqrl.data.loader import fit
from seqrl.data.slots import TokensConfig
from seqrl.data.store import prepare
from seqrl.data.tables import Tables, last_rows, store_columns
from seqrl.data.tokenizer import Tokenizer

TALK = EpisodeSpec(
    "tests/talk-v0",
    {"observation": Modality("vector", (2,), "float32"), "mission": Modality("text", (), "str")},
    {"action": Modality("discrete", (), "int64", n=(3,), start=(5,))},
)


def talk(T, i):
    said = np.array([f"go to the {'red' if (i + t) % 2 else 'green'} ball" for t in range(T + 1)])
    obs = {"observation": np.full((T + 1, 2), i, np.float32), "mission": said}
    ends = np.arange(T) == T - 1
    return Episode(obs, {"action": np.arange(T) % 3 + 5}, np.ones(T, np.float32), ends, np.zeros(T, bool), i)


@pytest.fixture
def dataset(home, memory):
    stores = [prepare(memory.of(TALK, [talk(T, i) for i, T in enumerate(lengths)])) for lengths in ((3, 1, 4), (2,))]
    return Dataset(stores, DataConfig(sources=[{"kind": "minari"}] * 2, held_out=0, discount=0.5))


def tables(dataset, **more):
    tokenizer = Tokenizer(TokensConfig(layout="mission | return state separator action > reward done", pack=60), dataset.spec)
    fit(tokenizer, dataset)
    return Tables(dataset, tokenizer, **more)


def test_the_fields_of_a_store(dataset):
    columns = store_columns(dataset, 0, {"return", "reward", "done", "separator", "mission", "action"})
    assert columns["return"][:3].tolist() == [1.75, 1.5, 1.0]
    assert columns["done"].tolist() == [0, 0, 1, 0, 1, 0, 0, 0, 0, 1, 0]
    assert columns["separator"][2:5].tolist() == [0, 0, 0]
    assert columns["separator"].take(np.array([[1, 2], [3, 4]])).shape == (2, 2)
    assert columns["mission"].take(np.array([0, 1])).tolist() == ["go to the green ball", "go to the red ball"]
    assert columns["mission"][np.array([4])].tolist() == ["go to the red ball"]
    assert len(columns["mission"]) == columns["mission"].shape[0] == 11


def test_the_last_row_with_an_action(dataset):
    assert last_rows(dataset.stores[0]).tolist() == [2, 2, 2, 2, 4, 4, 9, 9, 9, 9, 9]


@pytest.mark.parametrize("budget", [None, 0])
def test_every_row_is_what_the_codecs_say(dataset, budget):
    made = tables(dataset, budget=budget)
    assert made.resident == (budget is None)
    every = np.arange(int(dataset.first_row[-1]))
    values = made.rows(every, set(made.codecs))
    at = 0
    for store in dataset.stores:
        for i in range(len(store)):
            whole, T = store.episode(i), int(store.episodes.length[i])
            rows = slice(at, at + T + 1)
            mission = made.codecs["mission"].decode(values["mission"][rows].numpy())
            assert mission[:, 0].tolist() == whole.obs["mission"].tolist()
            # Nothing follows the last row; its action is the one before, and never a number that is no choice.
            assert values["action"][rows, 0].tolist() == [*(whole.act["action"] - 5), whole.act["action"][-1] - 5]
            assert values["done"][rows, 0].tolist() == [0] * (T - 1) + [1, 0]
            at += T + 1
    some = np.array([7, 0, 12, 7])
    for name, part in made.rows(some, {"state", "mission"}).items():
        assert part.tolist() == values[name][some].tolist()
    assert set(made.rows(some, {"state"})) == {"state"}


def test_reading_keeps_the_shape_that_is_asked_for(dataset):
    made = tables(dataset)
    asked = np.array([[0, 12], [13, 4]])
    read = made.read(asked, {"action", "mission"})
    assert read["action"].shape == (2, 2, 1)
    assert read["mission"].shape == (2, 2, made.codecs["mission"].width)
    flat = made.rows(asked.ravel(), {"action"})["action"]
    assert read["action"].ravel().tolist() == flat.ravel().tolist()
