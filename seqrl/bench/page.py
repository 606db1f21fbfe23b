"""The page of a suite: one HTML file with the table, both pictures and the protocol inside, that loads nothing from anywhere.

Every word from the suite and from the runs is escaped, because both may come from a stranger.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from seqrl.bench import pictures, table
from seqrl.bench.plan import Suite
from seqrl.bench.results import Results
from seqrl.core import shelf
from seqrl.report.ink import svg


def page(suite: Suite, results: Results, protocol: Sequence[str], failed: dict[str, str]) -> str:
    """The whole file."""
    room = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    scores, profiles = pictures.scores(results), pictures.profiles(results)
    return room.get_template("page.html").render(
        name=suite.config.name,
        about=suite.config.about,
        when=time.strftime("%Y-%m-%d"),
        tiles=_tiles(results),
        groups=_groups(results),
        wholes=_wholes(results),
        methods=[(n, m.about, m.recipe, pictures.colour(results, n)) for n, m in suite.config.methods.items()],
        scores=Markup(svg(scores, "scores", "Scores of every method on every dataset, with intervals")) if scores else "",
        profiles=Markup(svg(profiles, "profiles", "Performance profiles")) if profiles else "",
        published=bool(suite.config.published),
        legend=table.legend(results),
        protocol=protocol,
        failed=list(failed.items()),
        command=f"seqrl bench {suite.path.stem if suite.path.parent == shelf.folder('recipes/suites') else suite.path.name}",
        suite=suite.path.read_text(encoding="utf-8", errors="replace"),
    )


def _tiles(results: Results) -> list[tuple[str, str]]:
    runs = results.runs
    said = [("methods", str(len({r.method for r in runs}))), ("datasets", str(len({r.dataset for r in runs})))]
    said += [("runs", f"{len(runs):,}"), ("episodes", f"{sum(len(r.returns) for r in runs):,}")]
    return said


def _groups(results: Results) -> list[dict[str, Any]]:
    """The table, dataset by dataset; the method with the highest IQM is marked, and so are those whose interval reaches it."""
    made = []
    for dataset in dict.fromkeys(r.dataset for r in results.rows):
        rows = [r for r in results.rows if r.dataset == dataset]
        best = max(rows, key=lambda r: r.iqm)
        lines = [
            {
                "words": table.cells(results, r)[1:-1],
                "beside": table.beside(results, r.method, dataset),
                "best": r is best,
                "near": r.ci[1] >= best.ci[0],
                "ink": pictures.colour(results, r.method),
            }
            for r in rows
        ]
        made.append({"dataset": dataset, "rows": lines, "why": "" if best.comparable else best.runs[0].why})
    return made


def _wholes(results: Results) -> list[dict[str, Any]]:
    return [
        {
            "method": w.method,
            "mean": table.one(w.mean),
            "iqm": table.one(w.iqm),
            "ci": table.interval(w.ci),
            "runs": sum(len(t) for t in w.tasks.values()),
            "on": len(w.tasks),
            "missing": w.missing,
            "ink": pictures.colour(results, w.method),
        }
        for w in results.wholes
    ]
