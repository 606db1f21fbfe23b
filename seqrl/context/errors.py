"""What can go wrong when a sequence is cut: a length or a model that does not fit, and a rank that is gone.

This room imports nothing of seqrl, so these are not ``UserError``; training turns the first into a ``RecipeError`` and ends
on the second.
"""


class ContextError(ValueError):
    """Something that cannot be cut or attended to as asked; one message that names the thing and the fix."""


class LostRank(RuntimeError):
    """Another rank did not answer.

    Args:
        rank: of the rank that was waited for, among all processes.
        why: what the communication library says.
    """

    def __init__(self, rank: int, why: str) -> None:
        super().__init__(f"rank {rank} did not answer; it has died, or is further behind than the timeout allows ({why})")
        self.rank, self.why = rank, why

    def __reduce__(self) -> tuple:
        return type(self), (self.rank, self.why)
