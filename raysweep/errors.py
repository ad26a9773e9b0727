"""Errors that a user can mend: each says in one line what is wrong and what to do."""


class RaysweepError(Exception):
    """The base class of all errors that raysweep raises on purpose."""


class InputError(RaysweepError):
    """Say in one line what a user got wrong and what to do; the command line exits with 2.

    ``place`` is the path of what is wrong in a search space (``space.lr.grid_search[2]``), by
    which ``load_sweep`` finds its line and column; where none is given it is what stands before
    the message's first colon. ``is_key`` tells that the key is wrong there, not its value.
    """

    def __init__(self, message: str, place: str = "", *, is_key: bool = False) -> None:
        super().__init__(message)
        self.place = place or message.partition(": ")[0]
        self.is_key = is_key


class NothingRunsError(RaysweepError):
    """Say in one line why no configuration can run; the command line exits with 4."""


class SweepStoppedError(RaysweepError):
    """Say in one line what stopped a sweep early; rows that were written are kept.

    The command line exits with 1 or 3 instead, see its exit codes.
    """
