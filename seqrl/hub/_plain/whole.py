"""Whole rows alone: what attention needs to know of rows that are cut over several processes, which a published model never is.

Training can cut rows over a ring of processes. That takes plans, kernels and exchanges, none of which is of use to whoever
loads one model in one process; here is only what says so.
"""

from typing import Any

from seqrl.core.errors import RecipeError

Cut = Any
"""A piece of longer rows; there is none here."""


def ring_attention(*_: Any) -> Any:
    """Raises RecipeError: rows are whole here."""
    raise RecipeError("rows are cut over processes by seqrl alone; pip install seqrl")
