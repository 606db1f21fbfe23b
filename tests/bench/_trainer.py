"""Stands in for ``seqrl train`` in tests of the runner: writes a run folder as training does, in a tenth of a second.

It obeys a signal as training does, goes on where it was, and fails where its recipe's seed is the one in ``BROKEN``.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

import yaml

resumed = sys.argv[1] == "--resume"
out = Path(sys.argv[2] if resumed else sys.argv[3])
text = (out / "recipe.yaml" if resumed else Path(sys.argv[1])).read_text()
recipe = yaml.safe_load(text)
steps, seed = recipe["train"]["steps"], recipe["train"]["seed"]
with Path(os.environ["CALLS"]).open("a") as f:
    f.write(f"{out.name} {'resume' if resumed else 'start'} {os.environ['OMP_NUM_THREADS']}\n")
if str(seed) == os.environ.get("BROKEN"):
    print("before\nseqrl: the data are broken", file=sys.stderr)
    sys.exit(2)
stop = []
signal.signal(signal.SIGINT, lambda *a: stop.append(1))


def save(step):
    last = out / "checkpoints" / f"step-{step:08d}"
    (last / "trainer").mkdir(parents=True, exist_ok=True)
    (last / "bundle").mkdir(exist_ok=True)
    (last / "trainer" / "state.json").write_text(json.dumps({"step": step}))
    return last / "bundle"


out.mkdir(parents=True, exist_ok=True)
(out / "recipe.yaml").write_text(text)
done = max((int(p.name[5:]) for p in (out / "checkpoints").glob("step-*")), default=0)
while done < steps:
    time.sleep(float(os.environ.get("PACE", "0")))
    done += 1
    with (out / "metrics.jsonl").open("a") as f:
        f.write(json.dumps({"step": done}) + "\n")
    if stop:
        save(done)
        sys.exit(130)
bundle = save(steps)
asked = recipe["evaluate"]["targets"] or [None]
found = {"targets": [{"target": t, "mean": 50.0 + seed, "normalized": None} for t in asked], "seed": 0, "mode": "m", "env": "e"}
(bundle / "metrics.json").write_text(json.dumps({"report": found}))
(out / "eval.json").write_text(json.dumps({**found, "returns": [[49.0 + seed, 51.0 + seed]]}))
