"""A recipe small enough to train in a second, on CartPole episodes collected once for the whole session."""

import pytest

from seqrl.train import recipe as recipes

TEXT = """
name: small
data:
  sources:
    - {kind: minari, id: tests/cartpole-v0}
  held_out: 0.1
tokens: {context: 5}
model: {kind: policies.decision, width: 16, layers: 2, heads: 2, dropout: 0.1}
train:
  steps: 12
  batch: 8
  lr: 1e-3
  save_every: 4
  log_every: 2
  validate_every: 6
  validate_windows: 16
  device: cpu
evaluate: {at_end: false, episodes: 2, envs: 2, targets: [50]}
"""


@pytest.fixture
def small(cartpole):
    """``small("train.steps=3")`` is the recipe with overrides."""
    return lambda *overrides: recipes.parse(TEXT, "small.yaml", overrides)
