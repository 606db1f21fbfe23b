"""A recipe: one YAML file, one complete run.

``load`` reads a shelf name or a file, applies ``key=value`` overrides, and checks everything that can be checked without data
and without torch: known keys, types, kinds, codec and model settings, all mistakes at once, each with its place. What comes
back is frozen and is what is written, whole, into every run and bundle.
"""

import json
from collections.abc import Sequence
from typing import Any, Literal

import yaml
from pydantic import ConfigDict, Field, ValidationError, create_model

from seqrl.core import kinds, shelf
from seqrl.core.config import Frozen, Path_, apply_overrides, explain, parse_yaml, read_text
from seqrl.core.errors import RecipeError, did_you_mean
from seqrl.core.layout import Layout
from seqrl.data.dataset import DataConfig
from seqrl.data.tokenizer import TokensConfig
from seqrl.rollout.evaluate import EvalConfig

# Settings of a model that come from the data or from another part of the recipe (train.losses), never from model.*.
_FROM_DATA = {"ports", "context_length", "losses"}


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
    betas: tuple[float, float] = (0.9, 0.999)
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
    losses: dict[str, float] = {"action": 1.0}
    """Weight of each named loss; the names must be those the model answers."""
    seed: int = 0
    """Weights, windows and dropout follow from it."""
    device: str = "auto"
    """``auto``, ``cpu``, ``cuda`` or ``mps``."""
    compile: bool = False
    """torch.compile the model; pays on GPUs."""
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
    tokens: TokensConfig = TokensConfig()
    """How they become streams."""
    model: dict[str, Any]
    """``kind``, such as policies.decision, and its settings."""
    train: TrainConfig = TrainConfig()
    """The loop."""
    evaluate: EvaluateConfig = EvaluateConfig()
    """The real environment."""

    def dump(self) -> str:
        """The whole recipe, resolved, as YAML."""
        return yaml.safe_dump(json.loads(self.model_dump_json()), sort_keys=False, allow_unicode=True)


def settings_model(kind: str) -> type[Frozen]:
    """A pydantic model of a model kind's settings, read from its source without importing it."""
    known = {n: t for n, t in kinds.settings(kind).items() if n not in _FROM_DATA}
    return create_model(f"{kind} settings", __base__=Frozen, kind=(str, kind), **known)


def _check_model(raw: Any, where: dict[Path_, str], source: str) -> list[str]:
    if not isinstance(raw, dict) or "kind" not in raw:
        return [f"{where.get(('model',), source)}: model: name its kind, such as 'kind: policies.decision'"]
    try:
        settings_model(str(raw["kind"])).model_validate(raw)
    except RecipeError as e:
        return [f"{where.get(('model', 'kind'), source)}: model.kind: {e}"]
    except ValidationError as e:
        return explain(e, settings_model(str(raw["kind"])), where, source, ("model",))
    return []


def _check_sources(raw: Any, where: dict[Path_, str], source: str) -> list[str]:
    wrong = []
    for i, entry in enumerate(raw if isinstance(raw, list) else []):
        place: Path_ = ("data", "sources", i)
        line = where.get(place, source)
        if not isinstance(entry, dict) or "kind" not in entry:
            wrong.append(f"{line}: data.sources.{i}: name its kind ({', '.join(kinds.names('sources'))})")
            continue
        try:
            config = kinds.load(str(entry["kind"]), "sources").Config
            config.model_validate({k: v for k, v in entry.items() if k not in ("weight", "top")})
        except RecipeError as e:
            wrong.append(f"{where.get((*place, 'kind'), line)}: data.sources.{i}.kind: {e}")
        except ValidationError as e:
            wrong += explain(e, config, where, source, place)
        for key, most in (("weight", None), ("top", 1)):
            value = entry.get(key)
            if value is not None and not (isinstance(value, int | float) and value > 0 and (most is None or value <= most)):
                said = "a positive number" + (f" up to {most}" if most else "")
                wrong.append(f"{where.get((*place, key), line)}: data.sources.{i}.{key}: {said} is wanted (got {value!r})")
    return wrong


def _check_tokens(raw: Any, where: dict[Path_, str], source: str) -> list[str]:
    wrong = []
    place: Path_ = ("tokens", "layout")
    try:
        layout = Layout.parse(str(raw.get("layout", TokensConfig().layout)))
    except RecipeError as e:
        return [f"{where.get(place, source)}: tokens.layout: {e}"]
    slots = raw.get("slots") or {}
    for name, entry in slots.items() if isinstance(slots, dict) else ():
        at: Path_ = ("tokens", "slots", name)
        line = where.get(at, source)
        if name not in layout.names:
            wrong.append(f"{line}: tokens.slots.{name}: the layout has no such slot{did_you_mean(name, layout.names)}")
        if isinstance(entry, dict) and "kind" in entry:
            try:
                config = kinds.load(str(entry["kind"]), "tokens").Config
                config.model_validate({k: v for k, v in entry.items() if k != "from"})
            except RecipeError as e:
                wrong.append(f"{where.get((*at, 'kind'), line)}: tokens.slots.{name}.kind: {e}")
            except ValidationError as e:
                wrong += explain(e, config, where, source, at)
    return wrong


def parse(text: str, source: str, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe from its text; raises one RecipeError listing every mistake with file:line or the override."""
    raw, where = parse_yaml(text, source)
    if not isinstance(raw, dict):
        raise RecipeError(f"{source}: a recipe is a mapping of name, data, tokens, model, train and evaluate")
    raw = apply_overrides(raw, overrides, where)
    wrong: list[str] = []
    recipe = None
    try:
        recipe = Recipe.model_validate(raw)
    except ValidationError as e:
        wrong += explain(e, Recipe, where, source)
    wrong += _check_model(raw.get("model"), where, source) if "model" in raw else []
    wrong += _check_sources((raw.get("data") or {}).get("sources"), where, source) if isinstance(raw.get("data"), dict) else []
    wrong += _check_tokens(raw.get("tokens") or {}, where, source) if isinstance(raw.get("tokens", {}), dict) else []
    if wrong:
        raise RecipeError("\n".join(dict.fromkeys(wrong)))
    return recipe


def load(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe by shelf name or file; raises RecipeError where there is none of that name or it has mistakes."""
    path = shelf.find("recipes", name)
    label = path.name if path.parent == shelf.folder("recipes") else str(path)
    return parse(read_text(path), label, overrides)


def from_dict(raw: dict[str, Any]) -> Recipe:
    """A resolved recipe read back from a run or bundle."""
    return parse(yaml.safe_dump(raw, sort_keys=False), "recipe.yaml")


def json_schema() -> dict[str, Any]:
    """The JSON Schema of recipes, with every shipped kind's settings, for editors; kept in ``recipes/schema.json``."""
    schema = Recipe.model_json_schema()
    models = [f"{room}.{n}" for room in ("policies", "worlds", "encoders") for n in kinds.names(room)]
    schema["properties"]["model"] = {"anyOf": [_inline(settings_model(k), k) for k in models]}
    entries = []
    for name in kinds.names("sources"):
        one = _inline(kinds.load(name, "sources").Config, name)
        one["properties"] |= {"weight": {"type": "number"}, "top": {"type": "number"}}
        entries.append(one)
    schema["$defs"]["DataConfig"]["properties"]["sources"]["items"] = {"anyOf": entries}
    codecs = [_inline(kinds.load(n, "tokens").Config, n) for n in kinds.names("tokens")]
    for one in codecs:
        one["properties"]["from"] = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
    schema["$defs"]["TokensConfig"]["properties"]["slots"]["additionalProperties"] = {"anyOf": codecs}
    return schema


def _inline(model: type[Frozen], kind: str) -> dict[str, Any]:
    one = model.model_json_schema()
    one["properties"]["kind"] = {"const": kind}
    one["required"] = sorted({*one.get("required", []), "kind"})
    return one


if __name__ == "__main__":
    (shelf.folder("recipes") / "schema.json").write_text(json.dumps(json_schema(), indent=1) + "\n", encoding="utf-8")
