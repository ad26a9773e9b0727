"""Signals that end a run: a first one in order, a second one at once."""

import types


class StopRun(Exception):  # noqa: N818 (no error: the user's wish)
    """A first signal: Ray Tune is to hand out nothing more and wait for nothing."""


_second_signals: list[int] = []


def end_at_once(signum: int, frame: types.FrameType | None) -> None:
    """Handle a second signal: end without waiting for anything.

    Which it was is kept beside the exception: where Ray waits in C, it raises one of its own.
    """
    _second_signals.append(signum)
    raise KeyboardInterrupt


def second_signal() -> int | None:
    """Return the signal that ended this process at once, None where there was none."""
    return _second_signals[0] if _second_signals else None
