"""Machines that a driver starts on: clocks that jump, folders without room, tokens, addresses."""

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from checks import Rows, acknowledged, assert_kept, assert_whole
from conftest import Form, Note
from hosts import Hosts, Mounts, start_cluster
from loads import Load
from runs import Run, assert_no_traceback
from sweep_runs import FAULTS

_LOAD = Load(1)


@pytest.mark.skipif(not shutil.which("faketime"), reason="needs faketime")
def test_rows_of_a_later_run_count_though_the_clock_was_set_back(
    form: Form, undisturbed: Callable[[Load], Rows], note: Note, tmp_path: Path
) -> None:
    poisoned = {"lr": 1e-3, "beta_1": -0.1, "beta_2": 0.0, "seed": 0}
    fault = json.dumps([{"kind": "raise", "match": poisoned}])
    # A run on tomorrow's clock leaves parts with a failed row; today's has to win. In packs of
    # one it fails at once, long before the parts are folded.
    ahead = _at_clock("+1d", tmp_path, "pack=1", PYTHONPATH=str(FAULTS), RAYSWEEP_FAULTS=fault)
    ahead.wait_until(lambda: "failed" in set(_statuses(ahead)))
    before = acknowledged(ahead.folder)
    ahead.kill()
    assert list((ahead.folder / "parts" / "trials").iterdir()), "nothing was left to be read"
    if form.is_long:
        back = _at_clock("-1d", tmp_path, "--limit", "10")
        assert back.wait() == 3, back.output
        assert_no_traceback(back)
    today = Run(_LOAD, tmp_path)
    assert today.wait() == 0, today.output
    failed = before["trials"]["status"] == "failed"
    before["trials"] = before["trials"][~failed].reset_index(drop=True)
    assert_kept(before, today.folder)
    assert_whole(today.folder, _LOAD, undisturbed(_LOAD))
    note("clock a day ahead, then set back", _LOAD, "exit code", today.code)


def _statuses(run: Run) -> list[str]:
    rows = acknowledged(run.folder)
    return list(rows["trials"]["status"]) if rows else []


def _at_clock(shift: str, location: Path, *arguments: str, **env: str) -> Run:
    # Not `faketime` itself: it would be the process that is killed, and the driver go on.
    words = ["faketime", "-m", "-f", shift, "printenv", "LD_PRELOAD"]
    library = subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    # The monotonic clock jumps, too: to leave it alone breaks time.sleep() in faketime 0.9.10.
    return Run(_LOAD, location, *arguments, env={"LD_PRELOAD": library, "FAKETIME": shift, **env})


def _works_or_says_why(run: Run, reference: Rows, fault: str, note: Note) -> None:
    """Hold a start on a poor machine to a whole sweep or to one line and a right exit code."""
    code = run.wait()
    note(fault, _LOAD, "exit code", code)
    note(fault, _LOAD, "time to end, s", time.monotonic() - run.started)
    assert_no_traceback(run)
    if code == 0:
        assert_whole(run.folder, _LOAD, reference)
        return
    assert code in (2, 3, 4), run.output
    (line,) = run.error_lines
    note(fault, _LOAD, "message", line)


def test_a_home_that_is_read_only_is_no_hang(
    root_and_namespaces: None, undisturbed: Callable[[Load], Rows], note: Note, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    with Mounts() as mounts:
        mounts.run("mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(home))
        run = Run(_LOAD, tmp_path, env={"HOME": str(home)}, enter=mounts.words)
        _works_or_says_why(run, undisturbed(_LOAD), "read-only HOME", note)


@pytest.mark.parametrize("size", ["1m", "64m"])
def test_shared_memory_without_room_is_no_hang(
    root_and_namespaces: None,
    form: Form,
    undisturbed: Callable[[Load], Rows],
    note: Note,
    tmp_path: Path,
    size: str,
) -> None:
    if size != "1m" and not form.is_long:
        pytest.skip("long form only")
    with Mounts() as mounts:
        mounts.run("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", "/dev/shm")
        run = Run(_LOAD, tmp_path, enter=mounts.words)
        _works_or_says_why(run, undisturbed(_LOAD), f"/dev/shm of {size}", note)


def _refused(run: Run, fault: str, note: Note) -> str:
    """Hold a run to a refusal in one line; give the line."""
    code = run.wait()
    note(fault, _LOAD, "time to end, s", time.monotonic() - run.started, 30)
    assert code in (2, 4), run.output
    assert_no_traceback(run)
    (line,) = run.error_lines
    note(fault, _LOAD, "message", line)
    assert not run.n_rows()
    return line


@pytest.mark.alone
def test_a_wrong_or_missing_token_is_refused_in_one_line(
    root_and_namespaces: None, form: Form, note: Note, tmp_path: Path
) -> None:
    right = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "a" * 64}
    wrong = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "b" * 64}
    with Hosts(1) as hosts:
        (head,) = hosts.all
        start_cluster(hosts.all, env=right)
        address = ("--address", f"{head.address}:6379")
        cases: list[tuple[str, dict[str, str], tuple[str, ...]]] = [
            ("wrong token", wrong, ()),
            ("no token", {}, ()),
        ]
        if form.is_long:
            cases.append(("no token, --without-token", {}, ("--without-token",)))
        for fault, env, more in cases:
            run = Run(_LOAD, tmp_path, *address, *more, enter=head.words, env={**head.env, **env})
            assert "token" in _refused(run, fault, note)


def test_addresses_without_a_cluster_are_refused_in_one_line(
    root_and_namespaces: None, note: Note, tmp_path: Path
) -> None:
    with Hosts(1) as hosts:
        (host,) = hosts.all
        for address in ("127.0.0.1:1", "10.77.0.9:6379", "auto"):
            words = ("--address", address, "--without-token")
            run = Run(_LOAD, tmp_path, *words, enter=host.words, env=host.env)
            _refused(run, f"no cluster at {address}", note)


def test_an_address_that_never_answers_is_refused_in_one_line(note: Note, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        run = Run(_LOAD, tmp_path, "--address", f"127.0.0.1:{port}", "--without-token")
        _refused(run, "an address that never answers", note)
