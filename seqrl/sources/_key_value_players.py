"""Who plays Key and Value: one that has seen everything and forgets nothing."""

from collections.abc import Callable

from seqrl.sources._key_value import KeyValue


def oracle(env: KeyValue, seed: int) -> Callable[[], int]:
    """Answers every question right, and does nothing else."""
    return lambda: env.answer


PLAYERS = {"oracle": oracle}
SCRIPTED = "oracle"
"""Who ``policy: scripted`` is here."""
