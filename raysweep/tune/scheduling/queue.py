"""Queue of waiting packs, behind a Ray Tune searcher so that packs can be added during a run."""

import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.search import Searcher

from raysweep.learning.config import Config
from raysweep.packs.pack import Pack, pack_key
from raysweep.packs.planning.estimates import cost
from raysweep.sealed import SUFFIX
from raysweep.tables.paths import ResultsPath
from raysweep.tune.scheduling.trainable import TRIAL

LOST_WORKERS = 3
"""Times in a row, without an epoch in between, that a pack of several may lose its worker."""
LOST_ALONE = 8
"""The same for a single configuration, which then counts as failed."""


@dataclass
class Job:
    """A pack on its way through the sweep.

    ``n_tries`` counts the retries so far of this job and of the packs it was part of; ``n_lost``
    counts them since the last epoch. ``heard`` is when its worker last reported
    (``time.monotonic``). ``checkpoint`` is its state after an epoch, if one was kept. ``states``
    are the state files of the jobs set aside that were joined into this one; with ``is_paused``,
    those of a job that an earlier run left, which did ``share_before`` (0 to 1) of it (None until
    the worker has reported). ``n_seats`` is the number of configurations that it began with, or
    that of the largest job it was joined from; ``turn`` is its position while it is set aside.
    """

    name: str
    pack: Pack
    n_tries: int = 0
    n_lost: int = 0
    heard: float = field(default_factory=time.monotonic)
    ended: set[str] = field(default_factory=set)
    checkpoint: tune.Checkpoint | None = None
    states: tuple[ResultsPath, ...] = ()
    is_paused: bool = False
    share_before: float | None = None
    n_seats: int = 0
    turn: str | None = None

    def __post_init__(self) -> None:
        self.cost = cost(self.pack)
        self.n_seats = self.n_seats or len(self.pack.configs)
        self.key = pack_key(self.pack.configs[0])

    @property
    def n_open(self) -> int:
        """Number of configurations that have not ended."""
        return len(self.pack.configs) - len(self.ended)

    @property
    def work(self) -> float:
        """The work that this run has to do for it, in the unit of ``cost``."""
        return self.cost * (1 - (self.share_before or 0.0))

    @property
    def open_configs(self) -> list[Config]:
        """The configurations that have not ended."""
        return [c for c in self.pack.configs if c.id not in self.ended]

    @property
    def may_lose(self) -> int:
        """Number of workers that it may lose in a row."""
        return LOST_WORKERS if self.n_open > 1 else LOST_ALONE

    def halves(self) -> list["Job"]:
        """Make two jobs of the configurations that have not ended, in order."""
        configs = self.open_configs
        middle = (len(configs) + 1) // 2
        return [
            Job(f"{self.name}.{i}", Pack(tuple(part)), self.n_tries + 1)
            for i, part in enumerate((configs[:middle], configs[middle:]), 1)
        ]


class JobQueue:
    """The jobs that wait or run; each leaves when all its configurations have their rows.

    With a ``folder`` for their states, jobs that have lost half of their configurations may be set
    aside: those at the same epoch are joined when together they fill a job's seats, or when nothing
    else waits. ``n_at_once`` returns how many jobs may be handed out (None: any number): Tune takes
    all that it can get, long before it runs them.
    """

    folder: Path | None = None

    def __init__(self, packs: Iterable[Pack], n_at_once: Callable[[], int] | None = None) -> None:
        self._waiting = deque(Job(pack.configs[0].id, pack) for pack in packs)
        self.jobs = {job.name: job for job in self._waiting}
        """All jobs that have not left, by name."""
        self.n_at_once = n_at_once
        self._out: set[str] = set()
        self._aside: dict[tuple[str, str], list[Job]] = defaultdict(list)
        self._n_joined = 0

    def next(self) -> Job | None:
        """Take the next job, None if there is none or enough are handed out."""
        if self.n_at_once is not None and len(self._out) >= self.n_at_once():
            return None
        job = self._join(is_full=True)
        job = job or (self._waiting.popleft() if self._waiting else None)
        job = job or self._fill() or self._join(is_full=False)
        if job:
            self._out.add(job.name)
        return job

    def _fill(self) -> Job | None:
        """Make another job, None if there is none; queues that create jobs override this."""
        return None

    def has_more(self, key: str) -> bool:
        """Return whether a job with this pack key waits or is set aside."""
        others = (*self._waiting, *(job for jobs in self._aside.values() for job in jobs))
        return any(job.key == key for job in others)

    def state_file(self, job: Job, n_left: int) -> Path | None:
        """Return the file for a job's state if it should be set aside with ``n_left`` lanes."""
        if self.folder is None or not 0 < n_left <= job.n_seats / 2 or not self.has_more(job.key):
            return None
        return self.folder / f"{job.name}{SUFFIX}"

    def set_aside(self, job: Job) -> None:
        """Keep a job whose state was written, until others have reached the same epoch."""
        assert job.turn is not None
        self._out.discard(job.name)
        self._aside[job.key, job.turn].append(job)

    def _join(self, is_full: bool) -> Job | None:
        """Join jobs set aside at one epoch; with ``is_full``, only if they fill the seats."""
        for location, jobs in self._aside.items():
            n_seats = max((job.n_seats for job in jobs), default=0)
            if not jobs or (is_full and sum(job.n_open for job in jobs) < n_seats):
                continue
            taken: list[Job] = []
            while jobs and sum(job.n_open for job in (*taken, jobs[0])) <= n_seats:
                taken.append(jobs.pop(0))
            self._aside[location] = jobs
            self._n_joined += 1
            whole = Job(
                f"{taken[0].pack.configs[0].id}-{self._n_joined}",
                Pack(tuple(config for job in taken for config in job.open_configs)),
                max(job.n_tries for job in taken),
                states=tuple(path for job in taken for path in job.states),
                n_seats=n_seats,
            )
            for job in taken:
                self.leave(job)
            self.jobs[whole.name] = whole
            return whole
        return None

    def go_on(self, jobs: Sequence[Job]) -> None:
        """Put jobs that an earlier run left at the front."""
        self._waiting.extendleft(reversed(jobs))
        self.jobs.update({job.name: job for job in jobs})

    def again(self, job: Job) -> None:
        """Put a job that was taken back at the front."""
        self._out.discard(job.name)
        self._waiting.appendleft(job)

    def split(self, job: Job) -> list[Job]:
        """Replace a job by its halves, at the front."""
        halves = job.halves()
        self.leave(job)
        self.jobs.update({half.name: half for half in halves})
        self._waiting.extendleft(reversed(halves))
        return halves

    def tell(self, row: Mapping[str, Any]) -> None:
        """Receive the row of a configuration that ended; queues that learn override this."""

    def leave(self, job: Job) -> None:
        """Remove a job that has nothing left to do."""
        self.jobs.pop(job.name, None)
        self._out.discard(job.name)

    def __len__(self) -> int:
        return len(self.jobs)


class QueueSearcher(Searcher):
    """Hand jobs to Ray Tune one by one.

    A grid would not do: Tune copies it for each of its trials (6 s for 625 packs, profiled), and it
    can't grow. Tune saves its searcher for a restore that is never used, so nothing is written.
    """

    def __init__(self, queue: JobQueue, config_of: Callable[[Job], Mapping[str, Any]]) -> None:
        super().__init__()
        self._queue = queue
        self._config_of = config_of

    def suggest(self, trial_id: str) -> Any:
        """Return the next job's config, None to be called again, or ``FINISHED``."""
        job = self._queue.next()
        if job is not None:
            return {TRIAL: dict(self._config_of(job))}
        return None if len(self._queue) else str(Searcher.FINISHED)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Do nothing: the collector keeps the queue."""

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Do nothing: the tables record what is done."""

    def __deepcopy__(self, memo: dict[int, Any]) -> "QueueSearcher":
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return QueueSearcher, (JobQueue(()), dict)


def job_name(trial: tune.experiment.Trial) -> str:
    """Return the name of the job that a trial runs."""
    name: str = trial.config[TRIAL]["key"]
    return name
