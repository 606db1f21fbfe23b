"""A run folder as training leaves it, with everything in it that a report can show."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest

from seqrl.core.layout import Layout
from seqrl.core.stream import Stream


@pytest.fixture
def make_stream():
    """``make_stream(layout, widths, dims, discrete, trained)``: a Stream of 12 steps with numbers of its own."""

    def make(text="return state action", widths=None, dims=None, discrete=(), trained=("action",), T=12) -> Stream:
        rng, layout = np.random.default_rng(0), Layout.parse(text, widths)
        dims = {"return": 1, "state": 11, "action": 3} | (dims or {})
        raw, values = {}, {}
        for name in layout.names:
            shape = (T, dims.get(name, 1))
            raw[name] = rng.integers(0, 256, shape) if name in discrete else rng.normal(size=shape).astype(np.float32)
            values[name] = raw[name] if name in discrete else raw[name] / 2
        tracks = layout.tracks(T)
        wanted = np.array([name in trained for name in layout.names])
        return Stream(layout, values, tracks | {"target": wanted[tracks["slot"]].astype(np.int64)}, raw)

    return make


def target(asked: float | None, mean: float, **more) -> dict:
    row = {"target": asked, "mean": mean, "std": 10.0, "iqm": mean, "ci95": [mean - 5, mean + 5], "normalized": None}
    row |= {"reference": "none", "comparable": False, "episodes": 20, "min": mean - 20, "max": mean + 20, "length": 99.0}
    return row | more


@pytest.fixture
def run(tmp_path, make_stream) -> Path:
    from seqrl.report.stream import to_html

    folder = tmp_path / "dt run"
    bundle = folder / "checkpoints" / "step-00000400" / "bundle"
    bundle.mkdir(parents=True)
    (folder / "checkpoints" / "last").symlink_to("step-00000400")
    recipe = "name: dt_pole\ndata:\n  sources:\n  - kind: minari\n    id: classic/pole-v0\nmodel:\n  kind: policies.decision\n"
    (folder / "recipe.yaml").write_text(recipe + "tokens: {layout: return state action, context: 20}\ntrain: {batch: 64}\n")
    rows = [{"step": s, "loss": 1 / s, "lr": 1e-3, "steps_per_second": 20.0} for s in range(10, 401, 10)]
    rows += [{"step": s, "val/loss": 0.5, "eval/500/mean": s, "eval/50/mean": 50} for s in (200, 400)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows) + '{"step": 4')
    report = {"targets": [target(50, 60.0), target(200, 190.0), target(500, 470.0)], "env_steps_per_second": 9000.0}
    report |= {"mode": "exact", "seed": 7, "env": "CartPole-v1", "versions": {"torch": "2.9"}, "commit": "0123abcd"}
    report |= {"why": "there are no reference scores for CartPole-v1", "returns": [[55, 65], [180, 200], [460, 480]]}
    (folder / "eval.json").write_text(json.dumps(report))
    (folder / "clip.gif").write_bytes(b"GIF89a" + bytes(20))
    (folder / "stream.html").write_text(to_html(make_stream()))
    (bundle / "tokenizer.json").write_text(json.dumps({"returns": {"min": 9, "max": 500}, "spec": {"id": "classic/pole-v0"}}))
    (bundle / "metrics.json").write_text(json.dumps({"format": 1, "step": 400}))
    header = json.dumps({"__metadata__": {}, "a": {"shape": [10, 20]}, "b": {"shape": [3]}}).encode()
    (bundle / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    return folder
