"""Several datasets as one: shares of the windows that hold to the end, and spaces that must mean the same."""

from dataclasses import replace

import numpy as np
import pytest

from seqrl.core.episode import Modality
from seqrl.core.errors import DataError, RecipeError
from seqrl.data.dataset import DataConfig, Dataset
from seqrl.data.store import prepare
from seqrl.data.windows import Windows


def joined(stores, weights=None, **data):
    entries = [{"kind": "minari"} | ({} if weights is None else {"weight": w}) for w in weights or [None] * len(stores)]
    return Dataset(stores, DataConfig(sources=entries, **data))


def share(dataset, episodes):
    """Which part of many drawn windows each store has."""
    row = Windows(episodes, 4).draw(0, 0, 100_000).row
    return np.bincount(np.searchsorted(dataset.first_row, row, side="right") - 1, minlength=len(dataset.stores)) / len(row)


@pytest.mark.parametrize("data", [{"held_out": 0}, {"held_out": 0.3}, {"top": 0.5, "held_out": 0.3}])
def test_a_weight_is_a_share_of_the_windows_whatever_is_left_out(home, memory, data):
    # 'top' and the held-out split leave other parts of the second source, which has all the long episodes, than of the first.
    dataset = joined([prepare(memory([6] * 20)), prepare(memory(range(5, 45)))], [3, 1], **data)
    assert dataset.train.length @ dataset.train.weight == pytest.approx(1)
    for episodes in (dataset.train, dataset.held_out):
        if len(episodes):
            assert set(episodes.store) == {0, 1}
            np.testing.assert_allclose(share(dataset, episodes), [0.75, 0.25], atol=0.01)
    for i in range(2):
        assert np.ptp(dataset.train.weight[dataset.train.store == i]) == 0, "steps of one source are drawn equally often"


def test_a_source_with_a_weight_must_have_something_left(home, memory):
    low, high = memory([20] * 3, name="tests/low-v0"), memory([20] * 3)
    for source, reward in ((low, 0.0), (high, 1.0)):
        source.episodes = [replace(e, rew=np.full(20, reward, np.float32)) for e in source.episodes]
    stores = [prepare(high), prepare(low)]
    assert set(joined(stores, top=0.4, held_out=0).train.store) == {0}, "without a weight, the best may be all of one"
    with pytest.raises(DataError, match="data.sources.1: tests/low-v0 has a weight, but"):
        joined(stores, [1, 1], top=0.4, held_out=0)


@pytest.mark.parametrize(("weights", "said"), [([1, None], "or none"), ([1, 0], "above 0"), ([1, "x"], "above 0")])
def test_weights_are_positive_numbers_for_all_or_none(home, memory, weights, said):
    with pytest.raises(RecipeError, match=said):
        joined([prepare(memory()), prepare(memory())], weights)


def numbers(low=-1.0, high=1.0, dtype="float32"):
    return Modality("vector", (2,), dtype, (low,) * 2, (high,) * 2)


def choices(n=3, start=None, dtype="int64"):
    return Modality("discrete", (), dtype, n=(n,), start=start)


def with_spec(store, obs, act):
    store.spec = replace(store.spec, obs=obs, act=act)
    return store


@pytest.mark.parametrize(
    ("ours", "theirs", "said"),
    [
        (numbers(), numbers(-2.0), "bounds"),
        (numbers(), numbers(high=0.5), "bounds"),
        (numbers(), Modality("vector", (2,), "float32"), "bounds"),
        (numbers(), numbers(dtype="int64"), "dtype"),
        (choices(), choices(4), "n"),
        (choices(), choices(start=(1,)), "start"),
        (choices(), choices(dtype="int32"), "dtype"),
        (numbers(), choices(), "kind"),
    ],
)
def test_actions_that_mean_something_else_are_refused(home, memory, ours, theirs, said):
    a, b = (prepare(memory(name=f"tests/{n}-v0")) for n in ("one", "two"))
    with_spec(a, a.spec.obs, {"action": ours})
    with_spec(b, b.spec.obs, {"action": theirs})
    with pytest.raises(DataError, match=f"tests/one-v0 and tests/two-v0 .* act.action differs in {said}$"):
        joined([a, b])


@pytest.mark.parametrize(
    ("ours", "theirs", "said"),
    [
        ({"o": choices()}, {"o": choices(start=(1,))}, "obs.o differs in start"),
        ({"o": numbers()}, {"o": Modality("vector", (1, 2), "float32")}, "obs.o differs in shape"),
        ({"o": numbers(), "p": numbers()}, {"o": numbers()}, "only one of them has obs.p"),
    ],
)
def test_observations_that_mean_something_else_are_refused(home, memory, ours, theirs, said):
    a, b = (prepare(memory()) for _ in range(2))
    with pytest.raises(DataError, match=said):
        joined([with_spec(a, ours, a.spec.act), with_spec(b, theirs, b.spec.act)])


def test_what_means_the_same_may_be_written_otherwise(home, memory):
    a, b, c = (prepare(memory()) for _ in range(3))
    near = float(np.float32(0.4))
    with_spec(a, {"o": numbers(-9.0), "p": choices()}, {"x": numbers(-0.4, 0.4)})
    with_spec(b, {"o": numbers(), "p": choices(start=(0,))}, {"x": numbers(-near, near, "float64")})
    with_spec(c, {"o": numbers(dtype="float64"), "p": choices()}, {"x": numbers(-0.4, 0.4)})
    assert len(joined([a, b, c]).stores) == 3
