"""Every recipe of the shelf begins as it always did: the losses of its first three steps, on random episodes of its spaces.

A change of initial weights, of a layout, of a codec or of what is counted moves them, whatever it does to the end. Who means to
move them writes them anew (``_make.py losses``) and says so.
"""

import json
import os
import tempfile
from functools import lru_cache
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch

from seqrl.core import shelf
from seqrl.core.episode import Episode, EpisodeSpec, Modality
from seqrl.data import dataset
from seqrl.tokens import vq
from seqrl.train import recipe as recipes
from seqrl.train.engine import Engine
from seqrl.train.loop import Trainer
from seqrl.train.optim import make_optimizer
from seqrl.train.prepare import loader_for, open_data, tokenizer_for
from seqrl.train.run import build_model

HERE = Path(__file__).resolve().parent
TEXTS = ("go to the red ball", "pick up the grey key", "put the blue box next to the green door", "put small spoon in pot")
# What a recipe leaves to the user, made small.
BODY = (
    "{model_type: llama, hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 2, intermediate_size: 64, vocab_size: 512}"
)
MORE = {"vla": ["model.base=null", f"model.body={BODY}", "tokens.slots.task={kind: text}"]}


def encoder(name, folder):
    """The override that names a small untrained encoder where a recipe names one that the user trains first."""
    raw = recipes.load(name)
    if (raw.tokens.slots.get("image") or {}).get("kind") != "vq":
        return []
    images = [m for m in specs()[raw.data.sources[0]["id"]].obs.values() if m.kind == "image"]
    return [f"tokens.slots.image.encoder={vq.tiny(Path(folder), images[0]).encoder}"]


class Random:
    """Episodes of a spec, drawn from its name alone."""

    def __init__(self, spec):
        self.spec = spec
        rng = np.random.default_rng(list(spec.id.encode()))
        self.episodes = [self._episode(i, int(T), rng) for i, T in enumerate(rng.integers(3, 40, 8))]
        self.lengths = np.array([len(e) for e in self.episodes])

    def _episode(self, i, T, rng):
        end = np.arange(T) == T - 1
        obs = {n: draw(m, T + 1, rng) for n, m in self.spec.obs.items()}
        act = {n: draw(m, T, rng) for n, m in self.spec.act.items()}
        return Episode(obs, act, rng.standard_normal(T).astype(np.float32), end, np.zeros(T, bool), i)

    def __len__(self):
        return len(self.episodes)

    def episode(self, i):
        return self.episodes[i]

    def fingerprint(self):
        return f"random-{self.spec.id}-{hash(str(self.spec.to_json())) & 0xFFFFFF}"


def draw(m: Modality, n, rng):
    if m.kind == "text":
        return np.array([TEXTS[rng.integers(len(TEXTS))]] * n, object)
    if m.kind == "discrete":
        start = np.array(m.start or (0,) * len(m.n))
        return (rng.integers(0, m.n, (n, len(m.n))) + start).reshape(n, *m.shape).astype(m.dtype)
    if m.kind == "image":
        return rng.integers(0, 6, (n, *m.shape)).astype(m.dtype)
    low, high = (np.nan_to_num(np.array(b), posinf=2, neginf=-2) for b in (m.low, m.high))
    return rng.uniform(low, high, (n, m.size)).reshape(n, *m.shape).astype(m.dtype)


@lru_cache
def specs():
    raw = json.loads((HERE / "specs.json").read_text(encoding="utf-8"))
    return {name: EpisodeSpec.from_json(spec) for name, spec in raw.items()}


def names():
    """Recipes whose data are Minari's; those that collect their own are run by other tests."""
    return [n for n in shelf.names("recipes") if all(s["kind"] == "minari" for s in recipes.load(n).data.sources)]


def first_losses(name):
    more = next((m for start, m in MORE.items() if name.startswith(start)), [])
    quick = ["train.batch=4", "train.device=cpu", "train.precision=fp32", "train.warmup=0", "data.held_out=0"]
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, {"SEQRL_CACHE": folder}):
        recipe = recipes.load(name, [*quick, *more, *encoder(name, folder)])
        torch.manual_seed(0)
        with mock.patch.object(dataset, "_source", lambda raw, i: Random(specs()[raw["id"]])):
            data = open_data(recipe)
        tokenizer = tokenizer_for(recipe, data)
        model = build_model(recipe, tokenizer, 0)
        engine = Engine("cpu", "fp32", 0)
        trainer = Trainer(
            recipe.train, engine, model, make_optimizer(model, recipe.train), loader_for(recipe, data, tokenizer, "cpu")
        )
        model.train()
        seen = []
        for step in range(3):
            trainer.step(step)
            seen.append(trainer.tally.means(engine, recipe.train.losses)["loss"])
    return seen


@pytest.mark.parametrize("name", names())
def test_first_losses(name):
    known = json.loads((HERE / "losses.json").read_text(encoding="utf-8"))
    assert name in known, "a new recipe: write its first losses with tests/golden/_make.py losses"
    # Other processors round otherwise, and dropout's draws are the same everywhere.
    np.testing.assert_allclose(first_losses(name), known[name], rtol=2e-3)
