"""What people and machines do to a sweep while it runs, other than ending it."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from checks import Rows, acknowledged, assert_kept, assert_true_so_far, assert_whole
from conftest import Form, Note
from control_groups import limited
from hosts import Mounts
from loads import Load
from runs import Run, assert_no_traceback
from sweep_runs import workers_of

_STOPPED_S = 8.0


def test_a_stopped_driver_and_stopped_workers_go_on_where_they_were(
    form: Form, undisturbed: Callable[[Load], Rows], note: Note, tmp_path: Path
) -> None:
    load = Load(1, epochs=20)
    run = Run(load, tmp_path)
    run.wait_for_rows(1, "epochs")
    seconds = form.pick(_STOPPED_S, 60.0)
    workers = workers_of(run.pid)
    for pids in ([run.pid], workers, [run.pid, *workers]):
        # As ctrl-z does; SIGSTOP itself can't be caught.
        for pid in pids:
            os.kill(pid, signal.SIGTSTP if pid == run.pid else signal.SIGSTOP)
        time.sleep(seconds / 3)
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    assert run.wait() == 0, run.output
    assert_no_traceback(run)
    assert_whole(run.folder, load, undisturbed(load))
    note("driver and workers stopped, then continued", load, "stopped for, s", seconds)


def test_a_search_space_that_is_edited_while_it_runs_counts_for_the_next_run(
    form: Form, undisturbed: Callable[[Load], Rows], note: Note, tmp_path: Path
) -> None:
    if not form.is_long:
        pytest.skip("long form only")
    load = Load(1)
    run = Run(load, tmp_path)
    run.wait_for_rows(1)
    file = tmp_path / f"{load.name}.yaml"
    text = file.read_text()
    file.write_text("space: [what")
    assert run.wait() == 0, run.output
    assert_whole(run.folder, load, undisturbed(load))
    before = acknowledged(run.folder)
    file.write_text(text.replace(", 16e-3]", "]"))
    fewer = Run(load, tmp_path)
    assert fewer.wait() == 0, fewer.output
    assert_kept(before, fewer.folder)
    note("search space edited in mid-run", load, "exit code", run.code)


@pytest.mark.usefixtures("root_and_namespaces")
def test_a_temporary_folder_that_fills_up_loses_no_row(
    form: Form, undisturbed: Callable[[Load], Rows], note: Note, tmp_path: Path
) -> None:
    if not form.is_long:
        pytest.skip("long form only")
    load = Load(2, epochs=20)
    with Mounts() as mounts:
        place = tmp_path / "t"
        place.mkdir()
        mounts.run("mount", "-t", "tmpfs", "-o", "size=300m", "tmpfs", str(place))
        short = Path("/tmp") / f"rst-{os.getpid()}"
        short.symlink_to(place)  # sockets' names are short
        try:
            env = {"RAY_TMPDIR": str(short), "TMPDIR": str(short)}
            run = Run(load, tmp_path, env=env, enter=mounts.words)
            run.wait_for_rows(10, "epochs")
            before = acknowledged(run.folder)
            mounts.run("sh", "-c", f"head -c 400m /dev/zero > {place}/ballast 2>/dev/null; true")
            code = run.wait()
            assert code in (0, 3, 4), run.output
            assert_no_traceback(run)
            assert_kept(before, run.folder)
            assert_true_so_far(run.folder, undisturbed(load))
            note("temporary folder full in mid-run", load, "exit code", code)
        finally:
            short.unlink()
    if code:
        again = Run(load, tmp_path)
        assert again.wait() == 0, again.output
        run = again
    assert_whole(run.folder, load, undisturbed(load))


def test_a_limit_on_processes_is_one_line_or_no_hindrance(
    form: Form, undisturbed: Callable[[Load], Rows], note: Note, tmp_path: Path
) -> None:
    load = Load(1)
    # As in a container with --pids-limit; threads count, too.
    for n in form.pick((40,), (40, 80, 160, 240, 320, 640)):
        with limited("pids", n) as group:
            run = Run(load, tmp_path, enter=group.words)
            code = run.wait()
        fault = f"{n} processes and threads allowed"
        note(fault, load, "exit code", code)
        note(fault, load, "time to end, s", time.monotonic() - run.started)
        assert_no_traceback(run)
        if code == 0:
            assert_whole(run.folder, load, undisturbed(load))
            return
        assert code == 4, run.output
        (line,) = run.error_lines
        assert "processes and threads" in line
        note(fault, load, "message", line)
