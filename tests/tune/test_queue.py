"""The driver's bookkeeping without Ray: jobs that wait, run, are lost, split and settled."""

import copy
import itertools
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pyarrow.fs import LocalFileSystem
from ray.tune.search import Searcher

from raysweep.errors import NothingRunsError
from raysweep.learning.config import Config
from raysweep.packs.pack import Pack
from raysweep.tables.folder import ResultsFolder
from raysweep.tables.paths import ResultsPath
from raysweep.tables.reader import read_trials
from raysweep.tables.writer import Writer
from raysweep.tune.reporting.progress import Progress
from raysweep.tune.reporting.screen import Screen
from raysweep.tune.scheduling import collector
from raysweep.tune.scheduling.budgets import End
from raysweep.tune.scheduling.collector import Collector, Limits
from raysweep.tune.scheduling.queue import LOST_ALONE, LOST_WORKERS, Job, JobQueue, QueueSearcher
from raysweep.tune.scheduling.trainable import TRIAL
from raysweep.tune.signals import StopRun

STEP = {"train_s": 1.0, "train_cpu_s": 1.0, "prepare_s": 0.0, "done": False, "n_steps": 1}


class _Untouchable(list[Any]):
    """Trials that nobody may look through."""

    def __iter__(self) -> Iterator[Any]:
        raise AssertionError("a step looked through all trials")


TRIALS = _Untouchable()


class Desk:
    """A queue with its collector, and the trials that Tune would run."""

    def __init__(self, folder: Path, *sizes: int, max_seconds: float | None = None) -> None:
        seeds = itertools.count()
        packs = [Pack(tuple(Config(seed=next(seeds)) for _ in range(size))) for size in sizes]
        self.queue = JobQueue(packs)
        self.folder = ResultsFolder(folder)
        self.folder.open()
        self.writer = Writer(self.folder)
        self.progress = Progress(n_total=sum(sizes), n_slots=1, total_work=1.0)
        self.collector = Collector(
            self.queue,
            {},
            writer=self.writer,
            progress=self.progress,
            screen=Screen(-1),
            limits=Limits(max_seconds),
        )

    def start(self) -> tuple[Job, Any]:
        job = self.queue.next()
        assert job is not None
        trial = SimpleNamespace(config={TRIAL: {"key": job.name}}, error_file=None, path=None)
        self.collector.on_trial_start(0, TRIALS, trial)
        return job, trial

    def report(self, trial: Any, ended: tuple[Config, ...] = (), **more: Any) -> None:
        trials = [{"config_id": config.id, "status": "finished"} for config in ended]
        rows = {"epochs": [], "accuracy": [], "trials": trials}
        result = {**STEP, "rows": json.dumps(rows), **more}
        self.collector.on_trial_result(0, TRIALS, trial, result)

    def lose(self, trial: Any, text: str = "", folder: Path | None = None) -> None:
        if text and folder:
            trial.error_file = str(folder / "error.txt")
            Path(trial.error_file).write_text(text)
        self.collector.on_trial_error(0, TRIALS, trial)

    def statuses(self) -> dict[str, str]:
        self.writer.flush()
        frame = read_trials(self.folder.path)
        return dict(zip(frame["config_id"], frame["status"], strict=True))


def test_a_step_does_not_look_through_the_trials(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "sweep", 1, 1, 1)
    for _ in range(3):
        job, trial = desk.start()
        desk.report(trial, job.pack.configs, done=True)
        desk.collector.on_trial_complete(0, TRIALS, trial)
        desk.collector.on_step_end(0, TRIALS)
    assert len(desk.queue) == 0
    assert set(desk.statuses().values()) == {"finished"}


def test_a_checkpoint_takes_the_place_of_the_packs_last(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "sweep", 1, 1)
    started = [desk.start(), desk.start()]
    scratch = desk.folder.path / ".tune"
    for number, (job, trial) in itertools.product(range(3), started):
        path = scratch / f"{job.name}-{number}"
        path.mkdir(parents=True)
        checkpoint = SimpleNamespace(path=str(path), filesystem=LocalFileSystem())
        desk.collector.on_checkpoint(0, TRIALS, trial, checkpoint)
        assert job.checkpoint is checkpoint

    def left() -> set[str]:
        return {path.name for path in scratch.iterdir()}

    # Until the rows behind the last one are written, a killed run needs an earlier one.
    assert left() == {f"{job.name}-{number}" for job, _ in started for number in range(3)}
    desk.collector._flush()
    assert left() == {f"{job.name}-2" for job, _ in started}
    job, trial = started[0]
    desk.report(trial, job.pack.configs, done=True)
    desk.collector.on_trial_complete(0, TRIALS, trial)
    assert (scratch / f"{job.name}-2").exists()
    desk.collector._flush()
    assert not (scratch / f"{job.name}-2").exists()


def test_what_an_earlier_run_did_of_a_pack_is_no_work_of_this_one(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "sweep", 1)
    paused = Job("paused", Pack((Config(seed=9),)), is_paused=True)
    desk.queue.go_on([paused])
    desk.progress.total_work = sum(job.cost for job in desk.queue.jobs.values())
    job, trial = desk.start()
    assert job is paused
    n_epochs = job.pack.n_epochs
    desk.report(trial, n_steps=n_epochs // 2 + 1)
    before = n_epochs // 2 / n_epochs
    (waiting,) = (other for other in desk.queue.jobs.values() if other is not job)
    assert desk.progress.total_work == pytest.approx(waiting.cost + job.cost * (1 - before))
    assert desk.progress.work_done == {"paused": pytest.approx(job.cost / n_epochs)}
    desk.report(trial, job.pack.configs, n_steps=n_epochs, done=True)
    assert desk.progress.work_done == {"paused": pytest.approx(job.work)}


def test_the_searcher_gives_each_job_once_and_ends_when_all_have_left(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "sweep", 2, 2)
    searcher = QueueSearcher(desk.queue, lambda job: {"key": job.name})
    names = [searcher.suggest("1")[TRIAL]["key"], searcher.suggest("2")[TRIAL]["key"]]  # type: ignore[index]
    assert sorted(names) == sorted(desk.queue.jobs)
    assert searcher.suggest("3") is None  # they run: one may yet be split
    first, second = desk.queue.jobs.values()
    halves = desk.queue.split(first)
    assert [searcher.suggest("4"), searcher.suggest("5")] == [
        {TRIAL: {"key": half.name}} for half in halves
    ]
    for job in (*halves, second):
        desk.queue.leave(job)
    assert searcher.suggest("6") == Searcher.FINISHED


def test_tune_copies_and_pickles_a_searcher_without_its_jobs(tmp_path: Path) -> None:
    searcher = QueueSearcher(Desk(tmp_path / "sweep", 50).queue, lambda job: {"key": job.name})
    assert copy.deepcopy(searcher) is searcher
    assert len(pickle.dumps(searcher)) < 300


def test_halves_hold_each_open_configuration_once(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "sweep", 7)
    job, trial = desk.start()
    desk.report(trial, job.pack.configs[1:3])
    expected = [config.id for config in job.open_configs]
    halves = desk.queue.split(job)
    assert [c.id for half in halves for c in half.pack.configs] == expected
    assert [len(half.pack.configs) for half in halves] == [3, 2]
    assert len({job.name, *(half.name for half in halves)}) == 3


def test_an_exception_costs_no_configuration_but_its_own(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "sweep", 8, 3)
    guilty = Config(seed=5).id
    while desk.queue.jobs:
        job, trial = desk.start()
        if any(config.id == guilty for config in job.open_configs):
            failure = {"error": "ValueError: no", "traceback": "...", "circumstances": {}}
            desk.collector.on_trial_result(0, TRIALS, trial, {**failure, "done": True})
        else:
            desk.report(trial, job.pack.configs, done=True)
        desk.collector.on_trial_complete(0, TRIALS, trial)
    expected = {Config(seed=s).id: "failed" if s == 5 else "finished" for s in range(11)}
    assert desk.statuses() == expected
    assert desk.progress.n_ended == 11
    assert (desk.folder.path / "logs" / f"{guilty}.log").exists()


def test_a_pack_without_memory_is_halved_before_its_worker_is_gone(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "sweep", 4)
    _, trial = desk.start()
    failure = {"error": "OutOfMemoryError: x", "traceback": "...", "circumstances": {}}
    desk.collector.on_trial_result(0, TRIALS, trial, {**failure, "done": False})
    assert [job.n_open for job in desk.queue.jobs.values()] == [2, 2]
    desk.lose(trial)  # the spoilt worker ends itself
    assert [job.n_open for job in desk.queue.jobs.values()] == [2, 2]


def test_losses_in_a_row_split_a_pack_and_an_epoch_in_between_forgives_them(
    tmp_path: Path,
) -> None:
    desk = Desk(tmp_path / "sweep", 2)
    for _ in range(5 * LOST_WORKERS):
        _, trial = desk.start()
        desk.report(trial)
        desk.lose(trial)
    assert [job.n_open for job in desk.queue.jobs.values()] == [2]
    for _ in range(LOST_WORKERS - 1):  # the first of the row was the last loss above
        _, trial = desk.start()
        desk.lose(trial)
    assert [job.n_open for job in desk.queue.jobs.values()] == [1, 1]


def test_a_configuration_that_ends_its_worker_each_time_has_failed(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "sweep", 1)
    for number in range(LOST_ALONE):
        assert len(desk.queue) == 1, number
        _, trial = desk.start()
        desk.lose(trial, "Failure # 1\nThe actor died: SIGSEGV", tmp_path)
    assert len(desk.queue) == 0
    (row,) = read_rows(desk)
    assert row["status"] == "failed"
    assert row["error"] == f"worker lost {LOST_ALONE} times: The actor died: SIGSEGV"
    assert row["attempt"] == LOST_ALONE


def read_rows(desk: Desk) -> list[dict[str, Any]]:
    desk.writer.flush()
    return read_trials(desk.folder.path).to_dict("records")


@pytest.mark.parametrize(
    "text",
    [
        "ray.exceptions.OutOfMemoryError: Task was killed due to the node running low on memory",
        "The actor died unexpectedly: the worker was killed (OOM)",
    ],
)
def test_a_node_without_memory_splits_the_pack_at_once(tmp_path: Path, text: str) -> None:
    desk = Desk(tmp_path / "sweep", 2)
    _, trial = desk.start()
    desk.lose(trial, text, tmp_path)
    assert [job.n_open for job in desk.queue.jobs.values()] == [1, 1]


def test_a_worker_silent_for_longer_than_max_seconds_was_hung(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "sweep", 2, max_seconds=30)
    job, trial = desk.start()
    job.heard -= 29
    desk.lose(trial)
    assert [job.n_open for job in desk.queue.jobs.values()] == [2]  # lost, not hung
    job, trial = desk.start()
    job.heard -= 31
    desk.lose(trial)
    assert [job.n_open for job in desk.queue.jobs.values()] == [1, 1]
    for _ in range(2):
        job, trial = desk.start()
        job.heard -= 31
        desk.lose(trial)
    assert all("max_seconds is 30" in row["error"] for row in read_rows(desk))
    assert set(desk.statuses().values()) == {"failed"}


def test_other_versions_on_a_node_end_the_run(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "sweep", 2)
    _, trial = desk.start()
    with pytest.raises(NothingRunsError, match="expected torch"):
        desk.collector.on_trial_result(
            0, TRIALS, trial, {"error": "expected torch 2", "is_foreign": True, "done": True}
        )


def test_an_interrupted_pack_stays_in_the_queue(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "sweep", 2)
    _, trial = desk.start()
    desk.collector.is_stopping = True
    desk.collector.on_trial_complete(0, TRIALS, trial)
    assert len(desk.queue) == 1


# --- jobs that are set aside ----------------------------------------------------------------------


def alike(n: int, first: float) -> Pack:
    """Make a pack of configurations that may all train together."""
    return Pack(tuple(Config(lr=first * (1 + i / 100)) for i in range(n)))


class Seats:
    """A queue of four packs of eight that keeps states; at most two jobs are out."""

    def __init__(self, folder: Path) -> None:
        self.queue = JobQueue([alike(8, 1e-3 * (i + 1)) for i in range(4)], lambda: 2)
        self.queue.folder = folder

    def lose(self, job: Job, n_left: int, turn: str = "t") -> None:
        """Let all but some configurations of a job end, and set it aside."""
        job.ended.update(c.id for c in job.pack.configs[n_left:])
        file = self.queue.state_file(job, n_left)
        assert file is not None
        job.states, job.turn = (ResultsPath(file),), turn
        self.queue.set_aside(job)

    def next(self) -> Job:
        job = self.queue.next()
        assert job is not None
        return job


def test_jobs_that_lost_lanes_go_on_as_one_as_soon_as_they_fill_its_seats(tmp_path: Path) -> None:
    seats = Seats(tmp_path)
    one, two = seats.next(), seats.next()
    assert seats.queue.next() is None
    seats.lose(one, 4)
    three = seats.next()
    assert len(three.pack.configs) == 8
    seats.lose(two, 4)
    whole = seats.next()
    assert whole.pack.configs == (*one.pack.configs[:4], *two.pack.configs[:4])
    files = [tmp_path / f"{job.name}.safetensors" for job in (one, two)]
    assert whole.states == tuple(map(ResultsPath, files))
    assert (whole.n_seats, whole.turn) == (8, None)
    assert set(seats.queue.jobs) == {whole.name, three.name, seats.queue._waiting[0].name}


def test_jobs_at_other_epochs_are_not_joined_and_all_go_on_when_nothing_waits(
    tmp_path: Path,
) -> None:
    seats = Seats(tmp_path)
    for turn in ("a", "b", "c"):
        seats.lose(seats.next(), 3, turn)
    last = seats.next()
    seats.queue.leave(last)
    rest = [seats.next(), seats.next()]
    assert [job.n_open for job in rest] == [3, 3]
    assert seats.queue.next() is None
    seats.queue.leave(rest[0])
    assert seats.next().n_open == 3
    assert len(seats.queue) == 2


def test_a_job_is_set_aside_only_for_others_and_with_half_of_its_seats_free(tmp_path: Path) -> None:
    seats = Seats(tmp_path)
    job = seats.next()
    assert seats.queue.state_file(job, 5) is None
    assert seats.queue.state_file(job, 0) is None
    assert seats.queue.state_file(job, 4) == tmp_path / f"{job.name}.safetensors"
    while waiting := seats.queue.next():
        seats.queue.leave(waiting)
    assert seats.queue.state_file(job, 4) is None
    seats.queue.folder = None
    assert seats.queue.state_file(job, 4) is None


def test_more_than_fill_the_seats_of_one_wait_for_the_next(tmp_path: Path) -> None:
    seats = Seats(tmp_path)
    for n_left in (3, 3):
        seats.lose(seats.next(), n_left)
    seats.lose(seats.next(), 4)
    whole = seats.next()
    assert [len(whole.pack.configs), whole.n_open] == [6, 6]
    last = seats.next()
    assert len(last.pack.configs) == 8
    seats.queue.leave(last)
    assert seats.next().n_open == 4


def test_three_failures_alike_in_a_row_end_the_run_and_rows_are_kept(tmp_path: Path) -> None:
    desk = Desk(tmp_path, 1, 1, 1, 1)
    for number in range(3):
        assert desk.collector.end == End()
        _, trial = desk.start()
        failed = {"error": "no such thing", "traceback": "...", "circumstances": {}, "done": True}
        desk.collector.on_trial_result(0, TRIALS, trial, {**STEP, **failed})
        if number < 2:
            desk.collector.on_step_end(0, TRIALS)
    with pytest.raises(StopRun):
        desk.collector.on_step_end(0, TRIALS)
    assert desk.collector.end == End(common_error="no such thing")
    assert list(desk.statuses().values()) == ["failed"] * 3


@pytest.mark.parametrize(
    ("n_starting", "said"),
    [
        (0, "no node has had room for a pack for 1 min"),
        (1, "a worker has had room, but not started, for 1 min"),
        (2, "2 workers have had room, but not started, for 1 min"),
        (None, "no node has had room for a pack, or its worker has not started, for 1 min"),
    ],
)
def test_a_wait_for_room_is_told_from_one_for_a_worker_that_starts(
    n_starting: int | None, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collector, "n_workers_starting", lambda: n_starting)
    desk = Desk(tmp_path / "sweep", 1)
    lines: list[str] = []
    desk.collector._screen.say = lines.append  # type: ignore[method-assign]
    desk.collector.on_step_end(0, TRIALS)
    assert not lines
    desk.collector._busy -= 61
    desk.collector.on_step_end(0, TRIALS)
    desk.collector.on_step_end(0, TRIALS)
    (line,) = lines
    assert line.startswith(said)
    assert line.endswith(": waiting; ctrl-c ends the run and keeps the rows written")
    desk.start()
    desk.collector._busy -= 61
    desk.collector.on_step_end(0, TRIALS)
    assert lines == [line]
