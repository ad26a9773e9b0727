"""Packs of a searcher's suggestions: requested as slots become free, reported as they end.

A searcher is Ray Tune's ``Searcher``; it handles one suggestion at a time, independent of packs.
"""

import math
import sys
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from raysweep.errors import InputError
from raysweep.learning.config import Config
from raysweep.packs.pack import Pack, pack_key
from raysweep.settings.space import Parameters, Space
from raysweep.statuses import Status
from raysweep.tune.scheduling.queue import Job, JobQueue

_HELD_PACKS = 4
"""Most suggestions, in packs, that may wait for others of their shape."""
_REPEATS = 200
"""A space is exhausted after this many repeated or invalid suggestions in a row."""


class LearningSearcher(Protocol):
    """The used part of ``Searcher``, and two more methods for what earlier runs left."""

    def suggest(self, trial_id: str) -> Any:
        """Return parameters, None (ask again later) or ``Searcher.FINISHED``."""

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Learn the metrics of a suggestion, None if it failed."""

    def learn(self, parameters: Parameters, result: Mapping[str, float] | None) -> None:
        """Learn the result of a suggestion of an earlier run; None if it failed."""

    def repeat(self, parameters: Parameters) -> None:
        """Make the next ``suggest`` return these parameters."""


@dataclass
class Suggestion:
    """Suggested parameters, their configurations (one per seed) and the rows of those."""

    name: str
    parameters: Parameters
    configs: tuple[Config, ...]
    rows: dict[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def has_ended(self) -> bool:
        """Whether each of its configurations has a row."""
        return len(self.rows) == len(self.configs)

    def result(self, metrics: Sequence[str]) -> dict[str, float] | None:
        """Return the mean of each metric over seeds; None unless it finished for each seed."""
        if any(row["status"] != Status.FINISHED for row in self.rows.values()):
            return None
        means = {}
        for metric in metrics:
            values = [row.get(metric) for row in self.rows.values()]
            found = [v for v in values if v is not None and math.isfinite(v)]
            if len(found) < len(self.configs):
                return None
            means[metric] = sum(found) / len(found)
        return means


class SearchQueue(JobQueue):
    """A queue that makes its jobs on demand, from up to ``n_samples`` suggestions.

    ``pack`` is the number of configurations in a pack. Suggestions of one shape fill it; others
    wait until there are enough of their shape, or nothing else is left. ``keep`` is called with the
    parameters of all suggestions that have not ended whenever there are new ones, before they run;
    ``note`` with each job that is made. At most ``limit`` configurations are handed out.
    ``n_at_once`` returns how many jobs may wait or run (None: any number): Tune takes all that it
    can get, and a searcher that makes all suggestions at once has learned from none.
    """

    def __init__(
        self,
        searcher: LearningSearcher,
        space: Space,
        *,
        metrics: Sequence[str],
        n_samples: int,
        pack: int,
        keep: Callable[[list[Parameters]], None],
        note: Callable[[Job], None] | None = None,
        limit: int | None = None,
        n_at_once: Callable[[], int] | None = None,
    ) -> None:
        super().__init__((), n_at_once)
        self._note = note
        self._n_left = sys.maxsize if limit is None else limit
        self._searcher = searcher
        self._space = space
        self._metrics = tuple(metrics)
        self.n_samples = n_samples
        self._pack = pack
        self._keep = keep
        self.n_asked = 0
        self._by_config: dict[str, Suggestion] = {}
        self._held: dict[str, list[Config]] = defaultdict(list)
        self._late: list[Config] = []
        self.is_used_up = False
        self.configs: dict[str, Config] = {}
        """All configurations that were suggested so far, by id."""

    def know(self, parameters: Parameters, rows: Mapping[str, Mapping[str, Any]]) -> None:
        """Learn a suggestion of an earlier run whose configurations have all ended."""
        suggestion = self._add(parameters, self._space.configs(parameters))
        suggestion.rows.update({c.id: rows[c.id] for c in suggestion.configs})
        self._searcher.learn(parameters, suggestion.result(self._metrics))

    def resume(
        self,
        parameters: Parameters,
        rows: Mapping[str, Mapping[str, Any]],
        failed: Collection[str] = (),
    ) -> None:
        """Resume a suggestion of an earlier run that has not ended; ``rows`` are those it has.

        Configurations that ``failed`` before (ids) are retried after all others, each alone.
        """
        self._searcher.repeat(parameters)
        name = f"s{self.n_asked}"
        given = self._searcher.suggest(name)
        assert given == dict(parameters), (given, parameters)
        suggestion = self._add(given, self._space.configs(given))
        for config in suggestion.configs:
            if config.id in rows:
                suggestion.rows[config.id] = rows[config.id]
            elif self._by_config[config.id] is suggestion and config.id in failed:
                self._late.append(config)
            elif self._by_config[config.id] is suggestion:
                self._held[pack_key(config)].append(config)

    def go_on(self, jobs: Sequence[Job]) -> None:
        """Put jobs that an earlier run left at the front, and stop holding their configurations."""
        ids = {config.id for job in jobs for config in job.pack.configs}
        for key, configs in self._held.items():
            self._held[key] = [config for config in configs if config.id not in ids]
        self._late = [config for config in self._late if config.id not in ids]
        self._n_left -= len(ids)
        super().go_on(jobs)
        for job in jobs:
            if self._note:
                self._note(job)

    def _add(self, parameters: Parameters, configs: tuple[Config, ...]) -> Suggestion:
        suggestion = Suggestion(f"s{self.n_asked}", parameters, configs)
        self.n_asked += 1
        for config in configs:
            self._by_config.setdefault(config.id, suggestion)
            self.configs[config.id] = config
        return suggestion

    def _fill(self) -> Job | None:
        """Request suggestions until a pack is full; return None if nothing is left."""
        n_before = self.n_asked
        pack = min(self._pack, self._n_left)
        while (
            pack
            and not self.is_used_up
            and self.n_asked < self.n_samples
            and self._largest() < pack
            and sum(map(len, self._held.values())) < _HELD_PACKS * self._pack
        ):
            self._ask()
        if self.n_asked > n_before:
            self._keep([s.parameters for s in self._open()])
        if pack and self._largest():
            key = max(self._held, key=lambda k: len(self._held[k]))
            configs = self._held[key][:pack]
            self._held[key] = self._held[key][pack:]
        elif pack and self._late:
            configs = [self._late.pop(0)]
        else:
            return None
        self._n_left -= len(configs)
        job = Job(configs[0].id, Pack(tuple(configs)))
        self.jobs[job.name] = job
        if self._note:
            self._note(job)
        return job

    def has_more(self, key: str) -> bool:
        """Return whether a job with this key waits, is set aside, or may still be suggested."""
        return super().has_more(key) or bool(self._held.get(key)) or self._may_ask

    @property
    def _may_ask(self) -> bool:
        return bool(self._n_left) and not self.is_used_up and self.n_asked < self.n_samples

    def _largest(self) -> int:
        return max(map(len, self._held.values()), default=0)

    def _open(self) -> Iterable[Suggestion]:
        return {s.name: s for s in self._by_config.values() if not s.has_ended}.values()

    def _ask(self) -> None:
        """Request one new suggestion; report repeated or invalid ones at once and request again."""
        for _ in range(_REPEATS):
            name = f"s{self.n_asked}"
            parameters = self._searcher.suggest(name)
            if not isinstance(parameters, dict):  # None or Searcher.FINISHED
                break
            try:
                configs = self._space.configs(parameters)
            except InputError:
                configs = ()
            known = self._by_config.get(configs[0].id) if configs else None
            if configs and known is None:
                for config in self._add(parameters, configs).configs:
                    self._held[pack_key(config)].append(config)
                return
            if known and not known.has_ended:  # no result yet
                self._searcher.on_trial_complete(name, None, error=True)
            else:
                result = known.result(self._metrics) if known else None
                self._searcher.on_trial_complete(name, result)
        self.is_used_up = True

    def n_unasked(self, n_samples: int) -> int:
        """Count the configurations not yet suggested, out of ``n_samples`` suggestions."""
        left = 0 if self.is_used_up else max(0, n_samples - self.n_asked)
        return left * len(self._space.seeds)

    def tell(self, row: Mapping[str, Any]) -> None:
        """Record the row of a configuration that ended; report each suggestion once.

        A suggestion that diverged or failed for any seed counts as failed.
        """
        suggestion = self._by_config.get(row["config_id"])
        if suggestion is None or row["config_id"] in suggestion.rows:
            return
        suggestion.rows[row["config_id"]] = row
        if suggestion.has_ended:
            self._searcher.on_trial_complete(suggestion.name, suggestion.result(self._metrics))

    def __len__(self) -> int:
        if not self._n_left:
            return len(self.jobs)
        n_held = sum(map(len, self._held.values())) + len(self._late)
        return len(self.jobs) + n_held + int(self._may_ask)
