"""The driver: from a search space to tables, by way of Ray."""

import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from raysweep.data.sources import Source, check_fit, data_folder, load_source
from raysweep.plan import Plan, cost, make_plan, slots_on
from raysweep.results import ResultsFolder, Writer, check_name, read_trials, statuses
from raysweep.settings import Config, InputError, Sweep, dump_yaml, load_sweep
from raysweep.tune import cluster
from raysweep.tune.manifest import Manifest
from raysweep.tune.progress import Progress, Screen
from raysweep.tune.report import describe_plan, resume_command, summarise


class ExitCode(IntEnum):
    """What the command tells its caller."""

    ENDED = 0
    SOME_FAILED = 1
    BAD_INPUT = 2
    INTERRUPTED = 3
    NOTHING_RAN = 4


@dataclass(frozen=True)
class Options:
    """The command line; ``verbosity`` is -1 (quiet), 0 or 1."""

    file: Path
    overrides: tuple[str, ...]
    results: Path
    name: str
    is_dry_run: bool
    is_fresh: bool
    limit: int | None
    address: str | None
    data: Path | None
    verbosity: int
    command: tuple[str, ...]


@dataclass(frozen=True)
class Ledger:
    """What is done: the status and attempt of each configuration that has a row."""

    rows: dict[str, tuple[str, int]]

    def is_done(self, config: Config) -> bool:
        """Tell whether a configuration needs no more training; a failed one does."""
        return self.rows.get(config.id, ("failed", 0))[0] != "failed"

    def attempts(self, config: Config) -> int:
        """Count the attempts so far."""
        return self.rows.get(config.id, ("", 0))[1]


def run_sweep(options: Options) -> ExitCode:
    """Run what a sweep lacks; raise ``InputError`` for what the user can mend."""
    sweep = load_sweep(options.file, options.overrides)
    path = options.results / check_name(options.name)
    if options.is_dry_run:
        return _dry_run(sweep, path, options)
    folder = ResultsFolder(path)
    moved = folder.open(options.is_fresh)
    screen = Screen(options.verbosity)
    try:
        if moved:
            screen.say(f"earlier results moved to {moved}")
        return _run(sweep, folder, options, screen)
    except OSError as error:
        screen.close()
        raise InputError(
            f"{error.filename or path}: expected to write results, got: {error.strerror}; "
            f"rows written so far are kept, go on with: {resume_command(options.command)}"
        ) from None
    finally:
        screen.close()
        folder.close()


def _dry_run(sweep: Sweep, path: Path, options: Options) -> ExitCode:
    ledger = Ledger({} if options.is_fresh else _statuses_if_any(path))
    todo = _todo(sweep, ledger, options.limit)
    n_slots = max(1, slots_on(sweep.resources, *cluster.this_machine()))
    plan = make_plan(todo, n_slots, sweep.pack)
    print(
        describe_plan(sweep, plan, n_slots, n_done=len(sweep.configs) - _n_missing(sweep, ledger))
    )
    return ExitCode.ENDED


def _statuses_if_any(path: Path) -> dict[str, tuple[str, int]]:
    return statuses(path) if path.is_dir() else {}


def _n_missing(sweep: Sweep, ledger: Ledger) -> int:
    return sum(not ledger.is_done(config) for config in sweep.configs)


def _todo(sweep: Sweep, ledger: Ledger, limit: int | None) -> list[Config]:
    missing = [config for config in sweep.configs if not ledger.is_done(config)]
    return missing[:limit]


def _run(sweep: Sweep, folder: ResultsFolder, options: Options, screen: Screen) -> ExitCode:
    began = time.monotonic()
    ledger = Ledger(statuses(folder.path))
    todo = _todo(sweep, ledger, options.limit)
    if sweep.n_duplicates:
        screen.say(f"{sweep.n_duplicates} configurations stand twice in the search space: merged")
    writer = Writer(folder)
    if not todo:
        folder.write_text("sweep.yaml", dump_yaml(sweep.resolved))
        writer.fold()
        screen.say(f"all {len(sweep.configs)} configurations are done: nothing to train")
        print(summarise(sweep, folder.path, None))
        return ExitCode.ENDED
    sources = _load_sources(todo, options.data)
    data_s = time.monotonic() - began
    folder.write_text("sweep.yaml", dump_yaml(sweep.resolved))
    manifest = Manifest(folder, options.command)
    screen.say(f"{len(todo)} of {len(sweep.configs)} configurations to train; starting Ray")
    with cluster.connect(options.address, sum(s.n_bytes for s in sources.values())) as nodes:
        n_slots = _slots(sweep, nodes)
        plan = make_plan(todo, n_slots, sweep.pack)
        screen.detail(describe_plan(sweep, plan, n_slots, len(sweep.configs) - len(todo)))
        progress = _progress(sweep, folder, plan, ledger, n_slots)
        try:
            _train(sweep, plan, sources, ledger, folder, writer, progress, screen)
        finally:
            screen.close()
            writer.fold()
    total_s = time.monotonic() - began
    manifest.end(progress.counts, progress.hosts)
    print(summarise(sweep, folder.path, progress, total_s=total_s, data_s=data_s))
    return _verdict(sweep, folder, progress, options)


def _load_sources(configs: Sequence[Config], data: Path | None) -> dict[str, Source]:
    names = sorted({config.source for config in configs})
    sources: dict[str, Source] = {name: load_source(name, data_folder(data)) for name in names}
    for name, source in sources.items():
        check_fit((config for config in configs if config.source == name), source)
    return sources


def _slots(sweep: Sweep, nodes: Sequence[cluster.Node]) -> int:
    """Count the packs that run at once; refuse resources that no node has."""
    n_slots = sum(slots_on(sweep.resources, node.n_cpus, node.n_gpus) for node in nodes)
    if n_slots == 0:
        largest = max(nodes, key=lambda node: (node.n_gpus, node.n_cpus))
        raise cluster.NothingRunsError(
            f"{sweep.file}: resources: expected at most what one node has "
            f"(cpu {largest.n_cpus:g}, gpu {largest.n_gpus:g}), got cpu {sweep.resources.cpu:g}, "
            f"gpu {sweep.resources.gpu:g}; lower resources.cpu or resources.gpu"
        )
    return n_slots


def _progress(
    sweep: Sweep, folder: ResultsFolder, plan: Plan, ledger: Ledger, n_slots: int
) -> Progress:
    earlier = read_trials(folder.path)["average_accuracy"].max()
    return Progress(
        n_total=sum(len(pack.configs) for pack in plan.packs),
        n_slots=n_slots,
        total_work=sum(cost(pack) for pack in plan.packs),
        best=None if math.isnan(earlier) else float(earlier),
        n_before=len(sweep.configs) - _n_missing(sweep, ledger),
    )


def _train(
    sweep: Sweep,
    plan: Plan,
    sources: dict[str, Source],
    ledger: Ledger,
    folder: ResultsFolder,
    writer: Writer,
    progress: Progress,
    screen: Screen,
) -> None:
    from raysweep.tune.trials import Collector, fit  # imports torch and Ray Tune

    attempts = {c.id: ledger.attempts(c) for pack in plan.packs for c in pack.configs}
    collector = Collector(plan, attempts, writer, progress, screen)
    fit(plan, sweep.resources, sources, collector, folder.scratch.absolute())


def _verdict(sweep: Sweep, folder: ResultsFolder, progress: Progress, options: Options) -> ExitCode:
    rows = statuses(folder.path)
    ended = Counter(rows.get(config.id, ("missing", 0))[0] for config in sweep.configs)
    resume = resume_command(options.command)
    if ended["missing"]:
        is_limit = progress.n_ended == progress.n_total
        why = f"--limit {options.limit} reached" if is_limit else "interrupted"
        print(f"{why}: {ended['missing']} configurations are missing; go on with: {resume}")
        return ExitCode.INTERRUPTED
    if ended["failed"]:
        print(f"{ended['failed']} failed, see {folder.logs}; try them again with: {resume}")
        return ExitCode.SOME_FAILED
    return ExitCode.ENDED
