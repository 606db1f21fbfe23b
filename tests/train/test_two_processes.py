"""Two processes train what one does: the same global batch, the same weights (on CPU, over gloo)."""

import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from seqrl.train import checkpoint, run
from seqrl.train import recipe as recipes

WINDOWS = """
name: windows
data: {sources: [{kind: minari, id: tests/cartpole-v0}], held_out: 0.1}
tokens: {context: 5}
model: {kind: policies.decision, width: 16, layers: 1, heads: 2, dropout: 0.0}
train: {steps: 4, batch: 8, lr: 1e-3, device: cpu, log_every: 2}
evaluate: {at_end: false}
"""
# With so few rows a process often has none of one domain, whose parameters then get no gradient from it.
PACKED = """
name: packed
data:
  sources:
    - {kind: minari, id: tests/cartpole-v0, domain: a}
    - {kind: minari, id: tests/cartpole-v0, domain: b, top: 0.5}
  held_out: 0.1
tokens:
  pack: 48
  layout: state > action
  domains: {b: {layout: state separator action, slots: {state: {kind: bins, bins: 8}}}}
model: {kind: policies.gato, width: 16, layers: 1, heads: 2, dropout: 0.0}
train: {steps: 4, batch: 2, lr: 1e-3, device: cpu, log_every: 2}
evaluate: {at_end: false}
"""
CODE = """
import sys
from seqrl.train import recipe, run
run.start(recipe.parse(open(sys.argv[1]).read(), "r"), run.Path(sys.argv[2]))
"""


@pytest.mark.parametrize("text", [WINDOWS, PACKED], ids=["windows", "packed"])
def test_two_processes_train_what_one_does(cartpole, tmp_path, text):
    one = run.start(recipes.parse(text, "r"), tmp_path / "one").run
    (tmp_path / "r.yaml").write_text(text)
    (tmp_path / "go.py").write_text(CODE)
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "0", "--standalone"]
    command = [*launch, str(tmp_path / "go.py"), str(tmp_path / "r.yaml"), str(tmp_path / "two")]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    a, b = (load_file(checkpoint.last(p) / "bundle" / "model.safetensors") for p in (one, tmp_path / "two"))
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=0, atol=2e-5)
