"""Drivers that are told to stop, and two drivers on one folder."""

import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
from checks import Rows, acknowledged, assert_kept, assert_true_so_far, assert_whole
from conftest import Form, Note
from loads import Load
from runs import Run, assert_no_traceback

_SIGNALS = {
    "SIGINT": ([signal.SIGINT], 3),
    "SIGTERM": ([signal.SIGTERM], 3),
    "SIGINT twice": ([signal.SIGINT, signal.SIGINT], 130),
    "SIGTERM twice": ([signal.SIGTERM, signal.SIGTERM], 143),
    "SIGHUP": ([signal.SIGHUP], 3),
    "SIGHUP twice": ([signal.SIGHUP, signal.SIGHUP], 129),
}
_SHORT = ("SIGINT", "SIGTERM twice", "SIGHUP")
"""The short form's: each once, and one of them twice."""


def test_every_signal_ends_a_run_in_order_and_the_next_run_goes_on(
    form: Form, undisturbed: Callable[[Load], Rows], note: Note, tmp_path: Path
) -> None:
    load = Load(4)
    reference = undisturbed(load)
    for name in form.pick(_SHORT, tuple(_SIGNALS)):
        signals, code = _SIGNALS[name]
        # The rerun of one is the run that the next signal ends.
        run = Run(load, tmp_path)
        run.wait_for_rows(run.n_rows() + 10)
        before = acknowledged(run.folder)
        sent = time.monotonic()
        for number, signum in enumerate(signals):
            run.send(signum)
            if number + 1 < len(signals):
                run.wait_until(lambda run=run: "again to stop at once" in run.output)
        assert run.wait() == code, f"{name}: {run.output}"
        note(name, load, "time to end, s", time.monotonic() - sent, 10)
        assert_no_traceback(run)
        assert "continue with: python -m raysweep.tune" in run.output, run.output
        assert_kept(before, run.folder)
        assert_true_so_far(run.folder, reference)
        if code == 3:
            n_kept = len(acknowledged(run.folder)["trials"])
            assert len(pd.read_parquet(run.folder / "trials.parquet")) == n_kept
            assert f"{load.n_configs - n_kept} configurations are missing" in run.output
    run = Run(load, tmp_path)
    assert run.wait() == 0, run.output
    assert_whole(run.folder, load, reference)


def test_a_terminal_that_goes_away_is_a_stop_in_order_and_under_nohup_none(
    undisturbed: Callable[[Load], Rows], note: Note, tmp_path: Path
) -> None:
    load = Load(4)
    words = [sys.executable, str(Path(__file__).with_name("terminal.py"))]
    run = Run(load, tmp_path, enter=lambda driver: [*words, *driver])
    run.wait_for_rows(10)
    before = acknowledged(run.folder)
    sent = time.monotonic()
    run.send(signal.SIGUSR1)
    assert run.wait() == 3, run.output
    note("terminal closed", load, "time to end, s", time.monotonic() - sent, 10)
    assert_kept(before, run.folder)
    assert "a worker was lost" not in run.output
    # As `nohup` does it, but with the output to the terminal: from now on every line is an error.
    words += ["sh", "-c", "trap '' HUP; exec \"$@\"", "sh"]
    run = Run(load, tmp_path, enter=lambda driver: [*words, *driver])
    run.wait_for_rows(run.n_rows() + 5)
    run.send(signal.SIGUSR1)
    assert run.wait() == 0, run.output
    assert_whole(run.folder, load, undisturbed(load))


def test_a_second_driver_stops_at_once_and_says_who_holds_the_folder(
    undisturbed: Callable[[Load], Rows], note: Note, tmp_path: Path
) -> None:
    load = Load(1)
    first = Run(load, tmp_path)
    first.wait_until((first.folder / "manifest.json").exists)
    second = Run(load, tmp_path)
    assert second.wait() == 2, second.output
    (line,) = second.error_lines
    assert f"process {first.pid} on " in line
    assert_no_traceback(second)
    note("two drivers", load, "the second ends after, s", time.monotonic() - second.started)
    assert first.wait() == 0, first.output
    assert_whole(first.folder, load, undisturbed(load))
