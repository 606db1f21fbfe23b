"""What ``seqrl check --memory`` prints: what a device holds in each stage, what bounds its speed, the longest rows that fit."""

from typing import TYPE_CHECKING

from seqrl.core.errors import RecipeError

if TYPE_CHECKING:
    from seqrl.train.memory import MemoryPlan, StagePlan
    from seqrl.train.recipe import Recipe

_PARTS = ("weights", "gradients", "moments", "buffers", "layers", "ring", "work", "batch", "host")
_WORDS = {
    "weights": "weights",
    "gradients": "gradients",
    "moments": "AdamW's moments",
    "buffers": "gathered weights, buckets",
    "layers": "kept by layers",
    "ring": "keys under way",
    "work": "a layer or the scores at work",
    "batch": "the batch",
    "host": "in the host's memory",
}


def show_memory(recipe: "Recipe", device: str, processes: int | None) -> None:
    """Prints the plan of a recipe.

    Args:
        device: see ``train.devices.device``. processes: in place of the recipe's.

    Raises:
        RecipeError: a device, or a recipe, that cannot be planned.
    """
    from seqrl.train.devices import GIB
    from seqrl.train.devices import device as find

    # Before torch is loaded.
    found = find(device)
    from rich.console import Console
    from rich.text import Text

    from seqrl.train.memory import plan_memory

    plan = plan_memory(recipe, found, processes)
    # Stages stand side by side, and none is left out where that is wider than a terminal.
    facts, how = plan.facts, recipe.engine
    console = Console(highlight=False, width=max(Console().width, 32 + 14 * len(plan.stages)))
    frozen = "" if facts.trained == facts.weights else f", {_short(facts.trained)} trained"
    shared = f", {how.sequence} to a row ({how.layout})" if how.sequence > 1 else ""
    spared = "" if how.recompute == "none" else f", recompute {how.recompute}"
    console.print(Text(f"\nmemory  {plan.processes} x {found.name} of {found.memory / GIB:,.1f} GiB ({found.source})"))
    console.print(f"  model   {_short(facts.weights)} weights{frozen}, {facts.layers} layers of {facts.width:,}")
    console.print(f"  engine  {plan.kind if plan.processes > 1 else 'one process'}{shared}{spared}, {recipe.train.precision}\n")
    console.print(_memory_table(plan, GIB))
    console.print()
    console.print(_speed_table(plan))
    notes = [*plan.assumed, "a row is one document, which costs most; speeds are those of a device's own limits, never reached"]
    for note in (*notes, *_advice(plan)):
        console.print(Text(f"note: {note}", style="dim"), soft_wrap=True)


def _memory_table(plan: "MemoryPlan", unit: float) -> object:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    table.add_column("GiB a device", style="cyan", no_wrap=True)
    for stage in plan.stages:
        table.add_column(_words(stage.length), justify="right")
    for part in _PARTS:
        values = [getattr(s.need, part) / unit for s in plan.stages]
        if any(v >= 0.0005 for v in values):
            table.add_row(_WORDS[part], *(f"{v:,.2f}" for v in values))
    fits = [s.need.total <= plan.device.memory for s in plan.stages]
    styles = ["green" if ok else "red" for ok in fits]
    totals = [Text(f"{s.need.total / unit:,.2f}", style=t) for s, t in zip(plan.stages, styles, strict=True)]
    table.add_row(Text("at its fullest", style="bold"), *totals)
    table.add_row("fits", *(Text("yes" if ok else "NO", style=t) for ok, t in zip(fits, styles, strict=True)))
    table.add_row("longest row that fits", *(_words(s.longest) if s.longest else "none" for s in plan.stages))
    return table


def _speed_table(plan: "MemoryPlan") -> object:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    table.add_column("a step", style="cyan", no_wrap=True)
    for stage in plan.stages:
        table.add_column(_words(stage.length), justify="right")
    rows = {
        "rope base": lambda s: "-" if s.rope_base is None else f"{s.rope_base:g}",
        "rows, of all devices": lambda s: f"{s.batch:,}",
        "tokens, of all devices": lambda s: _short(s.speed.tokens),
        "tokens of a device's pass": lambda s: f"{s.share:,}",
        "arithmetic, s at least": lambda s: _seconds(s.speed.arithmetic),
        "keys by link, s": lambda s: _seconds(s.speed.ring),
        "weights by link, s": lambda s: _seconds(s.speed.weights),
        "tokens/s at most": lambda s: _short(s.speed.rate),
        "bound by": lambda s: s.speed.bound,
        "keys hidden from": _hidden,
        "steps": lambda s: f"{s.steps:,}",
        "tokens, of all steps": lambda s: _short(s.tokens),
        "hours at least": lambda s: f"{s.steps * s.speed.step / 3600:,.1f}",
    }
    for name, tell in rows.items():
        values = [tell(s) for s in plan.stages]
        if any(v != "-" for v in values):
            table.add_row(name, *values)
    return table


def _hidden(stage: "StagePlan") -> str:
    """The tokens of a device from which on attention takes longer than the keys of others do to come."""
    if not stage.speed.least:
        return "-"
    return f"{_words(round(stage.speed.least))} {'ok' if stage.share >= stage.speed.least else 'NO'}"


def _advice(plan: "MemoryPlan") -> list[str]:
    how, said = plan.recipe.engine, []
    if any(s.need.total > plan.device.memory for s in plan.stages):
        ways = []
        if how.recompute == "none":
            ways.append("engine.recompute=blocks")
        if how.chunk is None:
            ways.append("engine.chunk=4096")
        if plan.processes > 1 and plan.kind not in ("zero3", "fsdp"):
            ways.append("engine.kind=fsdp")
        ways.append("more processes to a row (engine.sequence) or in all (engine.processes), or train.accumulate")
        said.append(f"what does not fit may with {', '.join(ways)}")
    slow = [s for s in plan.stages if s.speed.least and s.share < s.speed.least]
    if slow:
        said.append("where keys are not hidden, fewer processes to a row (engine.sequence) wait less for each other")
    if plan.kind in ("zero2", "zero3"):
        said.append("DeepSpeed's own buffers (2 to 8 GB) are among 'gathered weights, buckets'")
    return said


def _words(tokens: int) -> str:
    """Tokens in thousands or millions of 1,024, as contexts are called."""
    for unit, word in ((1 << 20, "M"), (1 << 10, "K")):
        if tokens >= unit:
            return f"{tokens / unit:.4g}{word}"
    return str(tokens)


def _short(number: float) -> str:
    for unit, word in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= unit:
            return f"{number / unit:.3g} {word}"
    return f"{number:.3g}"


def _seconds(s: float) -> str:
    return "-" if not s else f"{s:,.1f}" if s >= 10 else f"{s:.2g}"


def check_flags(memory: bool, device: str | None, processes: int | None) -> None:
    """Raises RecipeError for options that mean nothing without ``--memory``, or less than a process."""
    if not memory and (device is not None or processes is not None):
        raise RecipeError(f"{'--device' if device is not None else '--processes'} goes with --memory")
    if processes is not None and processes < 1:
        raise RecipeError(f"--processes {processes}: at least 1")
