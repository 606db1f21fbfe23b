"""Whether a DeepSpeed JSON of the user's own says what the recipe says, and nothing that seqrl cannot keep.

What both say (batch, pieces, clip, precision, optimiser, stage) must be the same, or ``"auto"``, which is as the recipe says.
What only DeepSpeed knows (offload, buckets, overlap) goes through. What would do something else than the recipe says, or write
where nobody looks, is refused by name, with what to do in its place.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from seqrl.core.errors import did_you_mean
from seqrl.train.zero_json import THROUGH

_SHARED = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping")
"""What the recipe says as well; with ``_PRECISION``, ``optimizer``, ``scheduler`` and the stage."""
_PRECISION = ("bf16", "fp16")
_OURS = ("zero_allow_untested_optimizer", "zero_force_ds_cpu_optimizer")
"""What follows from the optimiser being torch's, whatever is written."""
_ZERO: dict[str, type] = {
    "overlap_comm": bool,
    "contiguous_gradients": bool,
    "reduce_scatter": bool,
    "reduce_bucket_size": int,
    "use_multi_rank_bucket_allreduce": bool,
    "allgather_partitions": bool,
    "allgather_bucket_size": int,
    "sub_group_size": int,
    "round_robin_gradients": bool,
    "ignore_unused_parameters": bool,
    "memory_efficient_linear": bool,
    "offload_optimizer": dict,
    "offload_param": dict,
    "stage3_prefetch_bucket_size": int,
    "stage3_param_persistence_threshold": int,
    "stage3_model_persistence_threshold": int,
    "stage3_max_live_parameters": int,
    "stage3_max_reuse_distance": int,
    "stage3_gather_16bit_weights_on_model_save": bool,
    "stage3_module_granularity_threshold": int,
}
"""What goes through of ``zero_optimization``, whose values are whole numbers, yes or no, or objects of ``_OFFLOAD``."""
_OFFLOAD = {"device": str, "pin_memory": bool, "buffer_count": int, "buffer_size": int, "max_in_cpu": int, "fast_init": bool}
_INSTEAD = {
    "activation_checkpointing": "take engine.recompute=blocks",
    "tensorboard": "take train.trackers",
    "wandb": "take train.trackers",
    "csv_monitor": "every run writes metrics.jsonl",
    "flops_profiler": "ask seqrl check RECIPE --memory",
    "amp": "take train.precision",
    "data_efficiency": "say it in the recipe's data",
    "aio": "nothing is offloaded to NVMe",
}


def check(raw: Mapping[str, Any], recipe: Mapping[str, Any], said: Callable[[str], None]) -> None:
    """Says every contradiction between a user's settings and the recipe.

    Args:
        raw: as in the JSON file.
        recipe: ``engine``, ``train`` and ``stages`` of a recipe, as plain values.
        said: called with each mistake.
    """
    kind = recipe["engine"]["kind"]
    if kind not in ("zero2", "zero3"):
        said(f"is read by DeepSpeed, and engine.kind is {kind}; take zero2 or zero3, or leave it out")
        return
    for name, value in raw.items():
        if name in THROUGH:
            _check_kind(name, value, THROUGH[name], said)
        elif name not in (*_SHARED, *_PRECISION, *_OURS, "optimizer", "scheduler", "zero_optimization"):
            known = (*_SHARED, *_PRECISION, *THROUGH, "optimizer", "zero_optimization")
            said(f"{name} is not taken{_instead(name, known)}")
    _check_zero(raw.get("zero_optimization", {}), kind, said)
    trains = [recipe["train"] | {n: v for n, v in s.items() if v is not None} for s in recipe.get("stages") or ({},)]
    for train in trains:
        _check_shared(raw, recipe["engine"], train, said)
    _check_optimizer(raw.get("optimizer"), recipe["train"], said)
    scheduler = raw.get("scheduler")
    given = scheduler.get("params") if isinstance(scheduler, Mapping) else None
    if scheduler is not None and not (isinstance(given, Mapping) and all(v == "auto" for v in given.values())):
        ours = ", ".join(f"train.{n}={recipe['train'][n]}" for n in ("warmup", "decay", "final_lr"))
        said(f'scheduler: the schedule is {ours}; leave it out, or write "auto" for each of its params')


def _check_kind(name: str, value: Any, kind: type, said: Callable[[str], None]) -> None:
    """Says so where a value is not of a kind; "auto" is of every kind, and so is a whole number written as 5e8."""
    number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e18
    fine = {
        int: number and value >= 0 and value % 1 == 0,
        float: number,
        dict: isinstance(value, Mapping),
    }
    if value != "auto" and not fine.get(kind, isinstance(value, kind)):
        word = {int: "a whole number", float: "a number", bool: "true or false", str: "a word", dict: "an object"}[kind]
        said(f"{name} is {value!r:.60}, and should be {word}")


def _check_zero(zero: Any, kind: str, said: Callable[[str], None]) -> None:
    if not isinstance(zero, Mapping):
        said(f"zero_optimization is {zero!r:.60}, and should be an object")
        return
    stage = zero.get("stage", "auto")
    if stage not in ("auto", int(kind[-1])) or isinstance(stage, bool):
        right = f"take engine.kind=zero{stage}" if stage in (2, 3) else f'write {kind[-1]} or "auto"'
        said(f"zero_optimization.stage is {stage!r:.60} and engine.kind is {kind}; {right}")
    for name, value in zero.items():
        place = f"zero_optimization.{name}"
        if name in _ZERO:
            _check_kind(place, value, _ZERO[name], said)
        elif name != "stage":
            said(f"{place} is not taken{_instead(name, _ZERO)}")
        if name not in ("offload_optimizer", "offload_param") or not isinstance(value, Mapping):
            continue
        for key, wanted in value.items():
            if key not in _OFFLOAD:
                said(f"{place}.{key} is not taken{_instead(key, _OFFLOAD)}")
            else:
                _check_kind(f"{place}.{key}", wanted, _OFFLOAD[key], said)
        if value.get("device", "none") not in ("cpu", "none"):
            said(f"{place}.device is {value['device']!r:.60}; checkpoints read what is in memory: take cpu or none")
        if name == "offload_param" and kind == "zero2" and value.get("device", "none") != "none":
            said(f"{place}: weights are dealt out in stage 3 only; take engine.kind=zero3, or leave it out")


def _check_shared(
    raw: Mapping[str, Any], engine: Mapping[str, Any], train: Mapping[str, Any], said: Callable[[str], None]
) -> None:
    batch, pieces = train["batch"], train["accumulate"]
    ours: dict[str, tuple[str, Any]] = {
        "train_batch_size": ("train.batch", batch),
        "gradient_accumulation_steps": ("train.accumulate", pieces),
        "gradient_clipping": ("train.clip", train.get("clip") or 0.0),
    }
    if wanted := engine.get("processes"):
        groups = max(wanted // engine["sequence"], 1)
        rows = batch / groups / pieces
        ours["train_micro_batch_size_per_gpu"] = (
            "train.batch over processes and pieces",
            int(rows) if rows == int(rows) else rows,
        )
    for name, (called, value) in ours.items():
        if name in raw:
            _agree(name, raw[name], called, value, said)
    for name in _PRECISION:
        given = raw.get(name)
        if given is None:
            continue
        enabled = given.get("enabled", "auto") if isinstance(given, Mapping) else given
        _agree(f"{name}.enabled", enabled, f"train.precision={train['precision']}", train["precision"] == name, said)


def _agree(name: str, given: Any, called: str, ours: Any, said: Callable[[str], None]) -> None:
    same = given == ours and isinstance(given, bool) == isinstance(ours, bool)
    if given != "auto" and not same:
        told = called if isinstance(ours, bool) else f"{called} is {ours}"
        said(f'{name} is {given!r:.60} and {told}; make them agree, or write "auto"')


def _check_optimizer(given: Any, train: Mapping[str, Any], said: Callable[[str], None]) -> None:
    if given is None:
        return
    if not isinstance(given, Mapping) or not isinstance(params := given.get("params", {}), Mapping):
        said("optimizer should be an object of type and params; leave it out, the recipe has one")
        return
    if given.get("type", "AdamW") not in ("Adam", "AdamW") or params.get("adam_w_mode", True) is not True:
        said(f"optimizer.type is {given.get('type')!r:.60}, and what is taken is AdamW as the recipe has it; leave it out")
    ours = {"lr": "train.lr", "weight_decay": "train.weight_decay", "betas": "train.betas"}
    for name, value in params.items():
        if name in ours:
            mine = train[name.removeprefix("train.")]
            _agree(f"optimizer.params.{name}", value, ours[name], list(mine) if name == "betas" else mine, said)
        elif name == "eps":
            _agree("optimizer.params.eps", value, "that of the recipe's AdamW", 1e-8, said)
        elif name not in ("torch_adam", "adam_w_mode", "bias_correction") and value != "auto":
            said(f"optimizer.params.{name} is not taken; leave it out")


def _instead(name: str, known: Iterable[str]) -> str:
    """What to do about a key that is not taken: the word that was meant, another setting, or nothing of the kind."""
    return f"; {_INSTEAD[name]}" if name in _INSTEAD else did_you_mean(name, known) or "; leave it out"
