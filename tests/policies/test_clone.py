"""Behaviour cloning: a function of the last states and nothing else, the same at training, exact and cached play."""

import pytest
import torch

from seqrl.core.errors import RecipeError
from seqrl.core.stream import StreamBatch
from seqrl.policies.clone import Config, Model

LAYOUTS = ["state action", "state > action", "goal state action"]


def policy(ports, context=6, **settings):
    torch.manual_seed(0)
    return Model(Config.for_ports(ports, context, **{"widths": [16, 8], **settings})).eval()


def close(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("history", [1, 3])
def test_only_the_last_states_matter(rows, layout, history):
    ports = rows.ports(layout)
    model, batch, other = policy(ports, history=history), rows.batch(ports), rows.batch(ports, seed=1)
    got = model.act(batch)["action"]
    seen = {n: torch.cat((other.values[n][:, :-history], v[:, -history:]), 1) for n, v in batch.values.items()}
    seen["action"] = other.values["action"]
    close(model.act(StreamBatch(seen, other.time, batch.length))["action"], got)
    for name in set(ports.widths) - {"action"}:
        oldest = dict(seen, **{name: seen[name].clone()})
        oldest[name][:, -history] += 1
        assert ((model.act(StreamBatch(oldest, other.time, batch.length))["action"] - got).abs().amax(-1) > 1e-6).all()


@pytest.mark.parametrize("history", [1, 3])
def test_training_sees_what_playing_sees(rows, history):
    ports = rows.ports("state > action")
    model, batch = policy(ports, history=history), rows.batch(ports)
    value, mask = model(batch).terms["action"]
    assert mask.all()
    for n in range(1, 7):
        answer = model.act(StreamBatch(batch.values, batch.time, torch.full((5,), n)))["action"]
        close(value[:, n - 1], (answer - batch.values["action"][:, n - 1]) ** 2)


def test_padding_is_not_counted(rows):
    ports = rows.ports("state > action")
    model, batch = policy(ports), rows.batch(ports, length=[1, 2, 4, 5, 6])
    value, mask = model(batch).terms["action"]
    assert value.shape == mask.shape == (5, 6, 3)
    assert mask.sum() == 18 * 3


@pytest.mark.parametrize("shape", ["vectors", "choices"])
@pytest.mark.parametrize("history", [1, 3])
def test_cached_equals_exact_through_resets_and_refills(rows, shape, history):
    ports = rows.ports("state action", shape)
    model, data = policy(ports, history=history), rows.batch(ports, B=4, T=8)
    cache, t = model.init_cache(4, 6), torch.zeros(4, dtype=torch.int64)
    for tick in range(6):
        if tick == 3:
            cache.reset(torch.tensor([1, 2]))
            t[[1, 2]] = 0
        got = model.act(rows.step(data, t, t > 0), cache)["action"]
        close(got, model.act(StreamBatch(data.values, data.time, t + 1))["action"])
        t += 1
        assert cache.steps.tolist() == cache.length.tolist() == t.tolist()
    chosen = torch.tensor([3, 0])
    model.refill(rows.cut(data, 6, 4, chosen), cache, chosen)
    assert cache.steps.tolist() == [2, 3, 3, 2]
    cache, data = cache.index(chosen), data[chosen]
    at = torch.tensor([6, 6])
    close(model.act(rows.step(data, at, [True] * 2), cache)["action"], model.act(rows.cut(data, 7, 4))["action"])


@pytest.mark.parametrize(
    ("layout", "settings", "message"),
    [
        ("state", {}, "'action'"),
        ("action > reward", {}, "behind what it is a function of"),
        ("action state", {}, "behind what it is a function of"),
        ("state > action", {"history": 7}, "from 1 to the context's 6"),
        ("state > action", {"widths": []}, "at least one hidden layer"),
        ("state > action", {"dropout": 1.0}, "model.dropout: a number from 0 to below 1"),
        ("state > action", {"dropout": -0.1}, "model.dropout: a number from 0 to below 1"),
        ("state > action", {"entropy": -1.0}, "model.entropy: a number at least 0"),
        ("state > action", {"histroy": 2}, "did you mean 'history'"),
        ("state > action", {"activation": "rely"}, "did you mean 'relu'"),
    ],
)
def test_what_does_not_fit_is_refused(rows, layout, settings, message):
    with pytest.raises(RecipeError, match=message):
        Config.for_ports(rows.ports(layout), 6, **settings)
