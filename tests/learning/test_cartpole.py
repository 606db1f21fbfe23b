"""Does it learn? The whole road on real CartPole episodes, with seeds: what is asked for is what one gets.

The small one runs always, on a short schedule; the shelf's own recipes and numbers run with ``-m slow``.
"""

import pytest

from seqrl.core import kinds
from seqrl.train import recipe as recipes
from seqrl.train import run


def test_a_short_training_steers_by_the_return(home):
    short = ["train.steps=300", "train.warmup=20", "train.device=cpu", "evaluate.targets=[20,120,500]"]
    outcome = run.start(recipes.load("dt_cartpole", short), home / "run")
    low, middle, high = (t.mean for t in outcome.report.targets)
    assert outcome.report.rank_correlation == 1.0
    assert low < 80
    assert low < middle < high
    assert high > 200
    assert outcome.metrics["val/loss"] < 0.6  # a coin flip has 0.69


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_shelfs_cartpole_reaches_its_numbers(home, seed):
    recipe = recipes.load("dt_cartpole", [f"train.seed={seed}", "train.device=cpu", "evaluate.episodes=50"])
    outcome = run.start(recipe, home / "run")
    assert outcome.report.rank_correlation >= 0.9
    assert outcome.report.targets[-1].mean >= 400


@pytest.mark.slow
def test_cloning_gets_the_average_and_the_best_tenth_gets_the_top(home):
    assert "clone" in kinds.names("policies")
    every = run.start(recipes.load("bc_cartpole"), home / "all").report.targets[0].mean
    best = run.start(recipes.load("bc_cartpole", ["data.top=0.1"]), home / "best").report.targets[0].mean
    assert every < 350
    assert best > 450
