"""Growing contexts: a run in stages, each with longer rows than the last, and which of them a step belongs to."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol


class Stage(Protocol):
    """What is known of a stage here: how many optimiser steps it takes."""

    steps: int


class Span(NamedTuple):
    """Steps ``first`` to ``stop`` (not included) of stage number ``number``, from 0."""

    number: int
    first: int
    stop: int


def at(stages: Sequence[Stage], step: int) -> Span:
    """The stage that step ``step`` (from 0) belongs to; of the step after the last one, the last stage.

    Raises:
        ValueError: there are no stages, or the step lies before or behind them all.
    """
    first = 0
    for number, stage in enumerate(stages):
        stop = first + stage.steps
        if 0 <= step < stop or (step == stop and number == len(stages) - 1):
            return Span(number, first, stop)
        first = stop
    raise ValueError(f"step {step} is in none of {len(stages)} stages, which have {first} steps in all")
