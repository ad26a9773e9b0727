"""Running the real command line, and comparing what it leaves."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from session_files import made_once

from raysweep.settings.space import Space
from raysweep.settings.sweep import load_sweep
from raysweep.tables.reader import read_accuracy, read_epochs, read_trials

ROOT = Path(__file__).parents[1]
FAULTS = ROOT / "tests" / "chaos" / "faults"
CIRCUMSTANCES = ["duration_s", "n_stored_stages", "started_at", "ended_at", "host", "attempt"]
"""Columns that may differ between two runs of one configuration."""

SMALL = """
experiment: replay_vib
data: {tasks: perm_mnist, source: mnist_5k}
training: {epochs: 2, batch_size: 500}
space:
  model: {grid_search: [vib, comparison]}
  n_bottleneck: 5
  encoder_widths: [20]
  rec_decoder_widths: [20]
  lr: 1e-3
  beta_1: -0.1
  beta_2: {grid_search: [0, 0.01]}
  replay: {grid_search: [none, simple, generative]}
  n_replay: 200
"""


def command(file: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "raysweep.tune", str(file), *arguments]


def run(file: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line to its end, its results beside the search space."""
    words = command(file, "--results", str(file.parent / "results"), *arguments)
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


def start(file: Path, *arguments: str) -> subprocess.Popen[str]:
    words = command(file, "--results", str(file.parent / "results"), *arguments)
    return subprocess.Popen(
        words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def start_held_back(
    patch: pytest.MonkeyPatch, file: Path, until: Path, *arguments: str
) -> subprocess.Popen[str]:
    """Start a sweep whose epochs take longer, until there is a file; each writes a checkpoint."""
    slow = {"kind": "slow", "seconds": 0.5, "until": str(until)}
    with patch.context() as inner:
        inner.setenv("RAYSWEEP_FAULTS", json.dumps([{"kind": "save"}, slow]))
        inner.setenv("PYTHONPATH", f"{FAULTS}:{ROOT}")
        return start(file, *arguments)


def write(folder: Path, text: str = SMALL, name: str = "small.yaml") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / name
    file.write_text(text)
    return file


def space_of(folder: Path, text: str) -> Space:
    """Return the space of a search that is written to a folder."""
    space = load_sweep(write(folder, text)).space
    assert space is not None
    return space


def small_sweep(factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the small sweep, trained once a session; its tables stay as they are."""

    def train(location: Path) -> None:
        done = run(write(location))
        assert done.returncode == 0, done.stdout + done.stderr

    return made_once(factory, "small", train) / "results" / "small"


def tables(folder: Path | str) -> dict[str, pd.DataFrame]:
    """Read the three tables without circumstances, in the order of their keys."""
    readers = {"trials": read_trials, "epochs": read_epochs, "accuracy": read_accuracy}
    frames = {}
    for name, read in readers.items():
        frame = read(folder)
        keys = [
            key for key in ("config_id", "stage", "epoch", "after_task", "on_task") if key in frame
        ]
        assert not frame.duplicated(keys).any(), f"{name} has a key twice"
        frame = frame.drop(columns=[c for c in CIRCUMSTANCES if c in frame])
        frames[name] = frame.sort_values(keys).reset_index(drop=True)
    return frames


def assert_same_tables(one: Path | str, other: Path | str) -> None:
    ours, theirs = tables(one), tables(other)
    for name, frame in ours.items():
        pd.testing.assert_frame_equal(frame, theirs[name], check_exact=True)


def wait_until(is_so: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait for a condition while a driver runs; its end before that is an error."""
    for _ in range(4800):
        if is_so():
            return
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    process.kill()
    raise AssertionError("the condition did not come true within four minutes")


def n_rows(folder: Path, table: str = "epochs") -> int:
    reader = {"epochs": read_epochs, "trials": read_trials}[table]
    return len(reader(folder)) if (folder / "parts").is_dir() else 0


def workers_of(driver: int) -> list[int]:
    """List the process ids of Ray workers that descend from a driver and run a pack."""
    parents, titles = {}, {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat = (entry / "stat").read_text()
            titles[int(entry.name)] = (entry / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])

    def descends(pid: int) -> bool:
        while pid in parents and pid != driver:
            pid = parents[pid]
        return pid == driver

    return [
        pid
        for pid, title in titles.items()
        if title.startswith("ray::") and "Trainable" in title and descends(pid)
    ]
