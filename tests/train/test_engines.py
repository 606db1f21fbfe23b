"""Every engine trains what one process trains: the same losses and the same weights, rows dealt out, rows shared, and both.

All engines are tried in two processes started once, which is most of what such a test costs.
"""

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from seqrl import bundle
from seqrl.core import shelf
from seqrl.core.errors import RecipeError
from seqrl.train import checkpoint, metrics, run
from seqrl.train import recipe as recipes
from seqrl.train.engine import Engine
from seqrl.train.settings import EngineConfig

# With so few rows a process often has none of one domain, whose weights then get no gradient from it.
TEXT = """
name: engines
data:
  sources:
    - {kind: minari, id: tests/cartpole-v0, domain: a}
    - {kind: minari, id: tests/cartpole-v0, domain: b, top: 0.5}
  held_out: 0.1
tokens:
  pack: 48
  layout: state > action
  domains: {b: {layout: state separator action, slots: {state: {kind: bins, bins: 8}}}}
model: {kind: policies.gato, width: 16, layers: 2, heads: 2, kv_heads: 1, dropout: 0.0}
train: {steps: 3, batch: 4, lr: 1e-3, device: cpu, log_every: 1, validate_windows: 8, save_every: 2}
evaluate: {at_end: false}
"""
CODE = """
import os, sys, traceback
from pathlib import Path
import torch.distributed as dist
from seqrl.train import recipe, run
text, out = open(sys.argv[1]).read(), Path(sys.argv[2])
code = 0
try:
    for line in open(sys.argv[3]):
        name, *more = line.split()
        if name.startswith("back:"):
            folder = out / name.removeprefix("back:")
            if os.environ["RANK"] == "0":
                (folder / "checkpoints" / "step-00000003").rename(folder / "checkpoints" / "was")
            dist.barrier()
            run.resume(folder)
        else:
            run.start(recipe.parse(text, "r.yaml", more), out / name)
    dist.barrier()
except BaseException:
    traceback.print_exc()
    code = 1
sys.stdout.flush(); sys.stderr.flush()
os._exit(code)
"""
WORDS = ("step", "loss", "loss/action", "val/loss", "grad_norm")


def several(tmp_path, processes, jobs, timeout=500):
    """Runs of ``jobs`` (a name and overrides each), one behind the other in the same processes."""
    (tmp_path / "r.yaml").write_text(TEXT)
    (tmp_path / "go.py").write_text(CODE)
    (tmp_path / "jobs").write_text("".join(f"{job}\n" for job in jobs))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command = [*launch, *(str(tmp_path / f) for f in ("go.py", "r.yaml", ".", "jobs"))]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=timeout)
    assert done.returncode == 0, done.stderr[-4000:]


def told(out):
    return [{k: v for k, v in r.items() if k in WORDS} for r in metrics.read(out / "metrics.jsonl")]


def assert_like(one, other):
    """Losses to 1e-5 of their size, weights to 1e-6."""
    assert len(told(one)) == len(told(other))
    for a, b in zip(told(one), told(other), strict=True):
        assert b == {k: pytest.approx(v, rel=1e-5 if "loss" in k else 1e-4) for k, v in a.items()}
    a, b = (load_file(checkpoint.last(p) / "bundle" / "model.safetensors") for p in (one, other))
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=0, atol=2e-6, msg=name)


@pytest.fixture(scope="module")
def one(cartpole, tmp_path_factory):
    return run.start(recipes.parse(TEXT, "r"), tmp_path_factory.mktemp("one") / "r").run


KINDS = ("ddp", "fsdp", "zero2", "zero3")


@pytest.mark.timeout(600)
def test_two_processes_train_what_one_does(one, tmp_path):
    jobs = [f"{k} engine={k}" for k in KINDS] + [f"{k}-ring engine={k} engine.sequence=2" for k in KINDS]
    jobs += ["pieces engine=zero3 train.accumulate=2"]
    jobs += ["again engine=fsdp engine.sequence=2 engine.recompute=blocks engine.chunk=8 train.accumulate=2"]
    # A JSON of the user's own: the stage stands for the kind, and the moments wait in the host's memory.
    for stage in (2, 3):
        away = {"device": "cpu", "pin_memory": False}
        zero = {"stage": stage, "offload_optimizer": away, "reduce_bucket_size": 5e3, "overlap_comm": True}
        zero |= (
            {"stage3_param_persistence_threshold": 50, "sub_group_size": 4000}
            if stage == 3
            else {"round_robin_gradients": True}
        )
        told_ = {"train_batch_size": "auto", "gradient_clipping": 0.25, "zero_optimization": zero}
        (tmp_path / f"ds{stage}.json").write_text(json.dumps(told_))
        jobs += [f"json{stage} engine.deepspeed={tmp_path}/ds{stage}.json"]
    # From step 2, as if it had died behind it.
    jobs += [f"back:{k}" for k in (*(f"{k}-ring" for k in KINDS), "json2", "json3")]
    several(tmp_path, 2, jobs)
    for job in jobs:
        assert_like(one, tmp_path / job.split()[0].removeprefix("back:"))
    for kind in KINDS:
        facts = json.loads((checkpoint.last(tmp_path / kind) / "trainer" / "state.json").read_text())
        assert {n: facts[n] for n in ("engine", "world", "sequence")} == {"engine": kind, "world": 2, "sequence": 1}
        # Whatever trained it, a bundle is a whole model.
        found = bundle.load(tmp_path / kind)
        assert {n for n, _ in found.model.named_parameters()} == set(load_file(found.path / "model.safetensors"))
    for name in (*(f"{kind}-ring" for kind in KINDS), "json2", "json3"):
        # Going on left no trace: the same bits, moments included, in the first process and in the second.
        first, again = (tmp_path / name / "checkpoints" / step / "trainer" for step in ("was", "step-00000003"))
        assert {p.name for p in first.iterdir()} == {p.name for p in again.iterdir()}
        for file in first.glob("*.safetensors"):
            a, b = load_file(file), load_file(again / file.name)
            assert a.keys() == b.keys()
            assert all(torch.equal(a[n], b[n]) for n in a), (name, file.name)
    with pytest.raises(RecipeError, match=r"engine: 2 processes are asked for, and 1 is running"):
        run.resume(tmp_path / "ddp-ring")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_four_processes_train_what_one_does(one, tmp_path):
    jobs = [f"{k} engine={k} engine.sequence=2" for k in KINDS] + ["four engine=fsdp engine.sequence=4"]
    several(tmp_path, 4, jobs, timeout=800)
    for job in jobs:
        assert_like(one, tmp_path / job.split()[0])


def test_what_was_asked_for_and_is_not_is_an_error(cartpole, tmp_path, monkeypatch):
    def refuse(match, *overrides):
        with pytest.raises(RecipeError, match=match):
            run.start(recipes.parse(TEXT, "r.yaml", overrides), tmp_path / "r")

    refuse("engine: 2 processes are asked for, and 1 is running", "engine.processes=2")
    refuse("engine: 2 processes are asked for, and 1 is running", "engine=ring")
    refuse("engine.kind: fsdp shards over processes, and one is running", "engine=fsdp")
    odd = "engine.sequence=2 does not divide engine.processes=3; take engine.processes=4"
    refuse(odd, "engine.processes=3", "engine.sequence=2")
    uneven = "tokens.pack=63: cannot be cut over engine.sequence=2 in equal shares; take 60 or 64"
    refuse(uneven, "engine.sequence=2", "tokens.pack=63", "train.batch=1")
    uneven = "stages.1.length=65: cannot be cut over engine.sequence=2 in equal shares; take 64 or 68"
    refuse(uneven, "engine.sequence=2", "stages=[{length: 64, steps: 1}, {length: 65, steps: 1, batch: 1}]", "train.steps=2")
    refuse("engine.attention: with sequence=2 sdpa would see one process's piece", "engine.sequence=2", "engine.attention=sdpa")
    refuse("train.ema: no process has whole weights to average under zero3", "engine=zero3", "train.ema=0.9")
    windows = ("tokens={layout: state action}", "data.sources=[{kind: minari, id: tests/cartpole-v0}]")
    refuse(
        "policies.decision reads windows, whose padding and steps are not cut",
        *windows,
        "model={kind: policies.decision}",
        "engine.sequence=2",
    )
    refuse("ring attention.*|attention_dropout|dropped", "engine.attention=ring", "model.attention_dropout=0.1")
    refuse(
        "has no body that can attend by ring",
        *windows,
        "model={kind: policies.clone}",
        "engine.attention=ring",
    )
    refuse("no engine 'zero4'; did you mean 'zero", "engine=zero4")
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    refuse("'accelerate launch' asks for DEEPSPEED, and the recipe does not")


def test_rows_that_do_not_divide_are_named_before_the_first_step(monkeypatch):
    engine = Engine("cpu", "fp32", 0)
    engine.how, engine.exchange = EngineConfig(sequence=4), object()
    with pytest.raises(RecipeError, match="engine.sequence: a length of 50 tokens cannot be cut over 4 ranks"):
        engine.check_rows(1, 50)
    engine.check_rows(4, 50)


def test_the_shelf_of_engines_is_whole():
    for name in shelf.names("recipes/engines"):
        recipe = recipes.parse(TEXT, "r.yaml", [f"engine={name}", "engine.timeout=3"])
        assert recipe.engine.timeout == 3
        assert recipe.engine.kind == ("fsdp" if name == "ring" else name)
        assert (
            recipes.parse(TEXT.replace("evaluate:", f"engine: {name}\nevaluate:"), "r.yaml").engine.kind == recipe.engine.kind
        )
