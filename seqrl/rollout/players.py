"""Who plays what: a model of several domains is one policy a domain, each with its own tokenizer and its own settings.

A plain model is the same with one domain, whose name is empty; so whoever plays asks here and need not know which it is.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from seqrl.core.errors import RecipeError, UserError, did_you_mean
from seqrl.rollout.settings import DomainConfig, EvalConfig


def players(model: Any, tokenizer: Any) -> dict[str, tuple[Any, Any]]:
    """domain -> (policy, tokenizer).

    Args:
        model: a ``core.contracts.Policy``, or one of several domains with ``player(name)``.
        tokenizer: of a plain model a ``Tokenizer``, which gives one entry named ""; else a ``Mixture``.
    """
    domains = domains_of(tokenizer)
    if "" in domains:
        return {"": (model, tokenizer)}
    return {name: (model.player(name), own) for name, own in domains.items()}


def domains_of(tokenizer: Any) -> dict[str, Any]:
    """domain -> its tokenizer; of a plain one the one entry ""."""
    return dict(getattr(tokenizer, "domains", None) or {"": tokenizer})


def takes_return(tokenizer: Any) -> bool:
    """Whether a policy of this layout is asked for a return."""
    return "return" in {s.name for s in (*tokenizer.layout.prefix, *tokenizer.layout.step)}


def only(config: EvalConfig, tokenizer: Any, names: Sequence[str]) -> EvalConfig:
    """The same settings with just the domains ``names`` played.

    Raises:
        UserError: there is no such domain.
    """
    known = domains_of(tokenizer)
    for name in names:
        if "" in known:
            raise UserError(f"domain '{name}': this model has no domains, so name none")
        if name not in known:
            near = did_you_mean(name, known)
            raise UserError(f"domain '{name}': this model has none of that name{near} (it has {', '.join(known)})")
    own = {n: config.domains.get(n, DomainConfig()).model_copy(update={"play": n in names}) for n in known}
    return config.model_copy(update={"domains": {**config.domains, **own}})


def check_domains(config: EvalConfig, known: Iterable[str]) -> None:
    """Raises RecipeError where settings are for a domain that is none of ``known`` (just "" for a plain model)."""
    known = [name for name in known if name]
    for name in config.domains:
        if not known:
            raise RecipeError(f"evaluate.domains.{name}: this model has no domains, so leave evaluate.domains out")
        if name not in known:
            near = did_you_mean(name, known)
            raise RecipeError(f"evaluate.domains.{name}: there is no such domain{near} (there are: {', '.join(known)})")


def plan(tokenizer: Any, config: EvalConfig) -> dict[str, EvalConfig]:
    """domain -> how it is played, for those that are.

    Raises:
        RecipeError: settings for a domain that is not there, or none is left to play.
        UserError: what can hold for one domain only was said for several.
    """
    known = domains_of(tokenizer)
    check_domains(config, known)
    if "" in known:
        return {"": config}
    names = [n for n in known if config.domains.get(n, DomainConfig()).play]
    if not names:
        how = "evaluate.at_end=false evaluate.every=null"
        raise RecipeError(f"evaluate.domains: every domain has play: false; to play none say {how}")
    asked = [n for n in names if takes_return(known[n])]
    for what, given, those in (("targets", config.targets, asked), ("env", config.env, names)):
        if given and len(those) > 1:
            raise UserError(
                f"{what}: can be given for one domain, and these are {', '.join(those)}; "
                f"say evaluate.domains.NAME.{what} for each, or play one of them (--domain NAME)"
            )
    if config.targets and not asked:
        raise UserError(f"targets: none of these domains takes a return ({', '.join(names)}); leave the targets out")
    # Targets for all are those of the one domain that takes a return; what was said for a domain itself is left to be judged.
    mine = {n for n in names if n in asked or (n in config.domains and config.domains[n].targets)}
    rest = config.model_copy(update={"targets": None})
    return {n: (config if n in mine else rest).of_domain(n) for n in names}
