"""Searchers that learn: packs of suggestions, what they are told, and what a later run knows."""

import json
import statistics
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from sweep_runs import space_of, write

from raysweep.learning.config import Config
from raysweep.packs.pack import pack_key
from raysweep.settings.space import BRANCH, Parameters, Space
from raysweep.settings.sweep import load_sweep
from raysweep.tables.folder import ResultsFolder
from raysweep.tables.paths import ResultsPath
from raysweep.tables.schemas import config_columns
from raysweep.tables.writer import Writer
from raysweep.tune.scheduling.queue import Job
from raysweep.tune.search.optuna_search import OptunaSearcher
from raysweep.tune.search.search_queue import SearchQueue
from raysweep.tune.search.suggestions import SUGGESTIONS, known_of

STAYS = ("finished", "diverged")

TEXT = """
search: {method: optuna, n_samples: 40}
space:
  lr: {loguniform: [1e-4, 1e-1]}
  beta_2: {uniform: [0, 1]}
  any_of:
    - model: vib
      beta_1: {quniform: [-1, -0.1, 0.1]}
      n_bottleneck: {choice: [4, 8]}
    - model: comparison
      n_bottleneck: {choice: [4, 16]}
"""
ONE = """
search: {method: optuna, n_samples: 40}
space: {lr: {loguniform: [1e-4, 1e-1]}, beta_2: {uniform: [0, 1]}}
"""


def value(config: Config) -> float:
    """Return a smooth optimum at lr 1e-2, beta_2 0.3."""
    import math

    return -((math.log10(config.lr) + 2) ** 2) - (config.beta_2 - 0.3) ** 2


def row(config: Config, given: float | None) -> dict[str, Any]:
    status = "finished" if given is not None else "diverged"
    return {"config_id": config.id, "status": status, "average_accuracy": given}


class Bench:
    """Runs a queue's packs without training: a row is what ``value`` says."""

    def __init__(self, space: Space, n_samples: int, pack: int, seed: int = 0) -> None:
        self.space = space
        self.searcher = OptunaSearcher(space, "tpe", seed, ["average_accuracy"], ["max"])
        self.kept: list[Parameters] = []
        self.queue = SearchQueue(
            self.searcher,
            space,
            metrics=["average_accuracy"],
            n_samples=n_samples,
            pack=pack,
            keep=self._keep,
        )
        self.rows: dict[str, Mapping[str, Any]] = {}
        self.jobs: list[Job] = []

    def _keep(self, parameters: list[Parameters]) -> None:
        self.kept = parameters

    def start(self) -> Job | None:
        job = self.queue.next()
        if job:
            self.jobs.append(job)
        return job

    def end(self, job: Job) -> None:
        for config in job.pack.configs:
            self.rows[config.id] = row(config, value(config))
            self.queue.tell(self.rows[config.id])
        self.queue.leave(job)

    def run(self, n_jobs: int = 10**6) -> None:
        for _ in range(n_jobs):
            job = self.start()
            if job is None:
                return
            self.end(job)


def test_packs_are_full_and_of_one_shape_and_each_suggestion_runs_once(tmp_path: Path) -> None:
    bench = Bench(space_of(tmp_path, TEXT), n_samples=50, pack=8)
    bench.run()
    ids = Counter(c.id for job in bench.jobs for c in job.pack.configs)
    assert len(ids) == 50
    assert set(ids.values()) == {1}
    for job in bench.jobs:
        assert len({pack_key(config) for config in job.pack.configs}) == 1
    # Three or four shapes: all but the packs at the end are full.
    assert sum(len(job.pack.configs) == 8 for job in bench.jobs) >= 4
    assert len(bench.queue) == 0


def test_a_queue_that_waits_for_rows_is_not_over(tmp_path: Path) -> None:
    bench = Bench(space_of(tmp_path, ONE), n_samples=16, pack=8)
    one, two = bench.start(), bench.start()
    assert one and two and bench.start() is None
    assert len(bench.queue) == 2
    bench.end(one)
    bench.end(two)
    assert len(bench.queue) == 0


def test_a_queue_gives_no_more_jobs_than_may_be_under_way(tmp_path: Path) -> None:
    bench = Bench(space_of(tmp_path, ONE), n_samples=16, pack=2)
    allowed = [2]
    bench.queue = SearchQueue(
        bench.searcher,
        bench.space,
        metrics=["average_accuracy"],
        n_samples=16,
        pack=2,
        keep=lambda _: None,
        n_at_once=lambda: allowed[0],
    )
    one, two = bench.start(), bench.start()
    assert one and two and bench.start() is None
    assert bench.queue.n_asked == 4
    assert len(bench.queue) == 3  # more is to come: not over
    bench.queue.split(two)  # halves of what failed come first, one by one
    half = bench.start()
    assert half is not None and bench.start() is None
    bench.end(one)
    assert bench.start() is not None and bench.start() is None
    assert bench.queue.n_asked == 4
    allowed[0] = 3
    assert bench.start() is not None
    assert bench.queue.n_asked == 6


def test_suggestions_learn_from_rows(tmp_path: Path) -> None:
    firsts, lasts = [], []
    for seed in range(5):
        bench = Bench(space_of(tmp_path, ONE), n_samples=64, pack=8, seed=seed)
        bench.run()
        values = [value(c) for job in bench.jobs for c in job.pack.configs]
        firsts.append(statistics.fmean(values[:8]))
        lasts.append(statistics.fmean(values[-16:]))
    assert statistics.fmean(lasts) > statistics.fmean(firsts) + 0.3


def test_a_suggestion_is_told_the_mean_over_its_seeds(tmp_path: Path) -> None:
    space = space_of(tmp_path, ONE + "seeds: [0, 1, 2]\n")
    bench = Bench(space, n_samples=2, pack=2)
    jobs = [bench.start() for _ in range(3)]
    assert [len(job.pack.configs) for job in jobs if job] == [2, 2, 2]
    told: list[tuple[str, Any]] = []
    bench.searcher.on_trial_complete = (  # type: ignore[method-assign]
        lambda name, result=None, error=False: told.append((name, result))
    )
    by_lr: dict[float, list[Config]] = {}
    for job in jobs:
        assert job
        for config in job.pack.configs:
            by_lr.setdefault(config.lr, []).append(config)
    one, two = by_lr.values()
    for i, config in enumerate(one):
        assert not told
        bench.queue.tell(row(config, 0.1 * (i + 1)))
        bench.queue.tell(row(config, 99.0))  # a row that comes twice counts once
    for config in two:
        bench.queue.tell(row(config, None if config.seed == 1 else 0.5))
    assert told[0][1] == {"average_accuracy": pytest.approx(0.2)}
    assert told[1][1] is None  # diverged in one seed


def test_parameters_come_back_from_configurations(tmp_path: Path) -> None:
    space = space_of(tmp_path, TEXT)
    bench = Bench(space, n_samples=30, pack=5)
    bench.run()
    for config in bench.queue.configs.values():
        parameters = space.parameters_of(config)
        assert parameters is not None
        assert space.configs(parameters) == (config,)
        assert parameters[BRANCH] == (config.model == "comparison")
    assert space.parameters_of(Config(lr=0.5)) is None


def test_a_later_run_goes_on_with_what_was_suggested_and_learned(tmp_path: Path) -> None:
    space = space_of(tmp_path, TEXT)
    first = Bench(space, n_samples=40, pack=4)
    first.run(n_jobs=4)
    running = first.start()  # of a driver that is killed now
    assert running is not None
    pending = list(first.kept)
    done = {config_id: dict(r) for config_id, r in first.rows.items()}
    assert len(done) == 16
    assert len(pending) >= len(running.pack.configs)

    second = Bench(space, n_samples=40, pack=4, seed=1)
    for config_id in done:
        parameters = space.parameters_of(first.queue.configs[config_id])
        assert parameters is not None
        second.queue.know(parameters, done)
    for parameters in pending:
        second.queue.resume(parameters, done)
    second.run()
    ids = Counter(c.id for job in second.jobs for c in job.pack.configs)
    assert set(ids.values()) == {1}
    assert not set(ids) & set(done)
    assert len(ids) + len(done) == 40
    assert {c.id for c in running.pack.configs} <= set(ids)
    study = second.searcher._study
    values = sorted(trial.value for trial in study.trials if trial.value is not None)
    assert values == sorted(r["average_accuracy"] for r in {**done, **second.rows}.values())


def test_packs_that_an_earlier_run_left_come_first_and_once(tmp_path: Path) -> None:
    space = space_of(tmp_path, TEXT)
    first = Bench(space, n_samples=40, pack=4)
    first.run(n_jobs=2)
    left = first.start()
    assert left is not None
    second = Bench(space, n_samples=40, pack=4, seed=1)
    for parameters in first.kept:
        second.queue.resume(parameters, first.rows)
    paused = Job(left.name, left.pack, is_paused=True)
    second.queue.go_on([paused])
    assert second.queue.next() is paused
    second.end(paused)
    second.run()
    ids = Counter(c.id for job in [paused, *second.jobs] for c in job.pack.configs)
    assert set(ids.values()) == {1}
    # The first one's two packs are not known here.
    assert len(ids) == 40
    values = [trial.value for trial in second.searcher._study.trials]
    assert sorted(values) == sorted(r["average_accuracy"] for r in second.rows.values())


def test_a_small_space_ends_when_it_is_used_up(tmp_path: Path) -> None:
    text = "search: {method: optuna, n_samples: 40}\nspace: {n_bottleneck: {choice: [4, 8, 16]}}\n"
    bench = Bench(space_of(tmp_path, text), n_samples=40, pack=4)
    bench.run()
    assert {c.n_bottleneck for job in bench.jobs for c in job.pack.configs} == {4, 8, 16}
    assert len(bench.queue.configs) == 3
    assert len(bench.queue) == 0


@pytest.mark.parametrize("sampler", ["tpe", "cmaes", "gp", "nsga2", "random"])
def test_every_sampler_fills_packs_in_a_space_with_conditions(tmp_path: Path, sampler: str) -> None:
    if sampler == "cmaes":
        pytest.importorskip("cmaes")
    space = space_of(tmp_path, TEXT)
    metrics = ["average_accuracy"]
    searcher = OptunaSearcher(space, sampler, 3, metrics, ["max"])
    queue = SearchQueue(searcher, space, metrics=metrics, n_samples=12, pack=4, keep=lambda _: None)
    while job := queue.next():
        for config in job.pack.configs:
            queue.tell(row(config, value(config)))
        queue.leave(job)
    assert len(queue.configs) == 12


def test_a_diverged_suggestion_wins_by_no_metric(tmp_path: Path) -> None:
    space = space_of(tmp_path, ONE)
    bench = Bench(space, n_samples=2, pack=2)
    job = bench.start()
    assert job
    told: list[Any] = []
    bench.searcher.on_trial_complete = (  # type: ignore[method-assign]
        lambda name, result=None, error=False: told.append(result)
    )
    one, two = job.pack.configs
    bench.queue.tell({**row(one, 0.5), "status": "diverged"})
    bench.queue.tell(row(two, 0.5))
    assert told == [None, {"average_accuracy": 0.5}]


def test_no_more_configurations_go_out_than_the_limit(tmp_path: Path) -> None:
    space = space_of(tmp_path, ONE + "seeds: [0, 1]\n")
    searcher = OptunaSearcher(space, "tpe", 0, ["average_accuracy"], ["max"])
    queue = SearchQueue(
        searcher,
        space,
        metrics=["average_accuracy"],
        n_samples=20,
        pack=4,
        keep=lambda _: None,
        limit=5,
    )
    sizes = []
    while job := queue.next():
        sizes.append(len(job.pack.configs))
        for config in job.pack.configs:
            queue.tell(row(config, 0.5))
        queue.leave(job)
    assert sum(sizes) == 5
    assert len(queue) == 0


def test_what_an_earlier_run_left_counts_to_the_limit(tmp_path: Path) -> None:
    space = space_of(tmp_path, ONE)
    first = Bench(space, n_samples=20, pack=4)
    left = first.start()
    assert left is not None
    searcher = OptunaSearcher(space, "tpe", 1, ["average_accuracy"], ["max"])
    queue = SearchQueue(
        searcher,
        space,
        metrics=["average_accuracy"],
        n_samples=20,
        pack=4,
        keep=lambda _: None,
        limit=5,
    )
    for parameters in first.kept:
        queue.resume(parameters, {})
    queue.go_on([Job(left.name, left.pack, is_paused=True)])
    sizes = []
    while job := queue.next():
        sizes.append(len(job.pack.configs))
        queue.leave(job)
    assert sizes == [4, 1]


@pytest.mark.parametrize("text", ["qrandint: [5, 100, 10]", "quniform: [5, 100, 10]"])
def test_steps_are_the_same_for_optuna_and_at_random(tmp_path: Path, text: str) -> None:
    space = space_of(
        tmp_path, f"search: {{method: optuna, n_samples: 40}}\nspace: {{n_replay: {{{text}}}}}\n"
    )
    bench = Bench(space, n_samples=40, pack=4)
    bench.run()
    assert {c.n_replay for c in bench.queue.configs.values()} == set(range(10, 101, 10))


@pytest.mark.parametrize(
    ("kind", "value", "is_in"),
    [
        ("randint: [16, 64]", 63, True),
        ("randint: [16, 64]", 64, False),
        ("qrandint: [10, 60, 10]", 60, True),
        ("qrandint: [10, 60, 10]", 55, False),
        ("choice: [16, 64]", 64, True),
        ("choice: [16, 64]", 32, False),
        ("lograndint: [16, 64]", 64, False),
    ],
)
def test_rows_outside_of_the_space_are_not_of_it(
    tmp_path: Path, kind: str, value: int, is_in: bool
) -> None:
    space = space_of(
        tmp_path,
        f"search: {{method: optuna, n_samples: 4}}\nspace: {{n_bottleneck: {{{kind}}}}}\n",
    )
    parameters = space.parameters_of(Config(n_bottleneck=value))
    assert parameters == ({"n_bottleneck": value} if is_in else None)
    assert space.fits({"n_bottleneck": value}) == is_in
    searcher = OptunaSearcher(space, "tpe", 0, ["average_accuracy"], ["max"])
    if is_in:
        searcher.learn({"n_bottleneck": value}, {"average_accuracy": 0.5})


@pytest.mark.parametrize(
    "parameters",
    [
        {"lr": 1e-3},
        {"lr": 1e-3, "beta_2": 2.0},
        {"lr": 1e-3, "beta_2": 0.5, "any_of": 0},
        {"lr": 1e-3, "beta_2": 0.5, "n_bottleneck": 4},
        {},
    ],
)
def test_suggestions_of_another_space_do_not_fit(
    tmp_path: Path, parameters: dict[str, Any]
) -> None:
    space = space_of(tmp_path, ONE)
    assert not space.fits(parameters)
    assert space.fits({"lr": 1e-3, "beta_2": 0.5})


def test_a_suggestion_that_looks_like_another_in_its_rows_runs_once(tmp_path: Path) -> None:
    # `reduction: auto` is resolved in the configuration: two parameters, one configuration.
    text = """
search: {method: optuna, n_samples: 30}
space: {lr: {choice: [1e-3, 1e-2, 1e-1]}, reduction: {choice: [auto, sum]}}
seeds: [0, 1]
"""
    file = write(tmp_path, text)
    space = load_sweep(file).space
    assert space is not None
    folder = ResultsFolder(tmp_path / "results")
    folder.open()
    first = Bench(space, n_samples=30, pack=2)
    job = first.start()
    assert job
    config = job.pack.configs[0]
    writer = Writer(folder)
    writer.add("trials", [{**config_columns(config), **row(config, 0.5), "attempt": 1}])
    writer.flush()
    folder.write_text(SUGGESTIONS, json.dumps(first.kept))
    known = known_of(folder.location, space, False, STAYS)
    assert known.n_suggested == len(first.kept)
    second = Bench(space, n_samples=30, pack=2, seed=1)
    for parameters in known.ended:
        second.queue.know(parameters, known.rows)
    for parameters in known.open:
        second.queue.resume(parameters, known.rows)
    second.run()
    ids = [c.id for job in second.jobs for c in job.pack.configs]
    assert len(ids) == len(set(ids)) == 5  # of 3 rates and 2 seeds one has its row
    folder.close()


def test_an_emptied_folder_knows_of_no_suggestion(tmp_path: Path) -> None:
    (tmp_path / "sweep").mkdir()
    known = known_of(ResultsPath.of(tmp_path / "sweep"), space_of(tmp_path, TEXT), False, STAYS)
    assert known.n_suggested == 0


def test_what_failed_before_is_tried_after_all_others_and_alone(tmp_path: Path) -> None:
    space = space_of(tmp_path, ONE)
    first = Bench(space, n_samples=4, pack=2)
    first.start()
    one, two = first.kept
    failed = {config.id for config in space.configs(one)}
    second = Bench(space, n_samples=6, pack=2, seed=1)
    for parameters in (one, two):
        second.queue.resume(parameters, {}, failed)
    second.run()
    assert len(second.queue) == 0
    order = [config.id for job in second.jobs for config in job.pack.configs]
    assert len(order) == len(set(order)) == 6 * len(space.seeds)
    assert set(order[-len(failed) :]) == failed
    assert all(len(job.pack.configs) == 1 for job in second.jobs[-len(failed) :])
