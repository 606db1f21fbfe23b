"""What a report says in words and numbers, from the plain facts of a run folder. Nothing here knows of HTML.

Facts come from files and are not trusted to be complete: whatever is missing is left out of the sentence.
"""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from seqrl.report import plots
from seqrl.report.folder import as_dict, as_list
from seqrl.report.ink import number
from seqrl.report.plots import finite
from seqrl.rollout.stats import rank_correlation

Facts = Mapping[str, Any]
_ROOMS = {"worlds": "world model", "encoders": "image tokenizer"}


def targets_of(report: Facts) -> list[Facts]:
    """The results that can be shown, each with its episodes' returns where the report keeps them (in order of target)."""
    found, returns = as_list(report.get("targets")), as_list(report.get("returns"))
    returns = returns if len(returns) == len(found) else [None] * len(found)
    rows = [{"returns": as_list(r), **t} for t, r in zip(found, returns, strict=True) if isinstance(t, dict)]
    return [t for t in rows if finite(t.get("mean"))]


def subject(recipe: Facts, tokenizer: Facts) -> str:
    room, _, kind = str(as_dict(recipe.get("model")).get("kind") or "").rpartition(".")
    what = f"{kind.replace('_', ' ')} {_ROOMS.get(room, 'policy')}"
    data = str(as_dict(tokenizer.get("spec")).get("id") or "") or ", ".join(_sources(recipe))
    return " on ".join(word for word in (kind and what, data) if word)


def _sources(recipe: Facts) -> list[str]:
    entries = [as_dict(s) for s in as_list(as_dict(recipe.get("data")).get("sources"))]
    return [str(s.get("id") or s.get("path") or s.get("env") or s.get("kind")) for s in entries]


def headline(targets: Sequence[Facts], asked: bool) -> dict[str, str] | None:
    """The number on top: the target that got most, normalised where there is a reference."""
    if not targets:
        return None
    best = max(targets, key=lambda t: float(t["mean"]))
    mean, low_high = number(float(best["mean"])), _interval(best)
    over = f" over {best['episodes']:,} episodes" if isinstance(best.get("episodes"), int) else ""
    words = [f"Asked for {number(float(best['target']))}, it got" if finite(best.get("target")) else "It got"]
    words.append(f"{mean} on average{over}" + (f" (95 % interval {low_high})" if low_high else "") + ".")
    if asked and len(targets) > 1:
        words.append(f"The best of {len(targets)} targets.")
    if finite(best.get("normalized")):
        return {"number": f"{float(best['normalized']):.1f}", "unit": "normalised score", "sentence": " ".join(words)}
    return {"number": mean, "unit": "mean return", "sentence": " ".join(words)}


def tiles(report: Facts, rows: Sequence[Facts], correlation: float | None, parameters: int | None) -> list[tuple[str, str]]:
    seconds, steps = _seconds(rows), plots.series(rows, "loss")[0]
    found = [
        ("rank correlation", f"{correlation:.2f}" if correlation is not None else ""),
        ("trained for", _spell(seconds) if seconds else ""),
        ("steps", number(steps[-1]) if len(steps) else ""),
        ("parameters", number(_three_digits(parameters)) if parameters else ""),
        ("played per second", f"{number(round(speed))} steps" if finite(speed := report.get("env_steps_per_second")) else ""),
    ]
    return [(key, value) for key, value in found if value and value != "–"]


def sweep_says(asked: bool, correlation: float | None, data_range: tuple[float, float] | None) -> str:
    said = []
    if correlation is not None:
        how = "brings more" if correlation >= 0.9 else "mostly brings more" if correlation >= 0.5 else "does not bring more"
        said.append(f"Rank correlation {correlation:.2f}: asking for more {how}.")
    elif not asked:
        said.append("This policy takes no target return.")
    if data_range:
        said.append(f"Shaded: the returns of the training episodes, {number(data_range[0])} to {number(data_range[1])}.")
    return " ".join(said)


def sweep_spoken(targets: Sequence[Facts]) -> str:
    """The figure in words, for those who cannot see it."""
    each = (f"asked {_target(t)}, got {number(float(t['mean']))}" for t in targets if finite(t.get("target")))
    return "Return asked for against return got: " + "; ".join(each) if targets else ""


def score_rows(targets: Sequence[Facts], asked: bool) -> list[dict[str, Any]]:
    means = [float(t["mean"]) for t in targets]
    top = max(means, default=0.0)
    # One precision for the whole table, so that its columns can be read down.
    largest = max((abs(m) for m in means), default=0)
    digits = 0 if largest >= 1000 else 1 if largest > 1 else 2

    def said(*values: Any) -> str:
        return " to ".join(f"{float(v):,.{digits}f}" for v in values) if values and all(map(finite, values)) else "–"

    return [
        {
            "target": _target(t) if asked else "this one",
            "mean": said(mean),
            "std": said(t.get("std")),
            "ci": said(*as_list(t.get("ci95"))),
            "iqm": said(t.get("iqm")),
            "normalised": f"{float(t['normalized']):.1f}" if finite(t.get("normalized")) else "–",
            "solved": f"{float(t['solved']):.0%}" if finite(t.get("solved")) else "–",
            "episodes": t.get("episodes", "–"),
            "share": f"{100 * max(0.0, mean) / top:.1f}" if top > 0 else "0",
            "best": mean == top and len(targets) > 1,
        }
        for t, mean in zip(targets, means, strict=True)
    ]


def scores_say(report: Facts) -> str:
    where = f" in {report['env']}" if report.get("env") else ""
    how = f", {report['mode']} mode" if report.get("mode") else ""
    seed = f", seed {report['seed']}" if report.get("seed") is not None else ""
    iqm = "IQM is the mean of the middle half of the episodes, which a few lucky ones cannot bend."
    return f"Undiscounted returns{where}{how}{seed}. {iqm}"


def verdicts(targets: Sequence[Facts], why: str) -> list[dict[str, str]]:
    """In words: what a normalised score was measured with, and whether it may stand beside others."""
    said: dict[tuple[str, bool], None] = {}
    for t in targets:
        said[(str(t.get("reference") or "none"), bool(t.get("comparable")))] = None
    lines = []
    for reference, comparable in said:
        if reference == "none":
            words = f"Not normalised: {why or 'there are no reference scores for this environment'}."
            lines.append({"kind": "no", "words": words})
            continue
        normalised = f"Normalised so that 0 is a random policy and 100 the expert. Reference: {reference}."
        verdict = ("May" if comparable else "May not") + " stand beside the scores in D4RL papers"
        lines.append({"kind": "yes", "words": normalised})
        lines.append({"kind": "yes" if comparable else "no", "words": verdict + (f": {why}." if why else ".")})
    return lines


def training_says(recipe: Facts, rows: Sequence[Facts]) -> str:
    (steps, loss), (_, held_out) = plots.series(rows, "loss"), plots.series(rows, "val/loss")
    if not len(steps):
        return ""
    batch, pack = as_dict(recipe.get("train")).get("batch"), as_dict(recipe.get("tokens")).get("pack")
    unit = f"rows of {pack:,} tokens" if isinstance(pack, int) else "windows"
    words = f"{steps[-1]:,.0f} steps" + (f" of {batch:,} {unit}" if isinstance(batch, int) else "")
    seconds = _seconds(rows)
    words += f" in {_spell(seconds)} ({number(steps[-1] / seconds)} steps per second)" if seconds else ""
    course = f"fell from {number(loss[0])} to" if loss[-1] < loss[0] else "ended at"
    words += f". The loss {course} {number(loss[-1])}"
    return words + (f"; on held-out episodes it is {number(held_out[-1])}." if len(held_out) else ".")


def run_path(run: Path) -> str:
    """Where a reader would have the run: ``runs/<name>``, ready for a shell; not where it happened to lie."""
    return shlex.quote(str(Path("runs") / run.resolve().name))


def commands(run: Path, targets: Sequence[Facts], report: Facts, kind: str = "") -> str:
    """What to type to have all this again.

    Args:
        kind: of the model; what does not act is not evaluated in an environment.
    """
    folder = run_path(run)
    train = f"seqrl train recipe.yaml --out {folder}"
    if kind.partition(".")[0] in _ROOMS:
        return f"{train}\nseqrl dream {folder} --gif dream.gif" if kind.startswith("worlds.") else train
    evaluate = f"seqrl eval {folder}"
    if asked := [f"{float(t['target']):g}" for t in targets if finite(t.get("target"))]:
        evaluate += f" --targets {','.join(asked)}"
    for flag, value in (("episodes", targets[0].get("episodes") if targets else None), ("seed", report.get("seed"))):
        evaluate += f" --{flag} {value}" if isinstance(value, int) else ""
    evaluate += f" --mode {report['mode']}" if report.get("mode") in ("exact", "cached") else ""
    return f"{train}\n{evaluate}"


def facts(recipe: Facts, tokenizer: Facts, kept: Facts, report: Facts, parameters: int | None) -> list[tuple[str, str]]:
    spec, tokens = as_dict(tokenizer.get("spec")), as_dict(recipe.get("tokens"))
    found = [
        ("data", str(spec.get("id") or ", ".join(_sources(recipe)))),
        ("environment", str(report.get("env") or as_dict(spec.get("env")).get("id") or "")),
        ("layout", f"{tokens['layout']}, {tokens.get('context', '?')} steps in a window" if tokens.get("layout") else ""),
        ("model", str(as_dict(recipe.get("model")).get("kind") or "") + (f", {parameters:,} parameters" if parameters else "")),
        ("checkpoint", f"step {kept['step']:,}" if isinstance(kept.get("step"), int) else ""),
        ("versions", ", ".join(f"{k} {v}" for k, v in as_dict(report.get("versions")).items())),
        ("commit", str(report.get("commit") or "")),
    ]
    return [(key, value) for key, value in found if value]


def correlation(targets: Sequence[Facts]) -> float | None:
    pairs = [(float(t["target"]), float(t["mean"])) for t in targets if finite(t.get("target"))]
    if len(pairs) < 3:
        return None
    found = rank_correlation(*(np.array(side) for side in zip(*pairs, strict=True)))
    return found if np.isfinite(found) else None


def _seconds(rows: Sequence[Facts]) -> float:
    """Seconds spent in training steps: each line's steps over its rate."""
    at, rate = plots.series(rows, "steps_per_second")
    return float((np.diff(at, prepend=0.0)[rate > 0] / rate[rate > 0]).sum()) if len(at) else 0.0


def _three_digits(n: int) -> int:
    """A large count, rounded so that it is said in few letters: 363,074 is ``363k``."""
    return round(n, -3) if n >= 100_000 else round(n, -2) if n >= 10_000 else n


def _target(t: Facts) -> str:
    return number(float(t["target"])) if finite(t.get("target")) else "–"


def _interval(t: Facts) -> str:
    ci = as_list(t.get("ci95"))
    return f"{number(float(ci[0]))} to {number(float(ci[1]))}" if len(ci) == 2 and all(map(finite, ci)) else ""


def _spell(seconds: float) -> str:
    s = round(seconds)
    if s < 90:
        return f"{s} s"
    return f"{s / 60:.0f} min" if s < 5400 else f"{s / 3600:.1f} h"
