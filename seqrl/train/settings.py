"""How a run is spread over processes, and how its context grows: ``engine`` and ``stages`` of a recipe, and their checks.

Loads no torch, so that ``seqrl check`` answers at once.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, model_validator

from seqrl.core import shelf
from seqrl.core.config import Frozen, Path_, parse_yaml
from seqrl.core.errors import RecipeError
from seqrl.train import zero_check, zero_json

SHARDED = ("zero2", "zero3", "fsdp")
"""Engines that deal out more than rows."""


class EngineConfig(Frozen):
    """How a run is spread over processes. One word, such as ``engine: fsdp``, names a file of settings in recipes/engines."""

    kind: Literal["auto", "ddp", "zero2", "zero3", "fsdp"] = "auto"
    """What is dealt out: rows (ddp, and auto), optimiser and gradients as well (zero2), weights as well (zero3, fsdp)."""
    processes: int | None = Field(None, ge=1)
    """How many; seqrl starts them itself unless torchrun, accelerate, MPI or SLURM did. null takes as many as there are."""
    sequence: int = Field(1, ge=1)
    """Processes that share each row, each with a piece of it; the rest of them have other rows."""
    attention: Literal["sdpa", "ring"] | None = None
    """ring lets tokens see keys of other processes; null means ring where a sequence is shared, else sdpa."""
    layout: Literal["balanced", "zigzag", "contiguous"] = "balanced"
    """Which places of a row are whose."""
    recompute: Literal["none", "blocks", "offload"] = "none"
    """What is computed again backwards and not kept: all inside of blocks; offload keeps their inputs in the host's memory."""
    chunk: int | None = Field(None, ge=1)
    """Tokens that a feed-forward layer takes at a time; null takes all."""
    timeout: float = Field(10.0, gt=0, le=1_000_000)
    """Minutes until a process that waits for another gives up."""
    deepspeed: dict[str, Any] | None = None
    """Settings of DeepSpeed, or the JSON file that holds them; "auto" is as the recipe says, and the stage says the kind."""

    @model_validator(mode="before")
    @classmethod
    def _kind(cls, raw: Any) -> Any:
        stage = zero_json.stage_of(raw.get("deepspeed")) if isinstance(raw, dict) else None
        return raw | {"kind": f"zero{stage}"} if stage in (2, 3) and raw.get("kind", "auto") == "auto" else raw

    @property
    def ring(self) -> bool:
        """Whether bodies attend by ring."""
        return self.attention == "ring" or (self.attention is None and self.sequence > 1)

    @property
    def wanted(self) -> int | None:
        """How many processes the recipe asks for; None where it leaves that to whoever starts them."""
        return self.processes or (self.sequence if self.sequence > 1 else None)


class StageConfig(Frozen):
    """One stage of a context that grows; it begins with the weights of the one before, and with a fresh optimiser."""

    length: int | None = Field(None, ge=2)
    """Tokens in a row, in place of tokens.pack."""
    rope_base: float | None = Field(None, gt=1, allow_inf_nan=False)
    """Base of the rotary positions; null leaves it."""
    steps: int = Field(ge=1)
    """Optimiser steps."""
    batch: int | None = Field(None, ge=1)
    """train.batch of this stage; null takes that."""
    lr: float | None = Field(None, gt=0)
    """train.lr of this stage."""
    final_lr: float | None = Field(None, ge=0)
    """train.final_lr of this stage."""
    warmup: int | None = Field(None, ge=0)
    """train.warmup of this stage."""
    decay: Literal["none", "linear", "cosine"] | None = None
    """train.decay of this stage."""

    def train(self) -> dict[str, Any]:
        """What it sets of ``train``."""
        names = ("steps", "batch", "lr", "final_lr", "warmup", "decay")
        return {n: v for n in names if (v := getattr(self, n)) is not None}


def count_of(name: str, value: str) -> int:
    """A number of processes that the environment tells; raises RecipeError where it is none."""
    if not value.strip().isdecimal():
        raise RecipeError(f"{name}={value} in the environment is no number of processes")
    return int(value)


def spell_engine(raw: dict[str, Any], overrides: Sequence[str], where: Mapping[Path_, str]) -> tuple[dict[str, Any], list[str]]:
    """A recipe and its overrides with words turned into what they name: a word for ``engine`` into the settings on the shelf, a
    file for ``engine.deepspeed`` into what it holds. ``processes`` alone is ``engine.processes``.

    Raises:
        RecipeError: the shelf has no such word, or there is no such file.
    """
    if isinstance(word := raw.get("engine"), str):
        raw = raw | {"engine": _shelved(word, where.get(("engine",), ""))}
    engine = raw.get("engine")
    if isinstance(engine, dict) and isinstance(file := engine.get("deepspeed"), str):
        place = where.get(("engine", "deepspeed"), "recipe")
        raw = raw | {"engine": engine | {"deepspeed": zero_json.read(file, place, inside=True)}}
    return raw, [_spelled(text) for text in overrides]


def _spelled(text: str) -> str:
    key, _, word = (part.strip() for part in text.removeprefix("--").partition("="))
    place = f"command line '{text}'"
    if key == "processes":
        return f"engine.processes={word}"
    if key == "engine" and word.isidentifier() and word != "null":
        return f"engine={json.dumps(_shelved(word, place))}"
    if key == "engine.deepspeed" and word not in ("", "null") and not word.startswith("{"):
        return f"engine.deepspeed={json.dumps(zero_json.read(word, place, inside=False))}"
    return text


def _shelved(word: str, place: str) -> dict[str, Any]:
    try:
        return parse_yaml(shelf.text("recipes/engines", word), f"recipes/engines/{word}.yaml")[0]
    except RecipeError as e:
        raise RecipeError(f"{place}: engine: {e}") from e


def check_spread(raw: Mapping[str, Any], inhabits: bool, said: Callable[[Path_, str], None]) -> None:
    """Says what in ``engine`` and ``stages`` clashes with the rest of a recipe.

    Args:
        raw: the recipe, every part of it fine by itself, as plain values.
        inhabits: whether its model learns in dreams.
        said: called with the place of each mistake, and the mistake.
    """
    engine, train, pack = (
        EngineConfig(**(raw.get("engine") or {})),
        raw.get("train") or {},
        (raw.get("tokens") or {}).get("pack"),
    )
    n, kind = engine.sequence, raw["model"]["kind"]
    if n > 1 and engine.processes and engine.processes % n:
        more = -(-engine.processes // n) * n
        said(
            ("engine", "sequence"),
            f"engine.sequence={n} does not divide engine.processes={engine.processes}; take engine.processes={more}",
        )
    if n > 1 and engine.attention == "sdpa":
        said(("engine", "attention"), f"engine.attention: with sequence={n} sdpa would see one process's piece only; take ring")
    if n > 1 and pack is None:
        told = (
            f"{kind} reads windows, whose padding and steps are not cut; leave it 1, or take one of packed rows (tokens.pack)"
        )
        said(("engine", "sequence"), f"engine.sequence={n}: {told}")
    if engine.kind in SHARDED and engine.processes == 1:
        said(
            ("engine", "processes"), f"engine.kind: {engine.kind} shards over processes, and 1 is asked for; take ddp, or more"
        )
    if engine.kind in SHARDED and train.get("ema"):
        said(("train", "ema"), f"train.ema: no process has whole weights to average under {engine.kind}; take ddp, or null")
    if engine.deepspeed is not None:
        zero_check.check(
            engine.deepspeed,
            {**raw, "engine": engine.model_dump(), "train": train},
            lambda message: said(("engine", "deepspeed"), f"engine.deepspeed: {message}"),
        )
    if inhabits and (engine.kind in SHARDED or n > 1):
        said(("engine",), f"engine: {kind} learns in dreams, which are made whole on every process; take ddp and sequence=1")
    if n > 1 and pack is not None and engine.wanted and not engine.wanted % n:
        _check_shares(raw, engine, said)
    for i, stage in enumerate(raw.get("stages") or ()):
        if stage.get("length") is not None and pack is None:
            said(("stages", i, "length"), f"stages.{i}.length: is of packed rows, and {kind} reads windows; leave it out")
        if inhabits:
            said(("stages", i), f"stages: {kind} learns in dreams, which have no stages; leave them out")


def _check_shares(raw: Mapping[str, Any], engine: EngineConfig, said: Callable[[Path_, str], None]) -> None:
    """Says which rows cannot be cut into equal shares (context/layouts.py, which looks again when a run begins)."""
    n, train = engine.sequence, raw.get("train") or {}
    unit = n if engine.layout == "contiguous" else 2 * n
    share = engine.wanted // n * (train.get("accumulate") or 1)
    rows = [(("tokens", "pack"), raw["tokens"]["pack"], train.get("batch"))] if not raw.get("stages") else []
    for i, stage in enumerate(raw.get("stages") or ()):
        length, batch = stage.get("length") or raw["tokens"]["pack"], stage.get("batch") or train.get("batch")
        rows.append((("stages", i, "length"), length, batch))
    for place, length, batch in rows:
        if batch and batch % share == 0 and batch // share * length % unit:
            step = unit // math.gcd(unit, batch // share)
            near = f"{length // step * step} or {(length // step + 1) * step}"
            name = ".".join(map(str, place))
            said(place, f"{name}={length}: cannot be cut over engine.sequence={n} in equal shares; take {near}")
