"""Ray's own ways to start a command on a cluster, on emulated hosts with tokens."""

import shlex
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from checks import Rows, acknowledged, assert_whole
from conftest import Form, Note
from hosts import PORT, RAY, Hosts, start_cluster
from loads import Load
from runs import HANG_S
from sweep_runs import ROOT, command

# Alone: beside other work a host may miss the three checks of a second each that it has to answer.
pytestmark = [pytest.mark.usefixtures("root_and_namespaces"), pytest.mark.alone]
_LOAD = Load(1)
_TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "c" * 64}


def _command(load: Load, location: Path, *arguments: str) -> list[str]:
    return command(load.write(location), "--results", str(location / "results"), *arguments)


def test_symmetric_run_on_two_hosts_trains_everything_and_gives_the_exit_code(
    form: Form, undisturbed: Callable[[Load], Rows], note: Note, tmp_path: Path
) -> None:
    fault = "ray symmetric-run on two hosts"
    load = Load(1, epochs=20)  # long enough for the second host to get its share
    sweep = _command(load, tmp_path, "--address", "auto", "--wait-for-nodes", "2")
    with Hosts(2) as hosts:
        head = hosts.all[0]
        start = [RAY, "symmetric-run", "--address", f"{head.address}:{PORT}", "--num-cpus", "1"]
        start_s = time.monotonic()
        running = [host.start([*start, "--", *sweep], _TOKEN) for host in hosts.all]
        codes = {"head": running[0].wait(HANG_S)}
        note(fault, load, "the head's command ends after, s", time.monotonic() - start_s)
        if form.is_long:  # Ray lets the others wait for a minute more
            codes["other"] = running[1].wait(HANG_S)
            note(fault, load, "the other's ends after, s", time.monotonic() - start_s)
    assert set(codes.values()) == {0}, running[0].output
    note(fault, load, "exit codes", codes)
    folder = tmp_path / "results" / load.name
    assert_whole(folder, load, undisturbed(load))
    assert set(acknowledged(folder)["trials"]["host"]) == {host.name for host in hosts.all}


def test_a_submitted_job_trains_everything_and_its_exit_code_comes_back(
    undisturbed: Callable[[Load], Rows], note: Note, tmp_path: Path
) -> None:
    sweep = _command(_LOAD, tmp_path, "--address", "auto")
    inside = ["sh", "-c", f"cd {shlex.quote(str(ROOT))} && {shlex.join(sweep)}"]
    with Hosts(2) as hosts:
        head = hosts.all[0]
        start_cluster(hosts.all, env=_TOKEN, has_dashboard=True)
        submit = [RAY, "job", "submit", "--address", "http://127.0.0.1:8265", "--"]
        job = head.start([*submit, *inside], _TOKEN)
        assert job.wait(HANG_S) == 0, job.output
        folder = tmp_path / "results" / _LOAD.name
        assert_whole(folder, _LOAD, undisturbed(_LOAD))
        assert "succeeded" in job.output
        bad = head.start([*submit, *inside[:2], f"{inside[2]} space.lr=-1"], _TOKEN)
        assert bad.wait(HANG_S) != 0, bad.output
        note("ray job submit of a bad search space", _LOAD, "exit code", bad.code)
        without = head.start([*submit, *inside])
        assert without.wait(HANG_S) != 0, without.output
        note("ray job submit without a token", _LOAD, "exit code", without.code)
