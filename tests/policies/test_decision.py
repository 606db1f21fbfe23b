"""Decision Transformer: nothing leaks, padding changes nothing, the cache is exact, and losses count real tokens only."""

import pytest
import torch

from seqrl.core.errors import RecipeError
from seqrl.core.stream import StreamBatch
from seqrl.policies.decision import Config, Model

LAYOUTS = ["return state action", "state action", "state return action"]
BODIES = {
    "paper": {},
    "gpt2-rotary": {"time": "rotary"},
    "llama": {"body": "llama", "time": "rotary", "kv_heads": 1},
    "qwen2": {"body": "qwen2", "time": "rotary"},
    "qwen3": {"body": "qwen3", "time": "learned"},
}


def policy(ports, context=6, **settings):
    torch.manual_seed(0)
    sizes = {"width": 16, "layers": 2, "heads": 2, "max_time": 64}
    model = Model(Config.for_ports(ports, context, **sizes | settings)).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.2)
    return model


def close(a, b, tolerance=1e-5):
    torch.testing.assert_close(a, b, rtol=0, atol=tolerance)


def every_action(model, batch):
    """The values of the loss say what was answered at every step."""
    return model(batch).terms["action"][0]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", ["vectors", "open", "choices"])
def test_the_future_cannot_move_the_past(rows, layout, shape):
    ports = rows.ports(layout, shape)
    model, batch, other = policy(ports), rows.batch(ports), rows.batch(ports, seed=1)
    for t in range(6):
        # Everything from the action of step t on is different; the answer for step t, read before it, is the same.
        mixed = {n: torch.cat((v[:, : t + 1], other.values[n][:, t + 1 :]), 1) for n, v in batch.values.items()}
        mixed["action"] = torch.cat((batch.values["action"][:, :t], other.values["action"][:, t:]), 1)
        moved = StreamBatch(mixed, batch.time, batch.length, {"action": batch.values["action"]})
        assert torch.equal(every_action(model, moved)[:, : t + 1], every_action(model, batch)[:, : t + 1])
        asked = StreamBatch(mixed, batch.time, torch.full((5,), t + 1))
        assert torch.equal(model.act(asked)["action"], model.act(StreamBatch(batch.values, batch.time, asked.length))["action"])


def test_the_past_moves_the_future(rows):
    ports = rows.ports("return state action")
    model, batch = policy(ports), rows.batch(ports)
    before = every_action(model, batch)
    for name in ("return", "state", "action"):
        values = dict(batch.values)
        values[name] = values[name].clone()
        values[name][:, 2] += 1
        moved = every_action(model, StreamBatch(values, batch.time, batch.length, {"action": batch.values["action"]}))
        first = 3 if name == "action" else 2
        assert torch.equal(moved[:, :first], before[:, :first])
        assert ((moved - before)[:, first:].abs().amax((-1, -2)) > 1e-6).all()


@pytest.mark.parametrize("shape", ["vectors", "choices"])
def test_padding_changes_nothing(rows, shape):
    ports = rows.ports("return state action", shape)
    model, length = policy(ports), [1, 2, 4, 5, 6]
    batch, other = rows.batch(ports, length=length), rows.batch(ports, seed=1)
    real = batch.mask[..., None]
    padded = StreamBatch(
        {n: torch.where(real, v, other.values[n]) for n, v in batch.values.items()},
        torch.where(batch.mask, batch.time, other.time),
        batch.length,
    )
    a, b = model(batch).sums()["action"], model(padded).sums()["action"]
    close(a[0], b[0], 1e-4)
    assert a[1] == b[1] == sum(length) * ports.widths["action"]
    close(model.act(batch)["action"], model.act(padded)["action"])
    for i, n in enumerate(length):
        alone = rows.cut(batch, n, rows=slice(i, i + 1))
        close(model.act(alone)["action"][0], model.act(batch)["action"][i])


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("shape", ["vectors", "choices"])
def test_cached_equals_exact_with_rows_at_different_positions(rows, body, shape):
    """Five rows for nine ticks; some episodes end and new ones begin, so that rows stand at different steps."""
    ports = rows.ports("return state action", shape)
    model = policy(ports, **BODIES[body])
    data = rows.batch(ports, B=5, T=6, seed=2)
    cache, t = model.init_cache(5, 6), torch.zeros(5, dtype=torch.int64)
    resets = {2: [1], 3: [0, 3], 5: [1, 2, 4], 6: [0, 3]}
    for tick in range(9):
        if tick in resets:
            cache.reset(torch.tensor(resets[tick]))
            t[resets[tick]] = 0
        got = model.act(rows.step(data, t, t > 0), cache)["action"]
        exact = model.act(StreamBatch(data.values, data.time, t + 1))["action"]
        close(got, exact)
        t += 1
        assert cache.steps.tolist() == t.tolist()
        assert cache.length.tolist() == (t * 3 - 1).tolist()


@pytest.mark.parametrize("body", BODIES)
def test_refilled_equals_exact_on_the_shorter_window(rows, body):
    ports = rows.ports("return state action")
    model, data = policy(ports, **BODIES[body]), rows.batch(ports, B=4, T=12, seed=3)
    cache = model.init_cache(4, 6)
    for t in range(6):
        at = torch.full((4,), t)
        model.act(rows.step(data, at, at > 0), cache)
    chosen = torch.tensor([3, 0])
    # Rows 3 and 0 now know steps 4 and 5 (the last without its action) and go on with 6, 7, 8.
    model.refill(rows.cut(data, 6, 4, chosen), cache, chosen)
    assert cache.steps.tolist() == [2, 6, 6, 2]
    assert cache.length.tolist() == [5, 17, 17, 5]
    cache, data = cache.index(chosen), data[chosen]
    for t in range(6, 9):
        at = torch.full((2,), t)
        got = model.act(rows.step(data, at, at > 0), cache)["action"]
        close(got, model.act(rows.cut(data, t + 1, 4))["action"])


def test_rows_of_a_refill_may_differ_in_length(rows):
    ports = rows.ports("return state action")
    model, data = policy(ports), rows.batch(ports, B=3, T=6, length=[1, 3, 2])
    cache = model.init_cache(3, 6)
    model.refill(data, cache, torch.arange(3))
    got = model.act(rows.step(data, data.length, [True] * 3), cache)["action"]
    close(got, model.act(StreamBatch(data.values, data.time, data.length + 1))["action"])


def test_a_full_cache_is_refused(rows):
    ports = rows.ports("return state action")
    model, data = policy(ports), rows.batch(ports, T=4)
    cache = model.init_cache(5, 3)
    for t in range(4):
        at = torch.full((5,), t)
        if t == 3:
            with pytest.raises(ValueError, match="cache has room"):
                model.act(rows.step(data, at, at > 0), cache)
        else:
            model.act(rows.step(data, at, at > 0), cache)


def test_more_losses_bring_more_heads_and_read_in_front_of_their_slot(rows):
    layout = "return state action > reward"
    ports = rows.ports(layout)
    alone, all_four = policy(ports), policy(ports, losses=["action", "state", "return", "reward"])
    assert {n.split(".")[1] for n in alone.state_dict() if n.startswith("heads.")} == {"action"}
    all_four.load_state_dict(alone.state_dict(), strict=False)
    batch = rows.batch(ports, length=[1, 2, 4, 5, 6])
    terms = all_four(batch).terms
    assert all_four.losses == tuple(terms) == ("action", "state", "return", "reward")
    close(terms["action"][0], every_action(alone, batch))
    # The first return of a row has nothing in front of it; every other slot has a token for each step.
    assert {n: v.shape[1] for n, (v, _) in terms.items()} == {"action": 6, "state": 6, "return": 5, "reward": 6}
    assert {n: int(m.sum()) for n, (_, m) in terms.items()} == {
        "action": 18 * 3,
        "state": 18 * 5,
        "return": 13,
        "reward": 18 * 2,
    }
    x = all_four._tokens(batch, all_four.fed, batch.time[..., None])
    y = all_four.trunk(x).unflatten(1, (6, 3))
    close(terms["return"][0], (all_four.heads["return"](y[:, :-1, 2]) - batch.values["return"][:, 1:]) ** 2)
    close(terms["state"][0], (all_four.heads["state"](y[:, :, 0]) - batch.values["state"]) ** 2)
    close(terms["reward"][0], (all_four.heads["reward"](y[:, :, 2]) - batch.values["reward"]) ** 2)


def test_draws_follow_their_uniform_numbers(rows):
    for shape, settings in (("vectors", {"head": "gaussian"}), ("choices", {})):
        ports = rows.ports("return state action", shape)
        model, batch = policy(ports, **settings), rows.batch(ports)
        u = torch.rand(5, ports.widths["action"])
        first = model.act(batch, sample=True, uniform=u)["action"]
        assert torch.equal(first, model.act(batch, sample=True, uniform=u)["action"])
        likeliest = model.act(batch)["action"]
        assert not torch.equal(first, likeliest)
        close(model.act(batch, sample=True, uniform=u, temperature=1e-6)["action"], likeliest)


def test_time_beyond_the_table_shares_its_last_entry(rows):
    ports = rows.ports("return state action")
    model, batch = policy(ports), rows.batch(ports)
    late = [StreamBatch(batch.values, torch.full_like(batch.time, t), batch.length) for t in (63, 5000)]
    assert torch.equal(every_action(model, late[0]), every_action(model, late[1]))


@pytest.mark.parametrize("body", ["paper", "llama"])
def test_training_under_autocast(rows, body):
    ports = rows.ports("return state action")
    for head in ("tanh_mse", "gaussian"):
        model, batch = policy(ports, head=head, entropy=0.1, **BODIES[body]).train(), rows.batch(ports)
        with torch.autocast("cpu", torch.bfloat16):
            total, n = model(batch).sums()["action"]
        (total / n).backward()
        assert total.dtype == torch.float32
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    ("layout", "settings", "message"),
    [
        ("return action state", {}, "must end in 'action'"),
        ("action", {}, "must end in 'action'"),
        ("task | return state action", {}, "no slots in front"),
        ("return state action", {"losses": ["action", "stat"]}, "did you mean 'state'"),
        ("return state action", {"losses": ["state"]}, "must have a loss on 'action'"),
        ("return state action", {"widht": 3}, "did you mean 'width'"),
        ("return state action", {"head": "gausian"}, "did you mean 'gaussian'"),
        ("return state action", {"heads": 3}, "no multiple of heads"),
        ("return state action", {"dropout": 1.0}, r"model.dropout: a number from 0 to below 1 \(got 1.0\)"),
        ("return state action", {"dropout": -0.1}, "model.dropout: a number from 0 to below 1"),
        ("return state action", {"dropout": "much"}, "model.dropout: a number"),
        ("return state action", {"attention_dropout": 1.5}, "model.attention_dropout: a number from 0 to below 1"),
        ("return state action", {"init_std": -0.02}, "model.init_std: a number at least 0"),
        ("return state action", {"init_std": float("nan")}, "model.init_std: a number at least 0"),
        ("return state action", {"max_time": 0}, "model.max_time: a number at least 1"),
        ("return state action", {"entropy": -0.1}, "model.entropy: a number at least 0"),
    ],
)
def test_what_does_not_fit_is_refused(rows, layout, settings, message):
    with pytest.raises(RecipeError, match=message):
        Config.for_ports(rows.ports(layout), 6, **{"width": 16, **settings})
