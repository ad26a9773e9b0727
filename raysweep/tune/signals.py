"""Signals that end a run: the first cleanly, the second at once."""

import signal
import threading
import types
from collections.abc import Iterator
from contextlib import contextmanager


class StopRun(Exception):  # noqa: N818 (not an error: the user asked for it)
    """A first signal: Ray Tune should start no more trials and wait for none."""


_second_signals: list[int] = []


def end_at_once(signum: int, frame: types.FrameType | None) -> None:
    """Handle a second signal: end without waiting for anything.

    The signal number is kept apart from the exception, since Ray raises its own exception
    while it waits in C.
    """
    _second_signals.append(signum)
    raise KeyboardInterrupt


def can_handle_signals() -> bool:
    """Return whether this thread may set signal handlers: in Python only the main thread may."""
    return threading.current_thread() is threading.main_thread()


@contextmanager
def handlers_restored() -> Iterator[None]:
    """Restore the handlers of SIGINT and SIGTERM afterwards; forget earlier second signals."""
    _second_signals.clear()
    if not can_handle_signals():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def second_signal() -> int | None:
    """Return the signal that ended this process at once, None if there was none."""
    return _second_signals[0] if _second_signals else None
