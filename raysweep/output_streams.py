"""Standard streams that may break: a full disk, a reader that has left, a terminal that is gone."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast

from raysweep.errors import OutputError

_FAILED = 2


class _GuardedStream:
    """A text stream that hands errors in writing to ``fail``; all else is the ``plain`` stream's.

    A stream that failed is tried again: a disk may have room later.
    """

    def __init__(self, plain: TextIO, fail: Callable[[Exception], None]) -> None:
        self.plain = plain
        self._fail = fail

    def write(self, text: str) -> int:
        try:
            return self.plain.write(text)
        except (OSError, ValueError) as error:  # ValueError: it was closed
            if isinstance(error, UnicodeError):
                raise
            self._fail(error)
            return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        try:
            self.plain.flush()
        except (OSError, ValueError) as error:
            self._fail(error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.plain, name)


def tolerant(stream: TextIO | None) -> TextIO:
    """Return a stream that drops what this one can't take; None (closed) takes nothing."""
    if stream is None:
        # In Python's own way of encoding: what is dropped must not raise, either.
        stream = open(os.devnull, "w", errors="backslashreplace")  # noqa: SIM115, PTH123
    return cast(TextIO, _GuardedStream(_plain(stream), lambda _: None))


def _plain(stream: TextIO) -> TextIO:
    return stream.plain if isinstance(stream, _GuardedStream) else stream


@contextmanager
def guarded_output() -> Iterator[None]:
    """Guard the output of a command, which ends once its standard output can't be written.

    If the reader has left (``| head``), that is quiet and the exit code is 0; else it is one line
    and code 2. What standard error can't take is dropped. Streams that were closed at the start
    lead to ``/dev/null``. Has no effect inside another ``guarded_output``.
    """
    if isinstance(sys.stdout, _GuardedStream):
        yield
        return
    _open_closed()
    before = sys.stdout, sys.stderr
    error_output = tolerant(sys.stderr)
    output = _plain(tolerant(sys.stdout))
    sys.stdout, sys.stderr = cast(TextIO, _GuardedStream(output, _stop)), error_output
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except OutputError as error:
        _settle(output)
        if isinstance(error.__context__, SystemExit) and error.__context__.code:
            raise error.__context__ from None
        if not error.is_reader_gone:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(_FAILED)
    finally:
        sys.stdout, sys.stderr = before
        _settle(output)
        _settle(_plain(error_output))


@contextmanager
def without_output_errors() -> Iterator[None]:
    """Drop what standard output can't take, instead of ending: training continues without it."""
    before = sys.stdout
    sys.stdout = tolerant(before)
    try:
        yield
    finally:
        _settle(_plain(sys.stdout))
        sys.stdout = before


def _stop(error: Exception) -> None:
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    raise OutputError(
        f"standard output: expected room for all lines, got: {reason}",
        is_reader_gone=isinstance(error, BrokenPipeError),
    ) from None


def _settle(stream: TextIO) -> None:
    """Flush a stream; if that fails, drop what it holds: Python's exit would fail with code 120."""
    try:
        stream.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            _redirect_to_null(stream.fileno())


def _redirect_to_null(number: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    if null == number:
        return
    os.dup2(null, number)
    os.close(null)


def _open_closed() -> None:
    """Open ``/dev/null`` for each standard stream that is closed.

    Else the next file that is opened gets its number: what C++ code prints would go into a table.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            _redirect_to_null(number)
            os.set_inheritable(number, True)
