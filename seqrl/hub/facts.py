"""What a card says, gathered from the files of a bundle: facts alone, in plain words and numbers, and nothing of any one model.

A bundle knows what it is (recipe), what it reads (tokenizer), what it got (metrics) and what it began from (lineage). A run
folder, where there is one, adds what only it has: the single returns behind a mean, and pictures. Whatever is missing is left
out of the card; words from files are made safe for Markdown, because a bundle may come from a stranger.
"""

import contextlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from seqrl.core import kinds
from seqrl.core.errors import RecipeError
from seqrl.core.plain import read_yaml as read_values
from seqrl.data.mixture import Mixture, read_tokenizer
from seqrl.data.tokenizer import Tokenizer
from seqrl.report import overview, words
from seqrl.report.folder import as_dict, as_list, count_parameters, read_json, read_text, read_yaml
from seqrl.report.plots import finite
from seqrl.rollout.envs import package_of

Facts = dict[str, Any]


def plain(text: Any, most: int = 300) -> str:
    """Somebody's words as one line of Markdown that means nothing but itself."""
    line = " ".join(str(text).split())
    line = line if len(line) <= most else line[: most - 1] + "…"
    return re.sub(r"([\\`*\[\]<>|#])", r"\\\1", line)


def gather(bundle: Path, run: Path | None = None) -> Facts:
    """Everything the templates say of a bundle.

    Args:
        bundle: its folder.
        run: the folder of the run it is of, for the single returns of its last evaluation.

    Raises:
        BundleError: its tokenizer cannot be read.
    """
    recipe, metrics = read_yaml(bundle / "recipe.yaml"), read_json(bundle / "metrics.json")
    tokenizer = read_tokenizer(bundle / "tokenizer.json")
    kind = str(as_dict(recipe.get("model")).get("kind") or "")
    domains = tokenizer.domains if isinstance(tokenizer, Mixture) else {"": tokenizer}
    report = _with_returns(as_dict(metrics.get("report")), run)
    reports = overview.reports_of(report)
    reports = {"": report} if reports is None else reports
    asked = any(finite(t.get("target")) for r in reports.values() for t in words.targets_of(r))
    sources = [as_dict(s) for s in as_list(as_dict(recipe.get("data")).get("sources"))]
    return {
        "name": plain(recipe.get("name") or bundle.name),
        "kind": plain(kind),
        "room": kind.partition(".")[0],
        "documents": kinds.is_own(kind) and kinds.reads_documents(kind),
        "paper": _paper(kind),
        "what": plain(_subject(recipe, domains)),
        "step": metrics.get("step") if isinstance(metrics.get("step"), int) else None,
        "parameters": count_parameters(bundle / "model.safetensors"),
        "layouts": [_layout(name, own) for name, own in domains.items()],
        "environments": list(dict.fromkeys(e for e in (_env(own, reports.get(n, {})) for n, own in domains.items()) if e)),
        "scores": _scores(reports, asked),
        "asked": asked,
        "played": any(words.targets_of(r) for r in reports.values()),
        "reports": reports,
        "scores_say": plain(words.scores_say(report) if "" in reports else overview.says(reports)),
        "verdicts": _verdicts(reports),
        "dream": as_dict(metrics.get("dream")),
        "data": [plain(n) for n in dict.fromkeys(_data(own, sources) for own in domains.values()) if n],
        "lineage": _lineage(as_dict(metrics.get("lineage"))),
        "versions": {plain(k): plain(v) for k, v in as_dict(report.get("versions") or metrics.get("versions")).items()},
        "commit": plain(report.get("commit") or ""),
        "recipe": _fenced(read_text(bundle / "recipe.yaml")),
        "train": {k: n if isinstance(n := as_dict(recipe.get("train")).get(k), int) else None for k in ("steps", "batch")},
        "sample": _sample(domains, reports, recipe),
    }


def _with_returns(report: Facts, run: Path | None) -> Facts:
    """The bundle's own report, with the single returns that the run's ``eval.json`` has, where both are of one evaluation."""
    if run is None:
        return report
    whole = read_json(run / "eval.json")
    same = [_means(whole), _means(report)]
    return whole if same[0] and same[0] == same[1] else report


def _means(report: Mapping[str, Any]) -> list[Any]:
    parts = as_dict(report.get("domains")) or {"": report}
    return [(n, t.get("mean")) for n, r in parts.items() for t in words.targets_of(as_dict(r))]


def _subject(recipe: Facts, domains: Mapping[str, Tokenizer]) -> str:
    if len(domains) == 1:
        spec = getattr(next(iter(domains.values())), "spec", None)
        return words.subject(recipe, {"spec": {"id": spec.id}} if spec else {})
    return overview.subject(recipe, list(domains))


def _paper(kind: str) -> str:
    """The paper that the first sentence of a kind's file names; none for kinds that are not ours."""
    try:
        said = kinds.first_words(kind)
    except RecipeError:
        return ""
    found = re.search(r"arXiv[: ](\d{4}\.\d{4,5})", said)
    return found[1] if found else ""


def _layout(domain: str, tokenizer: Any) -> Facts:
    """What one domain's step is made of, slot by slot."""
    if not hasattr(tokenizer, "slots"):
        return {"domain": plain(domain), "layout": "text and frames of one vocabulary", "context": None, "slots": []}
    layout, ports = tokenizer.layout, tokenizer.ports()
    where = {s.name: "once, in front" for s in layout.prefix} | {s.name: "read out, never fed" for s in layout.readout}
    slots = []
    for slot in layout.slots:
        made = tokenizer.slots[slot.name]
        many = ports.vocabs[slot.name] or ports.widths[slot.name]
        size = f"{many:,} {'code' if ports.vocabs[slot.name] else 'number'}{'s' if many > 1 else ''}"
        of = "" if tuple(made.fields) == (slot.name,) else ", ".join(made.fields)
        slots.append(
            {
                "name": slot.name,
                "of": plain(of),
                "where": where.get(slot.name, "every step"),
                "codec": plain(made.config.kind),
                "size": size if slot.width == 1 else f"{slot.width} tokens, {size}",
            }
        )
    return {"domain": plain(domain), "layout": str(layout), "context": tokenizer.context, "slots": slots}


def _lineage(raw: Facts) -> Facts:
    """What it began from; ``base_model`` is empty for one that began at random."""
    if not raw.get("base_model"):
        return {"base_model": "", "revision": "", "says": "", "converted": False, "published": False}
    sizes = {k: len(raw[k]) for k in ("loaded", "resized", "new") if isinstance(raw.get(k), list) and raw[k]}
    counts = [f"{n} tensor{'s' if n > 1 else ''} {k}" for k, n in sizes.items()]
    how = {"lora": "tuned by LoRA, merged", "frozen": "some of it frozen"}.get(str(raw.get("kind")), "")
    says = str(raw.get("says") or ", ".join(word for word in (*counts, how) if word))
    revision = str(raw.get("revision") or "")
    return {
        "base_model": plain(raw["base_model"]),
        "revision": plain(revision),
        "says": plain(says),
        # A run's own folder is called like a repository, but only a repository has commits.
        "converted": str(raw.get("kind")).startswith("transformers."),
        "published": bool(re.fullmatch(r"[0-9a-f]{40}", revision)),
    }


def _env(tokenizer: Any, report: Facts) -> str:
    spec = getattr(tokenizer, "spec", None)
    return str(report.get("env") or as_dict(getattr(spec, "env", None)).get("id") or "")


def _data(tokenizer: Any, sources: list[Facts]) -> str:
    spec = getattr(tokenizer, "spec", None)
    return str(spec.id) if spec else ", ".join(str(s.get("id") or s.get("path") or s.get("kind")) for s in sources)


def _scores(reports: Mapping[str, Facts], asked: bool) -> list[Facts]:
    rows = []
    for name, report in reports.items():
        for row in words.score_rows(words.targets_of(report), asked):
            target = row["target"] if asked else ""
            said = {"domain": plain(name), "target": target, "env": plain(report.get("env") or "")}
            rows.append(row | said | {"episodes": plain(row["episodes"])})
    return rows


def _verdicts(reports: Mapping[str, Facts]) -> list[str]:
    said = [v["words"] for r in reports.values() for v in words.verdicts(words.targets_of(r), str(r.get("why") or ""))]
    return [plain(v) for v in dict.fromkeys(said)]


def _usual(recipe: Facts, tokenizer: Any) -> float:
    """What to ask for where nothing was scored: the recipe's first target, or what the better episodes of the data got."""
    told = [*as_list(as_dict(recipe.get("evaluate")).get("targets")), tokenizer.returns.get("q90")]
    return next((float(t) for t in told if finite(t)), 0.0)


def _sample(domains: Mapping[str, Any], reports: Mapping[str, Facts], recipe: Facts) -> Facts | None:
    """What a snippet needs to play one domain: its environment, what to ask for, and how its actions are called.

    None where no domain can be played by gymnasium alone: environments of ours, pictures that were resized, wrappers.
    """
    for name, tokenizer in domains.items():
        spec, targets = getattr(tokenizer, "spec", None), words.targets_of(reports.get(name, {}))
        raw = as_dict(getattr(spec, "eval_env", None) or getattr(spec, "env", None))
        env, kwargs = str(raw.get("id") or ""), {str(k): v for k, v in as_dict(raw.get("kwargs")).items()}
        steps = raw.get("max_episode_steps")
        if isinstance(steps, int) and not isinstance(steps, bool):
            kwargs["max_episode_steps"] = steps
        told = all(re.fullmatch(r"[a-z_]\w*", k) and isinstance(v, bool | int | float | str) for k, v in kwargs.items())
        if not re.fullmatch(r"[\w./-]+", env) or not told or raw.get("additional_wrappers") or package_of(env) == "seqrl":
            continue
        # They will stand in Python code that people copy.
        spoken = all(re.fullmatch(r"[\w.-]*", str(word)) for word in (name, *spec.obs, *spec.act))
        if not spoken or any(m.kind == "image" for m in spec.obs.values()):
            continue
        ask = None
        if "return" in {s.name for s in (*tokenizer.layout.prefix, *tokenizer.layout.step)}:
            got = {float(t["target"]): float(t["mean"]) for t in targets if finite(t.get("target"))}
            ask = float(f"{max(got, key=got.get) if got else _usual(recipe, tokenizer):.6g}")
        return {
            "domain": name,
            "env": env,
            "package": package_of(env),
            "kwargs": kwargs,
            "ask": ask,
            "action": next(iter(spec.act)) if len(spec.act) == 1 else "",
            "observation": next(iter(spec.obs)),
        }
    return None


def _fenced(text: str) -> str:
    """YAML for a fenced block: nothing in it can end the fence."""
    with contextlib.suppress(yaml.YAMLError, ValueError):
        text = yaml.safe_dump(read_values(text), sort_keys=False, allow_unicode=True)
    return text.replace("```", "` ` `").rstrip()
