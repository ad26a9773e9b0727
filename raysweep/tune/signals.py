"""Signals that end a run: the first cleanly, the second at once."""

import signal
import threading
import types
from collections.abc import Iterator
from contextlib import contextmanager


class StopRun(Exception):  # noqa: N818 (not an error: the user asked for it)
    """A first signal: Ray Tune should start no more trials and wait for none."""


_second_signals: list[int] = []
_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that end a run: ctrl-c, what batch systems send, and the end of a terminal or of ssh."""


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


def stopping_signals() -> list[signal.Signals]:
    """Return the signals that end a run: not SIGHUP under ``nohup``, which has it ignored."""
    is_ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [each for each in _STOPPING if not (each is signal.SIGHUP and is_ignored)]


@contextmanager
def hangups_held_back() -> Iterator[None]:
    """Hold SIGHUP back while processes are started, which then never get it.

    A terminal that closes sends it to all processes in the foreground: Ray's would end at once,
    with the rows that are on their way. Processes inherit the mask, as Ray does with SIGINT.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)  # one that came meanwhile arrives now


@contextmanager
def handlers_restored() -> Iterator[None]:
    """Restore the handlers of stopping signals afterwards; forget earlier second signals."""
    _second_signals.clear()
    if not can_handle_signals():
        yield
        return
    before = {number: signal.getsignal(number) for number in _STOPPING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def second_signal() -> int | None:
    """Return the signal that ended this process at once, None if there was none."""
    return _second_signals[0] if _second_signals else None
