"""A run on packed rows of two domains: it resumes to the bit, cuts its batches, takes a fitted tokenizer, refuses clashes."""

import os
import signal
from functools import partial

import pytest
import torch
from safetensors.torch import load_file

from seqrl import bundle
from seqrl.core.errors import BundleError, RecipeError, UserError
from seqrl.data.mixture import Mixture, read_tokenizer
from seqrl.train import checkpoint, run
from seqrl.train import recipe as recipes
from seqrl.train.prepare import loader_for, open_data, tokenizer_for
from seqrl.train.signals import Interrupted

TEXT = """
name: two
data:
  sources:
    - {kind: minari, id: tests/cartpole-v0, domain: asked, weight: 1}
    - {kind: minari, id: tests/cartpole-v0, domain: best, weight: 2, top: 0.5}
  held_out: 0.1
tokens:
  pack: 64
  layout: state separator action
  slots: {state: {kind: bins, bins: 16}}
  prompts: {share: 0.5, steps: 2}
  domains:
    asked: {layout: return state > action, slots: {state: {kind: vector}}}
model: {kind: policies.gato, width: 16, layers: 2, heads: 2, dropout: 0.1}
train:
  steps: 8
  batch: 4
  lr: 1e-3
  save_every: 4
  log_every: 2
  validate_every: 4
  validate_windows: 16
  device: cpu
evaluate: {at_end: false, episodes: 2, envs: 2}
"""


@pytest.fixture
def two(cartpole):
    return lambda *overrides: recipes.parse(TEXT, "two.yaml", overrides)


def tensors(out):
    return load_file(checkpoint.last(out) / "trainer" / "state.safetensors")


@pytest.mark.parametrize("stop_at", [4, 5, 6])
def test_resumed_equals_uninterrupted(two, tmp_path, monkeypatch, stop_at):
    straight, broken = run.start(two(), tmp_path / "straight").run, tmp_path / "broken"
    before = run.Trainer.step

    def step(self, number):
        before(self, number)
        if number + 1 == stop_at:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as m:
        m.setattr(run.Trainer, "step", step)
        with pytest.raises(Interrupted):
            run.start(two(), broken)
    run.resume(broken)
    one, two_ = tensors(straight), tensors(broken)
    assert one.keys() == two_.keys()
    assert all(torch.equal(one[k], two_[k]) for k in one)


def test_a_bundle_is_whole(two, tmp_path):
    out = run.start(two(), tmp_path / "r").run
    loaded = bundle.load(out)
    assert isinstance(loaded.tokenizer, Mixture)
    assert list(loaded.tokenizer.domains) == ["asked", "best"]
    recipe = two()
    data = open_data(recipe)
    batch = loader_for(recipe, data, loaded.tokenizer, "cpu").draw(0, 0, 4)
    mine = checkpoint.load(checkpoint.last(out))
    again = run.build_model(recipe, loaded.tokenizer, 1).eval()
    again.load_state_dict({k.removeprefix("model/"): v for k, v in mine.tensors.items() if k.startswith("model/")})
    assert torch.equal(again(batch).terms["action"][0], loaded.model(batch).terms["action"][0])


def test_batches_in_pieces_train_the_same(two, tmp_path):
    still = "model.dropout=0"
    whole = run.start(two(still), tmp_path / "whole").run
    pieces = run.start(two(still, "train.accumulate=2"), tmp_path / "pieces").run
    a, b = tensors(whole), tensors(pieces)
    for name in a:
        if name.startswith("model/"):
            torch.testing.assert_close(a[name], b[name], rtol=1e-3, atol=1e-5)


def test_a_fitted_tokenizer_gives_the_same_tokens(two, tmp_path):
    recipe = two()
    data = open_data(recipe)
    fitted = tokenizer_for(recipe, data)
    fitted.save(tmp_path)
    named = two(f"tokens.fitted={tmp_path / 'tokenizer.json'}")
    again = tokenizer_for(named, data)
    a, b = (loader_for(recipe, data, t, "cpu").draw(0, 3, 4) for t in (fitted, again))
    assert torch.equal(a.pack, b.pack)
    for name, part in a.parts.items():
        assert all(torch.equal(v, b.parts[name].values[n]) for n, v in part.values.items())


def test_what_clashes_is_named(two, tmp_path, memory):
    refuse = partial(pytest.raises, RecipeError)
    with refuse(match=r"policies.gato reads packed rows: give tokens.pack"):
        two("tokens.pack=null", "tokens.domains={}", "tokens.prompts=null")
    with refuse(match="policies.decision reads windows: leave tokens.pack out, or take .*policies.gato"):
        open_data(two("model={kind: policies.decision}"))
    with refuse(match=r"tokens.domains.bets: no source has this domain.*did you mean 'best'"):
        open_data(two("tokens.domains={bets: {layout: state action}}"))
    with refuse(match="domains.best.slots.stat: the layout has no such slot.*did you mean 'state'"):
        two("tokens.domains={best: {slots: {stat: {kind: vector}}}}")
    with refuse(match="give tokens.pack"):
        two("tokens.pack=null")
    with refuse(match=r"two.yaml:\d+: data.sources: give every source a weight, or none"):
        two("data.sources.0.weight=null")
    with refuse(match=r"train.losses: no layout has a slot 'stat', did you mean 'state'|no layout has a slot 'stat'.*state"):
        two("train.losses={action: 1, stat: 1}")
    with refuse(match=r"layout 'return state' \(domain asked\): a policy's step must have an 'action'"):
        two("tokens.domains.asked.layout=return state")
    recipe = two("tokens.pack=5")
    with refuse(match=r"a row holds not one step of tests/cartpole-v0.*state 4, separator 1, action 1.*raise it to 6"):
        tokenizer_for(recipe, open_data(recipe))
    recipe = two("tokens.prompts.steps=20")
    with refuse(match=r"prompt leaves no room for a step behind it in a row of 64; at most 9"):
        loader_for(recipe, (data := open_data(recipe)), tokenizer_for(recipe, data), "cpu")
    recipe = two("tokens.context=40")
    with refuse(match=r"tokens.context=40: .* lower it to \d+, or raise tokens.pack to \d+"):
        tokenizer_for(recipe, open_data(recipe))


def test_a_tokenizer_of_another_space_is_refused(two, tmp_path, memory):
    recipe = two()
    tokenizer_for(recipe, open_data(recipe)).save(tmp_path)
    named = f"tokens.fitted={tmp_path / 'tokenizer.json'}"
    data = {d: memory((5, 9), name=f"tests/other-{d}") for d in ("asked", "best")}
    from seqrl.data.dataset import DataConfig, Dataset
    from seqrl.data.store import prepare

    other = {d: Dataset([prepare(s)], DataConfig(sources=[{"kind": "minari"}])) for d, s in data.items()}
    with pytest.raises(RecipeError, match=r"was fitted on tests/cartpole-v0, and the shape of obs.observation differs"):
        tokenizer_for(two(named), other)
    with pytest.raises(RecipeError, match=r"was fitted with another tokens.layout"):
        tokenizer_for(two(named, "tokens.domains.asked.layout=state > action"), open_data(recipe))
    (tmp_path / "broken.json").write_text('{"domains": {}}')
    with pytest.raises(BundleError, match="no domains in it"):
        read_tokenizer(tmp_path / "broken.json")
    with pytest.raises(UserError):
        tokenizer_for(two("tokens.fitted=nowhere"), open_data(recipe))
