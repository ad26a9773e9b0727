"""Errors that a user can fix: each message is one line on what is wrong and what to do."""


class RaysweepError(Exception):
    """Base class of all errors that raysweep raises on purpose."""


class InputError(RaysweepError):
    """A user's mistake: one line on what is wrong and what to do; the command exits with 2.

    ``place`` is the path of the mistake in a search space (``space.lr.grid_search[2]``), from which
    ``load_sweep`` finds its line and column; by default it is the text before the message's first
    colon. ``is_key`` means that the key is wrong there, not its value.
    """

    def __init__(self, message: str, place: str = "", *, is_key: bool = False) -> None:
        super().__init__(message)
        self.place = place or message.partition(": ")[0]
        self.is_key = is_key


class NothingRunsError(RaysweepError):
    """No configuration can run: one line on why; the command exits with 4."""


class SweepStoppedError(RaysweepError):
    """Something stopped a sweep early: one line on what it was; rows already written are kept.

    The command exits with 1 or 3 instead, see its exit codes.
    """
