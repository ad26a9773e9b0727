"""Results in an object store, on a real S3 server, under the faults that folders get."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from checks import Rows, assert_kept, assert_whole
from conftest import Form, Note
from loads import Load
from runs import Process, assert_no_traceback, environment
from s3_server import credentials, serve
from sweep_runs import command, workers_of

from raysweep.errors import InputError
from raysweep.tables.paths import ResultsPath
from raysweep.tables.reader import read_accuracy, read_epochs, read_trials


def _fetch(location: ResultsPath, folder: Path) -> Path:
    """Copy a sweep from the store, as any tool would."""
    (folder / "parts").mkdir(parents=True)  # a store has no empty folders
    for name in location.tree():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((location / name).read_bytes())
    return folder


def test_results_in_a_store_outlive_workers_and_drivers_and_have_one_writer(
    form: Form,
    undisturbed: Callable[[Load], Rows],
    note: Note,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not form.is_long:
        pytest.skip("three starts of Ray, one of them refused: only the long form does")
    load = Load(10, epochs=20)
    reference = undisturbed(load)
    for name, value in credentials().items():
        monkeypatch.setenv(name, value)
    with serve() as server:
        address = server.address("runs")
        location = ResultsPath.of(address) / load.name
        file = load.write(tmp_path)

        def start() -> Process:
            # Credentials come from the environment, as `environment` passes it on.
            assert credentials().items() <= environment().items()
            return Process(command(file, "--results", address))

        def n_rows(read: Callable[[str], object]) -> int:
            try:
                return len(read(str(location)))  # type: ignore[arg-type]
            except InputError:  # no folder yet
                return 0

        first = start()
        first.wait_until(lambda: n_rows(read_epochs) > 0)
        os.kill(workers_of(first.pid)[0], signal.SIGKILL)
        first.wait_until(lambda: n_rows(read_trials) >= load.n_configs // 4)
        second = start()
        assert second.wait() == 2
        (line,) = second.output.splitlines()[-1:]
        assert line.startswith("error:") and f"process {first.pid}" in line, second.output
        before = {
            "trials": read_trials(str(location)),
            "epochs": read_epochs(str(location)),
            "accuracy": read_accuracy(str(location)),
        }
        first.send(signal.SIGKILL)
        first.kill()
        killed = time.monotonic()
        again = start()
        n_before = n_rows(read_trials)
        again.wait_until(lambda: n_rows(read_trials) > n_before)
        note("store: driver kill -9", load, "first row of a rerun, s", time.monotonic() - killed)
        assert again.wait() == 0, again.output
        assert_no_traceback(again)
        folder = _fetch(location, tmp_path / "fetched")
    assert_kept(before, folder)
    assert_whole(folder, load, reference)
