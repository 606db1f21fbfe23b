"""Our Decision Transformer with the weights of transformers' gives the same actions, to 1e-5, over whole windows."""

import pytest
import torch
from transformers import DecisionTransformerConfig, DecisionTransformerModel

from seqrl.core.errors import BundleError
from seqrl.core.stream import StreamBatch
from seqrl.policies._decision_hf import from_hf

T = 20
SIZES = {"state_dim": 11, "act_dim": 3, "hidden_size": 64, "n_layer": 3, "n_head": 1, "max_ep_len": 200}


def theirs(**more):
    torch.manual_seed(0)
    model = DecisionTransformerModel(DecisionTransformerConfig(**{**SIZES, "bos_token_id": 0, "eos_token_id": 0, **more}))
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    return model.eval()


def rows(B=6):
    g = torch.Generator().manual_seed(1)
    time = torch.randint(0, 150, (B, 1), generator=g) + torch.arange(T)
    values = {
        "return": torch.rand(B, T, 1, generator=g) * 3.6,
        "state": torch.randn(B, T, 11, generator=g),
        "action": torch.rand(B, T, 3, generator=g) * 2 - 1,
    }
    return StreamBatch(values, time, torch.full((B,), T))


@torch.no_grad()
def their_actions(model, batch, mask=None):
    B, steps = batch.time.shape
    return model(
        states=batch.values["state"],
        actions=batch.values["action"],
        rewards=None,
        returns_to_go=batch.values["return"],
        timesteps=batch.time,
        attention_mask=torch.ones(B, steps) if mask is None else mask,
    ).action_preds


def our_actions(model, batch):
    """The action of every step of a window, by asking for each in turn: ``[B, T, A]``."""
    found = [
        model.act(StreamBatch(batch.values, batch.time, torch.full((len(batch.time),), n)))["action"] for n in range(1, T + 1)
    ]
    return torch.stack(found, 1)


@pytest.mark.parametrize("more", [{}, {"n_head": 4, "n_inner": 100}, {"activation_function": "gelu_new", "action_tanh": False}])
def test_same_actions_over_whole_windows(more):
    model = theirs(**more)
    ours, batch = from_hf(model), rows()
    expected = their_actions(model, batch)
    torch.testing.assert_close(our_actions(ours, batch), expected, rtol=0, atol=1e-5)
    # And as training sees it: squared errors over all steps.
    value, mask = ours(batch).terms["action"]
    assert mask.all()
    torch.testing.assert_close(value, (expected - batch.values["action"]) ** 2, rtol=0, atol=3e-5)


def test_right_padding_equals_their_left_padding():
    model, batch = theirs(), rows()
    ours = from_hf(model)
    length = torch.tensor([1, 2, 7, 13, 19, 20])
    got = ours.act(StreamBatch(batch.values, batch.time, length))["action"]
    for i, n in enumerate(length.tolist()):
        shift = {k: torch.cat((torch.zeros(1, T - n, v.shape[-1]), v[i : i + 1, :n]), 1) for k, v in batch.values.items()}
        time = torch.cat((torch.zeros(1, T - n, dtype=torch.int64), batch.time[i : i + 1, :n]), 1)
        mask = torch.cat((torch.zeros(1, T - n), torch.ones(1, n)), 1)
        expected = their_actions(model, StreamBatch(shift, time, torch.tensor([T])), mask)[0, -1]
        torch.testing.assert_close(got[i], expected, rtol=0, atol=1e-5)


def test_cached_play_equals_theirs():
    model, batch = theirs(), rows()
    ours, expected = from_hf(model), their_actions(model, batch)
    cache = ours.init_cache(len(batch.time), T)
    for t in range(T):
        before = batch.values["action"][:, max(t - 1, 0)][:, None]
        step = {"return": batch.values["return"][:, t : t + 1], "state": batch.values["state"][:, t : t + 1], "action": before}
        got = ours.act(StreamBatch(step, batch.time[:, t : t + 1], torch.ones(6, dtype=torch.int64)), cache)["action"]
        torch.testing.assert_close(got, expected[:, t], rtol=0, atol=1e-5)


def test_weights_alone_are_enough_and_wrong_ones_are_refused():
    model = theirs()
    weights = {k: v for k, v in model.state_dict().items() if not k.startswith(("predict_state", "predict_return"))}
    weights["encoder.h.0.attn.masked_bias"] = torch.tensor(-1e4)
    batch = rows()
    a, b = (m.act(batch)["action"] for m in (from_hf(weights, model.config), from_hf(model)))
    assert torch.equal(a, b)
    del weights["embed_ln.weight"]
    with pytest.raises(BundleError, match=r"embed_norm\.weight missing"):
        from_hf(weights, model.config)
    with pytest.raises(BundleError, match="scale_attn_weights"):
        from_hf(theirs(scale_attn_weights=False))
