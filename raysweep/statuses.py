"""How a configuration ended: the words of the column ``status``."""

from enum import StrEnum


class Status(StrEnum):
    """The outcome of a configuration; each member is the word used in tables and messages."""

    FINISHED = "finished"
    DIVERGED = "diverged"
    STOPPED = "stopped"
    FAILED = "failed"
    MISSING = "missing"
    """The configuration has no row in ``trials`` yet."""


ENDED = (Status.FINISHED, Status.DIVERGED, Status.STOPPED, Status.FAILED)
"""The statuses of rows of ``trials``, in display order."""
