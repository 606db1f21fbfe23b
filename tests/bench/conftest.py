"""A suite of two tiny methods on two small datasets, and finished cells that were written by hand instead of trained."""

import json

import numpy as np
import pytest

from seqrl.bench import plan
from seqrl.bench.data import Contents, stores
from seqrl.sources import collected

SUITE = """
name: tiny
about: Two methods, two datasets
methods:
  DT:
    about: asks for a return
    recipe: dt_cartpole
    set: {model.width: 16, model.layers: 1, model.heads: 1, tokens.context: 4, train.batch: 4}
  B|C: {recipe: bc_cartpole, set: {model.widths: [8], train.batch: 4}}
datasets:
  - {id: tests/cartpole-v0, source: {kind: minari, id: tests/cartpole-v0}, targets: [100, 20]}
  - {id: tests/other-v0, source: {kind: minari, id: tests/other-v0}, methods: {DT: {evaluate.targets: [50]}}}
seeds: 2
evaluate: {episodes: 4, envs: 4}
published:
  - {name: Paper, source: a table, comparable: false, why: other data, scores: {DT: {tests/cartpole-v0: [50, 2]}}}
  - {name: Twin, source: another table, comparable: true, scores: {B|C: {tests/cartpole-v0: 40}}}
"""
TRAIN = ("train.steps=4", "train.save_every=2", "train.log_every=1", "train.validate_windows=4", "train.device=cpu")


@pytest.fixture(scope="session")
def data(cartpole):
    """Two collected datasets."""
    collected.collect("CartPole-v1", 6, "tests/other-v0", "random")
    return cartpole


@pytest.fixture
def file(tmp_path, data):
    """The suite as a file."""
    path = tmp_path / "tiny.yaml"
    path.write_text(SUITE)
    return path


@pytest.fixture
def suite(file):
    return plan.load(str(file), TRAIN)


def write_run(cell, folder, returns, steps=None, spec=None, comparable=False):
    """A run folder as training leaves it, as far as a benchmark reads it; ``returns`` of the first target."""
    steps = cell.recipe.train.steps if steps is None else steps
    last = folder / "checkpoints" / f"step-{steps:08d}"
    (last / "trainer").mkdir(parents=True)
    (last / "bundle").mkdir()
    (folder / "recipe.yaml").write_text(cell.recipe.dump())
    (folder / "metrics.jsonl").write_text(f'{{"step": {steps}, "loss": 1.0}}\n')
    (last / "trainer" / "state.json").write_text(json.dumps({"step": steps, "data": sorted(stores(Contents().of(cell)))[:1]}))
    asked = cell.recipe.evaluate.targets or [None]
    line = None if spec is None else float(100 * (np.mean(returns) - 22) / 478)
    targets = [
        {"target": t, "mean": float(np.mean(returns)) + 100 * i, "normalized": line, "reference": "r", "comparable": comparable}
        for i, t in enumerate(asked)
    ]
    report = {"targets": targets, "seed": 0, "mode": "cached", "env": "CartPole-v1", "versions": {"torch": "2"}, "commit": None}
    (last / "bundle" / "metrics.json").write_text(json.dumps({"step": steps, "report": report}))
    (last / "bundle" / "tokenizer.json").write_text(json.dumps({"spec": spec}))
    more = {"why": "made anew", "returns": [list(map(float, returns)), *([[999.0] * len(returns)] * (len(asked) - 1))]}
    (folder / "eval.json").write_text(json.dumps({**report, **more}))


@pytest.fixture
def written():
    return write_run


@pytest.fixture
def spec(data):
    """The spec of the normalised dataset, as JSON."""
    from seqrl.sources import minari

    return minari.Source(minari.Config(id="tests/cartpole-v0")).spec.to_json()
