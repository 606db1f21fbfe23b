"""A context that grows: each stage begins with the last one's weights, and a run goes on in the middle of any as if whole."""

import os
import signal

import pytest
import torch
from safetensors.torch import load_file

from seqrl import bundle
from seqrl.context import stages
from seqrl.core.errors import RecipeError
from seqrl.train import checkpoint, metrics, run
from seqrl.train import recipe as recipes
from seqrl.train.signals import Interrupted

TEXT = """
name: grows
data: {sources: [{kind: minari, id: tests/cartpole-v0}], held_out: 0.1}
tokens: {pack: 96, layout: state separator action, slots: {state: {kind: bins, bins: 8}}}
model: {kind: policies.gato, width: 16, layers: 1, heads: 2, dropout: 0.1}
train: {batch: 4, lr: 1e-3, device: cpu, log_every: 1, validate_windows: 8, save_every: 100}
stages:
  - {length: 48, steps: 3, decay: cosine}
  - {steps: 4, batch: 2, lr: 2e-3, warmup: 2}
evaluate: {at_end: false}
"""


@pytest.fixture
def grows(cartpole):
    return lambda *overrides: recipes.parse(TEXT, "grows.yaml", overrides)


def rows(out):
    return [{k: v for k, v in r.items() if k != "steps_per_second"} for r in metrics.read(out / "metrics.jsonl")]


def state(out):
    return load_file(checkpoint.last(out) / "trainer" / "state.safetensors")


def test_a_run_goes_through_its_stages_and_on_from_the_middle_of_one(grows, tmp_path, monkeypatch):
    drawn = []
    before = run.Trainer.step

    def step(self, number):
        drawn.append((number, self.loader.length, self.rows))
        before(self, number)
        if number + 1 == 5 and len(drawn) == 5:
            os.kill(os.getpid(), signal.SIGINT)

    straight = run.start(grows(), tmp_path / "straight").run
    with monkeypatch.context() as m:
        m.setattr(run.Trainer, "step", step)
        with pytest.raises(Interrupted, match="stopped at step 5 of 7"):
            run.start(grows(), tmp_path / "broken")
        run.resume(tmp_path / "broken")
    assert drawn == [(i, 48, 4) for i in range(3)] + [(i, 96, 2) for i in range(3, 7)]
    one, two = state(straight), state(tmp_path / "broken")
    assert one.keys() == two.keys()
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert rows(straight) == rows(tmp_path / "broken")
    told = [(r["step"], r["stage"], r["lr"]) for r in rows(straight) if "lr" in r]
    # A schedule of its own: cosine down to nothing, then up again for two steps.
    assert told == [
        (1, 1, 1e-3),
        (2, 1, pytest.approx(5e-4)),
        (3, 1, 0.0),
        *((4 + i, 2, (1e-3, 2e-3)[i > 0]) for i in range(4)),
    ]
    found = bundle.load(straight)
    assert found.tokenizer.length == found.model.config.length == 96
    # The second stage has taken four steps of its own optimiser.
    assert {int(t) for n, t in one.items() if n.startswith("optimizer/step/")} == {4}


def test_a_stage_begins_with_the_weights_of_the_last(grows, tmp_path, monkeypatch):
    kept = {}
    before = run.Trainer.__init__

    def noted(self, *args, **more):
        before(self, *args, **more)
        kept[len(kept)] = {n: t.clone() for n, t in self.bare.state_dict().items()}

    monkeypatch.setattr(run.Trainer, "__init__", noted)
    out = run.start(grows("train.keep=9"), tmp_path / "r").run
    first = load_file(out / "checkpoints" / checkpoint.name_of(3) / "bundle" / "model.safetensors")
    assert set(kept) == {0, 1}
    assert all(torch.equal(first[n], kept[1][n]) for n in first)
    assert not all(torch.equal(kept[0][n], kept[1][n]) for n in first)


def test_the_stage_of_a_step():
    two = grows_by(3, 4)
    assert [stages.at(two, s).number for s in range(8)] == [0, 0, 0, 1, 1, 1, 1, 1]
    assert stages.at(two, 3) == (1, 3, 7)
    for wrong in (-1, 8):
        with pytest.raises(ValueError, match="7 steps in all"):
            stages.at(two, wrong)


def grows_by(*steps):
    return [recipes.StageConfig(steps=n) for n in steps]


def test_wrong_stages_are_named_with_their_line(grows):
    def said(*overrides, text=TEXT):
        with pytest.raises(RecipeError) as e:
            recipes.parse(text, "grows.yaml", overrides)
        return str(e.value)

    wrong = TEXT.replace("batch: 4,", "batch: 4, steps: 9,")
    assert "grows.yaml:6: train.steps=9: the stages take 3 + 4 = 7; leave it out, or make them agree" in said(text=wrong)
    assert grows("train.steps=7").train.steps == grows().train.steps == 7
    assert "grows.yaml:8: stages.0.steps: " in said(text=TEXT.replace("steps: 3", "steps: 0"))
    assert "grows.yaml:9: stages.1.lenght: unknown key; did you mean 'length'?" in said(
        text=TEXT.replace("{steps: 4", "{lenght: 96, steps: 4")
    )
    assert "stages: " in said("stages=[]")
    windows = ("tokens.pack=null", "tokens.slots={}", "tokens.layout=state action", "model={kind: policies.decision}")
    assert "stages.0.length: is of packed rows, and policies.decision reads windows" in said(*windows)


def test_a_body_with_learned_positions_is_not_made_longer(grows, tmp_path):
    with pytest.raises(RecipeError, match="learned positions"):
        run.start(grows("model.body=gpt2"), tmp_path / "r")
