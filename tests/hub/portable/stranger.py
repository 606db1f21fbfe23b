"""Loads published bundles and writes down what they say and do, bit for bit; run as a program, with seqrl or where it is not.

``python stranger.py with|without OUT FOLDER ...`` writes to OUT a JSON of hashes for each folder. ``without`` hides seqrl and
whatever else transformers does not require, so that a file of the bundle that needed them could not be imported.
"""

import hashlib
import json
import sys

HIDDEN = {
    "seqrl", "pydantic", "datasets", "minari", "pyarrow", "gymnasium", "accelerate", "deepspeed", "peft", "matplotlib", "h5py",
}  # fmt: skip
STEPS, ROWS = 11, 2


class Without:
    """A finder that does not find what is hidden, as if it had never been installed."""

    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in HIDDEN else self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)


def load_without(name):
    from transformers import AutoModel, AutoProcessor

    model = AutoModel.from_pretrained(name, trust_remote_code=True)
    return model, AutoProcessor.from_pretrained(name, trust_remote_code=True)


def load_with(name):
    import seqrl
    from seqrl.core import kinds
    from seqrl.hub.processor import TrajectoryProcessor

    found = seqrl.load(name)
    return found.model, TrajectoryProcessor(found.tokenizer, kinds.looks_ahead(found.recipe["model"]["kind"]))


def digest(values):
    """Of arrays or tensors by name: dtypes, shapes and bytes."""
    import numpy as np

    made = hashlib.sha256()
    for name in sorted(values):
        array = np.asarray(values[name])
        made.update(f"{name} {array.dtype} {array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    return made.hexdigest()


def values(modalities, n, rng):
    """Values such as the data might hold, name -> ``(n, *shape)``."""
    import numpy as np

    def one(m):
        if m.kind == "text":
            return np.array([("go to the red ball", "open a door")[int(i)] for i in rng.integers(2, size=n)], object)
        if m.n:
            return (rng.integers(m.n, size=(n, len(m.n))) + np.array(m.start or 0)).astype(m.dtype).reshape(n, *m.shape)
        if m.kind == "image":
            return rng.integers(4, size=(n, *m.shape)).astype(m.dtype)
        return rng.uniform(-1, 1, (n, *m.shape)).astype(m.dtype)

    return {name: one(m) for name, m in modalities.items()}


def acts(model, processor, domain, mode, sample):
    """What an agent does in some steps; the rows begin and end at different times."""
    import numpy as np

    t = processor.of(domain)
    agent = processor.agent(model, ROWS, domain, mode=mode, sample=sample, seed=3)
    agent.reset(np.arange(ROWS), np.full(ROWS, 5.0), np.arange(ROWS))
    rng, done = np.random.default_rng(1), {}
    for step in range(STEPS):
        if step == 4:
            agent.reset([1], [2.0], [7])
        for name, action in agent.act(values(t.spec.obs, ROWS, rng)).items():
            done[f"{step} {name}"] = action
        agent.receive(rng.normal(size=ROWS))
    return digest(done)


def dreams(world, processor, domain, batch):
    """What a world feels in a window, and what it imagines behind it."""
    import torch

    action = batch.values["action"]
    before = torch.cat((torch.zeros_like(action[:, :1]), action[:, :-1]), 1)
    fronts = [s.name for s in processor.of(domain).layout.prefix]
    B, T = batch.time.shape
    with torch.no_grad():
        torch.manual_seed(0)
        z = world.encode(batch.values)
        carry, feat = world.observe(world.init(B, T + 3, {n: batch.values[n][:, 0] for n in fronts} or None), z, before)
        said = {"feat": feat}
        for i in range(3):
            carry, pred = world.step(carry, action[:, i % T])
            said |= {f"{i} {n}": getattr(pred, n) for n in ("feat", "latent", "reward", "cont")}
        said |= {f"shown {n}": v for n, v in world.decode(pred.latent).items()}
    return digest(said)


def found(model, processor):
    """Everything worth comparing, by name."""
    import numpy as np
    import torch

    said = {"weights": digest(dict(model.state_dict())), "training": model.training}
    for domain in processor.domains or (None,):
        t = processor.of(domain)
        rng = np.random.default_rng(0)
        features = processor(
            values(t.spec.obs, STEPS + 1, rng), values(t.spec.act, STEPS, rng), rng.normal(size=STEPS), domain=domain
        )
        batch = features["batch"]
        said[f"{domain} batch"] = digest({**batch.values, "time": batch.time, "length": batch.length})
        shown = {n: v[:, 0] for n, v in batch.values.items() if n in ("action", "state", "return")}
        said[f"{domain} decoded"] = digest(processor.decode(shown, domain))
        if not processor.domains:
            torch.manual_seed(0)
            with torch.no_grad():
                said["losses"] = digest({n: v[0] for n, v in model(**features).sums().items()})
        if hasattr(model, "act") or hasattr(model, "player"):
            for mode in ("exact", "cached"):
                for sample in (False, True):
                    said[f"{domain} {mode} {sample}"] = acts(model, processor, domain, mode, sample)
        elif hasattr(model, "observe") or hasattr(model, "world"):
            said[f"{domain} dreams"] = dreams(model.world(domain) if domain else model, processor, domain, batch)
    return said


def main(how, out, *folders):
    if how == "without":
        sys.meta_path[:] = [Without(f) for f in sys.meta_path]
    import torch
    from transformers.utils import logging

    torch.set_num_threads(1)
    logging.disable_progress_bar()
    load = load_without if how == "without" else load_with
    said = {}
    for folder in folders:
        said[folder] = found(*load(folder))
    said["modules"] = sorted(m for m in sys.modules if m.partition(".")[0] in HIDDEN)
    with open(out, "w", encoding="utf-8") as f:
        json.dump(said, f)


if __name__ == "__main__":
    main(*sys.argv[1:])
