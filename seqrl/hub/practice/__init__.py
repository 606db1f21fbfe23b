"""A Hub on this machine that the unmodified clients talk to: for tests, for classes, and where there is no network."""

from seqrl.hub.practice.server import PracticeHub

__all__ = ["PracticeHub"]
