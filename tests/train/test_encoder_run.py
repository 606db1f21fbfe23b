"""An encoder is trained by the loop like any model; what it learnt travels with whoever reads frames through it."""

import os
import shutil
import signal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from seqrl import bundle
from seqrl.core.episode import Episode, EpisodeSpec, Modality
from seqrl.core.errors import RecipeError
from seqrl.data import dataset
from seqrl.train import checkpoint, run
from seqrl.train import recipe as recipes
from seqrl.train.signals import Interrupted

TEXT = """
name: frames
data:
  sources:
    - {kind: minari, id: tests/frames-v0}
  held_out: 0.2
tokens: {layout: image, context: 3, slots: {image: {kind: patches, size: null}}}
model: {kind: encoders.vqvae, codes: 8, code_width: 4, grid: 2, width: 16, layers: 1, motion: 5}
train:
  steps: 8
  batch: 4
  lr: 1e-3
  save_every: 4
  log_every: 2
  validate_every: 4
  validate_windows: 8
  device: cpu
  losses: {reconstruction: 1, commitment: 0.25}
evaluate: {at_end: false}
"""
READS = [
    "name=reads",
    "tokens.layout=image action",
    "model={kind: policies.clone, widths: [16]}",
    "train.losses={action: 1}",
]
SPEC = EpisodeSpec(
    "tests/frames-v0",
    {"observation": Modality("image", (12, 12), "uint8")},
    {"action": Modality("discrete", (), "int64", n=(3,))},
)


def episode(i, T):
    """A bright square that goes round on grey."""
    rng = np.random.default_rng(i)
    frames, at = np.full((T + 1, 12, 12), 60, np.uint8), (rng.integers(0, 10) + np.arange(T + 1)) % 10
    for t, x in enumerate(at):
        frames[t, 3 + i % 5 : 5 + i % 5, x : x + 2] = 230
    end = np.arange(T) == T - 1
    return Episode({"observation": frames}, {"action": rng.integers(0, 3, T)}, np.zeros(T, np.float32), end, ~end & False, i)


@pytest.fixture
def frames(home, memory, monkeypatch):
    source = memory.of(SPEC, [episode(i, 12 + i) for i in range(6)])
    monkeypatch.setattr(dataset, "_source", lambda raw, i: source)
    return lambda *overrides: recipes.parse(TEXT, "frames.yaml", overrides)


def stop_after(number):
    before = run.Trainer.step

    def step(self, at):
        before(self, at)
        if at + 1 == number:
            os.kill(os.getpid(), signal.SIGINT)

    return step


@pytest.mark.parametrize("overrides", [(), ("train.accumulate=2", "train.ema=0.9")])
def test_codes_that_move_resume_bit_for_bit(frames, home, monkeypatch, overrides):
    straight, broken = run.start(frames(*overrides), home / "straight").run, home / "broken"
    with monkeypatch.context() as m:
        m.setattr(run.Trainer, "step", stop_after(5))
        with pytest.raises(Interrupted):
            run.start(frames(*overrides), broken)
    run.resume(broken)
    one, two = (load_file(checkpoint.last(r) / "trainer" / "state.safetensors") for r in (straight, broken))
    assert one.keys() == two.keys()
    assert one["model/quantizer.sizes"].sum() > 0
    assert all(torch.equal(one[k], two[k]) for k in one)


def test_a_bundle_that_reads_through_an_encoder_is_whole(frames, home, monkeypatch):
    encoder = run.start(frames(), home / "encoder").run
    told = f"tokens.slots={{image: {{kind: vq, encoder: {encoder}}}}}"
    reads = home / "reads"
    with monkeypatch.context() as m:
        m.setattr(run.Trainer, "step", stop_after(5))
        with pytest.raises(Interrupted):
            run.start(frames(*READS, told), reads)
    weights = bundle.load(encoder).model.state_dict()
    shutil.rmtree(encoder)
    run.resume(reads)
    kept = bundle.load(reads)
    codec = kept.tokenizer.slots["image"].codec
    assert all((t == codec.tensors()[n]).all() for n, t in {k: v.numpy() for k, v in weights.items()}.items())
    assert kept.model.config.ports["vocabs"]["image"] == 8
    with pytest.raises(RecipeError, match="no such folder; train one first"):
        run.start(frames(*READS, told), home / "other")
    assert not (home / "other").exists()
