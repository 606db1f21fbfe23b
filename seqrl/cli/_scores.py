"""The table of an evaluation: a row for each domain and target, and under it what the normalised scores mean."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from seqrl.rollout.evaluate import Report
    from seqrl.rollout.result import TargetResult

COLUMNS = ("domain", "environment", "target", "episodes", "mean", "± sd", "IQM", "95 % interval", "normalised", "solved")
# Where a screen is too narrow these are left out, one after the other; the JSON and the page have them all.
_SPARE = ("IQM", "± sd", "environment", "episodes")


def print_reports(reports: Mapping[str, "Report"]) -> None:
    """Prints what ``evaluate_all`` found.

    Columns that say nothing are left out: of a plain model domain and environment (which is in the title), of several
    domains those that none of them has, and ``solved`` wherever rewards do not tell it.
    """
    from rich.console import Console

    several, first = "" not in reports, next(iter(reports.values()))
    cells = [row for name, report in reports.items() for row in _rows(name, report)]
    always = {"environment", *COLUMNS[3:8]} if several else set(COLUMNS[2:-1])
    always |= {"domain"} if len(reports) > 1 else set()
    shown = [n for n in COLUMNS if n in always or (n not in COLUMNS[:2] and any(row[n] not in ("–", "") for row in cells))]
    alike = len({(r.seed, r.mode) for r in reports.values()}) == 1
    title = ", ".join(([] if several else [first.env]) + ([f"seed {first.seed}, {first.mode}"] if alike else []))
    console = Console()
    # Into a pipe there is no screen to be too narrow for.
    wide = Console(width=500)
    for spare in ("", *_SPARE):
        table = _table(title, [n for n in shown if n != spare], cells)
        shown = [n for n in shown if n != spare]
        need = wide.measure(table).maximum
        if need <= console.width or not console.is_terminal:
            break
    if not console.is_terminal:
        console = Console(width=max(need, console.width))
    console.print(table)
    _explain(console, reports)


def _table(title: str, columns: list[str], cells: list[dict[str, str]]) -> "Table":
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for name in columns:
        table.add_column(name, justify="left" if name in COLUMNS[:2] else "right")
    for row in cells:
        table.add_row(*(row[name] for name in columns))
    return table


def _rows(name: str, report: "Report") -> list[dict[str, str]]:
    """One report as rows of the table, column -> words."""
    where = {"domain": name, "environment": report.env or "–"}
    if report.failed:
        return [dict.fromkeys(COLUMNS, "") | where | {"episodes": "not played"}]
    # Said once is read better than said at every target.
    return [(where if i == 0 else dict.fromkeys(where, "")) | _numbers(t) for i, t in enumerate(report.targets)]


def _numbers(t: "TargetResult") -> dict[str, str]:
    return {
        "target": "–" if t.target is None else f"{t.target:g}",
        "episodes": str(t.episodes),
        "mean": _said(t.mean),
        "± sd": _said(t.std),
        "IQM": _said(t.iqm),
        "95 % interval": f"{_said(t.ci95[0])} to {_said(t.ci95[1])}",
        "normalised": "–" if t.normalized is None else f"{t.normalized:.1f}",
        "solved": "–" if t.solved is None else f"{t.solved:.0%}",
    }


def _said(x: float) -> str:
    # Rewards for reaching a goal lie between 0 and 1, where one digit would say nothing.
    return f"{x:.1f}" if abs(x) >= 10 or x == 0 else f"{x:.2f}"


_PLAIN = {"highlight": False, "markup": False, "soft_wrap": True}


def _explain(console: "Console", reports: Mapping[str, "Report"]) -> None:
    said: dict[str, list[str]] = {}
    for name, report in reports.items():
        if report.failed:
            console.print(f"{name} was not played: {report.failed}", style="yellow", **_PLAIN)
        elif report.targets and (one := report.targets[0]).normalized is not None:
            verdict = "may" if one.comparable else "not to"
            said.setdefault(f"normalised: reference {one.reference}", []).append(name)
            said.setdefault(f"{verdict} be compared with D4RL papers' tables: {report.why}", []).append(name)
    for words, names in said.items():
        console.print(f"{', '.join(names)}: {words}" if len(reports) > 1 else words, style="dim", **_PLAIN)
    steps = [sum(t.length * t.episodes for t in r.targets) for r in reports.values()]
    seconds = sum(n / max(r.env_steps_per_second, 1e-9) for n, r in zip(steps, reports.values(), strict=True))
    console.print(f"{sum(steps) / max(seconds, 1e-9):,.0f} environment steps per second", style="dim", **_PLAIN)
