"""What the card tells people to paste plays the environment, in a process that has neither seqrl nor pydantic."""

import os
import re
import subprocess
import sys
from pathlib import Path

from huggingface_hub import hf_hub_download

from seqrl.hub.push import push
from seqrl.train import recipe as recipes
from seqrl.train import run

TEXT = """
name: tiny
data: {sources: [{kind: minari, id: tests/cartpole-v0}]}
tokens: {context: 4}
model: {kind: policies.decision, width: 16, layers: 2, heads: 2}
train: {steps: 2, batch: 4, save_every: 2, device: cpu}
evaluate: {at_end: true, episodes: 2, envs: 2, targets: [20, 50]}
"""
HIDE = """
import sys

class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("seqrl", "pydantic"):
            raise ModuleNotFoundError(f"No module named '{name}'")

sys.meta_path.insert(0, Hide())
"""


def test_the_snippet_plays(cartpole, practice, tmp_path):
    made = run.start(recipes.parse(TEXT, "tiny.yaml"), tmp_path / "run").run
    pushed = push(made, "me/tiny")
    card = hf_hub_download("me/tiny", "README.md", revision=pushed.commit)
    snippet = re.search(r"```python\n(.*?)```", Path(card).read_text(encoding="utf-8"), re.DOTALL)[1]
    assert f'"{pushed.tag}"' in snippet
    away = tmp_path / "away"
    away.mkdir()
    (away / "snippet.py").write_text(HIDE + snippet)
    told = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "snippet.py"], cwd=away, env=told, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert 8 <= float(done.stdout.split()[-1]) <= 500
