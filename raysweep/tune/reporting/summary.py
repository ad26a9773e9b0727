"""What the command prints: the plan before a run, the outcome after it."""

from collections.abc import Collection, Container, Mapping, Sequence

from raysweep.monitor.terminal import show_duration
from raysweep.packs.planning.packing import Plan, memory_of
from raysweep.settings.sweep import Sweep
from raysweep.statuses import ENDED
from raysweep.tables.folder import ResultsFolder
from raysweep.tables.pareto import format_best, pareto_settings, write_pareto
from raysweep.tables.reader import read_trials
from raysweep.tables.schemas import TABLES
from raysweep.tune.reporting.progress import Progress

_SHOWN = 10


def plan_lines(
    sweep: Sweep,
    plan: Plan,
    *,
    n_slots: int,
    n_done: int,
    resources: str,
    stored: Container[str] | None = None,
    n_paused: int = 0,
) -> dict[str, str]:
    """Describe what would run: configurations, packs, stages, memory, and ``resources`` as given.

    ``n_paused`` configurations continue outside of the plan. ``stored`` has the fingerprints in the
    stage cache, None without one. Only a worker can check whether an entry is intact and was made
    with its own versions and processor, so the count is an upper bound.
    """
    n_todo = sum(len(pack.configs) for pack in plan.packs)
    n_left_out = len(sweep.configs) - n_done - n_todo - n_paused
    largest, together = memory_of(plan, n_slots)
    sizes = [len(pack.configs) for pack in plan.packs] or [0]
    return {
        "configurations": f"{len(sweep.configs)} in all, {n_done} done, {n_todo} to do"
        + (f", {n_paused} continue where the last run stopped" if n_paused else "")
        + (f", {n_left_out} left for later by --limit" if n_left_out else "")
        + (f" ({sweep.n_duplicates} duplicates merged)" if sweep.n_duplicates else ""),
        "packs": f"{len(plan.packs)} of {_between(sizes)} configurations, "
        f"{min(n_slots, len(plan.packs))} at once" + set_by(sweep) + _waits(plan, n_slots),
        "stages": f"{plan.n_stages} in all, {plan.n_distinct_stages} distinct, "
        + _runs(plan, stored),
        "memory": f"about {largest / 1e6:.0f} MB for the largest pack, "
        f"{together / 1e6:.0f} MB for all that run at once (torch itself: 0.7 GB per worker)",
        "resources": resources,
        **limits(sweep),
    }


def set_by(sweep: Sweep) -> str:
    """Return which keys of the search space limit the packs, as a remark; empty if none is set."""
    keys = [f"{key}:" for key in ("pack", "max_packs") if getattr(sweep, key)]
    return f" (set by {' and '.join(keys)})" if keys else ""


def limits(sweep: Sweep) -> dict[str, str]:
    """Return the lines on what may end configurations or the run early, empty if nothing may."""
    rule, budget, lines = sweep.early_stopping, sweep.budget, {}
    if rule:
        plain = {k: f"{v:g}" if isinstance(v, float) else v for k, v in rule.to_plain().items()}
        words = [f"{key} {value}" for key, value in plain.items() if key != "method"]
        lines["early stopping"] = f"{rule.method}: {', '.join(words)}"
    words = [f"{show_duration(budget.time_s)} of wall time"] if budget.time_s else []
    words += [f"{budget.n_configs} configurations"] if budget.n_configs else []
    words += [f"{budget.gpu_h:g} GPU-hours"] if budget.gpu_h else []
    if words:
        lines["budget"] = f"per run: {', '.join(words)}"
    return lines


def lay_out(lines: Mapping[str, str]) -> str:
    """Lay out named lines below one another, their texts aligned in a column."""
    return "\n".join(f"{name:<15} {text}" for name, text in lines.items())


def _between(sizes: Sequence[int]) -> str:
    least, most = min(sizes), max(sizes)
    return f"{least}" if least == most else f"{least} to {most}"


def _waits(plan: Plan, n_slots: int) -> str:
    if len(plan.packs) < n_slots:  # slots without any pack
        return ""
    return f", a slot idles at the end for up to {plan.idle_s / plan.length_s:.0%} of the time"


def _runs(plan: Plan, stored: Container[str] | None) -> str:
    if stored is None:
        return f"{plan.n_run_stages} will run"
    stages = [stage for pack in plan.packs for group in pack.groups for stage in group]
    n_stored = sum(stage.fingerprint in stored for stage in stages)
    if not n_stored:
        return f"{plan.n_run_stages} will run, none are in the cache"
    return f"{plan.n_run_stages - n_stored} will run, up to {n_stored} come from the cache"


def conclude(
    sweep: Sweep,
    folder: ResultsFolder,
    *,
    progress: Progress | None = None,
    total_s: float = 0.0,
    data_s: float = 0.0,
    lacking: Collection[str] = (),
) -> str:
    """Summarise a sweep: its best settings, counts by status, tables, and where the time went.

    ``lacking`` has the ids of the configurations that lack rows and thus count as missing. A search
    for several metrics also writes the Pareto front; with one metric, a front left by an
    earlier version of the file is deleted. Raises ``WriteError``.
    """
    trials = read_trials(folder.location)
    ids = {config.id for config in sweep.configs}
    current = trials[trials["config_id"].isin(ids)]
    metrics, modes = sweep.search.metrics, sweep.search.modes
    n_seeds = len(sweep.space.seeds) if sweep.space else None
    has_front = len(metrics) > 1
    write_pareto(folder, pareto_settings(current, metrics, modes, n_seeds) if has_front else None)
    counts = current.loc[~current["config_id"].isin(list(lacking)), "status"].value_counts()
    shown = [f"{counts[status]} {status}" for status in ENDED if counts.get(status)]
    n_missing = len(ids) - int(counts.sum())
    shown += [f"{n_missing} missing"] if n_missing else []
    lines = ["", format_best(current, metrics, modes, _SHOWN, n_seeds), ""]
    lines.append(f"{len(ids)} configurations: {', '.join(shown)}")
    if len(trials) > len(current):
        n_other = len(trials) - len(current)
        lines.append(f"{n_other} more rows are from earlier versions of the search space")
    names = [*reversed(TABLES), *(["pareto"] if has_front else [])]
    files = ", ".join(f"{name}.parquet" for name in names)
    lines.append(f"tables in {folder.location}: {files}")
    if progress is not None:
        lines.append(_time_spent(progress, total_s, data_s))
    return "\n".join(lines)


def _time_spent(progress: Progress, total_s: float, data_s: float) -> str:
    """Split the slots' time into training, data, idle, and Ray (its start, messages, the rest)."""
    slots = progress.n_slots
    whole = slots * total_s
    data = slots * data_s + progress.prepare_s
    ray = max(0.0, whole - progress.train_s - data - progress.idle_s)
    parts = {"training": progress.train_s, "Ray": ray, "data": data, "idle": progress.idle_s}
    shares = ", ".join(f"{name} {100 * part / whole:.0f} %" for name, part in parts.items())
    return f"took {show_duration(total_s)} on {slots} slots: {shares}"
