"""The settings of fine-tuning: what a run begins with, and what of it is trained how.

``init`` names a bundle to begin with (train/begin.py), ``train.freeze`` and ``train.lr_scale`` choose parameters by pattern
(train/freeze.py), ``train.lora`` trains small matrices beside large ones (train/adapters.py). Read without torch.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from pydantic import ConfigDict, Field, model_serializer, model_validator

from seqrl.core.config import Frozen, Path_
from seqrl.train.settings import SHARDED


class InitConfig(Frozen):
    """What a run begins with, in place of random weights; a word alone is its ``from``."""

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True)

    name: str = Field(alias="from", min_length=1)
    """A run, a bundle, or a repository of the Hub (org/name)."""
    revision: str | None = None
    """Branch, tag or commit of a repository; null takes the newest, and the run writes down which that was."""
    statistics: Literal["keep", "fit"] = "keep"
    """Whether codecs keep what they were fitted to, wherever the spaces are the same, or are fitted to the new data."""
    heads: Literal["keep", "new"] = "keep"
    """Whether what the bundle answers with is kept where it fits, or begins anew."""

    @model_validator(mode="before")
    @classmethod
    def _word(cls, raw: Any) -> Any:
        return {"from": raw} if isinstance(raw, str) else raw

    @model_serializer
    def _plain(self) -> dict[str, Any]:
        return {"from": self.name, "revision": self.revision, "statistics": self.statistics, "heads": self.heads}

    @classmethod
    def __get_pydantic_json_schema__(cls, core: Any, handler: Any) -> dict[str, Any]:
        return {"anyOf": [{"type": "string"}, handler(core)]}


def spell_init(raw: dict[str, Any], overrides: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """A recipe and its overrides with a word for ``init`` turned into settings, so that ``init.heads=new`` may follow."""
    if isinstance(word := raw.get("init"), str):
        raw = raw | {"init": {"from": word}}
    spelled = []
    for text in overrides:
        key, equals, word = text.partition("=")
        plain = key.removeprefix("--").strip() == "init" and word.strip()[:1] not in ("", "{") and word.strip() != "null"
        spelled.append(f"init={json.dumps({'from': word.strip()})}" if equals and plain else text)
    return raw, spelled


class LoraConfig(Frozen):
    """Small matrices to learn beside large ones that stay as they are (Hu et al. 2021, arXiv 2106.09685)."""

    rank: int = Field(8, ge=1)
    """Of the product that is added to each matrix."""
    alpha: float = Field(16.0, gt=0)
    """The product is scaled by ``alpha / rank``."""
    targets: list[str] = []
    """Patterns of the matrices that get a pair, such as ``trunk.blocks.*.attn.*``; none means all of the trunk's blocks."""
    also: list[str] = []
    """Patterns of what is trained besides, such as ``heads.*``. What the bundle did not have always is."""


def check_tuning(raw: Mapping[str, Any], inhabits: bool, said: Callable[[Path_, str], None]) -> None:
    """Says what in ``init``, ``train.lora``, ``freeze`` and ``lr_scale`` clashes with the rest of a recipe.

    Args:
        raw: the recipe, every part of it fine by itself, as plain values.
        inhabits: whether its model learns in dreams.
        said: called with the place of each mistake, and the mistake.
    """
    train, kind, engine = raw.get("train") or {}, raw["model"]["kind"], (raw.get("engine") or {}).get("kind")
    for key in ("lora", "lr_scale"):
        if inhabits and train.get(key):
            said(("train", key), f"train.{key}: {kind} has optimisers of its own, which know none; leave it out")
    if train.get("lora") and engine in SHARDED:
        said(("train", "lora"), f"train.lora: adapters are whole on every process, and {engine} deals weights out; take ddp")
    if train.get("lora") and raw["model"].get("lora"):
        said(("train", "lora"), "train.lora: the body has adapters of its own (model.lora); leave one of them out")
