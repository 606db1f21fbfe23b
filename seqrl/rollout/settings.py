"""How policies are played: one set of settings for all, and what single domains of a model have otherwise."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from seqrl.core.config import Frozen, validate


class DomainConfig(Frozen):
    """What one domain has otherwise than ``evaluate`` says for all; null is as there."""

    play: bool = True
    """Whether this domain is played at all."""
    episodes: int | None = Field(None, ge=1)
    """Episodes for each target."""
    envs: int | None = Field(None, ge=1)
    """Environments played side by side."""
    seed: int | None = None
    """Decides the environments' seeds and every draw of the policy."""
    mode: Literal["exact", "cached"] | None = None
    """How the window is read."""
    targets: list[float] | None = None
    """Returns to ask for."""
    sample: bool | None = None
    """Draw actions from the policy's distribution."""
    temperature: float | None = Field(None, gt=0)
    """Of the draws."""
    env: str | None = None
    """An environment id to play in."""
    return_floor: float | None = None
    """The return token never asks for less than this."""


class DreamConfig(Frozen):
    """How a world model is measured: it observes some steps of a held-out episode, and imagines what follows."""

    context: int | None = Field(None, ge=1)
    """Steps observed first; null takes half a window, at most 8."""
    horizon: int | None = Field(None, ge=1)
    """Steps imagined; null takes 50, or as many as the longest held-out episode has."""
    starts: int = Field(256, ge=1)
    """Dreams, begun at steps spread evenly over the held-out episodes."""
    sample: bool = False
    """Draw what is imagined; otherwise the likeliest is taken, which is what an error should be measured of."""


class EvalConfig(Frozen):
    """How a policy is played, and how a world model is measured."""

    episodes: int = Field(100, ge=1)
    """Episodes for each target."""
    envs: int = Field(16, ge=1)
    """Environments played side by side."""
    seed: int = 0
    """Decides the environments' seeds and every draw of the policy."""
    mode: Literal["exact", "cached"] = "cached"
    """``exact`` recomputes the trained window for each action; ``cached`` keeps keys and values, re-reading when full."""
    targets: list[float] | None = None
    """Returns to ask for; null takes the 10 %, 50 % and 90 % quantiles and the best return of the data."""
    sample: bool | None = None
    """Draw actions from the policy's distribution; null draws where actions are discrete codes."""
    temperature: float = Field(1.0, gt=0)
    """Of the draws."""
    env: str | None = None
    """An environment id to play in; null takes the one the data name."""
    return_floor: float | None = None
    """The return token never asks for less than this, however much was received."""
    dream: DreamConfig = DreamConfig()
    """For world models."""
    domains: dict[str, DomainConfig] = {}
    """What single domains (see data.sources.domain) have otherwise; ``play: false`` leaves one out."""

    def of_domain(self, name: str) -> "EvalConfig":
        """These settings as they hold for one domain."""
        own = self.domains.get(name, DomainConfig())
        said = {k: v for k in DomainConfig.model_fields if k != "play" and (v := getattr(own, k)) is not None}
        return self.model_copy(update={**said, "domains": {}})


def config_for(recipe: Mapping[str, Any], wanted: Mapping[str, Any]) -> EvalConfig:
    """How a bundle is played: as its recipe's ``evaluate`` says, but for what is ``wanted`` otherwise, in every domain.

    Raises:
        RecipeError: a value that cannot be.
    """
    known = {k: v for k, v in (recipe.get("evaluate") or {}).items() if k in EvalConfig.model_fields}
    raw = {**known, **wanted}
    # What is wanted for all holds for those too that the recipe plays otherwise; what is wanted for one, for that one.
    theirs, ours = (x.get("domains") if isinstance(x.get("domains"), Mapping) else {} for x in (known, wanted))
    told = {n: {k: v for k, v in d.items() if k not in wanted} if isinstance(d, Mapping) else d for n, d in theirs.items()}
    for name, own in ours.items():
        told[name] = {**(told.get(name) or {}), **own} if isinstance(own, Mapping) else own
    if theirs or ours:
        raw["domains"] = told
    return validate(EvalConfig, raw, {}, "evaluation")
