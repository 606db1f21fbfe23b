"""The report of a run: one static HTML file that says what was trained, on what, how well it plays or dreams, and how to do it
again.

``write_report`` reads the run folder and nothing else, and leaves out what is not there: a run that was never evaluated has
a report too. Pictures are inside the file, nothing is loaded from anywhere. Every word from the folder is escaped, because
a run may come from a stranger.
"""

import os
import re
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape
from matplotlib.figure import Figure

from seqrl.report import dream, folder, overview, plots, words
from seqrl.report.clean import clean
from seqrl.report.ink import svg
from seqrl.report.plots import finite
from seqrl.report.stream import CSS


def write_report(run: Path) -> Path:
    """Writes ``report.html`` into a run folder, whole or not at all.

    Args:
        run: the folder; of ``recipe.yaml, metrics.jsonl, eval.json, clip.gif, dream.json, dream.gif, reconstruction.json,
            reconstruction.png, stream.html`` (of domains ``clip-<domain>.gif, dream-<domain>.gif, stream-<domain>.html``) and
            ``checkpoints/last/bundle``, each may be missing.

    Returns:
        the path of the page.
    """
    room = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = run / "report.html"
    part = page.with_suffix(".part")
    part.write_text(room.get_template("page.html").render(gather(run)), encoding="utf-8")
    os.replace(part, page)
    return page


def gather(run: Path) -> dict[str, Any]:
    """Everything the template says, from the files of a run folder."""
    bundle = run / "checkpoints" / "last" / "bundle"
    recipe, rows = folder.read_yaml(run / "recipe.yaml"), folder.read_lines(run / "metrics.jsonl")
    tokenizer, kept = folder.read_json(bundle / "tokenizer.json"), folder.read_json(bundle / "metrics.json")
    report = folder.read_json(run / "eval.json")
    parameters = folder.count_parameters(bundle / "model.safetensors")
    kind = str(folder.as_dict(recipe.get("model")).get("kind") or "")
    dreams = dream.fidelities(folder.read_json(run / "dream.json"))
    shared = {
        "name": str(recipe.get("name") or run.resolve().name),
        "run": words.run_path(run),
        "when": folder.date_of(run),
        "curves": _drawn(plots.curves(rows), "curves", "Loss against training step"),
        "training_says": words.training_says(recipe, rows),
        "stream_css": Markup(CSS),
        "recipe": _coloured(folder.read_text(run / "recipe.yaml")),
        "parts": [],
        "room": kind.partition(".")[0],
        "dreams": [_dreamt(name, found, i) for i, (name, found) in enumerate(dreams.items())],
        "came_back": _came_back(run),
    }
    reports = overview.reports_of(report)
    if reports is None and isinstance(tokenizer.get("domains"), dict):
        reports = {}
    if reports is not None:
        return shared | _several(run, recipe, rows, tokenizer, kept, reports, parameters)
    part = _part(run, report, rows, tokenizer)
    if "" in dreams and not part["played"]:
        part["head"] = dream.headline(dreams[""])
    return (
        shared
        | part
        | {
            "what": words.subject(recipe, tokenizer),
            "tiles": words.tiles(report, rows, part["correlation"], parameters),
            "scores_say": words.scores_say(report),
            "commands": words.commands(run, part["targets"], report, kind),
            "facts": words.facts(recipe, tokenizer, kept, report, parameters),
        }
    )


def _several(
    run: Path, recipe: Any, rows: Any, mixture: Any, kept: Any, reports: Any, parameters: int | None
) -> dict[str, Any]:
    """A model of several domains: a table of all of them, and a part for each."""
    tokenizers = {str(n): folder.as_dict(t) for n, t in folder.as_dict(mixture.get("domains")).items()}
    names, common = list(dict.fromkeys((*reports, *tokenizers))), overview.together(reports)
    table = overview.score_rows(reports)
    return {
        "what": overview.subject(recipe, names),
        "head": None,
        "played": bool(reports),
        "clip": None,
        "sweep": "",
        "progress": "",
        "stream": "",
        "asked": any(row.get("target", "–") != "–" for row in table),
        "rows": table,
        "normalised": any(row.get("normalised", "–") != "–" for row in table),
        "solved": any(row.get("solved", "–") != "–" for row in table),
        "scores_say": overview.says(reports),
        "verdicts": [],
        "tiles": words.tiles(common, rows, None, parameters),
        "commands": words.commands(run, overview.episodes(reports), common),
        "facts": overview.facts(recipe, mixture, kept, reports, parameters),
        "parts": [_part(run, reports.get(n, {}), rows, tokenizers.get(n, {}), n, i) for i, n in enumerate(names)],
    }


def _part(run: Path, report: Any, rows: Any, tokenizer: Any, domain: str = "", number: int = 0) -> dict[str, Any]:
    """What is said of one policy: all of a plain run, or one of several domains.

    Args:
        domain: its name, "" for a plain run. number: of the domain, so that its figures have names of their own.
    """
    targets = words.targets_of(report)
    asked = any(finite(t.get("target")) for t in targets)
    seen = folder.as_dict(tokenizer.get("returns"))
    data_range = (float(seen["min"]), float(seen["max"])) if finite(seen.get("min")) and finite(seen.get("max")) else None
    correlation = words.correlation(targets)
    figure = f"{number}" if domain else ""
    played = f"One episode in {report['env']}." if report.get("env") else "One episode of the trained policy."
    clip, dreamt = (folder.read_clip(folder.beside(run / name, domain)) for name in ("clip.gif", "dream.gif"))
    return {
        "domain": domain,
        "targets": targets,
        "correlation": correlation,
        "environment": str(report.get("env") or ""),
        "failed": str(report.get("failed") or ""),
        "played": bool(targets),
        "head": words.headline(targets, asked),
        "clip": clip or dreamt,
        "clip_says": _CLIP_SAYS if dreamt and not clip else played,
        "sweep": _drawn(plots.sweep(targets, data_range), f"sweep{figure}", words.sweep_spoken(targets)),
        "sweep_says": words.sweep_says(asked, correlation, data_range),
        "rows": words.score_rows(targets, asked),
        "asked": asked,
        "normalised": any(finite(t.get("normalized")) for t in targets),
        "solved": any(finite(t.get("solved")) for t in targets),
        "verdicts": words.verdicts(targets, str(report.get("why") or "")),
        "progress": _drawn(plots.progress(rows, domain), f"progress{figure}", "Mean return against training step"),
        "stream": Markup(clean(folder.read_text(folder.beside(run / "stream.html", domain)))),
    }


_CLIP_SAYS = "A dream beside what really came, on an episode kept out of training."


def _dreamt(domain: str, found: Any, number: int) -> dict[str, Any]:
    """What is said of a world's dreams: all of a plain run, or those of one of several domains."""
    return {
        "domain": domain,
        "says": dream.says(found),
        "curve": _drawn(dream.curve(found), f"dream{number}", dream.spoken(found)),
        "facts": dream.facts(found),
    }


def _came_back(run: Path) -> dict[str, Any] | None:
    """What is said of an encoder; None where nothing was reconstructed."""
    found, picture = folder.read_json(run / "reconstruction.json"), folder.read_png(run / "reconstruction.png")
    numbers = [(k.replace("_", " "), f"{float(v):.4g}") for k, v in found.items() if finite(v)]
    return {"picture": picture, "facts": numbers} if picture else None


def _drawn(figure: Figure | None, name: str, spoken: str) -> Markup:
    return Markup(svg(figure, name, spoken)) if figure else Markup("")


def _coloured(words: str) -> Markup:
    """YAML with its keys and comments marked, everything escaped."""
    lines = []
    for line in words.splitlines():
        bare, hash_, comment = line.partition("#") if re.match(r"\s*#|[^'\"]*\s#", line) else (line, "", "")
        said = Markup("{}").format(bare)
        if found := re.fullmatch(r"(\s*(?:- )*)([\w./-]+)(:(?:\s.*)?)", bare):
            said = Markup('{}<span class="k">{}</span>{}').format(*found.groups())
        lines.append(said + (Markup('<span class="c">{}</span>').format(hash_ + comment) if hash_ else escape("")))
    return Markup("\n").join(lines)
