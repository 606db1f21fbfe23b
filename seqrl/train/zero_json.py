"""A DeepSpeed JSON of the user's own: read, and made complete for DeepSpeed. Loads neither torch nor DeepSpeed.

What it may say is told in zero_check.py; of that, here only what DeepSpeed alone knows goes through, and what the recipe says
is put beside it.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seqrl.core.errors import RecipeError

_LARGEST = 1_000_000
"""Bytes of a file that is read; real ones have a few thousand."""
THROUGH = {
    "steps_per_print": int,
    "wall_clock_breakdown": bool,
    "communication_data_type": str,
    "prescale_gradients": bool,
    "gradient_predivide_factor": float,
    "comms_logger": dict,
}
"""Outside of ``zero_optimization``, what goes through as it is, and what kind of value that is."""


def read(name: str, place: str, inside: bool) -> dict[str, Any]:
    """The object in a JSON file.

    Args:
        name: its path. place: who names it, for messages.
        inside: whether it must lie where seqrl was started or below; a recipe may be somebody else's.

    Raises:
        RecipeError: there is none, or it holds something else.
    """
    path = Path(name)
    if inside and (path.is_absolute() or ".." in path.parts):
        raise RecipeError(
            f"{place}: engine.deepspeed: {name} leaves this folder, which a recipe may not; name it in the command: "
            f"engine.deepspeed={name}"
        )
    try:
        if not path.is_file():
            raise RecipeError(f"{place}: engine.deepspeed: there is no file {name}")
        if path.stat().st_size > _LARGEST:
            raise RecipeError(f"{place}: engine.deepspeed: {name} is no settings of DeepSpeed, it has more than 1 MB")
        found = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_once, parse_constant=_no_number)
    except (OSError, ValueError, RecursionError) as e:
        raise RecipeError(f"{place}: engine.deepspeed: {name} cannot be read as JSON: {e}") from e
    if not isinstance(found, dict):
        raise RecipeError(f"{place}: engine.deepspeed: {name} holds no object of settings")
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [n for n, _ in pairs]
        raise ValueError(f"'{next(n for n in names if names.count(n) > 1)}' stands there twice")
    return found


def _no_number(word: str) -> float:
    raise ValueError(f"{word} is no number")


def stage_of(raw: Any) -> int | None:
    """The stage that settings ask for; None where they leave it open."""
    zero = raw.get("zero_optimization") if isinstance(raw, Mapping) else None
    stage = zero.get("stage") if isinstance(zero, Mapping) else None
    return stage if isinstance(stage, int) and not isinstance(stage, bool) else None


def complete(raw: Mapping[str, Any] | None, stage: int, pieces: int, clip: float | None, cpu: bool) -> dict[str, Any]:
    """What DeepSpeed is given.

    Args:
        raw: the user's settings, checked.
        stage, pieces, clip: as the recipe has them. cpu: whether that is the device.
    """
    given = {n: v for n, v in (raw or {}).items() if n in THROUGH and v != "auto"}
    zero = {n: _plain(v) for n, v in ((raw or {}).get("zero_optimization") or {}).items() if v != "auto"}
    zero = {"overlap_comm": not cpu, "stage3_param_persistence_threshold": 0} | zero | {"stage": stage}
    if cpu:
        # There are no streams to overlap in.
        zero["overlap_comm"] = False
    return {
        "steps_per_print": 1 << 60,
        **given,
        # Sums and counts are told by name, so DeepSpeed sees one row and the loss of all of them.
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": pieces,
        "gradient_clipping": clip or 0.0,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": False},
        "fp16": {"enabled": False},
    }


def _plain(value: Any) -> Any:
    """A setting without what is left to DeepSpeed, and whole numbers as such."""
    if isinstance(value, Mapping):
        return {n: _plain(v) for n, v in value.items() if v != "auto"}
    return int(value) if isinstance(value, float) and value % 1 == 0 else value
