"""Write rows from Tune's results to the tables, track progress, and handle failures."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial
from ray.tune.result import HOSTNAME

from raysweep._compat import n_workers_starting
from raysweep.errors import NothingRunsError
from raysweep.monitor.terminal import show_duration
from raysweep.packs.pack import Pack
from raysweep.packs.planning.estimates import cost
from raysweep.settings.stopping import Budget
from raysweep.statuses import Status
from raysweep.tables.completeness import rows_needed
from raysweep.tables.folder import WriteError
from raysweep.tables.paths import ResultsPath
from raysweep.tables.schemas import config_columns
from raysweep.tables.writer import Writer
from raysweep.tune.reporting.progress import Progress
from raysweep.tune.reporting.screen import Screen
from raysweep.tune.reporting.status_file import StatusFile
from raysweep.tune.scheduling.budgets import End, Meter
from raysweep.tune.scheduling.queue import Job, JobQueue, job_name
from raysweep.tune.search.early_stopping import LaneStopper
from raysweep.tune.signals import StopRun

_FLUSH_EVERY_S = 1.0
_FLUSH_SHARE = 0.05
"""Rows of an ended pack are written at once if writing takes at most this share of the time."""
_IDLE_NOTE_S = 60.0
_SHORT_OF_MEMORY = ("OutOfMemory", "running low on memory", "(OOM)")
"""Texts by which Ray reports that it ended a worker because its node was out of memory."""


def _idle_note(n_starting: int | None) -> str:
    """Return a line on why no pack runs, by how many workers are starting (None: unknown)."""
    what = "no node has had room for a pack, or its worker has not started,"
    if n_starting:
        what = f"{n_starting} workers have" if n_starting > 1 else "a worker has"
        what += " had room, but not started,"
    elif n_starting == 0:
        what = "no node has had room for a pack"
    return (
        f"{what} for {show_duration(_IDLE_NOTE_S)}: waiting; ctrl-c ends the run and keeps the "
        f"rows written"
    )


@dataclass(frozen=True)
class Limits:
    """Limits that end training: on the time of a step, on lanes that fall behind, budgets."""

    max_seconds: float | None = None
    stopper: LaneStopper | None = None
    meter: Meter | None = None


class Collector(tune.Callback):
    """Write rows from Tune's results to the tables, and track progress.

    When a worker fails, the collector decides instead of Tune: it resumes the job, splits it in
    halves so that a configuration that can't be trained does not take others down with it, or marks
    its only configuration as failed. Tune pickles its callbacks for a restore that is never used,
    so the pickled state is empty. After a run, ``failure`` is the error that ended it, if any, and
    ``end`` the user's limit that did.
    """

    def __init__(
        self,
        queue: JobQueue,
        attempts: Mapping[str, int],
        *,
        writer: Writer,
        progress: Progress,
        screen: Screen,
        limits: Limits | None = None,
        status: StatusFile | None = None,
    ) -> None:
        self._queue = queue
        self._attempts = attempts
        self._writer = writer
        self._progress = progress
        self._screen = screen
        limits = limits or Limits()
        self._max_seconds = limits.max_seconds
        self._stopper = limits.stopper
        self._meter = limits.meter or Meter(Budget(), 0, time.monotonic())
        self._status = status
        self._flushed = time.monotonic()
        self._flush_s = 0.0
        self._has_ended_pack = False
        # A killed run resumes from these if the rows of later states were not written yet.
        self._outdated: list[str | ResultsPath] = []
        self._noted: set[str] = set()
        # Kept here: scanning Tune's trials at each step takes quadratic time in their number.
        self._running: set[str] = set()
        self._busy = time.monotonic()
        self.is_stopping = False
        self.failure: WriteError | NothingRunsError | None = None
        self.end = End()

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def _leave_slot(self, trial: Trial) -> None:
        self._running.discard(job_name(trial))
        self._meter.note_end(job_name(trial))
        self._progress.note_end(job_name(trial))

    def _job(self, trial: Trial) -> Job | None:
        """Return the job of a trial, None if it was settled before."""
        return self._queue.jobs.get(job_name(trial))

    def on_trial_start(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Note that a pack runs."""
        self._running.add(job_name(trial))
        self._meter.note_start(job_name(trial))
        if job := self._job(trial):
            job.heard = time.monotonic()
            self._progress.note_start(job.name, job.n_open)

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Collect the rows of one epoch of a pack."""
        actor = result.pop("actor", None)  # Tune keeps the last result of every trial
        job = self._job(trial)
        if job is None:
            return
        job.heard = time.monotonic()
        if result.get("is_foreign"):
            self.failure = NothingRunsError(result["error"])
            raise self.failure
        if "error" in result:
            self._settle(job, result["error"], result["traceback"], result["circumstances"])
            return
        job.n_lost = 0
        self._progress.train_s += result["train_s"]
        self._progress.train_cpu_s += result["train_cpu_s"]
        self._progress.prepare_s += result["prepare_s"]
        self._note(result.get("notes", []))
        # Too low when stages come from the cache: they take no steps.
        share = 1.0 if result["done"] else min(1.0, result["n_steps"] / job.pack.n_epochs)
        if job.is_paused and job.share_before is None:
            job.share_before = min(1.0, (result["n_steps"] - 1) / job.pack.n_epochs)
            self._progress.total_work -= job.cost * job.share_before
        self._progress.note_share(job.name, share, job.cost, job.share_before or 0.0)
        rows = json.loads(result.pop("rows"))  # for the same reason
        self._note_epoch(job, result.get(HOSTNAME), rows["epochs"])
        self._writer.add("epochs", rows["epochs"])
        self._writer.add("accuracy", rows["accuracy"])
        for row in rows["trials"]:
            self._end(job, row)
        if path := result.get("sent"):
            self._drop_states(job)
            job.states, job.is_paused = (ResultsPath.of(path),), False
        if path := result.get("state"):
            self._drop_states(job)
            job.states, job.turn, job.is_paused = (ResultsPath.of(path),), result["turn"], False
        if self._stopper and not result["done"]:
            gone = {row["config_id"] for row in rows["trials"]}
            self._stop_lanes(job, actor, [r for r in rows["epochs"] if r["config_id"] not in gone])

    def _stop_lanes(self, job: Job, actor: Any, epochs: Sequence[Mapping[str, Any]]) -> None:
        """Make the worker drop configurations that fall behind, before its next epoch.

        The decision is sent again to a pack that starts over, or that resumes from a checkpoint
        older than the decision.
        """
        assert self._stopper is not None
        decisions = self._stopper.hear({c.id: c for c in job.pack.configs}, epochs)
        stops = {config_id: asdict(decision) for config_id, decision in decisions.items()}
        if stops and actor is not None:
            # Tune requests the next epoch after this call: an actor runs one process's calls in
            # order, whichever handle they use.
            actor.stop_lanes.remote(json.dumps(stops))
            n_left = sum(config.id not in stops for config in job.open_configs)
            if path := self._queue.state_file(job, n_left):
                actor.set_aside.remote(str(path))

    def _note_epoch(self, job: Job, host: str | None, epochs: Sequence[Mapping[str, Any]]) -> None:
        """Note what a worker is doing, from its last row: it trains one group at a time."""
        stage, epoch, n_epochs = None, 0, 0
        if epochs:
            stage, epoch = epochs[-1]["stage"], epochs[-1]["epoch"]
            config = job.pack.configs[0]
            is_generator = stage.startswith("train_generator")
            n_epochs = config.vae_epochs if is_generator else config.epochs
        self._progress.note_epoch(job.name, host, stage, epoch, n_epochs)

    def _note(self, texts: Sequence[str]) -> None:
        """Print a worker's notes, each once per run."""
        for text in texts:
            if text not in self._noted:
                self._noted.add(text)
                self._screen.say(f"note: {text}")

    def _end(self, job: Job, row: dict[str, Any]) -> None:
        config_id = row["config_id"]
        config = next(c for c in job.pack.configs if c.id == config_id)
        for name in ("started_at", "ended_at"):
            if row.get(name) is not None:
                row[name] = datetime.fromtimestamp(row[name], UTC)
        row["attempt"] = self._attempts.get(config_id, 0) + job.n_tries + 1
        row |= rows_needed(config, row)
        self._writer.add("trials", [{**config_columns(config), **row}])
        if config_id not in job.ended:  # a repeated epoch reports its ends again
            job.ended.add(config_id)
            self._progress.note_trial(row)
            self._meter.note_outcome(row.get("error"))
            self._queue.tell(row)

    def _settle(
        self,
        job: Job,
        error: str,
        trace: str,
        circumstances: Mapping[str, Any] | None = None,
    ) -> None:
        """Split a pack that can't continue as it is; mark a single configuration as failed."""
        missing = job.open_configs
        self._drop_checkpoint(job)
        if len(missing) > 1:
            log = self._log(f"pack_{job.name}.log", trace)
            halves = self._queue.split(job)
            self._progress.work_done.pop(job.name, None)
            self._progress.total_work += sum(half.cost for half in halves) - job.work
            self._screen.say(
                f"a pack of {len(missing)} could not continue: {error} ({log}); "
                f"retrying it in halves"
            )
            return
        for config in missing:
            log = self._log(f"{config.id}.log", trace)
            self._screen.say(f"configuration {config.id} failed: {error} ({log})")
            row = {"config_id": config.id, "status": Status.FAILED, "error": error}
            self._end(job, {**row, **(circumstances or {})})
        self._progress.work_done[job.name] = job.work
        self._queue.leave(job)
        self._has_ended_pack = True

    def _log(self, name: str, text: str) -> str:
        """Write a log; return where it is, or why there is none."""
        try:
            return f"see {self._writer.folder.write_log(name, text)}"
        except OSError as error:  # writing the tables will report it, too
            return f"no log: {error.strerror or error}"

    def on_checkpoint(
        self,
        iteration: int,
        trials: list[Trial],
        trial: Trial,
        checkpoint: tune.Checkpoint,
        **info: Any,
    ) -> None:
        """Replace the pack's checkpoint by a new one."""
        job = self._job(trial)
        if job is not None and (job.checkpoint is None or job.checkpoint.path != checkpoint.path):
            self._drop_checkpoint(job)
            job.checkpoint = checkpoint

    def _drop_checkpoint(self, job: Job) -> None:
        if job.checkpoint is not None:
            self._outdated.append(job.checkpoint.path)
            job.checkpoint = None

    def _drop_states(self, job: Job) -> None:
        if job.is_paused:  # other jobs may share them; deleted at the end of the run
            return
        self._outdated += job.states

    def _delete_outdated(self) -> None:
        """Delete the states of no further use, now that the rows of later ones are written."""
        outdated, self._outdated = self._outdated, []
        for path in outdated:
            if isinstance(path, str):  # a folder of Tune's
                self._writer.folder.remove_tree(path)
            else:
                path.delete()

    def on_trial_error(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Resume the pack of a lost worker, or settle it if it has lost workers too often."""
        self._leave_slot(trial)
        job = self._job(trial)
        if job is None:
            return
        text = ""
        if trial.error_file and Path(trial.error_file).exists():
            text = Path(trial.error_file).read_text().strip()
        reason = text.splitlines()[-1] if text else "no reason given"
        silent_s = time.monotonic() - job.heard
        job.n_lost += 1
        if job.turn is not None:  # lost right after its state was written
            self._drop_states(job)
            job.states, job.turn = (), None
        if self._max_seconds is not None and silent_s >= self._max_seconds:
            error = (
                f"an epoch had not ended after {show_duration(silent_s)}; max_seconds is "
                f"{self._max_seconds:g}"
            )
            self._settle(job, error, self._where_it_hung(job) or text or error)
        elif any(word in text for word in _SHORT_OF_MEMORY):
            self._settle(job, f"its node ran out of memory: {reason}", text)
        elif job.n_lost >= job.may_lose:
            self._settle(job, f"worker lost {job.n_lost} times: {reason}", text or reason)
        else:
            has_state = job.checkpoint or job.states
            how = "resumes from its last checkpoint" if has_state else "starts over"
            self._screen.say(
                f"a worker was lost ({job.n_lost} of {job.may_lose} times in a row for its pack); "
                f"the pack {how}"
            )
            job.n_tries += 1
            self._queue.again(job)

    def trace_of(self, job: Job) -> Path | None:
        """Return the file for the traceback of a hung job; None for results in an object store."""
        scratch = self._writer.folder.scratch.local
        return scratch.absolute() / f"hung-{job.name}.txt" if scratch else None

    def _where_it_hung(self, job: Job) -> str:
        trace = self.trace_of(job)
        try:
            return trace.read_text() if trace else ""
        except OSError:  # from a node that does not see the folder
            return ""

    def on_trial_complete(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Delete the trial's files."""
        self._leave_slot(trial)
        job = self._job(trial)
        if job is None or self.is_stopping:
            return
        if job.n_open and job.turn is None:
            self._queue.again(job)
            return
        self._drop_checkpoint(job)  # which may lie in an earlier trial's folder
        if job.n_open:
            # This job's work is done; the job that it is joined into has the rest.
            self._progress.work_done[job.name] = job.work
            self._progress.total_work += cost(Pack(tuple(job.open_configs)))
            self._queue.set_aside(job)
            return
        self._drop_states(job)
        if trial.path:
            self._outdated.append(trial.path)
        self._queue.leave(job)
        # Don't write here: Tune would treat a failed write as a failed trial.
        self._has_ended_pack = True

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Write rows and show progress when due; raise to end the run if it must stop."""
        if end := self._meter.end():
            self.end, self.is_stopping = end, True
        if self.is_stopping:
            raise StopRun
        jobs = self._queue.jobs
        n_configs = sum(jobs[name].n_open for name in self._running if name in jobs)
        self._progress.note_running(len(jobs), n_configs)
        tick = time.monotonic()
        since = tick - self._flushed
        is_soon = self._has_ended_pack and self._flush_s <= _FLUSH_SHARE * since
        if is_soon or since > _FLUSH_EVERY_S:
            self._flush()
        if self._running:
            self._busy = tick
        elif tick - self._busy > _IDLE_NOTE_S:
            self._busy = tick
            self._screen.say(_idle_note(n_workers_starting()))
        self._screen.update(self._progress)
        if self._status:
            self._status.update(self._progress)

    def _flush(self) -> None:
        start = time.monotonic()
        try:
            self._writer.flush()
        except WriteError as error:
            self.failure = error
            raise
        self._delete_outdated()
        self._flushed = time.monotonic()
        self._flush_s = self._flushed - start
        self._has_ended_pack = False
