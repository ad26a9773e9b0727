"""How a configuration has ended: the words of the column ``status``."""

from enum import StrEnum


class Status(StrEnum):
    """What became of a configuration; a member is the word itself, in tables and messages too."""

    FINISHED = "finished"
    DIVERGED = "diverged"
    STOPPED = "stopped"
    FAILED = "failed"
    MISSING = "missing"
    """It has no row in ``trials`` yet."""


ENDED = (Status.FINISHED, Status.DIVERGED, Status.STOPPED, Status.FAILED)
"""What a row of ``trials`` may have, in the order in which they are shown."""
