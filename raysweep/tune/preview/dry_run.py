"""What a dry run adds to the plan: time, CPU-hours and GPU-hours, size of the tables."""

import math
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from raysweep.learning.data.sources import Source
from raysweep.monitor.terminal import show_duration
from raysweep.packs.pack import Pack
from raysweep.packs.planning.packing import simulate
from raysweep.settings.execution import Resources
from raysweep.settings.sweep import Sweep
from raysweep.tune.preview.measuring import Measured, measure
from raysweep.tune.preview.table_size import n_bytes, n_rows
from raysweep.tune.search.suggestions import EarlierSuggestions, pack_like

START_S = 10.0
"""Time to start and end a sweep on one machine, apart from its packs: Ray, a worker, torch in it
(docs/performance.md: a sweep of one configuration less its training took 9.9 s)."""


@dataclass(frozen=True)
class Outlook:
    """How long packs will take, estimated from a few training steps, and what they will write.

    ``seconds`` of wall time, ``cpu_h`` and ``gpu_h`` are None if nothing could be measured;
    ``lines`` is the same as text, or why there is no estimate. ``n_rows`` counts the expected rows
    by table, ``n_bytes`` is the size of the tables.
    """

    seconds: float | None = None
    cpu_h: float | None = None
    gpu_h: float | None = None
    n_rows: Mapping[str, int] = field(default_factory=dict)
    n_bytes: int = 0
    lines: Mapping[str, str] = field(default_factory=dict)


def look_ahead(
    packs: Sequence[Pack],
    sources: Mapping[str, Source],
    *,
    data: Path,
    resources: Resources,
    n_slots: int,
    stored: Container[str],
    say: Callable[[str], None],
    is_measured: bool = True,
) -> Outlook:
    """Estimate how long packs will take from a few steps of them; count what they will write.

    There is no estimate of the time for data that is not in ``sources`` (a dry run downloads
    nothing into the folder ``data``), or after an error in training. ``stored`` has the
    fingerprints in the stage cache; ``is_measured`` is whether to measure at all.
    """
    if not packs:
        return Outlook()
    outlook = Outlook()
    if missing := {pack.configs[0].source for pack in packs} - set(sources):
        names = ", ".join(sorted(missing))
        lines = {"time": f"no estimate: a dry run downloads nothing, and {data} lacks {names}"}
    elif not is_measured:
        lines = {}
    else:
        say("training a few steps of each shape to estimate the time")
        try:
            measured = measure(packs, sources, resources)
        except Exception as error:  # noqa: BLE001 (reported: the plan stands without it)
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            lines = {"time": f"no estimate: the measured steps failed: {reason}"}
        else:
            outlook = _timed(measured, resources, n_slots)
            lines = {**_time(outlook, len(packs), n_slots), "measured": _how(measured, resources)}
    stages = (stage for pack in packs for group in pack.groups for stage in group)
    if "measured" in lines and any(stage.fingerprint in stored for stage in stages):
        lines["measured"] += "; stages from the stage cache are not subtracted"
    configs = [config for pack in packs for config in pack.configs]
    rows, size = n_rows(configs), n_bytes(configs)
    lines["tables"] = _tables(rows, size)
    return replace(outlook, n_rows=rows, n_bytes=size, lines=lines)


def hours(seconds: Sequence[float], resources: Resources) -> tuple[float, float]:
    """Return the CPU-hours and the GPU-hours of packs that take these seconds each."""
    total_h = math.fsum(seconds) / 3600
    return resources.cpu * total_h, resources.gpu * total_h


def _timed(measured: Measured, resources: Resources, n_slots: int) -> Outlook:
    packs_s, _ = simulate(measured.seconds, n_slots)
    cpu_h, gpu_h = hours(measured.seconds, resources)
    return Outlook(packs_s + START_S, cpu_h, gpu_h)


def _time(outlook: Outlook, n_packs: int, n_slots: int) -> dict[str, str]:
    assert outlook.seconds is not None and outlook.cpu_h is not None and outlook.gpu_h is not None
    n_used = min(n_slots, n_packs)
    slots = "1 slot" if n_used == 1 else f"{n_used} slots"
    return {
        "time": f"about {show_duration(outlook.seconds)} on {slots}, including {START_S:.0f} s "
        f"to start Ray; {_show(outlook.cpu_h)} CPU-hours, {_show(outlook.gpu_h)} GPU-hours"
    }


def _how(measured: Measured, resources: Resources) -> str:
    how = f"steps of {measured.n_measured} of {measured.n_shapes} shapes, one pack at a time, on "
    if resources.gpu and measured.device == "cpu":
        how += "this machine's CPU: torch sees no GPU here; a GPU would be faster"
    else:
        how += "the CPU" if measured.device == "cpu" else measured.device
    if 0 < resources.gpu < 1 and measured.device != "cpu":
        how += "; packs that share a GPU take turns, so it may take longer"
    if measured.n_measured < measured.n_shapes:
        how += "; the other shapes by their estimated cost"
    return how


def _show(amount_h: float) -> str:
    return "under 0.001" if 0 < amount_h < 0.001 else f"{amount_h:.3g}"


def _tables(rows: Mapping[str, int], size: int) -> str:
    counts = ", ".join(f"{rows[name]:,} of {name}" for name in reversed(tuple(rows)))
    shown = f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"
    return f"expected rows: {counts}; about {shown}"


def packs_of_search(
    sweep: Sweep, known: EarlierSuggestions, lanes: int, limit: int | None
) -> tuple[Pack, ...]:
    """Make packs of a search's examples, of the size and number that the search will have."""
    assert sweep.space is not None
    n_seeds = len(sweep.space.seeds)
    n_suggestions = max(0, sweep.search.n_samples - len(known.ended))
    n_left = min(n_suggestions * n_seeds, limit or n_suggestions * n_seeds)
    packs: list[Pack] = []
    n_of_seed = math.ceil(n_left / n_seeds)
    for _ in sweep.space.seeds:  # a pack has one seed
        for start in range(0, n_of_seed, lanes):
            size = min(lanes, n_of_seed - start, n_left)
            if size:
                example = sweep.examples[len(packs) % len(sweep.examples)]
                packs.append(pack_like(example, size, sum(len(p.configs) for p in packs)))
            n_left -= size
    return tuple(packs)
