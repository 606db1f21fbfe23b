"""The table of a fidelity: every measure by steps ahead, the dream above its two baselines, and the rest in a few lines."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from seqrl.rollout.fidelity import Fidelity

_NAMES = {"model": "dream", "copy": "copy last", "marginal": "marginal"}
_PLAIN = {"highlight": False, "markup": False, "soft_wrap": True}


def print_fidelity(found: "Fidelity", domain: str = "") -> None:
    """Prints what ``rollout.fidelity.measure`` found; a dream's number is green where it beats both baselines."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    if not console.is_terminal:
        console = Console(width=max(console.width, 160))
    how = f"{found.context} steps observed, {found.horizon} imagined ({'drawn' if found.sample else 'the likeliest'})"
    where = f"{f'{domain}: ' if domain else ''}{found.data}, {found.episodes} held-out episodes, {found.starts} starts"
    table = Table(title=f"{where}\n{how}, seed {found.seed}", title_justify="left")
    for name in ("slot", "measure", "who"):
        table.add_column(name)
    for h in found.horizons:
        table.add_column(f"{h}", justify="right")
    before = ""
    for slot, of in found.errors.items():
        for measure, who in of.items():
            for name in _NAMES:
                cells = [Text(_said(v)) for v in who[name]]
                if name == "model":
                    cells = [Text(_said(v), style=_style(measure, who, i)) for i, v in enumerate(who[name])]
                first = (slot if slot != before else "", measure) if name == "model" else ("", "")
                table.add_row(*first, _NAMES[name], *cells, end_section=name == "marginal")
                before = slot
    table.add_row("excerpts", "", "", *(f"{n:,}" for n in found.windows))
    console.print(table)
    _lines(console, found)


def _style(measure: str, who: Any, i: int) -> str:
    from seqrl.rollout.compare import LESS_IS_MORE

    sign = -1 if measure in LESS_IS_MORE else 1
    mine, others = who["model"][i], [who[n][i] for n in ("copy", "marginal") if who[n][i] is not None]
    if mine is None or not others:
        return ""
    return "green" if all(sign * mine > sign * o for o in others) else "yellow"


def _lines(console: "Console", found: "Fidelity") -> None:
    def say(words: str, style: str = "") -> None:
        console.print(words, style=style or None, **_PLAIN)

    for name, of in (("reward", found.reward), ("ends", found.done)):
        for when, words in (("one_step", "one step ahead"), ("open_loop", f"within {found.horizon} steps")):
            say(f"{name:<9}{words:<17}{_told(of[when])}")
    for slot, c in found.control.items():
        if c["true"] is not None and c["other"] is not None:
            many = f"{c['horizon']} step{'s' if c['horizon'] > 1 else ''} ahead"
            words = f"{_said(c['true'])} under the right actions, {_said(c['other'])} under others'"
            say(f"{'actions':<9}{many:<17}{slot} {c['measure']} {words}")
    r, z = found.returns, found.latent
    alike = "" if r["correlation"] is None else f", correlation {r['correlation']:.2f}"
    say(f"{'return':<26}real {_said(r['real'])}, dream {_said(r['dream'])}, mean distance {_said(r['gap'])}{alike}")
    say(f"{'latent':<26}varies in {z['effective_rank']:.1f} of {z['width']} directions, deviation {z['std']:.3g}")
    if found.missing:
        say(f"not reached: {', '.join(map(str, found.missing))} steps ahead", "dim")
    say(f"{found.steps_per_second:,.0f} imagined steps per second", "dim")


def _told(of: Any) -> str:
    """Precision and recall of events; of rewards that are numbers, how far off they are."""
    if "precision" not in of:
        r2 = "" if of["r2"] is None else f", r2 {of['r2']:.3f}"
        return f"off by {_said(of['rmse'])}{r2}"
    if not of["happened"]:
        return f"none happened, {of['told']:,} told"
    each = ", ".join(f"{k} {_said(of[k])}" for k in ("precision", "recall", "f1"))
    return f"{each} ({of['happened']:,} happened)"


def _said(x: float | None) -> str:
    if x is None:
        return "–"
    return f"{x:.3f}" if abs(x) < 10 else f"{x:.1f}" if abs(x) < 1e4 else f"{x:,.0f}"
