"""Signals that end a run: a first one in order, a second one at once."""

import signal
import threading
import types
from collections.abc import Iterator
from contextlib import contextmanager


class StopRun(Exception):  # noqa: N818 (no error: the user's wish)
    """A first signal: Ray Tune is to hand out nothing more and wait for nothing."""


_second_signals: list[int] = []


def end_at_once(signum: int, frame: types.FrameType | None) -> None:
    """Handle a second signal: end without waiting for anything.

    Which it was is kept beside the exception: where Ray waits in C, it raises one of its own.
    """
    _second_signals.append(signum)
    raise KeyboardInterrupt


def can_handle_signals() -> bool:
    """Return whether this thread may set signal handlers: Python lets only the main thread."""
    return threading.current_thread() is threading.main_thread()


@contextmanager
def handlers_restored() -> Iterator[None]:
    """Put the handlers of SIGINT and SIGTERM back afterwards; forget earlier second signals."""
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
    """Return the signal that ended this process at once, None where there was none."""
    return _second_signals[0] if _second_signals else None
