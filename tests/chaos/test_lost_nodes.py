"""Nodes that lose their power or their link, on emulated hosts.

Three seconds of silence tell Ray here that a node is lost (``hosts.NOTICED_SOON``).
"""

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest
from checks import Rows, acknowledged, assert_kept, assert_true_so_far, assert_whole
from conftest import Form, Note
from hosts import Host, Hosts, start_cluster
from loads import Load
from runs import Run, assert_no_traceback
from sweep_runs import FAULTS

# Alone: beside other work a host may miss the three checks of a second each that it has to answer.
pytestmark = [pytest.mark.usefixtures("root_and_namespaces"), pytest.mark.alone]
_CUT_S = 10.0


def _driver(load: Load, location: Path, head: Host) -> Run:
    words = ("--address", "auto", "--without-token")
    return Run(load, location, *words, enter=head.words, env=head.env)


def _held_back(until: Path) -> dict[str, str]:
    """Return an environment in which a pack takes its time until there is a file.

    No machine is so quick that the sweep ends before a slow host has joined or a fault is noticed.
    """
    fault = {"kind": "slow", "seconds": 0.3, "until": str(until)}
    return {"PYTHONPATH": str(FAULTS), "RAYSWEEP_FAULTS": json.dumps([fault])}


def _hosts_seen(run: Run) -> set[str]:
    rows = acknowledged(run.folder)
    return set(rows["trials"]["host"]) if rows else set()


def _attempts(run: Run) -> int:
    """Return how many attempts the configuration took that took the most."""
    return int(acknowledged(run.folder)["trials"]["attempt"].max())


def _await_notice(run: Run, load: Load, fault: str, note: Note) -> None:
    """Wait until the driver says that a worker was lost, and for rows of other workers."""
    before = acknowledged(run.folder)
    n_lost = run.output.count("a worker was lost")
    note(
        fault,
        load,
        "noticed after, s",
        run.wait_until(lambda: run.output.count("a worker was lost") > n_lost),
    )
    assert_kept(before, run.folder)


def _note_pauses(run: Run, load: Load, faults: dict[str, datetime], note: Note) -> None:
    """Note how long no row came after each fault, and when those of lost packs came."""
    trials = acknowledged(run.folder)["trials"]
    ends = trials["ended_at"].sort_values()
    again = trials.loc[trials["attempt"] > 1, "ended_at"]
    for fault, at in faults.items():
        around = pd.concat([pd.Series([at]), ends[ends > at]])
        note(fault, load, "longest pause between rows, s", _seconds(around.diff().max()), 30)
        lost = again[again > at]
        note(fault, load, "first row of a lost pack, s", _seconds(lost.min() - at), 30)


def _seconds(duration: pd.Timedelta) -> float:
    return float(duration.total_seconds())


def test_a_node_without_power_and_one_without_a_link_lose_nothing(
    form: Form, undisturbed: Callable[[Load], Rows], note: Note, tmp_path: Path
) -> None:
    load = Load(form.pick(4, 10), epochs=20)
    reference = undisturbed(load)
    is_over = tmp_path / "faults_are_over"
    with Hosts(4) as hosts:
        head, *workers = hosts.all
        start_cluster(hosts.all, env=_held_back(is_over))
        run = _driver(load, tmp_path, head)
        run.wait_until(lambda: {host.name for host in workers} <= _hosts_seen(run))
        faults = {"node power-off": datetime.now(UTC)}
        workers[0].power_off()
        _await_notice(run, load, "node power-off", note)
        faults["link cut for 10 s"] = datetime.now(UTC)
        workers[1].plug(is_in=False)
        cut = time.monotonic()
        _await_notice(run, load, "link cut for 10 s", note)
        run.wait_unless_ended(max(0.0, cut + _CUT_S - time.monotonic()))
        workers[1].plug(is_in=True)
        is_over.touch()
        assert run.wait(form.pick(240, 1800)) == 0, run.output
    assert_no_traceback(run)
    assert_whole(run.folder, load, reference)
    assert _attempts(run) > 1
    _note_pauses(run, load, faults, note)
    note("node power-off, then link cut", load, "wall time, s", time.monotonic() - run.started)


def test_a_link_cut_for_less_than_ray_waits_changes_no_number(
    form: Form, undisturbed: Callable[[Load], Rows], note: Note, tmp_path: Path
) -> None:
    if not form.is_long:
        pytest.skip("long form only")
    load = Load(4, epochs=20)
    is_over = tmp_path / "faults_are_over"
    with Hosts(3, env={}) as hosts:
        head, *workers = hosts.all
        start_cluster(hosts.all, env=_held_back(is_over))
        run = _driver(load, tmp_path, head)
        run.wait_until(lambda: {host.name for host in workers} <= _hosts_seen(run))
        before = acknowledged(run.folder)
        workers[0].plug(is_in=False)
        run.wait_unless_ended(_CUT_S)
        workers[0].plug(is_in=True)
        is_over.touch()
        assert run.wait(1800) == 0, run.output
    assert_kept(before, run.folder)
    assert_whole(run.folder, load, undisturbed(load))
    fault = "link cut for 10 s, Ray's own patience"
    note(fault, load, "most attempts of a configuration", _attempts(run))


def test_a_head_without_power_is_replaced_and_the_sweep_goes_on(
    form: Form, undisturbed: Callable[[Load], Rows], note: Note, tmp_path: Path
) -> None:
    load = Load(form.pick(1, 10), epochs=20)
    reference = undisturbed(load)
    with Hosts(3) as hosts:
        start_cluster(hosts.all, env=_held_back(tmp_path / "never"))
        run = _driver(load, tmp_path, hosts.all[0])
        run.wait_for_rows(10)
        before = acknowledged(run.folder)
        hosts.all[0].power_off()
        assert run.wait() != 0
    assert_kept(before, run.folder)
    assert_true_so_far(run.folder, reference)
    with Hosts(3) as hosts:
        start_cluster(hosts.all)
        again = _driver(load, tmp_path, hosts.all[0])
        taken = again.wait_for_rows(len(before["trials"]) + 1)
        assert again.wait(form.pick(240, 1800)) == 0, again.output
    assert_kept(before, again.folder)
    assert_whole(again.folder, load, reference)
    note("head power-off", load, "first row on a fresh cluster, s", taken)
    n_before = len(before["trials"])
    note("head power-off", load, "configurations kept", n_before)
