"""Workers that the kernel or Ray ends for want of memory, and memory that must not grow."""

import json
import statistics
from collections.abc import Callable
from pathlib import Path

import pytest
from checks import Rows, assert_whole
from conftest import Form, Note
from control_groups import limited
from loads import Load
from runs import Run, assert_no_traceback
from sweep_runs import FAULTS, workers_of

from raysweep.tables.reader import read_trials

_LIMIT_BYTES = 4 * 10**9
_EATEN_BYTES = 6 * 10**9
_SLOPE_MB = 5.0
"""What memory may grow by in a thousand configurations, after the first hundred."""


def test_workers_that_the_kernel_ends_for_their_memory_change_no_number(
    form: Form, undisturbed: Callable[[Load], Rows], note: Note, tmp_path: Path
) -> None:
    load = Load(1, epochs=20)
    eaten = tmp_path / "eaten"
    eat = {"kind": "eat", "bytes": _EATEN_BYTES}
    faults = [{**eat, "until": str(eaten), "match": {"lr": 2e-3}}]
    always: set[str] = set()
    if form.is_long:
        match = {"lr": 4e-3, "beta_1": 0.1, "beta_2": 0.0}
        faults.append({**eat, "match": match})
        always = {c.id for c in load.configs() if all(getattr(c, n) == match[n] for n in match)}
    env = {"PYTHONPATH": str(FAULTS), "RAYSWEEP_FAULTS": json.dumps(faults)}
    with limited("memory", _LIMIT_BYTES) as room:
        run = Run(load, tmp_path, env=env, enter=room.words)
        run.wait_until(lambda: room.count("oom_kill") > 0)
        eaten.touch()
        code = run.wait()
        n_victims = room.count("oom_kill")
    assert code == (1 if always else 0), run.output
    assert_no_traceback(run)
    trials = read_trials(run.folder)
    assert set(trials.loc[trials["status"] == "failed", "config_id"]) == always
    assert_whole(run.folder, load, undisturbed(load), other=always)
    assert "a worker was lost" in run.output, run.output
    note("workers ended by the kernel's OOM killer", load, "processes it ended", n_victims)


def test_what_rays_memory_monitor_ends_fails_with_the_reason_and_a_rerun_trains_it(
    form: Form, undisturbed: Callable[[Load], Rows], note: Note, tmp_path: Path
) -> None:
    if not form.is_long:
        pytest.skip("long form only")
    load = Load(1, epochs=20, pack=25)
    # Any use of memory is too much: Ray ends every worker that trains.
    env = {"RAY_memory_usage_threshold": "0.001", "RAY_memory_monitor_refresh_ms": "100"}
    run = Run(load, tmp_path, "--limit", "2", env=env)
    assert run.wait() in (1, 3), run.output
    assert_no_traceback(run)
    assert "ran out of memory" in run.output, run.output
    trials = read_trials(run.folder)
    assert set(trials["status"]) <= {"failed", "finished"}
    assert "memory" in str(trials.loc[trials["status"] == "failed", "error"].iloc[0])
    again = Run(load, tmp_path)
    assert again.wait() == 0, again.output
    assert_whole(again.folder, load, undisturbed(load))
    note("workers ended by Ray's memory monitor", load, "exit code, then after a rerun", [1, 0])


def _resident_mb(pid: int) -> float:
    """Return a process's memory that is in use, without what files share; 0 once it has ended."""
    try:
        words = Path(f"/proc/{pid}/status").read_text().split()
        return int(words[words.index("RssAnon:") + 1]) / 1000
    except (OSError, ValueError):
        return 0.0


def test_memory_of_driver_and_workers_does_not_grow_with_configurations(
    form: Form, undisturbed: Callable[[Load], Rows], note: Note, tmp_path: Path
) -> None:
    if not form.is_long:
        pytest.skip("long form only: 2,000 configurations")
    load = Load(40)
    run = Run(load, tmp_path)
    samples: dict[str, list[tuple[int, float]]] = {"driver": [], "worker": []}
    while run.code is None:
        n = run.n_rows()
        workers = workers_of(run.pid)
        if n > 100:
            samples["driver"].append((n, _resident_mb(run.pid)))
            if workers:
                samples["worker"].append((n, max(map(_resident_mb, workers))))
        run.wait_unless_ended(1.0)
    assert run.wait() == 0, run.output
    assert_whole(run.folder, load, undisturbed(load))
    for who, points in samples.items():
        assert len(points) > 10, f"{who}: too few samples"
        slope = 1000 * statistics.linear_regression(*zip(*points, strict=True)).slope
        note("2,000 configurations", load, f"growth of a {who}, MB per 1,000", slope, _SLOPE_MB)
        note("2,000 configurations", load, f"peak of a {who}, MB", max(mb for _, mb in points))
        assert slope < _SLOPE_MB, f"{who}: {slope:.1f} MB per 1,000 configurations"
