"""Results on a disk of one host that the others do not see, as on spot instances."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from checks import Rows, acknowledged, assert_kept, assert_whole
from conftest import Form, Note
from hosts import Host, Hosts, start_cluster
from loads import Load
from runs import Run, assert_no_traceback
from sweep_runs import FAULTS

# Alone: beside other work a host may miss the three checks of a second each that it has to answer.
pytestmark = [pytest.mark.usefixtures("root_and_namespaces"), pytest.mark.alone]
_OWN = Path("/tmp/ray/home")
"""Every host has its own."""


def _driver(load: Load, head: Host) -> Run:
    def seen(path: Path) -> Path:
        return Path(f"/proc/{head.init}/root{path}")

    words = ("--address", "auto", "--without-token")
    return Run(load, _OWN, *words, enter=head.words, env=head.env, seen=seen)


def _kill(run: Run) -> None:
    """Kill a driver on a host: the process is the child of the one that entered the host."""
    children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
    for child in children:
        os.kill(int(child), signal.SIGKILL)
    run.wait()


def test_a_lost_node_and_a_killed_driver_cost_seconds_where_no_disk_is_shared(
    form: Form, undisturbed: Callable[[Load], Rows], note: Note, tmp_path: Path
) -> None:
    load = Load(form.pick(1, 4), epochs=20)
    reference = undisturbed(load)
    is_over = tmp_path / "faults_are_over"
    slow = {"kind": "slow", "seconds": 0.3, "until": str(is_over)}
    env = {"PYTHONPATH": str(FAULTS), "RAYSWEEP_FAULTS": json.dumps([{"kind": "save"}, slow])}
    with Hosts(3) as hosts:
        head, lost, _ = hosts.all
        start_cluster(hosts.all, env=env)
        run = _driver(load, head)

        def n_states() -> int:
            return len(list(run.folder.glob(".tune/aside/*.safetensors")))

        run.wait_until(lambda: n_states() >= 2)
        assert "checkpoints travel through the network" in run.output, run.output
        lost.power_off()
        run.wait_until(lambda: "a worker was lost" in run.output)
        assert "the pack resumes from its last checkpoint" in run.output, run.output
        n_rows = run.n_rows("epochs")
        run.wait_until(lambda: run.n_rows("epochs") > n_rows and n_states() > 0)
        before = acknowledged(run.folder)
        _kill(run)
        killed = time.monotonic()
        again = _driver(load, head)
        again.wait_until(lambda: "continue where the last run stopped" in again.output)
        is_over.touch()
        assert again.wait(form.pick(240, 1800)) == 0, again.output
        note("driver kill -9, unseen disk", load, "rerun, s", time.monotonic() - killed)
        assert_no_traceback(again)
        for output in (run.output, again.output):
            assert "start over" not in output and "starts over" not in output, output
        assert_kept(before, again.folder)
        assert_whole(again.folder, load, reference)
