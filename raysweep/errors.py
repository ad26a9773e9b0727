"""Errors that users can fix: each says in one line what is wrong and what to do."""


class InputError(Exception):
    """Wrong user input; the message is one line, and the command line exits with 2.

    ``place`` is the path of the wrong part of a search space (``space.lr.grid_search[2]``), from
    which ``load_sweep`` finds its line and column; by default it is the text before the message's
    first colon. ``is_key`` means that the key is wrong, not its value.
    """

    def __init__(self, message: str, place: str = "", *, is_key: bool = False) -> None:
        super().__init__(message)
        self.place = place or message.partition(": ")[0]
        self.is_key = is_key


class NothingRunsError(Exception):
    """No configuration can run; the message is one line, and the command line exits with 4."""
