"""The driver: turn a search space into tables, using Ray."""

import contextlib
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from raysweep.errors import InputError, NothingRunsError, RaysweepError, SweepStoppedError
from raysweep.learning.config import Config
from raysweep.learning.data.sources import Source, data_folder, is_local
from raysweep.monitor.loggers.log_writer import FOLDER, LogWriter, check_installed
from raysweep.packs.pack import Pack
from raysweep.packs.planning.estimates import memory_bytes
from raysweep.packs.stage_cache.entries import STORE, StageCache, stored_stages
from raysweep.settings.execution import Resources
from raysweep.settings.sweep import Sweep
from raysweep.settings.yaml_text import dump_yaml
from raysweep.tables.folder import ResultsFolder, WriteError, check_name
from raysweep.tables.paused import ASIDE
from raysweep.tables.survey import Survey
from raysweep.tables.writer import Writer
from raysweep.tune.cluster.nodes import this_machine
from raysweep.tune.cluster.starting import ClusterOptions, connect
from raysweep.tune.options import ExitCode, Options, Outcome
from raysweep.tune.preview.dry_run import look_ahead, packs_of_search
from raysweep.tune.preview.sweep_plan import SweepPlan
from raysweep.tune.reporting.exit_status import exit_status
from raysweep.tune.reporting.manifest import Manifest
from raysweep.tune.reporting.progress import Progress
from raysweep.tune.reporting.screen import Screen
from raysweep.tune.reporting.status_file import StatusFile
from raysweep.tune.reporting.summary import conclude, lay_out
from raysweep.tune.run_sources import load_sources
from raysweep.tune.scheduling.budgets import End, Meter
from raysweep.tune.scheduling.ledger import Ledger, stays
from raysweep.tune.scheduling.remaining_work import Capacity, RemainingWork
from raysweep.tune.search.suggestions import (
    EarlierSuggestions,
    known_of,
    lanes_of,
    modes_of,
    search_lines,
)

if TYPE_CHECKING:
    from raysweep.tune.scheduling.queue import JobQueue
    from raysweep.tune.scheduling.tune_run import TrialOptions
    from raysweep.tune.search.search_queue import SearchQueue


def run_sweep(sweep: Sweep, options: Options) -> tuple[Outcome, Sweep]:
    """Run what a sweep lacks; return how it ended, and the sweep with all suggestions.

    Raises ``InputError`` for what the user can fix and ``NothingRunsError`` if nothing could run.
    """
    driver = _Driver(sweep, options)
    try:
        return driver.run(), driver.sweep
    except (InputError, NothingRunsError, KeyboardInterrupt):
        raise
    except WriteError as error:
        return driver.stop(str(error)), driver.sweep
    except Exception as error:  # noqa: BLE001 (reported in one line, kept in a log)
        summary = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        return driver.stop(f"the driver stopped: {summary}", traceback.format_exc()), driver.sweep
    finally:
        driver.close()


def plan_sweep(
    sweep: Sweep,
    options: Options,
    *,
    show: Callable[[str], None] = lambda _: None,
    is_measured: bool = True,
) -> SweepPlan:
    """Return what ``run_sweep`` would do, and how long by the time of a few training steps.

    ``show`` is called with the lines of the plan as they become known; ``is_measured`` is whether
    to measure the time. Raises the same errors as ``run_sweep``.
    """
    driver = _Driver(sweep, options)
    try:
        return driver.dry_run(show, is_measured)
    except RaysweepError:
        raise
    except Exception as error:
        summary = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise SweepStoppedError(f"the dry run stopped: {summary}") from error
    finally:
        driver.close()


class _Driver:
    """One run of the command: its sweep, results folder, progress and output."""

    def __init__(self, sweep: Sweep, options: Options) -> None:
        self.options = options
        self.began = time.monotonic()
        self.sweep = sweep
        self.folder = ResultsFolder(options.results / check_name(options.name))
        self.location = self.folder.location
        self.store = self._stage_store()
        self._suggested: SearchQueue | None = None
        limits = [n for n in (options.limit, self.sweep.budget.n_configs) if n is not None]
        self._limit = min(limits, default=None)
        self._end = End()
        self._n_paused = 0
        self.screen = Screen(options.verbosity)
        if self.sweep.stage_cache.is_on and self.store is None:
            self.screen.say(
                "note: the stage cache needs a local results folder, got an object store: it is off"
            )
        check_installed(self.sweep.loggers)
        for note in self.sweep.notes:
            self.screen.say(f"note: {note}")

    def _stage_store(self) -> StageCache | None:
        caching, results = self.sweep.stage_cache, self.options.results
        if not caching.is_on or results.local is None:
            return None
        return StageCache((results.local / STORE).absolute(), int(caching.max_gb * 1e9))

    def _log_keeper(self) -> LogWriter:
        """Start logging into the results folder, or the working directory for an object store."""
        folder = Path(FOLDER) / self.options.name
        if self.location.local is not None:
            folder = self.location.local / FOLDER
        elif self.sweep.loggers:
            self.screen.say(f"note: loggers write to {folder}, not into an object store")
            if self.options.is_fresh and folder.exists():
                folder.rename(folder.with_name(f"{folder.name}.before-{int(time.time())}"))
        return LogWriter(self.sweep.loggers, self.location, folder, self.screen.say)

    def _ledger(self) -> Ledger:
        is_new = self.options.is_fresh or not self.location.exists()
        return Ledger(Survey()) if is_new else Ledger.of(self.location)

    def stop(self, reason: str, trace: str = "") -> Outcome:
        """Return one line on why the run ended early and how to resume it; log the traceback."""
        self.screen.close()
        if trace:
            with contextlib.suppress(OSError):
                reason += f" (see {self.folder.write_log('driver.log', trace)})"
        message = f"{reason}; rows written are kept, {self.options.resume}"
        return Outcome(ExitCode.INTERRUPTED, message=message, is_error=True)

    def close(self) -> None:
        """Remove the display and release the folder."""
        self.screen.close()
        self.folder.close()

    def _know(self, ledger: Ledger) -> EarlierSuggestions | None:
        """Look up earlier suggestions, in a sweep whose results decide what is tried next."""
        if self.sweep.space is None:
            return None
        modes_of(self.sweep.search)  # for its checks
        is_new = self.options.is_fresh or not self.location.exists()
        left, lacking = stays(self.sweep), ledger.found.lacking
        known = known_of(self.location, self.sweep.space, is_new, left, lacking)
        self.sweep = replace(self.sweep, configs=tuple(known.configs(self.sweep.space)))
        return known

    def dry_run(self, show: Callable[[str], None], is_measured: bool) -> SweepPlan:
        """Return what would run, and how long by the time of a few training steps."""
        ledger, nodes = self._ledger(), [this_machine()]
        known = self._know(ledger)
        ledger.say_lost(self.sweep, self.screen.say)
        wanted = ledger.missing(self.sweep) if known is None else self.sweep.examples
        data = data_folder(self.options.data)
        # Also for its checks; nothing is downloaded.
        sources = self._load_sources([c for c in wanted if is_local(c.source, data)])
        room = Capacity.of(self.sweep, wanted, nodes)
        n_slots = max(1, room.n_slots)
        packs: Sequence[Pack]
        n_paused = 0
        if known is None:
            work = self._work(ledger)
            jobs = work.paused(room, self.sweep.pack)
            paused, plan = [job.pack for job in jobs], work.plan(room, jobs)
            packs, n_stages = [*paused, *plan.packs], plan.n_run_stages
            n_paused = sum(len(pack.configs) for pack in paused)
            lines = work.describe(plan, room, n_paused)
        else:
            lanes = lanes_of(self.sweep, room.memory)
            packs, n_stages = packs_of_search(self.sweep, known, lanes, self._limit), None
            lines = search_lines(self.sweep, known, lanes, n_slots, room.why)
        show(lay_out(lines))
        if packs:
            room.preview(self.sweep.file, self.options.address, self.screen.say)
        outlook = look_ahead(
            packs,
            sources,
            data=data,
            resources=room.resources,
            n_slots=n_slots,
            stored=stored_stages(self.store.folder) if self.store else (),
            say=self.screen.say,
            is_measured=is_measured,
        )
        if outlook.lines:
            show(lay_out(outlook.lines))
        _, n_all = self._counts(ledger.missing(self.sweep))
        return SweepPlan(
            name=self.options.name,
            n_configs=n_all,
            n_done=len(ledger.ended(self.sweep)),
            n_todo=sum(len(pack.configs) for pack in packs),
            n_partly_trained=n_paused,
            n_packs=len(packs),
            n_at_once=min(n_slots, len(packs)),
            n_stages=n_stages,
            memory_bytes=max(map(memory_bytes, packs), default=0),
            seconds=outlook.seconds,
            cpu_hours=outlook.cpu_h,
            gpu_hours=outlook.gpu_h,
            n_rows=outlook.n_rows,
            table_bytes=outlook.n_bytes,
            text=lay_out({**lines, **outlook.lines}),
            _configs=self.sweep.configs,
            _statuses={c.id: ledger.status(c) for c in self.sweep.configs},
        )

    def run(self) -> Outcome:
        """Train what is missing."""
        # Data and settings are checked against each other before anything is written.
        ledger = self._ledger()
        self._know(ledger)
        sources = self._load_sources([*ledger.missing(self.sweep), *self.sweep.examples])
        data_s = time.monotonic() - self.began
        moved = self.folder.open(self.options.is_fresh, self.screen.say)
        if moved:
            self.screen.say(f"earlier results moved to {moved}")
        ledger = Ledger.of(self.location)  # again: another driver may have held the folder
        known = self._know(ledger)
        ledger.say_lost(self.sweep, self.screen.say)
        missing = ledger.missing(self.sweep)
        self.folder.write_text("sweep.yaml", dump_yaml(self.sweep.resolved))
        writer = Writer(self.folder)
        keeper = self._log_keeper()
        n_new = max(0, self.sweep.search.n_samples - known.n_suggested) if known else 0
        if not missing and not n_new:
            writer.fold()
            self._work(ledger).clear_states()  # of a run that was killed at its very end
            self.screen.say(
                f"all {len(self.sweep.configs)} configurations are done: nothing to train"
            )
            keeper.close()
            return Outcome(ExitCode.ENDED, conclude(self.sweep, self.folder))
        try:
            progress = self._train(missing, ledger, sources, writer, known)
        finally:
            keeper.close()
        total_s = time.monotonic() - self.began
        ledger = Ledger.of(self.location)
        lacking, spent = ledger.found.lacking, {"total_s": total_s, "data_s": data_s}
        done = conclude(self.sweep, self.folder, progress=progress, lacking=lacking, **spent)
        return replace(self._outcome(progress, ledger), summary=done)

    def _work(self, ledger: Ledger) -> RemainingWork:
        return RemainingWork(
            self.sweep,
            self.folder,
            ledger,
            self.store,
            self._limit,
            self.screen,
            self.options.name,
        )

    def _load_sources(self, configs: Sequence[Config]) -> dict[str, Source]:
        folder = data_folder(self.options.data)
        return load_sources(configs, folder, self.sweep.file, self.screen.say)

    def _train(
        self,
        missing: Sequence[Config],
        ledger: Ledger,
        sources: dict[str, Source],
        writer: Writer,
        known: EarlierSuggestions | None,
    ) -> Progress:
        n_todo, n_all = self._counts(missing)
        self.screen.say(f"{n_todo} of {n_all} configurations to train; starting Ray")
        manifest = Manifest(self.folder, self.options.command)
        joining = self._cluster_options(sources)
        with connect(joining, self.screen.say) as (nodes, has_checkpoints, dashboard):
            if dashboard:
                self.screen.say(f"Ray's dashboard: {dashboard}")
            room = Capacity.of(self.sweep, [*missing, *self.sweep.examples], nodes)
            room.expect_slots(self.sweep.file)
            work = self._work(ledger)
            from raysweep.tune.scheduling.collector import Collector, Limits  # imports Ray Tune
            from raysweep.tune.scheduling.resume import fold_and_keep_states
            from raysweep.tune.scheduling.tune_run import run_packs

            queue: JobQueue
            if known is None:
                queue, progress = work.packs(room)
            else:
                queue, progress = work.search(known, n_todo, room)
                self._suggested = queue
            scratch = self.folder.scratch.local
            if self.sweep.early_stopping and has_checkpoints and scratch is not None:
                queue.folder, queue.n_at_once = scratch.absolute() / ASIDE, progress.n_at_once
            status = StatusFile(self.folder, dashboard)
            collector = Collector(
                queue,
                {config.id: ledger.attempts(config) for config in missing},
                writer=writer,
                progress=progress,
                screen=self.screen,
                limits=Limits(
                    self.sweep.max_seconds,
                    work.stopper(queue),
                    Meter(self.sweep.budget, room.resources.gpu, self.began),
                ),
                status=status,
            )
            terms = self._trial_options(room.resources, sources, has_checkpoints)
            try:
                run_packs(queue, terms, collector)
            finally:
                self.screen.close()
                status.close()
                self._n_paused = fold_and_keep_states(writer, list(queue.jobs.values()))
                manifest.end(progress)
                self._end = collector.end
        if self._suggested is not None:
            self.sweep = replace(self.sweep, configs=tuple(self._suggested.configs.values()))
        return progress

    def _counts(self, missing: Sequence[Config]) -> tuple[int, int]:
        """Return the number of configurations to train now, and their number in all."""
        n_all = len(self.sweep.configs)
        if self.sweep.space is None:
            return len(missing[: self._limit]), n_all
        n_done = n_all - len(missing)
        n_all = max(n_all, self.sweep.search.n_samples * len(self.sweep.space.seeds))
        return min(n_all - n_done, self._limit or n_all), n_all

    def _cluster_options(self, sources: Mapping[str, Source]) -> ClusterOptions:
        return ClusterOptions(
            address=self.options.address,
            scratch=self.folder.scratch,
            n_data_bytes=sum(source.n_bytes for source in sources.values()),
            resources=self.sweep.resources,
            n_nodes=self.options.n_nodes,
            wait_s=self.options.wait_s,
            is_without_token=self.options.is_without_token,
            is_verbose=self.options.verbosity > 0,
        )

    def _trial_options(
        self, resources: Resources, sources: Mapping[str, Source], has_checkpoints: bool
    ) -> "TrialOptions":
        from raysweep.tune.scheduling.tune_run import TrialOptions  # imports Ray Tune

        storage, filesystem = self.folder.storage()
        if not has_checkpoints:
            self.screen.say(
                f"note: not every node sees {self.location}: checkpoints travel through the "
                f"network, one for about every 20 s of training"
                + (", and the stage cache is off" if self.store else "")
            )
        return TrialOptions(
            resources=resources,
            sources=sources,
            storage=storage,
            filesystem=filesystem,
            has_checkpoints=has_checkpoints,
            store=self.store if has_checkpoints else None,
            max_seconds=self.sweep.max_seconds,
            has_averages=self.sweep.early_stopping is not None,
        )

    def _outcome(self, progress: Progress, ledger: Ledger) -> Outcome:
        n_unasked = 0
        if self._suggested is not None:
            n_unasked = self._suggested.n_unasked(self.sweep.search.n_samples)
        why = self._end
        if self._limit is not None and progress.n_ended == progress.n_total:
            name = "--limit" if self._limit == self.options.limit else "max_configs"
            why = why if why.common_error else End(f"{name} {self._limit} reached")
        elif why.over and not progress.n_ended and not self._n_paused:
            hint = "before a configuration ended; give more, or set a smaller pack"
            why = End(f"{why.over} {hint}")
        return exit_status(
            self.sweep,
            self.location,
            ledger=ledger,
            n_unasked=n_unasked,
            n_paused=self._n_paused,
            end=why,
            resume=self.options.resume,
        )
