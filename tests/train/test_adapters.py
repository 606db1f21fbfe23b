"""LoRA, frozen parts, rates of their own: what may move moves, what is published is plain, and going on leaves no trace."""

import os
import signal
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from seqrl import bundle
from seqrl.core.errors import RecipeError
from seqrl.train import adapters, checkpoint, freeze, metrics, prepare, run
from seqrl.train import recipe as recipes
from seqrl.train.optim import make_optimizer
from seqrl.train.signals import Interrupted
from seqrl.train.tuning import LoraConfig

LORA = "train.lora={rank: 2, alpha: 4, also: [heads.*]}"


def weights(out):
    return load_file(bundle.find(out) / "model.safetensors")


def state(out):
    return load_file(checkpoint.last(out) / "trainer" / "state.safetensors")


@pytest.fixture(scope="module")
def base(cartpole, tmp_path_factory):
    """A small run to begin with, and recipes that do: ``base("train.lr=1")``, ``base.out``."""
    text = """
name: small
data: {sources: [{kind: minari, id: tests/cartpole-v0}], held_out: 0.1}
tokens: {context: 5}
model: {kind: policies.decision, width: 16, layers: 2, heads: 2, dropout: 0.1, max_time: 64}
train: {steps: 6, batch: 8, lr: 1e-2, save_every: 2, log_every: 1, validate_every: 3, validate_windows: 16, device: cpu}
evaluate: {at_end: false}
"""
    out = run.start(recipes.parse(text, "small.yaml", ["train.steps=2"]), tmp_path_factory.mktemp("base") / "r").run

    def make(*overrides):
        return recipes.parse(text, "small.yaml", [f"init={out}", "train.seed=3", *overrides])

    make.out, make.text = out, text
    return make


def fresh(base, *overrides):
    """A model of the recipe, not begun."""
    recipe = prepare.settled(base(*overrides))
    data = prepare.open_data(recipe)
    return run.build_model(recipe, prepare.tokenizer_for(recipe, data), 0)


def test_adapters_learn_and_the_bundle_is_plain(base, tmp_path):
    out = run.start(base(LORA), tmp_path / "r").run
    old, new, kept = weights(base.out), weights(out), state(out)
    assert new.keys() == old.keys()
    for name in old:
        moved = new[name] - old[name]
        if name.startswith("trunk.blocks.") and old[name].ndim == 2:
            assert 0 < torch.linalg.matrix_rank(moved, rtol=1e-3) <= 2
            inside = f"model/{name.removesuffix('.weight')}.parametrizations.weight"
            assert torch.equal(kept[f"{inside}.original"], old[name])
            # The sum that was trained is the one that is published, to the bit.
            assert torch.equal(old[name] + 2.0 * (kept[f"{inside}.0.b"] @ kept[f"{inside}.0.a"]), new[name])
        else:
            assert bool(moved.any()) == name.startswith("heads.")
    # Only what learns has moments.
    assert not [n for n in kept if n.startswith("optimizer/") and ("original" in n or "embed" in n)]
    found = bundle.load(out)
    assert found.metrics["lineage"]["kind"] == "lora"
    assert found.recipe["train"]["lora"]["rank"] == 2


@pytest.mark.parametrize("more", [(), ("train.accumulate=2", "train.ema=0.9", "train.precision=bf16")])
def test_resumed_equals_uninterrupted(base, tmp_path, monkeypatch, more):
    straight, broken = run.start(base(LORA, *more), tmp_path / "straight").run, tmp_path / "broken"
    before = run.Trainer.step

    def step(self, number):
        before(self, number)
        if number + 1 == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as m:
        m.setattr(run.Trainer, "step", step)
        with pytest.raises(Interrupted):
            run.start(base(LORA, *more), broken)
    run.resume(broken)
    one, two = state(straight), state(broken)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert all(torch.equal(a, weights(broken)[n]) for n, a in weights(straight).items())
    rows = [metrics.read(out / "metrics.jsonl") for out in (straight, broken)]
    rows = [[{k: v for k, v in r.items() if k != "steps_per_second"} for r in each] for each in rows]
    assert rows[0] == rows[1]


def test_adapters_change_nothing_at_first_and_the_sum_is_what_acts(base):
    model, plain = fresh(base).eval(), fresh(base).eval()
    draws = torch.Generator().manual_seed(0)
    adapters.add_adapters(model, LoraConfig(rank=3), [], seed=1)
    assert adapters.adapted(model)
    assert not adapters.adapted(plain)
    x = torch.randn(2, 6, 16, generator=draws)
    assert torch.equal(model.trunk(x), plain.trunk(x))
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.requires_grad:
                p.add_(torch.randn(p.shape, generator=draws) * 0.1)
                assert ".parametrizations." in name
    plain.load_state_dict(adapters.merged(model))
    assert torch.equal(model.trunk(x), plain.trunk(x))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        # Products of layers are rounded there, and the sum of a matrix and its pair is not.
        assert torch.equal(model.trunk.blocks[0].attn.qkv.weight, plain.trunk.blocks[0].attn.qkv.weight)


def test_a_seed_draws_the_same_pairs_and_another_others(base):
    drawn = []
    for seed in (1, 1, 2):
        model = fresh(base)
        adapters.add_adapters(model, LoraConfig(), [], seed)
        drawn.append(model.trunk.blocks[0].mlp.up.parametrizations.weight[0].a)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_what_the_bundle_did_not_have_is_trained_as_it_is(base, tmp_path):
    out = run.start(base("train.lora={rank: 2}", "init.heads=new"), tmp_path / "r").run
    kept = state(out)
    assert {n for n in kept if n.startswith("optimizer/exp_avg/heads.")} == {
        "optimizer/exp_avg/heads.action.out.weight",
        "optimizer/exp_avg/heads.action.out.bias",
    }
    assert not torch.equal(weights(out)["heads.action.out.weight"], weights(base.out)["heads.action.out.weight"])


def test_targets_may_be_any_matrices(base, tmp_path):
    more = "train.lora={rank: 1, targets: ['*.attn.*', embed_time.weight]}"
    out = run.start(base(more), tmp_path / "r").run
    moved = {n for n, t in weights(out).items() if not torch.equal(t, weights(base.out)[n])}
    blocks = {f"trunk.blocks.{i}.attn.{m}.weight" for i in (0, 1) for m in ("qkv", "out")}
    assert moved == blocks | {"embed_time.weight"}


def test_a_model_without_a_trunk_is_asked_for_targets(cartpole, base, tmp_path):
    clone = base.text.replace(
        "policies.decision, width: 16, layers: 2, heads: 2, dropout: 0.1, max_time: 64", "policies.clone, widths: [8, 8]"
    )
    with pytest.raises(RecipeError, match=r"lora\.targets: Clone has no matrix in its trunk; name some .*layers\.0\.weight"):
        run.start(recipes.parse(clone, "c.yaml", ["train.lora={}"]), tmp_path / "r")
    assert not (tmp_path / "r").exists()
    out = run.start(recipes.parse(clone, "c.yaml", ["train.lora={targets: ['layers.*']}"]), tmp_path / "r").run
    assert bundle.load(out).metrics["step"] == 6


def test_frozen_parts_stay_and_the_others_move(base, tmp_path):
    out = run.start(base("train.freeze=['trunk.*', '*.bias']", "train.ema=0.5"), tmp_path / "r").run
    for name, new in weights(out).items():
        frozen = name.startswith("trunk.") or name.endswith(".bias")
        assert torch.equal(new, weights(base.out)[name]) == frozen
    assert bundle.load(out).metrics["lineage"]["kind"] == "frozen"
    run.resume(out)


def test_rates_follow_the_first_pattern_that_is_met(base, tmp_path):
    scales = {"trunk.blocks.0.*": 0.5, "trunk.*": 0.1}
    model = fresh(base)
    made = make_optimizer(model, base(f"train.lr_scale={scales}").train)
    names = {id(p): n for n, p in model.named_parameters()}
    for group in made.param_groups:
        for p in group["params"]:
            name = names[id(p)]
            wanted = 0.5 if name.startswith("trunk.blocks.0.") else 0.1 if name.startswith("trunk.") else 1.0
            assert group["scale"] == wanted
    assert sum(len(g["params"]) for g in made.param_groups) == len(names)
    plain = make_optimizer(model, base().train)
    assert [g["scale"] for g in plain.param_groups] == [1.0, 1.0]
    # AdamW's first step is as long as the rate, whatever the gradient.
    tiny = "train.lr_scale={'*': 0.001, 'heads.*': 1}"
    out = run.start(base(tiny, "train.steps=1", "train.weight_decay=0", "train.clip=null"), tmp_path / "r").run
    moved = max(float((t - weights(base.out)[n]).abs().max()) for n, t in weights(out).items())
    assert moved == pytest.approx(1e-5, rel=0.1)
    assert metrics.read(out / "metrics.jsonl")[0]["lr"] == pytest.approx(1e-2)


def test_patterns_that_meet_nothing_are_told_with_the_closest_name(base, tmp_path):
    def said(*overrides):
        with pytest.raises(RecipeError) as e:
            run.start(base(*overrides), tmp_path / "r")
        assert not (tmp_path / "r").exists()
        return str(e.value)

    assert "train.freeze: no parameter is called 'truck.*'; did you mean 'trunk.*'?" in said("train.freeze=[truck.*]")
    assert "(there are: embed.*, embed_time.*, embed_norm.*, trunk.*, heads.*)" in said("train.freeze=[truck.*]")
    assert "train.lr_scale: no parameter is called 'heads'" in said("train.lr_scale={heads: 0.1}")
    assert "train.lora.targets: no parameter is called 'q_proj'" in said("train.lora={targets: [q_proj]}")
    assert "train.lora.also: no parameter is called 'head.*'; did you mean 'heads.*'?" in said("train.lora={also: [head.*]}")
    assert "train.freeze: * leave nothing to train" in said("train.freeze=['*']")
    assert "train.lora.targets: DecisionTransformer has no matrix in *.bias" in said("train.lora={targets: ['*.bias']}")


def test_what_cannot_go_together_is_told_with_its_line(base):
    def said(*overrides):
        with pytest.raises(RecipeError) as e:
            base(*overrides)
        return str(e.value)

    assert "train.lora: adapters are whole on every process, and fsdp deals weights out" in said(
        LORA, "engine={kind: fsdp, processes: 2}"
    )
    assert "train.lora.rank" in said("train.lora={rank: 0}")
    assert "train.lr_scale.trunk.*" in said("train.lr_scale={'trunk.*': 0}")
    dreams = ["world=x", "model={kind: policies.actor_critic}", "train.losses={actor: 1, critic: 1}"]
    assert "train.lr_scale: policies.actor_critic has optimisers of its own" in said(*dreams, "train.lr_scale={'*': 2}")


def test_names_without_adapters():
    assert freeze.plain_name("trunk.blocks.0.attn.qkv.parametrizations.weight.0.a") == "trunk.blocks.0.attn.qkv.weight"
    assert freeze.plain_name("embed.parametrizations.weight.original") == "embed.weight"
    assert freeze.plain_name("heads.action.out.bias") == "heads.action.out.bias"


VLA = """
name: words
data: {sources: [{kind: minari, id: tests/cartpole-v0}], held_out: 0.1}
tokens: {pack: 48, layout: state separator action}
model: {kind: policies.vla}
train: {steps: 3, batch: 4, lr: 1e-2, device: cpu, validate_windows: 4}
evaluate: {at_end: false}
"""
BODY = "model.body={model_type: gpt2, n_embd: 16, n_layer: 2, n_head: 2, vocab_size: 64, n_positions: 64}"


def test_a_pretrained_body_takes_them_and_is_published_whole(cartpole, tmp_path):
    out = run.start(recipes.parse(VLA, "v.yaml", [BODY]), tmp_path / "base").run
    # What the body is, the bundle says.
    fine = recipes.parse(VLA, "v.yaml", [f"init={out}", "train.lora={rank: 2, also: ['embed.*']}"])
    old, new = weights(out), weights(run.start(fine, tmp_path / "fine").run)
    assert new.keys() == old.keys()
    moved = {n for n in old if not torch.equal(old[n], new[n])}
    matrices = {n for n in old if ".h." in n and old[n].ndim == 2}
    assert len(matrices) == 8
    assert matrices <= moved
    assert {n.partition(".")[0] for n in moved - matrices} == {"embed"}
    bundle.load(run.resume(tmp_path / "fine").run)
    # Begun from a body alone, what is not of it has learned nothing yet.
    fresh = run.start(recipes.parse(VLA, "v.yaml", [BODY, "train.lora={}"]), tmp_path / "fresh").run
    assert [n for n in state(fresh) if n.startswith("optimizer/exp_avg/embed.")]


CODE = """
import sys
from seqrl.train import recipe, run
run.start(recipe.parse(open(sys.argv[1]).read(), "r"), run.Path(sys.argv[2]))
"""


@pytest.mark.dist
def test_two_processes_train_what_one_does(base, tmp_path):
    recipe = base(LORA, "train.steps=3", "train.lr_scale={'heads.*': 0.5}", "train.freeze=['*.mlp.up.bias']", "model.dropout=0")
    one = run.start(recipe, tmp_path / "one").run
    (tmp_path / "r.yaml").write_text(recipe.dump())
    (tmp_path / "go.py").write_text(CODE)
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "0", "--standalone"]
    command = [*launch, str(tmp_path / "go.py"), str(tmp_path / "r.yaml"), str(tmp_path / "two")]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count("init      ") == 1
    a, b = weights(one), weights(tmp_path / "two")
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=0, atol=2e-5)
    moments = [k for k in state(tmp_path / "two") if k.startswith("optimizer/exp_avg/")]
    assert moments
    assert all(".parametrizations." in n or "/heads." in n for n in moments)
