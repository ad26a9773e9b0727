"""Sweeps that lose workers, packs or their results folder, by the real command line."""

import os
import signal
from pathlib import Path

import pytest
from sweep_runs import (
    SMALL,
    assert_same_tables,
    n_rows,
    run,
    small_sweep,
    start,
    wait_until,
    workers_of,
    write,
)

from raysweep.settings.sweep import load_sweep
from raysweep.tables.folder import ResultsFolder
from raysweep.tables.reader import read_trials, statuses
from raysweep.tables.writer import Writer

pytestmark = pytest.mark.slow

LONG = SMALL.replace("epochs: 2", "epochs: 60")
ENDLESS = SMALL.replace("epochs: 2", "epochs: 100000")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the small sweep, undisturbed."""
    return small_sweep(tmp_path_factory)


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a sweep long enough to be disturbed, undisturbed."""
    file = write(tmp_path_factory.mktemp("long"), LONG)
    done = run(file)
    assert done.returncode == 0, done.stdout + done.stderr
    return file.parent / "results" / "small"


def test_killed_workers_change_no_number(long: Path, tmp_path: Path) -> None:
    file = write(tmp_path, LONG)
    process = start(file)
    folder = tmp_path / "results" / "small"
    wait_until(lambda: n_rows(folder) > 0, process)
    for _ in range(2):
        seen = n_rows(folder)
        wait_until(lambda: n_rows(folder) > seen + 40, process)  # noqa: B023
        wait_until(lambda: bool(workers_of(process.pid)), process)
        os.kill(workers_of(process.pid)[0], signal.SIGKILL)
    out = process.communicate(timeout=240)[0]
    assert process.returncode == 0, out
    assert out.count("a worker was lost") == 2
    assert_same_tables(folder, long)
    assert read_trials(folder)["attempt"].max() >= 2


def test_a_pack_that_cannot_be_built_fails_alone(small: Path, tmp_path: Path) -> None:
    file = write(
        tmp_path,
        SMALL.replace(
            "encoder_widths: [20]",
            "any_of: [{encoder_widths: [20]}, "
            "{encoder_widths: [100000, 100000, 100000, 100000, 100000]}]",
        ),
    )
    done = run(file, "space.replay=none")
    assert done.returncode == 1, done.stdout + done.stderr
    trials = read_trials(tmp_path / "results" / "small")
    failed = trials[trials["status"] == "failed"]
    assert len(failed) == 4 and set(trials["status"]) == {"failed", "finished"}
    assert failed["error"].str.contains("memory").all()
    assert failed["average_accuracy"].isna().all()
    logs = list((tmp_path / "results" / "small" / "logs").iterdir())
    assert logs and "Traceback" in logs[0].read_text()
    assert "to retry them, continue with: " in done.stdout


def test_workers_killed_between_two_packs_lose_none(small: Path, tmp_path: Path) -> None:
    file = write(tmp_path)
    process = start(file, "pack=1")
    folder = tmp_path / "results" / "small"
    killed: set[int] = set()
    for n_trials in (1, 4):
        # A row of trials has just been written: its worker is changing packs.
        wait_until(lambda: n_rows(folder, "trials") >= n_trials, process)  # noqa: B023
        for pid in set(workers_of(process.pid)) - killed:
            killed.add(pid)
            os.kill(pid, signal.SIGKILL)
        if n_trials == 1:  # after the second time the sweep may end as soon as others start
            wait_until(lambda: bool(set(workers_of(process.pid)) - killed), process)
    out = process.communicate(timeout=240)[0]
    assert process.returncode == 0, out
    assert_same_tables(folder, small)


def test_a_failed_configuration_is_tried_again_alone_and_last(tmp_path: Path) -> None:
    file = write(tmp_path)
    ids = [config.id for config in load_sweep(file).configs]
    folder = ResultsFolder(tmp_path / "results" / "small")
    folder.open()
    writer = Writer(folder)
    writer.add("trials", [{"config_id": ids[0], "status": "failed", "attempt": 2}])
    writer.flush()
    folder.close()
    dry = run(file, "--dry-run")
    assert "12 in all, 0 done, 12 to do" in dry.stdout
    assert run(file, "--limit", "11").returncode == 1
    assert statuses(folder.path)[ids[0]] == ("failed", 2)
    assert run(file).returncode == 0
    assert statuses(folder.path)[ids[0]] == ("finished", 3)


def test_results_that_cannot_be_written_stop_with_one_line(tmp_path: Path) -> None:
    file = write(tmp_path, ENDLESS)
    process = start(file)
    folder = tmp_path / "results" / "small"
    wait_until(lambda: n_rows(folder) > 0, process)
    kept = n_rows(folder)
    (folder / "parts" / "epochs").rename(folder / "parts" / "away")
    (folder / "parts" / "epochs").write_text("a file is no folder")
    out = process.communicate(timeout=120)[0]
    assert process.returncode == 3, out
    (line,) = [line for line in out.splitlines() if line.startswith("error:")]
    assert "expected to write results" in line and "continue with: python -m raysweep.tune" in line
    (folder / "parts" / "epochs").unlink()
    (folder / "parts" / "away").rename(folder / "parts" / "epochs")
    assert n_rows(folder) >= kept
