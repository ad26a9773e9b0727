"""The packs that wait, as Ray Tune's searcher: halves of a pack that failed join in mid-run."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ray import tune
from ray.tune.search import Searcher

from raysweep.plan import Pack, cost
from raysweep.settings import Config
from raysweep.trainable import TRIAL

LOST_WORKERS = 3
"""How often in a row, without an epoch in between, a pack of several may lose its worker."""
LOST_ALONE = 8
"""The same for a single configuration: after that it has failed."""


@dataclass
class Job:
    """A pack on its way through the sweep.

    ``n_tries`` counts how often it, and packs it was part of, had to be taken up again so far,
    ``n_lost`` how often in a row without an epoch in between; ``heard`` is when its worker last
    gave a sign (``time.monotonic``). ``checkpoint`` is its state after an epoch, if one was kept.
    """

    name: str
    pack: Pack
    n_tries: int = 0
    n_lost: int = 0
    heard: float = field(default_factory=time.monotonic)
    ended: set[str] = field(default_factory=set)
    checkpoint: tune.Checkpoint | None = None

    def __post_init__(self) -> None:
        self.cost = cost(self.pack)

    @property
    def n_open(self) -> int:
        """How many configurations have not ended."""
        return len(self.pack.configs) - len(self.ended)

    @property
    def open_configs(self) -> list[Config]:
        """The configurations that have not ended."""
        return [c for c in self.pack.configs if c.id not in self.ended]

    @property
    def may_lose(self) -> int:
        """How many workers it may lose in a row."""
        return LOST_WORKERS if self.n_open > 1 else LOST_ALONE

    def halves(self) -> list["Job"]:
        """Make two jobs of the configurations that have not ended, in their order."""
        configs = self.open_configs
        middle = (len(configs) + 1) // 2
        return [
            Job(f"{self.name}.{i}", Pack(tuple(part)), self.n_tries + 1)
            for i, part in enumerate((configs[:middle], configs[middle:]), 1)
        ]


class JobQueue:
    """The jobs that wait or run; each leaves when all of its configurations have their rows."""

    def __init__(self, packs: Iterable[Pack]) -> None:
        self._waiting = deque(Job(pack.configs[0].id, pack) for pack in packs)
        self.jobs = {job.name: job for job in self._waiting}
        """All jobs that have not left, by name."""

    def next(self) -> Job | None:
        """Take the job that has waited for longest."""
        return self._waiting.popleft() if self._waiting else None

    def again(self, job: Job) -> None:
        """Put a job that was taken back in front."""
        self._waiting.appendleft(job)

    def split(self, job: Job) -> list[Job]:
        """Let a job's halves take its place, in front."""
        halves = job.halves()
        self.leave(job)
        self.jobs.update({half.name: half for half in halves})
        self._waiting.extendleft(reversed(halves))
        return halves

    def tell(self, row: Mapping[str, Any]) -> None:
        """Hear the row of a configuration that ended; a queue that learns from it overrides."""

    def leave(self, job: Job) -> None:
        """Note that nothing is left to do for a job."""
        self.jobs.pop(job.name, None)

    def __len__(self) -> int:
        return len(self.jobs)


class QueueSearcher(Searcher):
    """Hand jobs to Ray Tune one by one.

    Tune copies a grid for each trial that it makes of it (6 s for 625 packs, profiled), and a grid
    can't grow. Tune saves its searcher for a restore that is never used: nothing is written.
    """

    def __init__(self, queue: JobQueue, config_of: Callable[[Job], Mapping[str, Any]]) -> None:
        super().__init__()
        self._queue = queue
        self._config_of = config_of

    def suggest(self, trial_id: str) -> Any:
        """Give the next job's config, None to be asked again, or that all is done."""
        job = self._queue.next()
        if job is not None:
            return {TRIAL: dict(self._config_of(job))}
        return None if len(self._queue) else str(Searcher.FINISHED)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Do nothing: the collector keeps the queue."""

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Do nothing: what is done stands in the tables."""

    def __deepcopy__(self, memo: dict[int, Any]) -> "QueueSearcher":
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return QueueSearcher, (JobQueue(()), dict)


def job_name(trial: tune.experiment.Trial) -> str:
    """Give the name of the job that a trial runs."""
    name: str = trial.config[TRIAL]["key"]
    return name
