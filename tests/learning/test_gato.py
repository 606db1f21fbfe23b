"""Does one model learn two kinds of tasks at once? CartPole's best episodes in codes, and all of them in numbers, packed."""

from seqrl.train import recipe as recipes
from seqrl.train import run

TEXT = """
name: two
data:
  sources:
    - {kind: minari, id: tests/cartpole-v0, domain: best, top: 0.4, weight: 1}
    - {kind: minari, id: tests/cartpole-v0, domain: every, weight: 1}
tokens:
  pack: 128
  context: 16
  domains:
    best: {layout: state separator action, slots: {state: {kind: bins, bins: 32, spacing: quantile}}}
    every: {layout: state > action}
model: {kind: policies.gato, width: 48, layers: 2, heads: 2, dropout: 0.0, embed_std: 0.1, init_std: 0.05}
train: {steps: 250, batch: 8, lr: 3e-3, warmup: 20, decay: cosine, clip: 1.0, device: cpu}
evaluate: {episodes: 10, envs: 10, domains: {best: {sample: false}}}
"""


def test_one_model_plays_two_domains(cartpole, tmp_path):
    outcome = run.start(recipes.parse(TEXT, "two.yaml"), tmp_path / "run")
    best, every = (outcome.reports[d].targets[0].mean for d in ("best", "every"))
    # The data average 200; a model that learned nothing falls after 10 to 20 steps.
    assert best > 250
    assert 60 < every < best
    assert outcome.metrics["packing"] > 0.95
