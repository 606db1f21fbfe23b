"""A recipe: one YAML file, one complete run.

``load`` reads a shelf name or a file, applies ``key=value`` overrides, and checks everything that can be checked without data
and without torch: known keys, types, kinds, codec and model settings, all mistakes at once, each with its place. What comes
back is frozen and is what is written, whole, into every run and bundle.
"""

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import yaml
from pydantic import ConfigDict, Field, ValidationError, model_validator

from seqrl.core import shelf
from seqrl.core.config import Frozen, Path_, apply_overrides, explain, parse_yaml, read_text
from seqrl.core.errors import RecipeError, all_of
from seqrl.data.dataset import DataConfig
from seqrl.data.slots import TokensConfig
from seqrl.rollout.evaluate import EvalConfig
from seqrl.train.check import check_model, check_sources, check_together, check_tokens, inhabits, strange_kinds
from seqrl.train.settings import EngineConfig, StageConfig, check_spread, spell_engine
from seqrl.train.tuning import InitConfig, LoraConfig, check_tuning, spell_init


class TrainConfig(Frozen):
    """The loop."""

    steps: int = Field(100_000, ge=1)
    """Optimiser steps."""
    batch: int = Field(64, ge=1)
    """Windows in the global batch of one step, over all processes and accumulation steps."""
    accumulate: int = Field(1, ge=1)
    """Pieces the batch is computed in, to save memory; the result is the same."""
    lr: float = Field(1e-4, gt=0)
    """Peak learning rate."""
    weight_decay: float = Field(1e-4, ge=0)
    """AdamW's decoupled weight decay; biases, norms and embeddings are not decayed."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    """AdamW's averages."""
    clip: float | None = Field(0.25, gt=0)
    """Largest norm of the gradient; null does not clip."""
    warmup: int = Field(0, ge=0)
    """Steps of linear warm-up."""
    decay: Literal["none", "linear", "cosine"] = "none"
    """How the learning rate falls from its peak to ``final_lr`` after the warm-up."""
    final_lr: float = Field(0.0, ge=0)
    """Learning rate at the last step, as a share of the peak."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic of forward and backward; weights and optimiser stay in fp32."""
    ema: float | None = Field(None, gt=0, lt=1)
    """Decay of the moving average of the weights, which is then what is evaluated and published."""
    losses: dict[str, Annotated[float, Field(gt=0)]] = {"action": 1.0}
    """Weight of each named loss; the names must be those the model answers."""
    freeze: list[str] = []
    """Patterns of parameters that stay as they are, such as ``trunk.*``."""
    lr_scale: dict[str, Annotated[float, Field(gt=0)]] = {}
    """Pattern -> factor on the learning rate, such as ``{"trunk.*": 0.1}``; a parameter takes the first that it meets."""
    lora: LoraConfig | None = None
    """Train small matrices beside the model's own, which stay as they are; the bundle holds their sum."""
    seed: int = Field(0, ge=0, lt=2**31)
    """Weights, windows and dropout follow from it."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to train; one of several GPUs is chosen with CUDA_VISIBLE_DEVICES."""
    log_every: int = Field(50, ge=1)
    """Steps between lines of metrics."""
    validate_every: int = Field(1000, ge=1)
    """Steps between looks at the held-out episodes."""
    validate_windows: int = Field(512, ge=1)
    """Windows of the held-out episodes that are looked at."""
    save_every: int = Field(1000, ge=1)
    """Steps between checkpoints."""
    keep: int = Field(2, ge=1)
    """Checkpoints kept; the newest always is."""
    trackers: list[Literal["tensorboard", "trackio"]] = []
    """Where metrics go besides metrics.jsonl."""


class ImaginationConfig(Frozen):
    """How an actor and a critic learn in dreams; the defaults are those of DreamerV3 (Hafner et al. 2023)."""

    horizon: int = Field(15, ge=1)
    """Imagined steps of a dream."""
    starts: int | None = Field(None, ge=1)
    """Dreams a step, drawn from all steps of the batch's windows; null begins one at every step."""
    lam: float = Field(0.95, ge=0, le=1)
    """Of the lambda-returns: 0 looks one step ahead, 1 to the horizon."""
    entropy: float = Field(3e-4, ge=0)
    """Weight of the actor's entropy."""
    dynamics: float = Field(0.0, ge=0, le=1)
    """Share of the actor's gradient that comes back through the world; the rest is REINFORCE. 1 is Dreamer V1, 0 is V3."""
    normalize: bool = True
    """Divide returns by their spread, where that is more than 1."""
    memory: float = Field(0.99, ge=0, lt=1)
    """Of the moving average of that spread."""
    target: Literal["critic", "slow"] = "critic"
    """Whose values the returns are made of; slow is Dreamer V2."""
    slow_rate: float = Field(0.02, gt=0, le=1)
    """How far the slow critic moves to the fast one; 1 copies it."""
    slow_every: int = Field(1, ge=1)
    """Steps between its moves."""
    slow_weight: float = Field(1.0, ge=0)
    """How much the critic is held to what the slow one says."""
    critic_lr: float | None = Field(None, gt=0)
    """Peak learning rate of the critic; null is that of the actor, ``train.lr``."""
    temperature: float = Field(1.0, gt=0)
    """Of the world's draws."""
    pessimism: float = Field(0.0, ge=0)
    """Taken off an imagined reward for each unit of the world's disagreement: for data that leave much unseen."""
    episode: int | None = Field(None, ge=1)
    """Most steps of the dreamed episodes that the evaluation is held against; null takes the longest of the data."""


class EvaluateConfig(EvalConfig):
    """Evaluation in the real environment, while training and after it."""

    every: int | None = Field(None, ge=1)
    """Steps between evaluations while training; null evaluates at the end only when asked."""
    at_end: bool = True
    """Evaluate once more when training is over."""


class Recipe(Frozen):
    """One complete run."""

    model_config = ConfigDict(title="seqrl recipe")

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    """What the run is called; its folder unless --out says otherwise."""
    data: DataConfig
    """Which episodes."""
    init: InitConfig | None = None
    """A run, a bundle or a repository of the Hub to begin with; settings of the model that are not given are its."""
    tokens: TokensConfig = TokensConfig()
    """How they become streams."""
    model: dict[str, Any]
    """``kind``, such as policies.decision, and its settings."""
    world: str | None = None
    """For a model that learns in dreams: the run or the bundle of its world, whose tokens it takes too."""
    imagination: ImaginationConfig | None = None
    """Those dreams; null takes the defaults."""
    train: TrainConfig = TrainConfig()
    """The loop."""
    engine: EngineConfig = EngineConfig()
    """Over which processes, and what of it on which."""
    stages: list[StageConfig] | None = Field(None, min_length=1)
    """Of a context that grows, one behind the other; their steps are those of the run."""
    evaluate: EvaluateConfig = EvaluateConfig()
    """The real environment."""

    @model_validator(mode="after")
    def _whole(self) -> "Recipe":
        if self.tokens.documents and "at_end" not in self.evaluate.model_fields_set:
            # What reads token documents is played nowhere.
            object.__setattr__(self, "evaluate", self.evaluate.model_copy(update={"at_end": False}))
        if self.stages:
            # Frozen for everyone else; here it is still being made.
            total = sum(s.steps for s in self.stages)
            object.__setattr__(self, "train", self.train.model_copy(update={"steps": total}))
        return self

    def stage(self, number: int) -> "Recipe":
        """The recipe of stage ``number`` (from 0) by itself: its rows, schedule and steps; the same where there are none."""
        if not self.stages:
            return self
        one = self.stages[number]
        tokens = self.tokens if one.length is None else self.tokens.model_copy(update={"pack": one.length})
        train = self.train.model_copy(update=one.train())
        return self.model_copy(update={"tokens": tokens, "train": train, "stages": None})

    def dump(self) -> str:
        """The whole recipe, resolved, as YAML."""
        return yaml.safe_dump(json.loads(self.model_dump_json()), sort_keys=False, allow_unicode=True)


def waits(recipe: Recipe) -> bool:
    """Whether a recipe gives no tokens because a bundle will: what must agree with them is looked at then (begin.settle)."""
    return recipe.init is not None and recipe.world is None and recipe.tokens == TokensConfig()


def parse(text: str, source: str, overrides: Sequence[str] = (), trust: bool = True) -> Recipe:
    """A recipe from its text.

    Args:
        text, source: YAML, and what to call it in messages.
        overrides: ``key=value`` each.
        trust: whether kinds of other packages may be imported; false for a recipe out of somebody's bundle.

    Raises:
        RecipeError: every mistake at once, with file:line or the override; or kinds that may not be imported.
    """
    raw, where = parse_yaml(text, source)
    if not isinstance(raw, dict):
        raise RecipeError(f"{source}: a recipe is a mapping of name, data, tokens, model, train and evaluate")
    if not trust and (strange := strange_kinds(raw)):
        raise RecipeError(f"{source}: asks for code of other packages ({', '.join(strange)}), which a bundle may not")
    raw = apply_overrides(*spell_init(*spell_engine(raw, overrides, where)), where)
    wrong: list[str] = []
    recipe = None
    try:
        recipe = Recipe.model_validate(raw)
    except ValidationError as e:
        wrong += explain(e, Recipe, where, source)
    wrong += check_model(raw.get("model"), where, source) if "model" in raw else []
    wrong += check_sources((raw.get("data") or {}).get("sources"), where, source) if isinstance(raw.get("data"), dict) else []
    wrong += check_tokens(raw.get("tokens") or {}, where, source) if isinstance(raw.get("tokens", {}), dict) else []
    # Each part by itself first: of parts that are wrong nothing can be said together.
    if not wrong:
        wrong = check_together(recipe.model_dump(), where, source, not waits(recipe))
        wrong += _check_spread(raw, recipe, where, source)
    if wrong:
        raise RecipeError(all_of(wrong))
    return recipe


def _check_spread(raw: dict[str, Any], recipe: Recipe, where: dict[Path_, str], source: str) -> list[str]:
    wrong: list[str] = []

    def said(place: Path_, message: str) -> None:
        spots = (place[:n] for n in range(len(place), 0, -1))
        wrong.append(f"{next((where[s] for s in spots if s in where), source)}: {message}")

    for check in (check_tuning,) if waits(recipe) else (check_spread, check_tuning):
        check(recipe.model_dump(), inhabits(str(recipe.model["kind"])), said)
    asked = (raw.get("train") or {}).get("steps")
    if recipe.stages and asked is not None and asked != recipe.train.steps:
        each = " + ".join(f"{s.steps:,}" for s in recipe.stages)
        told = f"the stages take {each} = {recipe.train.steps:,}; leave it out, or make them agree"
        said(("train", "steps"), f"train.steps={asked:,}: {told}")
    return wrong


def check_whole(recipe: Recipe, source: str) -> None:
    """Raises RecipeError with every clash between parts of a recipe whose tokens came later; ``source`` begins each line."""
    wrong = check_together(recipe.model_dump(), {}, source)
    wrong += _check_spread({}, recipe, {}, source)
    if wrong:
        raise RecipeError(all_of(wrong))


def load(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe by shelf name or file; raises RecipeError where there is none of that name or it has mistakes."""
    path = shelf.find("recipes", name)
    label = path.name if path.parent == shelf.folder("recipes") else str(path)
    return parse(read_text(path), label, overrides)
