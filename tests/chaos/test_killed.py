"""Drivers and workers that are killed with SIGKILL."""

import contextlib
import json
import os
import random
import signal
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from checks import Rows, acknowledged, assert_kept, assert_true_so_far, assert_whole
from conftest import Form, Note
from loads import Load
from runs import Run, wait_until_gone
from sweep_runs import FAULTS, workers_of

_STARTING_S = 10.0
"""A driver that is killed while Ray starts is killed within this time."""


def _started(log: Path) -> list[str]:
    """List the ids of configurations whose packs were started, in order, as often as they were."""
    lines = log.read_text().splitlines() if log.exists() else []
    return [config_id for line in lines for config_id in json.loads(line)]


def test_a_driver_killed_at_any_moment_repeats_only_packs_that_ran(
    form: Form, undisturbed: Callable[[Load], Rows], note: Note, tmp_path: Path
) -> None:
    load = form.pick(Load(2, epochs=20), Load(40))
    n_kills = form.pick(4, 50)
    # So long after its first row at most: all kills together have to come before the end.
    running_s = form.pick(2.0, 1.0)
    reference = undisturbed(load)
    log = tmp_path / "started"
    env = {
        "PYTHONPATH": str(FAULTS),
        "RAYSWEEP_FAULTS": json.dumps([{"kind": "log", "path": str(log)}]),
    }
    moments = random.Random(17)
    first_s, gone_s, ended_before = [], [], dict[str, int]()
    n_killed = 0
    run = Run(load, tmp_path, env=env)
    while n_killed < n_kills:
        n_before = run.n_rows()
        if moments.random() < 0.2:
            run.wait_unless_ended(moments.uniform(0, _STARTING_S))
        else:
            run.wait_until(lambda run=run, n=n_before: run.n_rows() > n or run.code is not None)
            first_s.append(time.monotonic() - run.started)
            run.wait_unless_ended(moments.uniform(0, running_s))
        if run.code is not None:
            break  # all done before all kills
        before = acknowledged(run.folder)
        n_started = len(_started(log))
        for config_id in before["trials"]["config_id"] if before else ():
            ended_before.setdefault(config_id, n_started)
        workers = workers_of(run.pid)
        run.kill()
        n_killed += 1
        if before:
            assert_kept(before, run.folder)
            assert_true_so_far(run.folder, reference)
        killed = time.monotonic()
        run = Run(load, tmp_path, env=env)
        wait_until_gone(workers)  # of the killed driver, beside the next one
        gone_s.append(time.monotonic() - killed)
    assert run.wait() == 0, run.output
    assert n_killed > n_kills // 2, "the sweep ended before it was killed often enough"
    assert_whole(run.folder, load, reference)
    started = _started(log)
    for config_id, n_started in ended_before.items():
        assert config_id not in started[n_started:], "an acknowledged configuration ran again"
    note("driver kill -9", load, "kills", n_killed)
    repeated = len(started) - load.n_configs
    note("driver kill -9", load, "configurations repeated a kill", round(repeated / n_killed, 1))
    note("driver kill -9", load, "first row of a rerun, median, s", statistics.median(first_s))
    note("driver kill -9", load, "first row of a rerun, longest, s", max(first_s), 20)
    note("driver kill -9", load, "its workers gone, longest, s", max(gone_s))


def _trains(pid: int) -> bool:
    """Return whether a worker is in an epoch, or between two."""
    try:
        return b".train" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def test_workers_killed_every_three_seconds_change_no_number(
    form: Form, undisturbed: Callable[[Load], Rows], note: Note, tmp_path: Path
) -> None:
    load = Load(form.pick(2, 10), epochs=20)
    reference = undisturbed(load)
    victims = random.Random(5)
    run = Run(load, tmp_path)
    run.wait_for_rows(1, "epochs")
    n_killed = seen = 0
    while run.code is None:
        # Only one that trains, and when some pack has got further than ever since the last kill: a
        # busy machine takes longer than three seconds to start a worker, and would never get on.
        n_epochs = run.n_rows("epochs")
        workers = [pid for pid in workers_of(run.pid) if _trains(pid)]
        if workers and n_epochs > seen:
            seen = n_epochs
            with contextlib.suppress(ProcessLookupError):
                os.kill(victims.choice(workers), signal.SIGKILL)
                n_killed += 1
            run.wait_unless_ended(3.0)
        else:
            run.wait_unless_ended(0.1)
        assert time.monotonic() - run.started < form.pick(300, 3600), run.output
    assert run.code == 0, run.output
    assert n_killed >= 3, "too few workers were killed to mean anything"
    assert_whole(run.folder, load, reference)
    attempts = acknowledged(run.folder)["trials"]["attempt"]
    note("worker kill -9 every 3 s", load, "kills", n_killed)
    note("worker kill -9 every 3 s", load, "most attempts of a configuration", int(attempts.max()))
    note("worker kill -9 every 3 s", load, "wall time, s", time.monotonic() - run.started)
