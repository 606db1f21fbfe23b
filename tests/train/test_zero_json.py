"""A DeepSpeed JSON of the user's own is taken where it agrees with the recipe, and what does not is named with the fix."""

import json
import math

import pytest

from seqrl.core import shelf
from seqrl.core.errors import RecipeError
from seqrl.train import recipe as recipes
from seqrl.train import zero_check, zero_json

TEXT = """
name: own
data: {sources: [{kind: minari, id: tests/cartpole-v0}]}
tokens: {pack: 48, layout: state separator action, slots: {state: {kind: bins, bins: 8}}}
model: {kind: policies.gato, width: 16, layers: 1, heads: 2}
train: {steps: 3, batch: 8, accumulate: 2, lr: 1e-3, clip: 0.5}
engine: {kind: zero3, processes: 2}
"""


def parsed(settings, *overrides):
    return recipes.parse(TEXT, "r.yaml", [*overrides, f"engine.deepspeed={json.dumps(settings)}"])


USUAL = {
    "train_batch_size": 8,
    "train_micro_batch_size_per_gpu": 2,
    "gradient_accumulation_steps": 2,
    "gradient_clipping": 0.5,
    "bf16": {"enabled": "auto"},
    "fp16": {"enabled": False},
    "optimizer": {"type": "AdamW", "params": {"lr": 1e-3, "betas": "auto", "eps": 1e-8, "weight_decay": "auto"}},
    "scheduler": {"type": "WarmupDecayLR", "params": {"warmup_num_steps": "auto", "total_num_steps": "auto"}},
    "zero_optimization": {
        "stage": 3,
        "overlap_comm": True,
        "offload_optimizer": {"device": "cpu", "pin_memory": True},
        "reduce_bucket_size": "auto",
        "sub_group_size": 1e9,
        "stage3_gather_16bit_weights_on_model_save": True,
    },
    "steps_per_print": 2000,
    "wall_clock_breakdown": False,
}


def test_what_agrees_is_taken_and_made_complete():
    recipe = parsed(USUAL)
    found = zero_json.complete(recipe.engine.deepspeed, 3, 2, 0.5, cpu=False)
    zero = found.pop("zero_optimization")
    assert zero == {
        "stage": 3,
        "overlap_comm": True,
        "offload_optimizer": {"device": "cpu", "pin_memory": True},
        "sub_group_size": 1_000_000_000,
        "stage3_gather_16bit_weights_on_model_save": True,
        "stage3_param_persistence_threshold": 0,
    }
    assert isinstance(zero["sub_group_size"], int)
    assert {n: found[n] for n in ("steps_per_print", "gradient_accumulation_steps", "gradient_clipping")} == {
        "steps_per_print": 2000,
        "gradient_accumulation_steps": 2,
        "gradient_clipping": 0.5,
    }
    assert "optimizer" not in found
    assert "scheduler" not in found
    # A CPU has no streams to overlap in.
    assert not zero_json.complete(USUAL, 3, 2, 0.5, cpu=True)["zero_optimization"]["overlap_comm"]
    assert "auto" not in json.dumps(zero_json.complete(USUAL, 3, 1, None, cpu=True))


def test_all_the_shelf_gives_is_taken():
    for name in ("zero2", "zero3"):
        assert shelf.text("recipes/engines", name)
        recipe = recipes.parse(TEXT, "r.yaml", [f"engine={name}"])
        whole = zero_json.complete(recipe.engine.deepspeed, int(name[-1]), 1, None, cpu=False)
        assert "auto" not in json.dumps(whole)
        assert whole["zero_optimization"]["stage"] == int(name[-1])
        assert whole["zero_optimization"]["overlap_comm"]


@pytest.mark.parametrize(
    ("settings", "overrides", "told"),
    [
        ({"train_batch_size": 64}, (), 'train_batch_size is 64 and train.batch is 8; make them agree, or write "auto"'),
        ({"train_micro_batch_size_per_gpu": 4}, (), "train_micro_batch_size_per_gpu is 4 and .* processes and pieces is 2"),
        ({"gradient_accumulation_steps": 1}, (), "gradient_accumulation_steps is 1 and train.accumulate is 2"),
        ({"gradient_clipping": 1.0}, ("train.clip=null",), "gradient_clipping is 1.0 and train.clip is 0.0"),
        ({"bf16": {"enabled": True}}, (), "bf16.enabled is True and train.precision=fp32"),
        ({"bf16": {"enabled": 1}}, ("train.precision=bf16",), "bf16.enabled is 1 and train.precision=bf16"),
        ({"fp16": {"enabled": True}}, (), "fp16.enabled is True and train.precision=fp32"),
        (
            {"zero_optimization": {"stage": 2}},
            (),
            "zero_optimization.stage is 2 and engine.kind is zero3; take .*zero2",
        ),
        ({"zero_optimization": {"stage": 1}}, (), "zero_optimization.stage is 1 and engine.kind is zero3; write 3 or"),
        ({"zero_optimization": {"stage": True}}, (), "zero_optimization.stage is True and engine.kind is zero3"),
        ({"zero_optimization": 3}, (), "zero_optimization is 3, and should be an object"),
        ({"zero_optimization": {"reduce_bucket": 5}}, (), "reduce_bucket is not taken; did you mean 'reduce_bucket_size'"),
        ({"zero_optimization": {"sub_group_size": -1}}, (), "sub_group_size is -1, and should be a whole number"),
        ({"zero_optimization": {"overlap_comm": 1}}, (), "overlap_comm is 1, and should be true or false"),
        ({"zero_optimization": {"offload_param": {"device": "nvme"}}}, (), "checkpoints read what is in memory: take cpu"),
        ({"zero_optimization": {"offload_param": {"path": "/x"}}}, (), "offload_param.path is not taken; leave it out"),
        ({"zero_optimization": {"offload_param": {"device": "cpu"}}}, ("engine.kind=zero2",), "dealt out in stage 3 only"),
        ({"optimizer": {"type": "Lamb"}}, (), "optimizer.type is 'Lamb', and what is taken is AdamW"),
        ({"optimizer": {"type": "Adam", "params": {"adam_w_mode": False}}}, (), "optimizer.type is 'Adam', and what is taken"),
        ({"optimizer": {"params": {"lr": 0.1}}}, (), "optimizer.params.lr is 0.1 and train.lr is 0.001; make them agree"),
        ({"optimizer": "AdamW"}, (), "optimizer should be an object"),
        ({"scheduler": {"type": "WarmupLR"}}, (), "scheduler: the schedule is train.warmup=0, train.decay=none"),
        ({"tensorboard": {"enabled": True, "output_path": "/"}}, (), "tensorboard is not taken; take train.trackers"),
        ({"activation_checkpointing": {}}, (), "activation_checkpointing is not taken; take engine.recompute=blocks"),
        ({"step_per_print": 5}, (), "step_per_print is not taken; did you mean 'steps_per_print'"),
        ({"steps_per_print": "often"}, (), "steps_per_print is 'often', and should be a whole number"),
        ({}, ("engine.kind=fsdp",), "is read by DeepSpeed, and engine.kind is fsdp; take zero2 or zero3, or leave it out"),
    ],
)
def test_what_contradicts_is_named(settings, overrides, told):
    with pytest.raises(RecipeError, match=f"engine.deepspeed: .*{told}"):
        parsed(settings, *overrides)


def test_numbers_that_are_none_are_named():
    for value in (math.inf, math.nan, 1e300):
        told = []
        zero_check.check({"steps_per_print": value}, parsed({}).model_dump(mode="json"), told.append)
        assert told == [f"steps_per_print is {value!r}, and should be a whole number"]


def test_every_stage_of_a_run_is_held_against_it():
    grows = "stages=[{length: 48, steps: 1}, {length: 96, steps: 2, batch: 4}]"
    with pytest.raises(RecipeError, match="train_batch_size is 8 and train.batch is 4"):
        parsed({"train_batch_size": 8}, grows)


def test_the_stage_says_the_kind():
    free = ("engine={processes: 2}",)
    assert parsed({"zero_optimization": {"stage": 2}}, *free).engine.kind == "zero2"
    with pytest.raises(RecipeError, match="is read by DeepSpeed, and engine.kind is auto"):
        parsed({}, *free)


def test_files_are_read_with_care(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ds.json").write_text('{"zero_optimization": {"stage": 3, "reduce_bucket_size": 5e8}}')
    (tmp_path / "r.yaml").write_text(TEXT.replace("kind: zero3", "deepspeed: ds.json"))
    recipe = recipes.load("r.yaml", [])
    assert recipe.engine.kind == "zero3"
    # What is kept of a run names no file.
    assert recipes.parse(recipe.dump(), "kept") == recipe
    assert recipes.parse(TEXT, "r", [f"engine.deepspeed={tmp_path}/ds.json"]).engine.deepspeed == recipe.engine.deepspeed
    for name in ("../ds.json", f"{tmp_path}/ds.json"):
        with pytest.raises(RecipeError, match=r"r\.yaml:7: engine\.deepspeed: .* leaves this folder.*engine\.deepspeed="):
            recipes.parse(TEXT.replace("kind: zero3", f"deepspeed: {name}"), "r.yaml")
    with pytest.raises(RecipeError, match="there is no file no.json"):
        recipes.parse(TEXT, "r", ["engine.deepspeed=no.json"])
    for text, said in (
        ("[1]", "holds no object of settings"),
        ("{", "cannot be read as JSON"),
        ('{"a": 1, "a": 2}', "'a' stands there twice"),
        ('{"a": NaN}', "NaN is no number"),
        ("[" * 100_000, "cannot be read as JSON"),
        (" " * 1_000_001, "it has more than 1 MB"),
        (b"\xff\xfe", "cannot be read as JSON"),
    ):
        (tmp_path / "bad.json").write_bytes(text.encode() if isinstance(text, str) else text)
        with pytest.raises(RecipeError, match=said):
            recipes.parse(TEXT, "r", ["engine.deepspeed=bad.json"])
