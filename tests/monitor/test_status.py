"""``python -m raysweep.status``: the picture from the folder alone."""

import json
import os
import socket
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from report_sweeps import BEGIN, configs, rows_of, write_sweep
from s3_server import credentials, serve
from sweep_runs import ROOT, SMALL, n_rows, run, start, wait_until, write

from raysweep.monitor.driver_report import STATUS_FILE, DriverReport
from raysweep.monitor.snapshot import SweepStatus
from raysweep.monitor.terminal import Snapshot, WorkerState
from raysweep.settings.sweep import load_sweep
from raysweep.settings.yaml_text import dump_yaml
from raysweep.tables.folder import ResultsFolder
from raysweep.tables.holders import find_holder
from raysweep.tables.locks import this_process
from raysweep.tables.paths import ResultsPath
from raysweep.tables.schemas import config_columns
from raysweep.tables.writer import Writer
from raysweep.tune.reporting.progress import Progress
from raysweep.tune.reporting.status_file import StatusFile

ENDLESS = SMALL.replace("epochs: 2", "epochs: 100000")


def status(folder: Path | str, *more: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "raysweep.status", str(folder), *more]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)


def written(folder: Path, n_lrs: int = 2, n_failed: int = 0) -> tuple[Path, list[dict[str, Any]]]:
    """Write a sweep whose search space is not known; the first ones failed."""
    made = [rows_of(c, False) for c in configs(n_lrs, 2, 1)]
    for i, (trial, _) in enumerate(made[:n_failed]):
        for name in [n for n in trial if n.endswith("accuracy")]:
            del trial[name]
        trial |= {"status": "failed", "error": "out of luck" if i < 2 else "another"}
    write_sweep(folder, made)
    (folder / "sweep.yaml").unlink()
    return folder, [trial for trial, _ in made]


@pytest.mark.slow
def test_a_running_a_killed_and_a_finished_sweep_are_told_apart(tmp_path: Path) -> None:
    file = write(tmp_path, ENDLESS)
    folder = tmp_path / "results" / "small"
    process = start(file, "--limit", "4")
    try:
        wait_until(lambda: n_rows(folder) > 2 and (folder / STATUS_FILE).exists(), process)
        wait_until(lambda: "train_task_1" in (folder / STATUS_FILE).read_text(), process)
        running = status(folder)
        assert running.returncode == 0, running.stderr
        assert f"running in process {process.pid} on {socket.gethostname()}" in running.stdout
        assert "train_task_1" in running.stdout
        assert "0 of 12 configurations" in running.stdout
        assert "continue with" not in running.stdout
    finally:
        process.kill()
        process.wait()
    killed = status(folder)
    assert f"no driver is running: process {process.pid} on" in killed.stdout
    assert "train_task_1" not in killed.stdout  # what the dead driver's file says is not of now
    assert "continue with: " in killed.stdout
    assert "raysweep.tune" in killed.stdout
    done = run(write(tmp_path), "--fresh")
    assert done.returncode == 0
    over = status(folder)
    assert "12 of 12 configurations" in over.stdout
    assert "no driver is running; the last one ended" in over.stdout
    assert "continue with" not in over.stdout
    assert not (folder / STATUS_FILE).exists()


def test_a_lock_that_was_left_behind_is_no_killed_driver(tmp_path: Path) -> None:
    folder, _ = written(tmp_path / "sweep")
    ended = subprocess.Popen(["true"])
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)  # it stays as a zombie
    (folder / ".lock").write_text(f"process {ended.pid} on {socket.gethostname()}")
    assert "ended without releasing the folder" not in status(folder).stdout
    (folder / "manifest.json").unlink()
    assert "ended without releasing the folder" in status(folder).stdout
    ended.wait()
    assert "ended without releasing the folder" in status(folder).stdout


@pytest.mark.slow
def test_an_object_store_tells_as_much(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in credentials().items():
        monkeypatch.setenv(name, value)
    sweep = load_sweep(write(tmp_path))
    with serve() as server:
        address = server.address("results/status")
        folder = ResultsFolder(address)
        folder.open()
        folder.write_text("sweep.yaml", dump_yaml(sweep.resolved))
        writer = Writer(folder)
        row = {"status": "finished", "average_accuracy": 0.75, "ended_at": datetime.now(UTC)}
        writer.add("trials", [{**config_columns(c), **row} for c in sweep.configs[:5]])
        writer.flush()
        progress = Progress(n_total=12, n_slots=1, total_work=1.0)
        progress.note_start("a", 7)
        progress.note_epoch("a", "node-1", "train_task_2", 1, 2)
        file = StatusFile(folder)
        file._writing.result()
        file.update(progress)
        file._writing.result()
        running = SweepStatus.at(address).snapshot()
        assert (running.n_ended, running.n_total, running.best) == (5, 12, 0.75)
        assert [(w.host, w.stage, w.n_configs) for w in running.workers] == [
            ("node-1", "train_task_2", 7)
        ]
        assert f"running in {this_process()}" in running.notes[0]
        done = status(address)
        assert done.returncode == 0, done.stderr
        assert "5 of 12 configurations" in done.stdout
        file.close()
        folder.close()
        over = SweepStatus.at(address).snapshot()
        assert over.notes[0] == "no driver is running"
        assert not over.workers
        nowhere = status(server.address("results/nowhere"))
        assert nowhere.returncode == 2
        assert len(nowhere.stderr.splitlines()) == 1


def test_failures_are_listed_by_their_errors(tmp_path: Path) -> None:
    folder, trials = written(tmp_path / "sweep", n_failed=3)
    done = status(folder)
    assert "2 failed: out of luck" in done.stdout
    assert f"{trials[2]['config_id']} failed: another" in done.stdout
    assert "13 finished" in done.stdout
    assert "the number of configurations is unknown" in done.stdout


def test_looking_takes_no_lock_and_a_held_folder_is_told(tmp_path: Path) -> None:
    folder = ResultsFolder(tmp_path / "sweep")
    folder.open()
    holder = find_holder(ResultsPath.of(tmp_path / "sweep"))
    assert holder is not None
    assert holder.name == this_process()
    assert holder.is_alive
    snapshot = SweepStatus.at(tmp_path / "sweep").snapshot()
    assert f"process {os.getpid()} on" in snapshot.notes[0]
    folder.close()
    assert find_holder(ResultsPath.of(tmp_path / "sweep")) is None


def test_a_report_comes_back_and_what_is_none_is_none() -> None:
    work = WorkerState(3, "node", "train_task_1", 2, 5, 0.25, 1.5)
    snapshot = Snapshot("x", 9, {}, 3, 1.0, left_s=7.0, workers=[work])
    report = DriverReport.of(snapshot, "http://127.0.0.1:8265")
    assert DriverReport.from_bytes(report.to_text().encode()) == report
    for content in (b"", b"[]", b"{}", b"\xff", json.dumps({"workers": 3}).encode()):
        assert DriverReport.from_bytes(content) is None


def test_the_best_so_far_is_drawn_from_the_rows(tmp_path: Path) -> None:
    folder, trials = written(tmp_path / "sweep")
    snapshot = SweepStatus.at(folder).snapshot()
    values = [value for _, value in snapshot.history]
    assert values == sorted(values)
    best = max(trial["average_accuracy"] for trial in trials)
    assert values[-1] == pytest.approx(best)
    assert snapshot.best == pytest.approx(best)
    first = min(trial["ended_at"] for trial in trials)
    assert snapshot.history[0][0] == pytest.approx((first - BEGIN).total_seconds())


@pytest.mark.slow
@pytest.mark.parametrize("mode", [None, "min", "max"])
def test_the_best_is_that_of_the_metric_that_is_searched_for(
    tmp_path: Path, mode: str | None
) -> None:
    folder, trials = written(tmp_path / "sweep")
    modes = "" if mode is None else f", mode: {mode}"
    search = f"search: {{method: optuna, n_samples: 20, metric: forgetting{modes}}}\n"
    space = SMALL.partition("space:")[0] + "space:\n  model: vib\n  lr: {uniform: [1e-4, 1e-2]}\n"
    (folder / "sweep.yaml").write_text(search + space)
    snapshot = SweepStatus.at(folder).snapshot()
    best = max if mode == "max" else min
    found = best(trial["forgetting"] for trial in trials)
    assert (snapshot.metric, snapshot.n_total) == ("forgetting", 20)
    assert snapshot.best == pytest.approx(found)
    assert snapshot.history[-1][1] == pytest.approx(found)
    assert f"best forgetting {found:.4f}" in status(folder).stdout


def test_a_folder_that_is_no_sweep_is_one_line(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        done = status(folder)
        assert done.returncode == 2
        (line,) = done.stderr.splitlines()
        assert line.startswith("error: ")
        assert "expected a sweep's folder" in line


def test_watching_a_pipe_gives_a_line_each_time(tmp_path: Path) -> None:
    folder, _ = written(tmp_path / "sweep", n_lrs=1)
    words = [sys.executable, "-m", "raysweep.status", str(folder), "--watch", "0.5"]
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        lines = [process.stdout.readline() for _ in range(2)]
    finally:
        process.kill()
        process.wait()
    assert all(line.startswith("8/8 done") for line in lines), lines
