"""Plan what is left of a sweep as packs that fit the available resources."""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from raysweep.errors import NothingRunsError
from raysweep.learning.config import Config
from raysweep.packs.planning.estimates import cost
from raysweep.packs.planning.packing import Plan, make_plan
from raysweep.packs.stage_cache.entries import StageCache, stored_stages
from raysweep.settings.execution import Resources
from raysweep.settings.sweep import Sweep
from raysweep.tables.folder import ResultsFolder
from raysweep.tables.paused import has_states
from raysweep.tables.ranking import best_of
from raysweep.tables.reader import read_trials
from raysweep.tune.cluster.gpu_share import choose_share
from raysweep.tune.cluster.nodes import Node, memory_a_pack, n_slots_of
from raysweep.tune.reporting.progress import Progress
from raysweep.tune.reporting.screen import Screen
from raysweep.tune.reporting.summary import lay_out, plan_lines
from raysweep.tune.scheduling.ledger import Ledger
from raysweep.tune.search.suggestions import EarlierSuggestions, lanes_of, make_queue, search_lines

if TYPE_CHECKING:
    from raysweep.tune.scheduling.queue import Job, JobQueue
    from raysweep.tune.search.early_stopping import LaneStopper
    from raysweep.tune.search.search_queue import SearchQueue


@dataclass(frozen=True)
class Capacity:
    """Where packs run: the nodes, each pack's resources and the reason for them, and the slots.

    At most ``max_packs`` run at once (None: as many as fit).
    """

    nodes: Sequence[Node]
    resources: Resources
    why: str
    max_packs: int | None = None

    @classmethod
    def of(cls, sweep: Sweep, configs: Sequence[Config], nodes: Sequence[Node]) -> "Capacity":
        """Return the capacity for packs of configurations."""
        wanted = sweep.resources
        if wanted.is_gpu_auto and configs:
            share = choose_share(wanted, configs, nodes, sweep.max_packs)
            return cls(nodes, *share, sweep.max_packs)
        why = f"cpu {wanted.cpu:g}, gpu {wanted.gpu:g} for each pack, as set"
        return cls(nodes, wanted, why, sweep.max_packs)

    @property
    def n_slots(self) -> int:
        """Number of packs that run at once; 0 if no node has the resources for one."""
        return n_slots_of(self.resources, self.nodes, self.max_packs)

    @property
    def memory(self) -> int | None:
        """Bytes that a pack may use, None if unknown."""
        return memory_a_pack(self.resources, self.nodes)

    def expect_slots(self, file: str) -> None:
        """Raise ``NothingRunsError`` if no node has the resources; ``file`` is the search space."""
        if self.n_slots:
            return
        largest = max(self.nodes, key=lambda node: (node.n_gpus, node.n_cpus))
        raise NothingRunsError(
            f"{file}: resources: expected at most what one node has "
            f"(cpu {largest.n_cpus:g}, gpu {largest.n_gpus:g}), got cpu {self.resources.cpu:g}, "
            f"gpu {self.resources.gpu:g}; lower resources.cpu or resources.gpu, or wait for more "
            f"nodes with --wait-for-nodes"
        )

    def preview(self, file: str, address: str | None, say: Callable[[str], None]) -> None:
        """Do in a dry run, for this machine, what ``expect_slots`` does in a run.

        If the run is to join a cluster, only say so: a dry run does not ask it.
        """
        address = address or os.environ.get("RAY_ADDRESS")
        if address is None:
            self.expect_slots(file)
        elif not self.n_slots:
            say(
                f"note: this machine lacks what a pack needs (cpu {self.resources.cpu:g}, gpu "
                f"{self.resources.gpu:g}); the run will ask the cluster at {address}"
            )


@dataclass
class RemainingWork:
    """What a run of a sweep has to do: the configurations that are not done, at most ``limit``."""

    sweep: Sweep
    folder: ResultsFolder
    ledger: Ledger
    store: StageCache | None
    limit: int | None
    screen: Screen
    title: str

    @cached_property
    def missing(self) -> list[Config]:
        """The configurations that need training."""
        return self.ledger.missing(self.sweep)

    def plan(self, room: Capacity, paused: "Sequence[Job]" = ()) -> Plan:
        """Plan what is missing and not paused: new ones first, then failed ones in a pack each."""
        going_on = {config.id for job in paused for config in job.pack.configs}
        missing = [config for config in self.missing if config.id not in going_on]
        failed = self.ledger.failed(self.sweep)
        todo = sorted(missing, key=lambda config: config.id in failed)
        todo = todo if self.limit is None else todo[: self.limit - len(going_on)]
        n_slots, has_gpu = max(1, room.n_slots), room.resources.gpu > 0
        return make_plan(
            todo,
            n_slots,
            max_lanes=self.sweep.pack,
            alone=failed,
            memory=room.memory,
            has_gpu=has_gpu,
        )

    def describe(self, plan: Plan, room: Capacity, n_paused: int = 0) -> dict[str, str]:
        """Describe a plan."""
        stored = stored_stages(self.store.folder) if self.store else None
        n_done = len(self.sweep.configs) - len(self.missing)
        n_slots = max(1, room.n_slots)
        return plan_lines(
            self.sweep,
            plan,
            n_slots=n_slots,
            n_done=n_done,
            resources=room.why,
            stored=stored,
            n_paused=n_paused,
        )

    def packs(self, room: Capacity) -> "tuple[JobQueue, Progress]":
        """Plan what is missing; return the queue of its packs and the progress."""
        from raysweep.tune.scheduling.queue import JobQueue

        paused = self._take_up(room, self.sweep.pack)
        plan = self.plan(room, paused)
        packs = [*(job.pack for job in paused), *plan.packs]
        work, n_planned = sum(map(cost, packs)), sum(len(pack.configs) for pack in packs)
        n_paused = sum(len(job.pack.configs) for job in paused)
        if plan.packs or not paused:
            self.screen.detail(lay_out(self.describe(plan, room, n_paused)))
        progress = self._progress(n_planned, work, room)
        queue = JobQueue(plan.packs, progress.n_at_once if room.max_packs else None)
        queue.go_on(paused)
        return queue, progress

    def search(
        self, known: EarlierSuggestions, n_todo: int, room: Capacity
    ) -> "tuple[SearchQueue, Progress]":
        """Return a queue that requests suggestions for up to ``n_todo`` configurations."""
        lanes = lanes_of(self.sweep, room.memory)
        lines = search_lines(self.sweep, known, lanes, room.n_slots, room.why)
        self.screen.detail(lay_out(lines))
        progress = self._progress(n_todo, 0.0, room)
        queue = make_queue(
            self.sweep, known, folder=self.folder, lanes=lanes, limit=self.limit, progress=progress
        )
        queue.go_on(self._take_up(room, lanes))
        return queue, progress

    def paused(self, room: Capacity, lanes: int | None) -> "list[Job]":
        """Return the packs that the last run left partly trained, if this run is to train them."""
        if not has_states(self.folder.location):
            return []
        from raysweep.tune.scheduling.resume import paused_jobs  # imports Ray Tune

        location, failed = self.folder.location, self.ledger.failed(self.sweep)
        # One that lacks rows starts over: its state may be from after the epochs that are lost.
        left = [config for config in self.missing if config.id not in self.ledger.found.lacking]
        jobs = paused_jobs(
            location,
            left,
            most=lanes,
            memory=room.memory,
            limit=self.limit,
            alone=failed,
            say=self.screen.say,
        )
        if jobs:
            n_configs = sum(len(job.pack.configs) for job in jobs)
            self.screen.say(f"{n_configs} of them continue where the last run stopped")
        return jobs

    def _take_up(self, room: Capacity, lanes: int | None) -> "list[Job]":
        """Return the paused packs, after listing them and deleting states of no further use.

        A killed run listed none, and left two states of a pack.
        """
        jobs = self.paused(room, lanes)
        self.clear_states(jobs)
        return jobs

    def clear_states(self, jobs: "Sequence[Job]" = ()) -> None:
        """Delete the states that neither these jobs nor later runs resume from."""
        if has_states(self.folder.location):
            from raysweep.tune.scheduling.resume import keep_states  # imports Ray Tune

            keep_states(self.folder.location, jobs)

    def _progress(self, n_total: int, work: float, room: Capacity) -> Progress:
        trials = read_trials(self.folder.location)
        ids = [config.id for config in self.sweep.configs]
        metric, mode = self.sweep.search.objective
        return Progress(
            n_total=n_total,
            n_slots=room.n_slots,
            max_packs=room.max_packs,
            total_work=work,
            best=best_of(trials[trials["config_id"].isin(ids)], metric, mode),
            metric=metric,
            mode=mode,
            title=self.title,
            before=Counter(self.ledger.status(c) for c in self.ledger.ended(self.sweep)),
        )

    def stopper(self, queue: "JobQueue") -> "LaneStopper | None":
        """Return the early stopper, with what earlier runs showed; None without early stopping."""
        rule = self.sweep.early_stopping
        if rule is None:
            return None
        from raysweep.tune.search.early_stopping import make_stopper  # imports Ray Tune

        ended = {config.id for config in self.ledger.ended(self.sweep)}
        paused = {c.id for j in queue.jobs.values() if j.is_paused for c in j.pack.configs}
        configs = [*self.sweep.configs, *self.sweep.examples]
        return make_stopper(rule, configs, ended, self.folder.location, paused)
