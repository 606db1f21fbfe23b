"""The errors a person may cause, each one clear message and exit code 2.

Everything that reads something from outside (a recipe, a dataset, a bundle, a flag) raises ``UserError`` with a message
that names the thing and the fix. The command line prints the message alone; ``--debug`` shows the traceback as well.
Every other exception is a defect of seqrl and is allowed to look like one.
"""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Wrong input: one message that names the thing and the fix."""


class DataError(UserError):
    """A dataset that cannot be used as it is: unknown, truncated, empty, NaN, outside its own bounds."""


class RecipeError(UserError):
    """A recipe with mistakes in it; the message lists all of them."""


class BundleError(UserError):
    """A bundle that cannot be loaded: incomplete, corrupt, or written by a newer version."""


class HubError(UserError):
    """A Hub that cannot be reached, refuses, or gives what is not wanted; with what to do about it."""


class EnvError(UserError):
    """An environment that cannot be made here, with the extra that would bring it."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` for the closest of ``known``, or an empty string."""
    close = difflib.get_close_matches(str(word), list(known), n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else ""


def all_of(mistakes: Iterable[str], most: int = 50) -> str:
    """Many mistakes as one message, a line each and none twice; of very many the first ``most``, and how many there are."""
    lines = list(dict.fromkeys(mistakes))
    return "\n".join(lines if len(lines) <= most else [*lines[:most], f"... and {len(lines) - most:,} more like these"])
