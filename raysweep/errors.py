"""Errors that users can fix: each says in one line what is wrong and what to do."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from raysweep.clean_text import clean_line, clean_lines

_T = TypeVar("_T")
MOST_SHOWN = 10
"""At most this many mistakes of one input are shown."""
_MOST_KEPT = 100
"""Checking stops after this many: the search for similar words would take minutes for a list of
200,000 wrong numbers."""


class RaysweepError(Exception):
    """Base class of all errors that raysweep raises on purpose.

    Messages quote files, names and settings, so their text is cleaned; it is one line.
    """

    def __str__(self) -> str:
        """Return the message without control characters and line ends."""
        return clean_line(super().__str__())

    def _render_traceback_(self) -> list[str]:
        """Return what a notebook shows: the message, without 40 lines of our own code."""
        return [f"{type(self).__name__}: {self}"]


class InputError(RaysweepError):
    """Wrong user input; the message is one line, and the command line exits with 2.

    ``place`` is the path of the wrong part of a search space (``space.lr.grid_search[2]``), from
    which ``load_sweep`` finds its line and column; by default it is the text before the message's
    first colon. ``is_key`` means that the key is wrong, not its value.
    """

    def __init__(self, message: str, place: str = "", *, is_key: bool = False) -> None:
        super().__init__(message)
        self.place = place or message.partition(": ")[0]
        self.is_key = is_key

    @property
    def mistakes(self) -> tuple["InputError", ...]:
        """The mistakes, each with a message of one line: this error, or those it combines."""
        return (self,)


class CombinedInputError(InputError):
    """Several mistakes of one input: a line with their number, and an indented line for each.

    ``source`` is the name of the input. The first ten are shown, the others counted; ``has_more``
    means that checking stopped before the end.
    """

    def __init__(
        self, mistakes: Sequence[InputError], source: str = "", has_more: bool = False
    ) -> None:
        least = "at least " if has_more else ""
        head = f"{source}: " if source else ""
        # The first line names the input; the others do not repeat it.
        lines = [str(mistake).removeprefix(head) for mistake in mistakes[:MOST_SHOWN]]
        if len(mistakes) > MOST_SHOWN:
            lines.append(f"and {least}{len(mistakes) - MOST_SHOWN} more")
        super().__init__("\n  ".join([f"{head}{least}{len(mistakes)} mistakes", *lines]))
        self._mistakes, self._source, self.has_more = tuple(mistakes), source, has_more

    def __str__(self) -> str:
        """Return the lines without control characters."""
        return clean_lines(Exception.__str__(self))

    def __reduce__(self) -> tuple[type, tuple[tuple[InputError, ...], str, bool]]:
        """Support pickling."""
        return (CombinedInputError, (self._mistakes, self._source, self.has_more))

    @property
    def mistakes(self) -> tuple[InputError, ...]:
        """The mistakes, each with a message of one line."""
        return self._mistakes


def together(
    mistakes: Sequence[InputError], source: str = "", has_more: bool = False
) -> InputError:
    """Combine mistakes into one error, without duplicates; a single one is returned unchanged."""
    distinct = tuple({str(mistake): mistake for mistake in mistakes}.values())
    return distinct[0] if len(distinct) == 1 else CombinedInputError(distinct, source, has_more)


def all_of(checks: Iterable[Callable[[], _T]]) -> list[_T]:
    """Run all checks and return their results; raise all their mistakes as one ``InputError``."""
    results: list[_T] = []
    mistakes: list[InputError] = []
    has_more = False
    for check in checks:
        if len(mistakes) >= _MOST_KEPT:
            has_more = True
            break
        try:
            results.append(check())
        except InputError as error:
            mistakes += error.mistakes
            has_more |= isinstance(error, CombinedInputError) and error.has_more
    if mistakes:
        raise together(mistakes, has_more=has_more)
    return results


def checked(checks: Mapping[str, Callable[[], Any]]) -> dict[str, Any]:
    """Run named checks like ``all_of``, and return their results by name."""
    return dict(zip(checks, all_of(checks.values()), strict=True))


class NothingRunsError(RaysweepError):
    """No configuration can run; the message is one line, and the command line exits with 4."""


class SweepStoppedError(RaysweepError):
    """Something stopped a sweep early: one line on what it was; rows already written are kept.

    The command exits with 1 or 3 instead, see its exit codes.
    """


class OutputError(RaysweepError):
    """Standard output can't be written; ``is_reader_gone`` means that its reader has left."""

    def __init__(self, message: str, *, is_reader_gone: bool) -> None:
        super().__init__(message)
        self.is_reader_gone = is_reader_gone
