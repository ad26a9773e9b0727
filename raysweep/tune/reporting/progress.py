"""The progress of a running sweep, as the driver sees it."""

import math
import time
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from raysweep.monitor.terminal import Snapshot, WorkerState, show_status
from raysweep.statuses import Status
from raysweep.tables.ranking import is_lower_better

_RATE_S = 300.0
"""The rate covers the last five minutes, sampled every five seconds."""
_LOOK_S = 5.0


@dataclass
class _Slot:
    """A slot: its number, its worker's activity, and the time of its last report.

    ``heard`` is that time (``time.monotonic``).
    """

    number: int
    work: WorkerState
    heard: float


@dataclass
class Progress:
    """Counts of one run of the driver.

    ``best`` is the best value of ``metric`` among finished configurations; ``mode`` is whether the
    largest or the smallest is best (None: the metric's usual mode). ``before`` counts, by status,
    the configurations that had ended before this run. At most ``max_packs`` run at once.
    Work is in the planner's unit of cost.
    ``train_s`` is the workers' wall time in training, ``train_cpu_s`` their CPU time in training
    and in the stage cache, ``idle_s`` the time that slots had no pack left.
    """

    n_total: int
    n_slots: int
    total_work: float
    best: float | None = None
    metric: str = "average_accuracy"
    mode: str | None = None
    title: str = ""
    before: Mapping[str, int] = field(default_factory=dict)
    max_packs: int | None = None
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
    _slots: dict[str, _Slot] = field(default_factory=dict)
    _history: list[tuple[float, float]] = field(default_factory=list)
    _looks: deque[tuple[float, int]] = field(default_factory=deque)

    def __post_init__(self) -> None:
        if self.best is not None:
            self._history.append((0.0, self.best))
        self._looks.append((0.0, 0))

    def note_trial(self, row: Mapping[str, Any]) -> None:
        """Count an ended configuration by its row of ``trials``."""
        self.counts[row["status"]] += 1
        if row.get("host"):
            self.hosts.add(row["host"])
        value = row.get(self.metric) if row["status"] == Status.FINISHED else None
        if value is not None and self._is_best(value):
            self.best = value
            self._history.append((self.elapsed_s, value))

    def _is_best(self, value: float) -> bool:
        if self.best is None:
            return not math.isnan(value)
        is_lower = is_lower_better(self.metric, self.mode)
        return value < self.best if is_lower else value > self.best

    def note_start(self, pack: str, n_configs: int) -> None:
        """Note that a slot's worker starts a pack."""
        taken = {slot.number for slot in self._slots.values()}
        number = next(i for i in range(len(taken) + 1) if i not in taken)
        self._slots[pack] = _Slot(number, WorkerState(n_configs), time.monotonic())

    def note_epoch(
        self, pack: str, host: str | None, stage: str | None, epoch: int, n_epochs: int
    ) -> None:
        """Note what a pack's worker has just finished."""
        if slot := self._slots.get(pack):
            slot.heard = time.monotonic()
            slot.work.host = host
            if stage:
                slot.work.stage, slot.work.epoch, slot.work.n_epochs = stage, epoch, n_epochs

    def note_share(self, pack: str, share: float, cost: float, before: float = 0.0) -> None:
        """Note the share (0 to 1) of a pack that is done, of which ``before`` in earlier runs."""
        self.work_done[pack] = cost * max(0.0, share - before)
        if slot := self._slots.get(pack):
            slot.work.share = share

    def note_end(self, pack: str) -> None:
        """Note that a pack has left its slot."""
        self._slots.pop(pack, None)

    def note_running(self, n_packs_left: int, n_configs: int) -> None:
        """Count the time since the last call as spent with ``n_packs_left`` packs left."""
        tick = time.monotonic()
        if self._last_tick is not None:
            self.idle_s += max(0, self.n_slots - n_packs_left) * (tick - self._last_tick)
        self._last_tick = tick
        self.n_running = n_configs
        elapsed_s = tick - self.started
        if elapsed_s - self._looks[-1][0] >= _LOOK_S:
            self._looks.append((elapsed_s, self.n_ended))
            while elapsed_s - self._looks[0][0] > _RATE_S:
                self._looks.popleft()

    def n_at_once(self) -> int:
        """Return how many packs to hand out: one more than there are slots, so that none idles."""
        # After nodes have joined, more packs run than there were slots.
        n = max(self.n_slots, len(self._slots)) + 1
        return n if self.max_packs is None else min(n, self.max_packs)

    @property
    def n_before(self) -> int:
        """Configurations that had ended before this run."""
        return sum(self.before.values())

    @property
    def n_ended(self) -> int:
        """Configurations that ended in this run."""
        return sum(self.counts.values())

    @property
    def elapsed_s(self) -> float:
        """Seconds since packs could start."""
        return time.monotonic() - self.started

    @property
    def per_min(self) -> float | None:
        """Configurations ended per minute, over the last five; None before the first."""
        if not self.n_ended:
            return None
        since, n_then = self._looks[0]
        return 60 * (self.n_ended - n_then) / max(self.elapsed_s - since, 1e-9)

    @property
    def left_s(self) -> float | None:
        """Seconds until all is done at the rate so far; None if unknown."""
        share = sum(self.work_done.values()) / self.total_work if self.total_work else 0.0
        return self.elapsed_s * (1 - min(share, 1.0)) / share if share > 0.01 else None

    def snapshot(self) -> Snapshot:
        """Return the state for display."""
        now = time.monotonic()
        slots = sorted(self._slots.values(), key=lambda slot: slot.number)
        for slot in slots:
            slot.work.heard_s = now - slot.heard
        return Snapshot(
            title=self.title,
            n_total=self.n_before + self.n_total,
            counts=self.counts + Counter(self.before),
            n_running=self.n_running,
            elapsed_s=self.elapsed_s,
            per_min=self.per_min,
            left_s=self.left_s,
            metric=self.metric,
            best=self.best,
            history=self._history,
            workers=[slot.work for slot in slots],
        )

    def line(self) -> str:
        """Describe the state in one line."""
        return show_status(self.snapshot())
