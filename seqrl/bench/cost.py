"""How long a suite takes: what finished cells took, and before there are any, what the recipe's header says."""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

from seqrl.bench import folder as folders
from seqrl.bench.plan import Cell
from seqrl.bench.suite import SuiteConfig
from seqrl.core import shelf
from seqrl.core.errors import RecipeError
from seqrl.train import recipe as recipes


class Costs:
    """Seconds of wall time a step of each method takes, evaluation and all, on one process of this machine."""

    def __init__(self, suite: SuiteConfig) -> None:
        self.suite = suite
        self._seen: dict[str, tuple[float, int]] = {}

    def look(self, cells: Iterable[tuple[Cell, Path]]) -> None:
        """Learns from what the folders of finished cells say."""
        for cell, folder in cells:
            lines = folders.costs_of(folder)
            self.add(cell.method, sum(float(c["seconds"]) for c in lines), sum(int(c["steps"]) for c in lines))

    def add(self, method: str, seconds: float, steps: int) -> None:
        """One more run's, or part's, time and steps."""
        if seconds > 0 and steps > 0:
            before = self._seen.get(method, (0.0, 0))
            self._seen[method] = (before[0] + seconds, before[1] + steps)

    def of(self, cell: Cell, step: int = 0) -> float | None:
        """Seconds that a cell still takes from ``step`` on; None where nobody knows."""
        seconds, steps = self._seen.get(cell.method, (0.0, 0))
        each = seconds / steps if steps else _said(self.suite.methods[cell.method].recipe)
        return None if each is None else each * (cell.recipe.train.steps - step)

    def left(self, cells: Sequence[tuple[Cell, int]], jobs: int) -> float | None:
        """Seconds until all of ``cells`` (each with the step it is at) are finished, ``jobs`` at a time; None: nobody knows."""
        each = [self.of(cell, step) for cell, step in cells]
        known = [e for e in each if e is not None]
        if not each or not known:
            return None if each else 0.0
        # Those nobody knows are taken to be like the others; and the last ones run beside idle cores.
        total = sum(known) / len(known) * len(each)
        return max(total / min(jobs, len(each)), max(known))


@lru_cache
def _said(recipe: str) -> float | None:
    """Seconds a step by the header of a recipe of the shelf; None where it says none."""
    try:
        minutes = float(shelf.header(shelf.text("recipes", recipe)).get("minutes", ""))
        return 60 * minutes / recipes.load(recipe).train.steps
    except (RecipeError, ValueError):
        return None
