"""Searches, whose results decide what is tried next: what earlier runs left, and the queue."""

import contextlib
import importlib.util
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from raysweep.errors import InputError
from raysweep.learning.config import Config
from raysweep.packs.pack import Pack
from raysweep.packs.planning.estimates import cost, memory_bytes
from raysweep.settings.sampling import Search
from raysweep.settings.space import Parameters, Space
from raysweep.settings.sweep import Sweep
from raysweep.statuses import Status
from raysweep.tables.folder import ResultsFolder
from raysweep.tables.json_files import read_json
from raysweep.tables.paths import ResultsPath
from raysweep.tables.ranking import usual_mode
from raysweep.tables.reader import read_arrow
from raysweep.tables.schemas import TABLES, config_of
from raysweep.tune.reporting.progress import Progress
from raysweep.tune.reporting.summary import limits, set_by
from raysweep.user_text.metric_hints import metric_hint

if TYPE_CHECKING:
    from raysweep.tune.scheduling.queue import Job
    from raysweep.tune.search.search_queue import LearningSearcher, SearchQueue

SUGGESTIONS = "suggestions.json"
"""File of the suggestions that have not ended: they run first when a killed search resumes."""
LANES = 8
"""Suggestions in a pack unless ``pack:`` is set: with more, the search learns less."""


@dataclass(frozen=True)
class EarlierSuggestions:
    """What earlier runs left: rows by configuration, ended suggestions, and open ones.

    ``failed`` has the ids of configurations that failed.
    """

    rows: Mapping[str, Mapping[str, Any]]
    ended: list[Parameters]
    open: list[Parameters]
    failed: frozenset[str] = frozenset()

    @property
    def n_suggested(self) -> int:
        """Number of suggestions made."""
        return len(self.ended) + len(self.open)

    def configs(self, space: Space) -> list[Config]:
        """List the configurations of all suggestions."""
        return [c for parameters in (*self.ended, *self.open) for c in space.configs(parameters)]


def modes_of(search: Search) -> tuple[str, ...]:
    """Return ``max`` or ``min`` for each metric; raise ``InputError`` for one that is unknown.

    Modes listed in the file take precedence over the metric's usual one.
    """
    method = search.method  # the name of its package, and of the extra that installs it
    if importlib.util.find_spec(method) is None:
        raise InputError(
            f"search.method: {method} is not installed; run pip install 'raysweep[{method}]'"
        )
    metrics = [column.name for column in TABLES["trials"].columns if column.is_metric]
    for name in search.metrics:
        if name not in metrics:
            hint = metric_hint(name, metrics)
            raise InputError(f"search.metric: expected a metric of trials, got {name!r}{hint}")
    return search.modes or tuple(usual_mode(name) for name in search.metrics)


def known_of(
    location: ResultsPath,
    space: Space,
    is_new: bool,
    stays: Collection[str],
    lacking: Collection[str] = (),
) -> EarlierSuggestions:
    """Read from a folder which suggestions were made, and their results.

    Rows of an earlier grid in the same space count as suggestions, too: the searcher learns from
    them. ``stays`` has the statuses that are not trained again, ``lacking`` the ids of the
    configurations that are all the same. Raises ``InputError`` for a damaged table.
    """
    if is_new:
        return EarlierSuggestions({}, [], [])
    trials = read_arrow(location, "trials").to_pandas()
    rows: dict[str, dict[Any, Any]] = {r["config_id"]: r for r in trials.to_dict("records")}
    found: dict[frozenset[str], Parameters] = {}

    def take(parameters: Parameters | None) -> None:
        # Several parameters may give the same configurations: those that were kept count.
        if parameters is not None and space.fits(parameters):
            ids = frozenset(config.id for config in space.configs(parameters))
            if ids:
                found.setdefault(ids, parameters)

    for kept in _suggested(location):
        with contextlib.suppress(InputError):  # from another version of the space
            take(kept)
    taken = set().union(*found)
    for row in rows.values():
        if row["config_id"] not in taken:
            with contextlib.suppress(InputError):
                take(space.parameters_of(config_of(row)))
    done = {i for i, row in rows.items() if row["status"] in stays and i not in lacking}
    ended: list[Parameters] = []
    left: list[Parameters] = []
    for parameters in found.values():
        has_ended = all(config.id in done for config in space.configs(parameters))
        (ended if has_ended else left).append(parameters)
    failed = frozenset(i for i, row in rows.items() if row["status"] == Status.FAILED)
    return EarlierSuggestions({i: row for i, row in rows.items() if i in done}, ended, left, failed)


def _suggested(location: ResultsPath) -> list[dict[str, Any]]:
    try:
        content = read_json(location / SUGGESTIONS)
    except (OSError, ValueError):
        return []
    if not isinstance(content, list):
        return []
    # JSON has no tuples: make widths tuples again.
    return [
        {name: tuple(v) if isinstance(v, list) else v for name, v in entry.items()}
        for entry in content
        if isinstance(entry, dict)
    ]


def lanes_of(sweep: Sweep, memory: int | None) -> int:
    """Return how many configurations make a pack: as set, or ``LANES``, limited by memory."""
    lanes = sweep.pack or LANES
    if memory is not None and sweep.pack is None:
        while lanes > 1 and any(_memory(c, lanes) > memory for c in sweep.examples):
            lanes //= 2
    return lanes


def pack_like(config: Config, lanes: int, first: int = 0) -> Pack:
    """Make a pack of configurations that differ from ``config`` in ``lr``, from ``first`` on."""
    # Not model_copy: copies would keep the id.
    values = config.model_dump()
    rates = [config.lr * (1 + i / 1e6) for i in range(first, first + lanes)]
    return Pack(tuple(Config(**(values | {"lr": lr})) for lr in rates))


def _memory(config: Config, lanes: int) -> int:
    return memory_bytes(pack_like(config, lanes))


def make_queue(
    sweep: Sweep,
    known: EarlierSuggestions,
    *,
    folder: ResultsFolder,
    lanes: int,
    limit: int | None,
    progress: Progress,
) -> "SearchQueue":
    """Make the queue of a search that resumes where earlier runs stopped.

    ``limit`` is the largest number of configurations to start now; ``progress`` gets their work.
    """
    from raysweep.tune.search.search_queue import SearchQueue

    assert sweep.space is not None
    search = sweep.search
    n_samples = max(search.n_samples, known.n_suggested)
    searcher = _searcher(sweep, known)

    def keep(parameters: list[Parameters]) -> None:
        folder.write_text(SUGGESTIONS, json.dumps(parameters) + "\n")

    note = Estimate(progress).note
    queue = SearchQueue(
        searcher,
        sweep.space,
        metrics=search.metrics,
        n_samples=n_samples,
        pack=lanes,
        keep=keep,
        note=note,
        limit=limit,
        n_at_once=progress.n_at_once,
    )
    for parameters in known.ended:
        queue.know(parameters, known.rows)
    for parameters in known.open:
        queue.resume(parameters, known.rows, known.failed)
    return queue


def _searcher(sweep: Sweep, known: EarlierSuggestions) -> "LearningSearcher":
    assert sweep.space is not None
    search, modes = sweep.search, modes_of(sweep.search)
    # Don't repeat the random numbers of earlier runs.
    seed = (search.seed + known.n_suggested) % 2**32
    # Import here: Ray must be imported after its settings are in the environment.
    if search.method == "optuna":
        from raysweep.tune.search.optuna_search import OptunaSearcher

        return OptunaSearcher(sweep.space, search.sampler, seed, search.metrics, modes)
    from raysweep.tune.search.ray_search import make_searcher

    (metric,), (mode,) = search.metrics, modes
    return make_searcher(search.method, sweep.space, seed=seed, metric=metric, mode=mode)


class Estimate:
    """An estimate of a search's work: per configuration as much as the jobs so far."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._n = 0
        self._cost = 0.0

    def note(self, job: "Job") -> None:
        """Include a job that was made."""
        self._n += len(job.pack.configs)
        self._cost += cost(job.pack)
        self._progress.total_work = self._cost * max(self._progress.n_total, self._n) / self._n


def search_lines(
    sweep: Sweep, known: EarlierSuggestions, lanes: int, n_slots: int, resources: str
) -> dict[str, str]:
    """Describe what a search would do, as far as it is known in advance."""
    assert sweep.space is not None
    search, n_seeds = sweep.search, len(sweep.space.seeds)
    wanted = ", ".join(
        f"{name} ({mode})" for name, mode in zip(search.metrics, modes_of(search), strict=True)
    )
    sampler = f" ({search.sampler})" if search.method == "optuna" else ""
    sizes = [_memory(config, lanes) for config in sweep.examples]
    return {
        "search": f"{search.method}{sampler} for {wanted}",
        "configurations": f"{search.n_samples} suggestions x {n_seeds} seeds: "
        f"{search.n_samples * n_seeds} in all, {len(known.ended) * n_seeds} done",
        "packs": f"of up to {lanes} configurations of one shape, {n_slots} at once" + set_by(sweep),
        "memory": f"up to about {max(sizes) / 1e6:.0f} MB per pack "
        f"(from {len(sizes)} examples; torch itself: 0.7 GB per worker)",
        "resources": resources,
        **limits(sweep),
    }
