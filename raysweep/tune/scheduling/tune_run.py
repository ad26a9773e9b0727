"""Running packs as Ray Tune trials."""

import contextlib
import logging
import signal
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.error import TuneError

from raysweep.learning.data.sources import Source
from raysweep.output_streams import tolerant
from raysweep.packs.stage_cache.entries import StageCache
from raysweep.settings.execution import Resources
from raysweep.tables.paused import ASIDE
from raysweep.tune.scheduling.collector import Collector
from raysweep.tune.scheduling.queue import Job, JobQueue, QueueSearcher
from raysweep.tune.scheduling.state_keeper import start_keeper
from raysweep.tune.scheduling.trainable import PackTrainable, trial_config
from raysweep.tune.signals import StopRun, can_handle_signals, end_at_once, stopping_signals


@dataclass(frozen=True)
class TrialOptions:
    """Options that all packs of a run share.

    ``storage`` is where Tune keeps its files, a path on ``filesystem`` (None: on this machine);
    ``has_checkpoints`` is whether all nodes see it.
    """

    resources: Resources
    sources: Mapping[str, Source]
    storage: str
    filesystem: Any = None
    has_checkpoints: bool = True
    store: StageCache | None = None
    max_seconds: float | None = None
    has_averages: bool = False


class _NoReporter(tune.ProgressReporter):
    """A silent reporter: Tune's own reporter for notebooks clears the cell when it starts."""

    def should_report(self, trials: Sequence[Any], done: bool = False) -> bool:
        """Return False: there is nothing to report."""
        return False

    def report(self, trials: Sequence[Any], done: bool, *sys_info: str) -> None:
        """Report nothing."""


def run_packs(queue: JobQueue, terms: TrialOptions, collector: Collector) -> None:
    """Run every job of a queue as a trial; return at the end or on an interrupt.

    Raises ``WriteError`` if the tables could not be written, ``NothingRunsError`` if a node's
    package versions differ from the driver's.
    """
    with _quiet_loggers("ray", "ray.tune", "ray.train"), _stop_on_signals(collector):
        _fit(queue, terms, collector)


@contextmanager
def _quiet_loggers(*names: str) -> Iterator[None]:
    """Silence loggers for a while."""
    before = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)


def _fit(queue: JobQueue, terms: TrialOptions, collector: Collector) -> None:
    mail: tuple[str, ...] = ()
    if not terms.has_checkpoints and terms.filesystem is None:
        scratch = Path(terms.storage)
        name, _keeper = start_keeper(scratch.parent)  # which ends with this function
        mail = name, str(scratch / ASIDE)

    def config_of(job: Job) -> dict[str, Any]:
        return trial_config(
            job.name,
            job.open_configs,
            cpu=terms.resources.cpu,
            gpu=terms.resources.gpu,
            has_checkpoints=terms.has_checkpoints,
            store=terms.store,
            max_seconds=terms.max_seconds,
            checkpoint=job.checkpoint,
            hung=collector.trace_of(job) if terms.has_checkpoints else None,
            has_averages=terms.has_averages,
            states=job.states,
            is_paused=job.is_paused,
            mail=mail,
        )

    amount = {"cpu": terms.resources.cpu, "gpu": terms.resources.gpu}
    trainable = tune.with_resources(
        tune.with_parameters(PackTrainable, sources=dict(terms.sources)), amount
    )
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            num_samples=-1,  # until the queue is empty
            search_alg=QueueSearcher(queue, config_of),
            reuse_actors=True,
            trial_name_creator=lambda trial: f"pack_{trial.trial_id}",
            trial_dirname_creator=lambda trial: f"pack_{trial.trial_id}",
        ),
        run_config=tune.RunConfig(
            name="packs",
            storage_path=terms.storage,
            storage_filesystem=terms.filesystem,
            verbose=0,
            progress_reporter=_NoReporter(),
            callbacks=[collector],
            # The collector handles failed trials.
            failure_config=tune.FailureConfig(max_failures=0),
            # Not num_to_keep=1, with which Tune writes the state of all trials at each checkpoint:
            # the collector removes the older ones.
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    )
    try:
        tuner.fit()
    except StopRun:
        return
    except TuneError:
        if collector.failure is None:
            raise
    if collector.failure is not None:
        raise collector.failure


@contextmanager
def _stop_on_signals(collector: Collector) -> Iterator[None]:
    """Make a stopping signal end Tune's run cleanly; a second one ends it at once.

    Tune's own handler waits up to 10 s for running steps, whose rows it drops.
    """

    def stop(signum: int, frame: types.FrameType | None) -> None:
        for number in stopping:
            signal.signal(number, end_at_once)
        collector.is_stopping = True
        text = "stopping; rows are kept; press ctrl-c again to stop at once"
        with contextlib.suppress(RuntimeError):  # it interrupts another print
            print(text, file=tolerant(sys.stderr), flush=True)  # whose terminal may be gone

    if not can_handle_signals():
        yield
        return
    stopping = stopping_signals()
    before = {number: signal.signal(number, stop) for number in stopping}
    try:
        yield
    finally:
        if not collector.is_stopping:  # else a second signal still ends the process
            for number, handler in before.items():
                signal.signal(number, handler)
