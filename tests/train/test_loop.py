import pytest
import torch

from seqrl.core.errors import UserError
from seqrl.train import checkpoint, run
from seqrl.train.optim import Average, learning_rate, make_optimizer
from seqrl.train.recipe import TrainConfig


def weights(out):
    return {k: v for k, v in checkpoint.load(checkpoint.last(out)).tensors.items() if k.startswith("model/")}


def test_accumulation_trains_the_same_weights(small, tmp_path):
    # Windows at the end of episodes are short, so pieces hold different numbers of real steps: a mean of means would differ.
    one = weights(run.start(small("model.dropout=0.0"), tmp_path / "one").run)
    four = weights(run.start(small("model.dropout=0.0", "train.accumulate=4"), tmp_path / "four").run)
    assert all(torch.allclose(one[k], four[k], atol=2e-6) for k in one)


def test_memory_mapped_data_give_the_same_batches(small):
    from seqrl.data.dataset import open_dataset
    from seqrl.data.loader import Loader, fit
    from seqrl.data.tokenizer import Tokenizer

    recipe = small()
    dataset = open_dataset(recipe.data)
    tokenizer = Tokenizer(recipe.tokens, dataset.spec)
    fit(tokenizer, dataset)
    table, mapped = Loader(dataset, tokenizer), Loader(dataset, tokenizer, budget=0)
    assert table.tables.resident
    assert not mapped.tables.resident
    for step in range(5):
        a, b = table.draw(0, step, 64), mapped.draw(0, step, 64)
        assert torch.equal(a.time, b.time)
        assert torch.equal(a.length, b.length)
        for slot in a.values:
            assert torch.equal(a.values[slot][a.mask], b.values[slot][b.mask])


def test_a_batch_that_does_not_divide_is_refused(small, tmp_path):
    with pytest.raises(UserError, match="multiple of processes x accumulate"):
        run.start(small("train.accumulate=3"), tmp_path / "r")


def test_a_loss_that_is_no_number_stops_the_run(small, tmp_path):
    with pytest.raises(UserError, match="became NaN"):
        run.start(small("train.lr=1e30", "train.clip=null", "train.steps=40", "train.save_every=100"), tmp_path / "r")


@pytest.mark.parametrize("tracker", ["tensorboard", "trackio"])
def test_trackers_are_told_as_well(small, tmp_path, monkeypatch, tracker):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    run.start(small(f"train.trackers=[{tracker}]"), tmp_path / "r")
    left = [p for p in tmp_path.rglob("*") if p.suffix == ".db" or "tfevents" in p.name]
    assert left, [str(p) for p in tmp_path.rglob("*")]


def test_learning_rate():
    c = TrainConfig(steps=110, lr=1.0, warmup=10, decay="linear", final_lr=0.1)
    assert learning_rate(c, 0) == pytest.approx(0.1)
    assert learning_rate(c, 9) == pytest.approx(1.0)
    assert learning_rate(c, 109) == pytest.approx(0.1)
    cosine = TrainConfig(steps=101, lr=2.0, decay="cosine")
    assert [learning_rate(cosine, s) for s in (0, 50, 100)] == pytest.approx([2.0, 1.0, 0.0])


def test_average_is_polyaks():
    model = torch.nn.Linear(2, 1)
    average, mean = Average(model, 0.5), model.weight.detach().clone()
    for step in range(50):
        with torch.no_grad():
            model.weight.add_(1.0)
        average.update(model, step)
        decay = min(0.5, (1 + step) / (10 + step))
        mean = decay * mean + (1 - decay) * model.weight
    assert torch.allclose(average.weights["weight"], mean)
    raw = model.weight.detach().clone()
    average.swap(model)
    assert torch.allclose(model.weight, mean)
    average.swap(model)
    assert torch.equal(model.weight, raw)


def test_biases_norms_and_embeddings_are_not_decayed():
    model = torch.nn.Sequential(torch.nn.Embedding(3, 4), torch.nn.Linear(4, 4), torch.nn.LayerNorm(4))
    decayed, rest = make_optimizer(model, TrainConfig(weight_decay=0.1)).param_groups
    assert [p.shape for p in decayed["params"]] == [(4, 4)]
    assert rest["weight_decay"] == 0.0
    assert len(rest["params"]) == 4
