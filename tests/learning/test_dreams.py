"""Does what is learned in a dream hold outside? The shelf's own recipes and number, with seeds."""

import pytest

from seqrl.train import recipe as recipes
from seqrl.train import run

DATA = "data.sources=[{kind: collected, id: local/cartpole-mixed-v0, env: CartPole-v1, episodes: 720, policy: scripted}]"


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_cartpole_is_learned_in_dreams_alone(home, seed):
    common = [DATA, f"train.seed={seed}", "train.device=cpu"]
    world = run.start(recipes.load("rssm_cartpole", common), home / "world").run
    outcome = run.start(recipes.load("dreamer_cartpole", [*common, f"world={world}", "evaluate.episodes=50"]), home / "run")
    assert outcome.report.targets[0].mean >= 450
    # What it was promised there is what it got here.
    assert abs(outcome.metrics["eval/dream_gap"]) < 100
