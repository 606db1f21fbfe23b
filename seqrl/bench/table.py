"""The table of a suite as text: Markdown for a document, CSV for a spreadsheet, JSON for a program.

Figures of papers stand beside ours with a mark: ``=`` may be compared, ``≠`` may not, and under the table it says why. They may
only where both sides say so: the entry in the suite, and the reference scores of our own evaluation.
"""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from seqrl.bench.plan import Suite
from seqrl.bench.results import Results, Row

ALIKE, OTHER = "=", "≠"


@dataclass(frozen=True)
class Beside:
    """A published figure beside one of ours.

    Args:
        name: whose. score, sd: as published. mark: ``=`` or ``≠``. why: why it may not be compared; "" where it may.
    """

    name: str
    score: float
    sd: float | None
    mark: str
    why: str

    def __str__(self) -> str:
        return f"{spread(self.score, self.sd)} {self.mark} {self.name}"


def beside(results: Results, method: str, dataset: str) -> list[Beside]:
    """The published figures of a method on a dataset."""
    row, found = results.row(method, dataset), []
    for entry in results.suite.published:
        figure = entry.scores.get(method, {}).get(dataset)
        if figure:
            ours = next((r.why for r in row.runs if not r.comparable), "") if row else ""
            why = entry.why if not entry.comparable else ours
            sd = figure[1] if len(figure) > 1 else None
            found.append(Beside(entry.name, figure[0], sd, OTHER if why else ALIKE, why))
    return found


def one(x: float) -> str:
    """A score, to one place behind the point."""
    return f"{x:,.1f}"


def spread(mean: float, sd: float | None) -> str:
    return one(mean) if sd is None else f"{one(mean)} ± {one(sd)}"


def interval(ci: tuple[float, float] | None) -> str:
    return "–" if ci is None else f"{one(ci[0])} to {one(ci[1])}"


def unit(row: Row) -> str:
    return "" if row.normalised else " (return)"


def seeds(results: Results, row: Row) -> str:
    """How many runs there are, and of how many where some are missing."""
    wanted = len(results.suite.seeds)
    return str(len(row.runs)) if len(row.runs) == wanted else f"{len(row.runs)} of {wanted}"


# The last column is for suites that name published figures.
HEAD = ("dataset", "method", "mean ± sd", "IQM", "95 % interval", "asked", "seeds", "published")


def cells(results: Results, row: Row) -> tuple[str, ...]:
    """One row of the table, as words."""
    asked = {r.target for r in row.runs} - {None}
    return (
        row.dataset,
        row.method,
        spread(row.mean, row.sd) + unit(row),
        one(row.iqm),
        interval(row.ci),
        ", ".join(f"{t:g}" for t in sorted(asked)) or "–",
        seeds(results, row),
        "; ".join(map(str, beside(results, row.method, row.dataset))) or "–",
    )


def _line(words: Sequence[str]) -> str:
    return "| " + " | ".join(w.replace("|", "\\|").replace("\n", " ") for w in words) + " |"


def markdown(suite: Suite, results: Results, protocol: Sequence[str], failed: dict[str, str]) -> str:
    """The whole page in Markdown."""
    config = suite.config
    out = [f"# {config.name}", ""] + ([config.about, ""] if config.about else [])
    wide = len(HEAD) if config.published else len(HEAD) - 1
    out += [_line(HEAD[:wide]), "|" + "|".join(("---", "---", *["---:"] * 5, "---")[:wide]) + "|"]
    out += [_line(cells(results, row)[:wide]) for row in results.rows]
    if results.wholes:
        number = len(results.wholes[0].tasks)
        out += ["", f"Over the {number} datasets on which every method has a normalised score:", ""]
        out += [_line(("method", "mean", "IQM", "95 % interval", "runs")), "|---|---:|---:|---:|---:|"]
        for w in results.wholes:
            runs = sum(len(t) for t in w.tasks.values())
            out.append(_line((w.method, one(w.mean), one(w.iqm), interval(w.ci), str(runs))))
    out += [""] + [f"- {name}: {m.about}" for name, m in config.methods.items() if m.about]
    out += ["", *(line for said in protocol for line in (said, ""))]
    out += [f"- {line}" for line in legend(results)]
    if failed:
        out += ["", "Missing:", ""] + [f"- {label}: {why.splitlines()[0]}" for label, why in failed.items()]
    return "\n".join(out).rstrip() + "\n"


def legend(results: Results) -> list[str]:
    """Whose the published figures are, and what their marks mean."""
    if not results.suite.published:
        return []
    said = []
    for entry in results.suite.published:
        marks = {
            b.mark: b.why for m in entry.scores for d in entry.scores[m] for b in beside(results, m, d) if b.name == entry.name
        }
        told = "; ".join(f"{OTHER} not to be compared: {marks[OTHER]}" if m == OTHER else f"{ALIKE} comparable" for m in marks)
        said.append(f"{entry.name}: {entry.source}. {told}.")
    return said


def as_csv(results: Results) -> str:
    """A line a run, in plain numbers, so that anybody can count again."""
    sink = io.StringIO()
    write = csv.writer(sink, lineterminator="\n")
    head = [
        "method",
        "dataset",
        "seed",
        "target",
        "score",
        "normalised",
        "mean_return",
        "episodes",
        "comparable",
        "env",
        "seconds",
        "cpu_seconds",
        "cell",
    ]
    write.writerow(head)
    for r in results.runs:
        facts = (r.score, int(r.normalised), r.returns.mean(), len(r.returns), int(r.comparable), r.env)
        write.writerow((r.method, r.dataset, r.seed, r.target, *facts, r.seconds, r.cpu, r.cell))
    return sink.getvalue()


def as_json(suite: Suite, results: Results, protocol: Sequence[str], failed: dict[str, str]) -> str:
    """Everything, for programs."""
    rows: list[dict[str, Any]] = []
    for row in results.rows:
        published = [
            {"name": b.name, "score": b.score, "sd": b.sd, "comparable": b.mark == ALIKE, "why": b.why}
            for b in beside(results, row.method, row.dataset)
        ]
        facts = {"mean": row.mean, "sd": row.sd, "iqm": row.iqm, "ci95": list(row.ci), "normalised": row.normalised}
        runs = [
            {
                "seed": r.seed,
                "score": r.score,
                "return": float(r.returns.mean()),
                "target": r.target,
                "episodes": len(r.returns),
                "reference": r.reference,
                "comparable": r.comparable,
                "why": r.why,
                "seconds": r.seconds,
                "cpu_seconds": r.cpu,
                "cell": r.cell,
                "commit": r.commit,
                "versions": dict(r.versions),
            }
            for r in row.runs
        ]
        rows.append({"method": row.method, "dataset": row.dataset, **facts, "published": published, "runs": runs})
    wholes = [
        {"method": w.method, "mean": w.mean, "iqm": w.iqm, "ci95": w.ci and list(w.ci), "datasets": list(w.tasks)}
        for w in results.wholes
    ]
    found = {"suite": suite.config.model_dump(mode="json"), "rows": rows, "together": wholes}
    found |= {"protocol": list(protocol), "failed": failed}
    return json.dumps(found, indent=1, ensure_ascii=False) + "\n"
