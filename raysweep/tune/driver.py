"""The driver: from a search space to tables, by way of Ray."""

import contextlib
import sys
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from raysweep.data.sources import Source, data_folder, is_local
from raysweep.loggers import FOLDER, LogKeeper, check_installed
from raysweep.plan import Plan, cost, make_plan
from raysweep.results import (
    ResultsFolder,
    WriteError,
    Writer,
    best_of,
    check_name,
    read_trials,
    resume_command,
    statuses,
)
from raysweep.settings import Config, InputError, Resources, dump_yaml, load_sweep
from raysweep.store.files import STORE, StageStore, stored_stages
from raysweep.tune.access import NothingRunsError
from raysweep.tune.adaptive import (
    Known,
    describe,
    known_of,
    lanes_of,
    make_queue,
    modes_of,
)
from raysweep.tune.budget import End, Meter
from raysweep.tune.cluster import Joining, connect
from raysweep.tune.dry_run import look_ahead, packs_of_search
from raysweep.tune.ledger import Ledger, stays
from raysweep.tune.manifest import Manifest
from raysweep.tune.nodes import Node, memory_a_pack, n_slots_of, this_machine
from raysweep.tune.options import ExitCode, Options
from raysweep.tune.progress import Progress
from raysweep.tune.report import conclude, describe_plan
from raysweep.tune.screen import Screen
from raysweep.tune.shares import choose_share
from raysweep.tune.sources import load_sources
from raysweep.tune.status_file import StatusFile
from raysweep.tune.verdict import verdict

if TYPE_CHECKING:
    from raysweep.tune.lane_stopping import LaneStopper
    from raysweep.tune.queue import JobQueue
    from raysweep.tune.search import SearchQueue


ASIDE = "aside"
"""Folder of the states of packs that lost half of their lanes, among Ray Tune's files."""


@dataclass(frozen=True)
class _Room:
    """Where packs run: the nodes, what each pack gets and why, and how many run at once."""

    nodes: Sequence[Node]
    resources: Resources
    n_slots: int
    why: str


def run_sweep(options: Options) -> ExitCode:
    """Run what a sweep lacks; raise ``InputError`` for what the user can mend."""
    driver = _Driver(options)
    try:
        return driver.dry_run() if options.is_dry_run else driver.run()
    except (InputError, NothingRunsError, KeyboardInterrupt):
        raise
    except WriteError as error:
        return driver.stop(str(error))
    except Exception as error:  # noqa: BLE001 (said in one line, kept in a log)
        summary = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        return driver.stop(f"the driver stopped: {summary}", traceback.format_exc())
    finally:
        driver.screen.close()
        driver.folder.close()


class _Driver:
    """One run of the command: its sweep, its folder, what is done and what is shown."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.began = time.monotonic()
        self.sweep = load_sweep(options.file, options.overrides, max_configs=options.max_configs)
        self.folder = ResultsFolder(options.results / check_name(options.name))
        self.place = self.folder.place
        self.store = self._stage_store()
        self._suggested: SearchQueue | None = None
        limits = [n for n in (options.limit, self.sweep.budget.n_configs) if n is not None]
        self._limit = min(limits, default=None)
        self._end = End()
        self.screen = Screen(options.verbosity)
        if self.sweep.stages.keep and self.store is None:
            self.screen.say(
                "note: stages are kept in a folder only, not in an object store: none are"
            )
        check_installed(self.sweep.loggers)
        for note in self.sweep.notes:
            self.screen.say(f"note: {note}")

    def _stage_store(self) -> StageStore | None:
        stages, results = self.sweep.stages, self.options.results
        if not stages.keep or results.local is None:
            return None
        return StageStore((results.local / STORE).absolute(), int(stages.max_gb * 1e9))

    def _log_keeper(self) -> LogKeeper:
        """Start logging into the results folder; beside the command where that is in a store."""
        folder = Path(FOLDER) / self.options.name
        if self.place.local is not None:
            folder = self.place.local / FOLDER
        elif self.sweep.loggers:
            self.screen.say(f"note: loggers write to {folder}, not into an object store")
            if self.options.is_fresh and folder.exists():
                folder.rename(folder.with_name(f"{folder.name}.before-{int(time.time())}"))
        return LogKeeper(self.sweep.loggers, self.place, folder, self.screen.say)

    def _ledger(self) -> Ledger:
        is_new = self.options.is_fresh or not self.place.exists()
        return Ledger({} if is_new else statuses(self.place))

    def stop(self, reason: str, trace: str = "") -> ExitCode:
        """Say in one line why the run ended early and how to go on; keep a traceback in a log."""
        self.screen.close()
        if trace:
            with contextlib.suppress(OSError):
                reason += f" (see {self.folder.write_log('driver.log', trace)})"
        resume = resume_command(self.options.command)
        print(f"error: {reason}; rows written are kept, go on with: {resume}", file=sys.stderr)
        return ExitCode.INTERRUPTED

    def _know(self) -> Known | None:
        """Look up what was suggested before, where results decide what is tried next."""
        if self.sweep.space is None:
            return None
        modes_of(self.sweep.search)  # for its checks
        is_new = self.options.is_fresh or not self.place.exists()
        known = known_of(self.place, self.sweep.space, is_new, stays(self.sweep))
        self.sweep = replace(self.sweep, configs=tuple(known.configs(self.sweep.space)))
        return known

    def dry_run(self) -> ExitCode:
        """Say what would run, and by a few steps of it how long it would take."""
        known, ledger, nodes = self._know(), self._ledger(), [this_machine()]
        missing = ledger.missing(self.sweep)
        wanted = missing if known is None else self.sweep.examples
        data = data_folder(self.options.data)
        # Also for its checks; nothing is downloaded.
        sources = self._load_sources([c for c in wanted if is_local(c.source, data)])
        resources, why = self._resources(wanted, nodes)
        n_slots = max(1, n_slots_of(resources, nodes))
        if known is None:
            plan = self._plan(ledger, n_slots, nodes, resources)
            n_done, packs = len(self.sweep.configs) - len(missing), plan.packs
            print(self._describe(plan, n_slots, n_done, why), flush=True)
        else:
            lanes = lanes_of(self.sweep, memory_a_pack(resources, nodes))
            packs = packs_of_search(self.sweep, known, lanes, self._limit)
            print(describe(self.sweep, known, lanes, n_slots, why), flush=True)
        stored = stored_stages(self.store.folder) if self.store else ()
        look_ahead(packs, sources, data, resources, n_slots, stored, self.screen.say)
        return ExitCode.ENDED

    def _resources(self, missing: Sequence[Config], nodes: Sequence[Node]) -> tuple[Resources, str]:
        """Give what a pack gets, and why."""
        wanted = self.sweep.resources
        if wanted.is_gpu_auto and missing:
            return choose_share(wanted, missing, nodes)
        return wanted, f"cpu {wanted.cpu:g}, gpu {wanted.gpu:g} for each pack, as set"

    def _describe(self, plan: Plan, n_slots: int, n_done: int, why: str) -> str:
        stored = stored_stages(self.store.folder) if self.store else None
        return describe_plan(self.sweep, plan, n_slots, n_done, why, stored)

    def run(self) -> ExitCode:
        """Train what is missing."""
        # Data and settings are held against each other before anything is written.
        self._know()
        sources = self._load_sources([*self._ledger().missing(self.sweep), *self.sweep.examples])
        data_s = time.monotonic() - self.began
        moved = self.folder.open(self.options.is_fresh, self.screen.say)
        if moved:
            self.screen.say(f"earlier results moved to {moved}")
        ledger = Ledger(statuses(self.place))
        known = self._know()  # again: another driver may have held the folder until now
        missing = ledger.missing(self.sweep)
        self.folder.write_text("sweep.yaml", dump_yaml(self.sweep.resolved))
        writer = Writer(self.folder)
        keeper = self._log_keeper()
        n_new = max(0, self.sweep.search.n_samples - known.n_suggested) if known else 0
        if not missing and not n_new:
            writer.fold()
            self.screen.say(
                f"all {len(self.sweep.configs)} configurations are done: nothing to train"
            )
            keeper.close()
            print(conclude(self.sweep, self.folder, None))
            return ExitCode.ENDED
        try:
            progress = self._train(missing, ledger, sources, writer, known)
        finally:
            keeper.close()
        total_s = time.monotonic() - self.began
        print(conclude(self.sweep, self.folder, progress, total_s=total_s, data_s=data_s))
        return self._verdict(progress)

    def _load_sources(self, configs: Sequence[Config]) -> dict[str, Source]:
        folder = data_folder(self.options.data)
        return load_sources(configs, folder, self.sweep.file, self.screen.say)

    def _train(
        self,
        missing: Sequence[Config],
        ledger: Ledger,
        sources: dict[str, Source],
        writer: Writer,
        known: Known | None,
    ) -> Progress:
        n_all = len(self.sweep.configs)
        n_todo = len(missing[: self._limit])
        if known is not None and self.sweep.space is not None:
            search, n_seeds = self.sweep.search, len(self.sweep.space.seeds)
            n_all = max(n_all, search.n_samples * n_seeds)
            n_todo = min(n_all - (len(self.sweep.configs) - len(missing)), self._limit or n_all)
        self.screen.say(f"{n_todo} of {n_all} configurations to train; starting Ray")
        manifest = Manifest(self.folder, self.options.command)
        n_bytes = sum(source.n_bytes for source in sources.values())
        joining = Joining(
            self.options.address,
            self.folder.scratch,
            n_bytes,
            self.sweep.resources,
            self.options.n_nodes,
            self.options.wait_s,
            self.options.is_without_token,
            is_verbose=self.options.verbosity > 0,
        )
        with connect(joining, self.screen.say) as (nodes, has_checkpoints, dashboard):
            if dashboard:
                self.screen.say(f"Ray's dashboard: {dashboard}")
            resources, why = self._resources([*missing, *self.sweep.examples], nodes)
            n_slots = self._slots(resources, nodes)
            from raysweep.tune.collector import Collector, Limits  # imports Ray Tune
            from raysweep.tune.trials import Terms, run_packs

            room = _Room(nodes, resources, n_slots, why)
            queue, progress = (
                self._packs(ledger, missing, room)
                if known is None
                else self._search(ledger, known, n_todo, room)
            )
            scratch = self.folder.scratch.local
            if self.sweep.early_stopping and has_checkpoints and scratch is not None:
                queue.folder, queue.n_at_once = scratch.absolute() / ASIDE, progress.n_at_once
            status = StatusFile(self.folder, dashboard)
            collector = Collector(
                queue,
                {config.id: ledger.attempts(config) for config in missing},
                writer,
                progress,
                self.screen,
                Limits(
                    self.sweep.max_seconds,
                    self._stopper(ledger),
                    Meter(self.sweep.budget, resources.gpu, self.began),
                ),
                status,
            )
            storage, filesystem = self.folder.storage()
            if not has_checkpoints:
                self.screen.say(
                    f"note: not every node sees {self.place}: "
                    f"the pack of a lost worker will start over"
                    + (", and no stages are kept" if self.store else "")
                )
            terms = Terms(
                resources,
                sources,
                storage,
                filesystem,
                has_checkpoints,
                self.store if has_checkpoints else None,
                self.sweep.max_seconds,
                has_averages=self.sweep.early_stopping is not None,
            )
            try:
                run_packs(queue, terms, collector)
            finally:
                self.screen.close()
                status.close()
                writer.fold()
                manifest.end(progress)
                self._end = collector.end
        if self._suggested is not None:
            self.sweep = replace(self.sweep, configs=tuple(self._suggested.configs.values()))
        return progress

    def _stopper(self, ledger: Ledger) -> "LaneStopper | None":
        """Give what decides which configurations stop early, with what earlier runs showed."""
        rule = self.sweep.early_stopping
        if rule is None:
            return None
        from raysweep.tune.lane_stopping import make_stopper  # imports Ray Tune

        ended = {config.id for config in ledger.ended(self.sweep)}
        return make_stopper(rule, [*self.sweep.configs, *self.sweep.examples], ended, self.place)

    def _packs(
        self, ledger: Ledger, missing: Sequence[Config], room: _Room
    ) -> "tuple[JobQueue, Progress]":
        """Plan what is missing, and give the queue of its packs."""
        from raysweep.tune.queue import JobQueue

        plan = self._plan(ledger, room.n_slots, room.nodes, room.resources)
        n_done = len(self.sweep.configs) - len(missing)
        self.screen.detail(self._describe(plan, room.n_slots, n_done, room.why))
        work = sum(cost(pack) for pack in plan.packs)
        n_planned = sum(len(pack.configs) for pack in plan.packs)
        return JobQueue(plan.packs), self._progress(n_planned, work, room.n_slots, ledger)

    def _search(
        self, ledger: Ledger, known: Known, n_todo: int, room: _Room
    ) -> "tuple[JobQueue, Progress]":
        """Give a queue that asks for suggestions."""
        lanes = lanes_of(self.sweep, memory_a_pack(room.resources, room.nodes))
        self.screen.detail(describe(self.sweep, known, lanes, room.n_slots, room.why))
        progress = self._progress(n_todo, 0.0, room.n_slots, ledger)
        self._suggested = make_queue(self.sweep, known, self.folder, lanes, self._limit, progress)
        return self._suggested, progress

    def _plan(
        self, ledger: Ledger, n_slots: int, nodes: Sequence[Node], resources: Resources
    ) -> Plan:
        """Plan what is missing: new ones first, and each failed one in a pack of its own."""
        missing = ledger.missing(self.sweep)
        failed = {config.id for config in missing if ledger.status(config) == "failed"}
        todo = sorted(missing, key=lambda config: config.id in failed)[: self._limit]
        memory = memory_a_pack(resources, nodes)
        return make_plan(todo, n_slots, self.sweep.pack, failed, memory, has_gpu=resources.gpu > 0)

    def _slots(self, wanted: Resources, nodes: Sequence[Node]) -> int:
        """Count the packs that run at once; refuse resources that no node has."""
        n_slots = n_slots_of(wanted, nodes)
        if n_slots == 0:
            largest = max(nodes, key=lambda node: (node.n_gpus, node.n_cpus))
            raise NothingRunsError(
                f"{self.sweep.file}: resources: expected at most what one node has "
                f"(cpu {largest.n_cpus:g}, gpu {largest.n_gpus:g}), got cpu {wanted.cpu:g}, "
                f"gpu {wanted.gpu:g}; lower resources.cpu or resources.gpu, or wait for nodes that "
                f"are to come with --wait-for-nodes"
            )
        return n_slots

    def _progress(self, n_total: int, work: float, n_slots: int, ledger: Ledger) -> Progress:
        trials = read_trials(self.place)
        ids = [config.id for config in self.sweep.configs]
        search = self.sweep.search
        metric, mode = search.metrics[0], search.modes[0] if search.modes else None
        earlier = best_of(trials[trials["config_id"].isin(ids)], metric, mode)
        ended = ledger.ended(self.sweep)
        return Progress(
            n_total=n_total,
            n_slots=n_slots,
            total_work=work,
            best=earlier,
            metric=metric,
            mode=mode,
            title=self.options.name,
            before=Counter(ledger.status(c) for c in ended),
        )

    def _verdict(self, progress: Progress) -> ExitCode:
        n_unasked = 0
        if self._suggested is not None:
            n_unasked = self._suggested.n_unasked(self.sweep.search.n_samples)
        why = self._end
        if why.over and not progress.n_ended:
            hint = "before a configuration ended; give more, or set a smaller pack"
            why = End(f"{why.over} {hint}")
        is_limit = self._limit is not None and progress.n_ended == progress.n_total
        if is_limit and not why.common_error:
            name = "--limit" if self._limit == self.options.limit else "max_configs"
            why = End(f"{name} {self._limit} reached")
        return verdict(self.sweep, self.place, n_unasked, why, resume_command(self.options.command))
