"""A time limit on a step that holds even if the step never returns to Python."""

import contextlib
import faulthandler
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def step_limit(seconds: float | None, trace: str | None) -> Iterator[None]:
    """End the process if the body takes longer, even if it never returns to Python.

    The file ``trace`` then shows where it was.
    """
    if seconds is None:
        yield
        return
    with contextlib.ExitStack() as files:
        file: IO[str] = sys.__stderr__ or sys.stderr
        if trace:
            with contextlib.suppress(OSError):
                file = files.enter_context(Path(trace).open("w"))
        faulthandler.dump_traceback_later(seconds, exit=True, file=file)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
