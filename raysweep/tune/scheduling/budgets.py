"""What ends a run early: exhausted budgets, and repeated identical failures."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from raysweep.monitor.terminal import show_duration
from raysweep.settings.stopping import Budget

ALIKE = 3
"""A run ends when this many configurations in a row fail with the same message."""


@dataclass(frozen=True)
class End:
    """Why a run ended before all was done: a budget, or repeated identical failures."""

    over: str | None = None
    common_error: str | None = None


class Meter:
    """Measure what a run uses of its budget, and how its configurations fail.

    ``gpu`` is the share of a GPU that each pack has, ``began`` the time by ``clock`` (seconds) at
    which the command started.
    """

    def __init__(
        self,
        budget: Budget,
        gpu: float,
        began: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._budget = budget
        self._gpu = gpu
        self._began = began
        self._clock = clock
        self._running: dict[str, float] = {}
        self._gpu_s = 0.0
        self._error: str | None = None
        self._n_alike = 0

    def note_start(self, job: str) -> None:
        """Note that a pack got its slot."""
        self._running[job] = self._clock()

    def note_end(self, job: str) -> None:
        """Note that a pack gave its slot back, if it had one."""
        start = self._running.pop(job, None)
        if start is not None:
            self._gpu_s += self._gpu * (self._clock() - start)

    def note_outcome(self, error: str | None) -> None:
        """Note that a configuration ended; ``error`` is why it failed, if it did."""
        is_alike = error is not None and error == self._error
        self._n_alike = self._n_alike + 1 if is_alike else int(error is not None)
        self._error = error

    @property
    def gpu_h(self) -> float:
        """GPU-hours used so far."""
        tick = self._clock()
        running_s = sum(tick - start for start in self._running.values())
        return (self._gpu_s + self._gpu * running_s) / 3600

    def end(self) -> End | None:
        """Return why the run must end now, None while it may continue."""
        limit_s, limit_h = self._budget.time_s, self._budget.gpu_h
        if self._n_alike >= ALIKE:
            return End(common_error=self._error)
        if limit_s is not None and self._clock() - self._began >= limit_s:
            return End(f"time_budget of {show_duration(limit_s)} used up")
        if limit_h is not None and self.gpu_h >= limit_h:
            return End(f"max_gpu_hours of {limit_h:g} used up")
        return None
