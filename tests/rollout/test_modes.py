"""Exact and cached play of real policies: the same function where that is promised, the same scores where it is not."""

import numpy as np
import pytest
import torch

from seqrl import bundle
from seqrl.core.episode import EpisodeSpec, Modality
from seqrl.data.slots import TokensConfig
from seqrl.data.tokenizer import Tokenizer
from seqrl.policies import clone, decision
from seqrl.rollout.agent import Agent
from seqrl.rollout.evaluate import EvalConfig, evaluate

STATE = {"observation": Modality("vector", (3,), "float32")}
NUMBERS = {"action": Modality("vector", (2,), "float32", (-1.0,) * 2, (1.0,) * 2)}
CHOICES = {"action": Modality("discrete", (3,), "int64", n=(2, 9, 4), start=(0, 5, 0))}


def tokenizer_for(act, **tokens):
    tokenizer = Tokenizer(TokensConfig(**tokens), EpisodeSpec("tests/random-v0", STATE, act))
    rng = np.random.default_rng(0)
    m = act["action"]
    low = np.zeros((50, m.size)) + (m.low or m.start)
    fields = {"observation": rng.normal(size=(50, 3)), "return": rng.normal(size=50)}
    fields["action"] = low if m.n else low.astype(np.float32)
    tokenizer.fit({n: {f: fields[f] for f in s.fields} for n, s in tokenizer.slots.items()}, np.ones(2))
    return tokenizer


def played(model, tokenizer, mode, steps, **options):
    """The actions of ``steps`` steps of three episodes; one is begun anew on the way."""
    agent, rng, actions = Agent(model, tokenizer, 3, mode=mode, **options), np.random.default_rng(1), []
    assert agent.mode == mode
    agent.reset(np.arange(3), np.ones(3), np.arange(3))
    for t in range(steps):
        if t == 5:
            agent.reset([1], [1.0], [7])
        actions.append(agent.act({"observation": rng.normal(size=(3, 3)).astype(np.float32)})["action"])
        agent.receive(np.zeros(3))
    return np.array(actions), agent


@pytest.mark.parametrize("context", [2, 3, 4])
@pytest.mark.parametrize("act", [NUMBERS, CHOICES], ids=["numbers", "choices"])
def test_cloning_is_one_function_in_both_modes(context, act):
    tokenizer = tokenizer_for(act, layout="state > action", context=context)
    torch.manual_seed(0)
    config = clone.Config.for_ports(tokenizer.ports(), context, history=context, widths=[16])
    model = clone.Model(config).eval()
    exact, cached = (played(model, tokenizer, mode, 12)[0] for mode in ("exact", "cached"))
    np.testing.assert_allclose(exact, cached, atol=1e-6)


@pytest.mark.parametrize("mode", ["exact", "cached"])
def test_codes_are_remembered_as_what_was_done(mode):
    # The head has nine codes in each place, and the first place of the action has but two choices.
    tokenizer = tokenizer_for(CHOICES, context=4)
    torch.manual_seed(0)
    model = decision.Model(decision.Config.for_ports(tokenizer.ports(), 4, width=16, layers=1, heads=2, dropout=0.0)).eval()
    answers, act = [], model.act
    model.act = lambda *a, **k: answers.append(act(*a, **k)) or answers[-1]
    done, agent = played(model, tokenizer, mode, 4)
    answered = np.array([a["action"].numpy() for a in answers])
    assert (answered[..., 0] > 1).any()
    kept = agent.history["action"][[0, 2]].numpy()
    np.testing.assert_array_equal(kept, done[:, [0, 2]].swapaxes(0, 1) - [0, 5, 0])
    assert (kept < [2, 9, 4]).all()


def test_both_modes_get_the_same_scores(home):
    """A cache reads between half and the whole window, another function than the trained one, but as good a policy."""
    from seqrl.train import recipe as recipes
    from seqrl.train import run

    small = ["tokens.context=8", "model.width=32", "data.sources.0.episodes=360", "evaluate.episodes=1"]
    short = [
        "evaluate.targets=[20]",
        "train.steps=250",
        "train.batch=32",
        "train.warmup=10",
        "train.device=cpu",
        "train.validate_every=1000",
    ]
    run.start(recipes.load("dt_cartpole", [*small, *short]), home / "run")
    found, told = bundle.load(home / "run"), {}
    for mode in ("exact", "cached"):
        # Warm enough that scores lie between those of chance (22) and of the best (500), where they could differ.
        config = EvalConfig(episodes=96, envs=96, mode=mode, targets=[120], temperature=2.0)
        report = evaluate(found.model, found.tokenizer, config)
        assert report.mode == mode
        told[mode] = report.returns[0]
    exact, cached = told["exact"], told["cached"]
    assert 35 < exact.mean() < 450
    assert not np.array_equal(exact, cached), "these episodes are longer than the window, so the modes do differ"
    assert abs(exact.mean() - cached.mean()) < 4 * np.sqrt((exact.var(ddof=1) + cached.var(ddof=1)) / len(exact))
