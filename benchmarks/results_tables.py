"""Measure the tables: folding large ones, a day of part files, and writes to an object store.

    python -m benchmarks.results_tables [--parts N]

The fold is of 10,000 rows of `trials` and 1,000,000 of `epochs`, as parts and again with one more
part. The day is one flush a second for 24 hours, 12 rows of `epochs` each (N = 86,400 parts, as
fast as they come), folded as in a sweep, in a fresh process. The object store is moto's, on this
machine: its time says what raysweep and pyarrow need, a real one's network comes on top. About
25 minutes on two cores that others used as well, most of them for the day.

Prints figures as JSON lines to stdout and a table to stderr; exit code 1 if a goal is missed.
"""

import argparse
import importlib.util
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raysweep.learning.config import Config
from raysweep.tables.folder import ResultsFolder
from raysweep.tables.reader import read_epochs
from raysweep.tables.schemas import config_columns
from raysweep.tables.writer import Writer

N_TRIALS, N_EPOCHS, N_EPOCHS_A_PART = 10_000, 1_000_000, 20_000
N_ROWS_A_FLUSH, N_STORE_FLUSHES = 12, 200
FOLD_GOAL_S, DAY_GOAL_S, DAY_MEMORY_GOAL_MB, FLUSH_GOAL_MS = 10.0, 1800.0, 1500.0, 50.0


def epoch_rows(first: int, n: int) -> list[dict[str, Any]]:
    """Make rows of `epochs`, 100 for each configuration."""
    return [
        {
            "config_id": f"{i // 100:016x}",
            "stage": "train_task_1",
            "epoch": i % 100 + 1,
            "task": 1,
            "n_steps": 50,
            "n_samples": 5000,
            "loss": 1 / (i + 1),
            "class_loss": 1 / (i + 2),
            "kl_loss": 1 / (i + 3),
            "train_accuracy": i % 997 / 997,
            "test_accuracy": i % 991 / 991,
            "duration_s": i % 983 / 983,
        }
        for i in range(first, first + n)
    ]


def measure_folds(folder: Path) -> tuple[float, float]:
    """Return the seconds of the fold of all parts, and of one with one more part."""
    results = ResultsFolder(folder)
    results.open()
    writer = Writer(results)
    base = config_columns(Config()) | {"status": "finished", "attempt": 1}
    for first in range(0, N_EPOCHS, N_EPOCHS_A_PART):
        writer.add("epochs", epoch_rows(first, N_EPOCHS_A_PART))
        writer.flush()
    writer.add(
        "trials",
        [base | {"config_id": f"{i:016x}", "config/lr": 1 / (i + 1)} for i in range(N_TRIALS)],
    )
    writer.flush()
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        writer.fold()
        seconds.append(time.perf_counter() - start)
        writer.add("epochs", epoch_rows(N_EPOCHS, N_ROWS_A_FLUSH))
        writer.flush()
    results.close()
    return seconds[0], seconds[1]


def peak_mb() -> float:
    """Return this process's largest memory so far; getrusage would count its parent's, too."""
    status = Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1e3


def write_a_day(folder: Path, n_parts: int) -> dict[str, float]:
    """Write part files as a sweep does in a day; return seconds, memory and size."""
    before_mb = peak_mb()
    results = ResultsFolder(folder)
    results.open()
    writer = Writer(results)
    start = time.perf_counter()
    longest_s = 0.0
    for i in range(n_parts):
        writer.add("epochs", epoch_rows(i * N_ROWS_A_FLUSH, N_ROWS_A_FLUSH))
        flush = time.perf_counter()
        writer.flush()
        longest_s = max(longest_s, time.perf_counter() - flush)
    writer.fold()
    total_s = time.perf_counter() - start
    results.close()
    peak = peak_mb()
    assert len(read_epochs(folder)) == n_parts * N_ROWS_A_FLUSH
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return {
        "total_s": total_s,
        "longest_flush_s": longest_s,
        "peak_mb": peak,
        "start_mb": before_mb,
        "size_mb": size / 1e6,
    }


def measure_store() -> list[float]:
    """Return the milliseconds of each flush of one part to moto's S3 server; none without moto."""
    if importlib.util.find_spec("moto") is None:
        return []
    from tests.s3_server import credentials, serve

    os.environ.update(credentials())
    spent = []
    with serve() as server:
        results = ResultsFolder(server.address("sweep"))
        results.open()
        writer = Writer(results)
        for i in range(N_STORE_FLUSHES - 1):  # one less than makes a fold
            writer.add("epochs", epoch_rows(i * N_ROWS_A_FLUSH, N_ROWS_A_FLUSH))
            start = time.perf_counter()
            writer.flush()
            spent.append(1e3 * (time.perf_counter() - start))
        start = time.perf_counter()
        writer.fold()
        print(f"fold of these parts: {time.perf_counter() - start:.2f} s", file=sys.stderr)
        results.close()
    return spent[1:]  # the first connects


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print all figures."""
    from benchmarks.figures import Table  # imports torch, which the day's process does without

    parser = argparse.ArgumentParser(
        "benchmarks.results_tables", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--parts", type=int, default=86_400, help="of a day (86400)")
    n_parts = parser.parse_args(arguments).parts
    with tempfile.TemporaryDirectory(prefix="tables-") as name:
        folds = [measure_folds(Path(name) / f"fold_{i}") for i in range(3)]
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            day = pool.apply(write_a_day, (Path(name) / "day", n_parts))
    flushes_ms = measure_store()
    table = Table()
    sizes: dict[str, object] = {"n_trials": N_TRIALS, "n_epochs": N_EPOCHS}
    first, again = zip(*folds, strict=True)
    table.add("fold of all parts", first, FOLD_GOAL_S, "lower", unit="s", **sizes)
    table.add("fold of one more part", again, FOLD_GOAL_S, "lower", unit="s", **sizes)
    more: dict[str, object] = {"n_parts": n_parts, "n_rows": n_parts * N_ROWS_A_FLUSH, **day}
    table.add("a day of part files", [day["total_s"]], DAY_GOAL_S, "lower", unit="s", **more)
    table.add("its memory", [day["peak_mb"]], DAY_MEMORY_GOAL_MB, "lower", unit="MB", **more)
    if flushes_ms:
        table.add(
            "flush of a part to a store",
            flushes_ms,
            FLUSH_GOAL_MS,
            "lower",
            unit="ms",
            store="moto",
        )
    return table.close()


if __name__ == "__main__":
    sys.exit(main())
