"""What a report says of a model of several domains: one table of all of them, and what they have in common, in words.

A plain run is told by ``words`` alone. Facts come from files and are not trusted to be complete; nothing here knows of HTML.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from seqrl.report import words
from seqrl.report.folder import as_dict
from seqrl.report.plots import finite

Facts = Mapping[str, Any]


def reports_of(found: Facts) -> dict[str, Facts] | None:
    """domain -> its part of eval.json; None where the file is a plain model's, or none."""
    domains = found.get("domains")
    return {str(name): as_dict(part) for name, part in domains.items()} if isinstance(domains, dict) else None


def score_rows(reports: Mapping[str, Facts]) -> list[dict[str, Any]]:
    """The rows of the table of all domains; one that was not played has one row, which says why."""
    rows: list[dict[str, Any]] = []
    for name, report in reports.items():
        targets = words.targets_of(report)
        asked = any(finite(t.get("target")) for t in targets)
        about = {"domain": name, "environment": str(report.get("env") or ""), "failed": ""}
        blank = about | {"domain": "", "environment": ""}
        if not targets:
            rows.append(about | {"failed": f"Not played: {report.get('failed') or 'no scores were kept'}"})
        for i, row in enumerate(words.score_rows(targets, asked)):
            rows.append((blank if i else about) | row | {"target": row["target"] if asked else "–"})
    return rows


def subject(recipe: Facts, domains: Sequence[str]) -> str:
    kind = str(as_dict(recipe.get("model")).get("kind") or "").rpartition(".")[2].replace("_", " ")
    joined = " and ".join(", ".join(part) for part in (domains[:-1], domains[-1:]) if part)
    count = f"{len(domains)} domains: " if len(domains) > 1 else ""
    return f"{kind and f'{kind} model of '}{count}{joined}"


def says(reports: Mapping[str, Facts]) -> str:
    common = together(reports)
    how = "".join(f", {word}{common[key]}" for key, word in (("mode", ""), ("seed", "seed ")) if common.get(key) is not None)
    how = how.replace(", cached", ", cached mode").replace(", exact", ", exact mode")
    iqm = "IQM is the mean of the middle half of the episodes, which a few lucky ones cannot bend."
    return f"Undiscounted returns, each in the unit of its own environment{how}. {iqm}"


def together(reports: Mapping[str, Facts]) -> dict[str, Any]:
    """What all played domains agree on: mode, seed, versions, commit; and the speed over all of them."""
    played = [r for r in reports.values() if words.targets_of(r)]
    common = {k: played[0].get(k) for k in ("mode", "seed", "versions", "commit") if played and _same(played, k)}
    steps, seconds = 0.0, 0.0
    for report in played:
        speed = report.get("env_steps_per_second")
        if finite(speed) and float(speed) > 0:
            mine = sum(float(t["length"]) * float(t["episodes"]) for t in words.targets_of(report) if _counted(t))
            steps, seconds = steps + mine, seconds + mine / float(speed)
    return common | ({"env_steps_per_second": steps / seconds} if seconds else {})


def episodes(reports: Mapping[str, Facts]) -> list[Facts]:
    """The targets of all domains where all were played equally often, else none: what a command line can say for all."""
    targets = [t for r in reports.values() for t in words.targets_of(r)]
    return [{"episodes": targets[0].get("episodes")}] if targets and _same(targets, "episodes") else []


def facts(
    recipe: Facts, mixture: Facts, kept: Facts, reports: Mapping[str, Facts], parameters: int | None
) -> list[tuple[str, str]]:
    """As ``words.facts``, with a line for each domain."""
    found = words.facts(recipe, {}, kept, together(reports), parameters)
    lines = []
    for name, part in as_dict(mixture.get("domains")).items():
        layout = as_dict(as_dict(part).get("config")).get("layout")
        data = as_dict(as_dict(part).get("spec")).get("id")
        lines.append((str(name), ", ".join(str(word) for word in (data, layout) if word)))
    return lines + [(key, value) for key, value in found if key != "layout" and (key != "data" or not lines)]


def _same(facts: Sequence[Facts], key: str) -> bool:
    return all(f.get(key) == facts[0].get(key) for f in facts)


def _counted(t: Facts) -> bool:
    return finite(t.get("length")) and finite(t.get("episodes"))
