"""What the driver knows of a running sweep, and the line it shows."""

import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

_PLAIN_EVERY_S = 30.0
_LIVE_EVERY_S = 0.25
ENDED = ("finished", "diverged", "stopped", "failed")


def show_duration(seconds: float) -> str:
    """Write a duration for people: ``45 s``, ``3 min 05 s``, ``2 h 10 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


@dataclass
class Progress:
    """Counts of one run of the driver.

    ``work`` is in the planner's unit of cost. ``train_s`` is the workers' time in training,
    ``train_cpu_s`` their processors' time in it and in the stage store, ``idle_s`` the time slots
    had no pack left.
    """

    n_total: int
    n_slots: int
    total_work: float
    best: float | None = None
    n_before: int = 0
    started: float = field(default_factory=time.monotonic)
    counts: Counter[str] = field(default_factory=Counter)
    work_done: dict[str, float] = field(default_factory=dict)
    n_running: int = 0
    hosts: set[str] = field(default_factory=set)
    train_s: float = 0.0
    train_cpu_s: float = 0.0
    prepare_s: float = 0.0
    idle_s: float = 0.0
    _last_tick: float | None = None

    def note_trial(self, row: dict[str, Any]) -> None:
        """Count an ended configuration by its row of ``trials``."""
        self.counts[row["status"]] += 1
        if row.get("host"):
            self.hosts.add(row["host"])
        accuracy = row.get("average_accuracy")
        if accuracy is not None and (self.best is None or accuracy > self.best):
            self.best = accuracy

    def note_running(self, n_packs_left: int, n_configs: int) -> None:
        """Take the time since the last call as spent with so many packs not ended."""
        tick = time.monotonic()
        if self._last_tick is not None:
            self.idle_s += max(0, self.n_slots - n_packs_left) * (tick - self._last_tick)
        self._last_tick = tick
        self.n_running = n_configs

    @property
    def n_ended(self) -> int:
        """Configurations that ended in this run."""
        return sum(self.counts.values())

    @property
    def elapsed_s(self) -> float:
        """Seconds since packs could start."""
        return time.monotonic() - self.started

    def line(self) -> str:
        """Describe the state in one line."""
        parts = [f"{self.n_before + self.n_ended}/{self.n_before + self.n_total} done"]
        parts.append(f"{self.n_running} running")
        parts += [f"{self.counts[status]} {status}" for status in ("diverged", "failed")]
        if self.n_ended:
            parts.append(f"{60 * self.n_ended / max(self.elapsed_s, 1e-9):.1f}/min")
        share = sum(self.work_done.values()) / self.total_work if self.total_work else 0.0
        if share > 0.01:
            parts.append(f"{show_duration(self.elapsed_s * (1 - share) / share)} left")
        if self.best is not None:
            parts.append(f"best {self.best:.4f}")
        return " · ".join(parts)


class Screen:
    """Shows a line that changes on a terminal, a line every 30 s elsewhere, nothing if quiet."""

    def __init__(self, verbosity: int) -> None:
        self._verbosity = verbosity
        self._console = Console(file=sys.stderr, highlight=False, soft_wrap=True)
        self._live: Live | None = None
        self._shown = time.monotonic()

    def say(self, text: str) -> None:
        """Print a line of what is going on (not if quiet)."""
        if self._verbosity >= 0:
            self._console.print(Text(text))

    def detail(self, text: str) -> None:
        """Print a line only if verbose."""
        if self._verbosity > 0:
            self._console.print(Text(text))

    def update(self, progress: Progress) -> None:
        """Show the progress if it is time to."""
        if self._verbosity < 0:
            return
        is_live = self._console.is_terminal
        if time.monotonic() - self._shown < (_LIVE_EVERY_S if is_live else _PLAIN_EVERY_S):
            return
        self._shown = time.monotonic()
        if not is_live:
            self._console.print(Text(progress.line()))
            return
        if self._live is None:
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.start()
        self._live.update(Text(progress.line(), no_wrap=True, overflow="ellipsis"), refresh=True)

    def close(self) -> None:
        """Take the changing line away."""
        if self._live is not None:
            self._live.stop()
            self._live = None
