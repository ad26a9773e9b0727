"""The search spaces of the benchmark of searches, and a search without Ray."""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.sweeps import write_space
from raysweep.learning.config import Config
from raysweep.learning.data.sources import Source, data_folder, load_source
from raysweep.packs.run import PackRun
from raysweep.settings.space import Space
from raysweep.settings.sweep import load_sweep
from raysweep.tune.search.optuna_search import OptunaSearcher
from raysweep.tune.search.search_queue import SearchQueue

METRIC = "average_accuracy"
DATA = {"task_samples": 500}
TRAINING = {"epochs": 4, "batch_size": 50}
SPACE = {
    "encoder_widths": [50],
    "rec_decoder_widths": [50],
    "n_bottleneck": {"choice": [8, 16]},
    "lr": {"loguniform": [1e-4, 1e-1]},
    "beta_1": {"uniform": [-1, 0]},
    "beta_2": {"loguniform": [1e-6, 1]},
    "replay": "simple",
    "replay_weight": {"uniform": [0.1, 0.9]},
    "n_replay": 200,
}
"""Two shapes and four ranges. A configuration trains for less than a tenth of a second."""


def search_file(
    path: Path,
    *,
    n_samples: int,
    pack: int,
    seed: int = 0,
    sampler: str = "tpe",
    seeds: Sequence[int] | None = None,
) -> Path:
    """Write a search; its configurations train with ``seeds``, or with the search's own seed."""
    search = {"method": "optuna", "n_samples": n_samples, "sampler": sampler, "seed": seed}
    return write_space(
        path,
        SPACE,
        data=DATA,
        training=TRAINING,
        search=search,
        seeds=list(seeds or [seed]),
        resources={"cpu": 1},
        pack=pack,
    )


def space_in(file: Path) -> Space:
    """Return the space that a file searches in."""
    space = load_sweep(file).space
    assert space is not None
    return space


@dataclass(frozen=True)
class Found:
    """The rows of a search in the order in which they came, and its configurations by id."""

    rows: Sequence[Mapping[str, Any]]
    configs: Mapping[str, Config]

    @property
    def best(self) -> tuple[Config, float]:
        """Return the configuration with the highest accuracy, and that."""
        rows = [row for row in self.rows if row["status"] == "finished"]
        row = max(rows, key=lambda row: float(row[METRIC]))
        return self.configs[row["config_id"]], float(row[METRIC])


def search_here(
    space: Space, sampler: str, seed: int, n_samples: int, pack: int, n_at_once: int
) -> Found:
    """Search in this process, by the queue, the searcher and the trainer of the command.

    ``n_at_once`` packs have been asked for before the first of them is told. With one pack of one
    configuration each suggestion knows of all before it. The order depends on no clock.
    """
    searcher = OptunaSearcher(space, sampler, seed, [METRIC], ["max"])
    queue = SearchQueue(
        searcher, space, metrics=[METRIC], n_samples=n_samples, pack=pack, keep=lambda _: None
    )
    source = load_source("mnist_5k", data_folder(None))
    under_way, rows = deque(), []
    while True:
        while len(under_way) < n_at_once and (job := queue.next()):
            under_way.append(job)
        if not under_way:
            return Found(rows, queue.configs)
        job = under_way.popleft()
        for row in train(job.pack.configs, source):
            rows.append(row)
            queue.tell(row)
        queue.leave(job)


def train(configs: Sequence[Config], source: Source) -> Iterator[Mapping[str, Any]]:
    """Train a pack; return the rows of its configurations as they end."""
    run = PackRun(configs, source)
    while not run.is_done:
        yield from run.advance().trials


def accuracy_with(config: Config, seeds: Sequence[int]) -> float:
    """Train a configuration with other seeds; return its mean accuracy."""
    source = load_source("mnist_5k", data_folder(None))
    configs = [config.model_copy(update={"seed": seed}) for seed in seeds]
    values = [float(row[METRIC]) for c in configs for row in train([c], source)]
    return sum(values) / len(values)
