"""Measure sweeps of very many configurations of almost no work: time, memory, growth.

    python -m benchmarks.scale [--configs N]

Three sweeps through the command line in fresh processes, of a tenth, a quarter and all of N
configurations, and a dry run of all. Memory is the driver's own peak: the difference between the
largest and the smallest sweep, divided by the difference in configurations. The rate has the start
of Ray in it. The time a configuration is the sweep's wall less that of a sweep of one, divided by
the configurations: its ratio between N and N / 4 shows whether a step grows with their square.
About five minutes on two cores.

Prints figures as JSON lines to stdout and a table to stderr; exit code 1 if a goal is missed.
"""

import argparse
import math
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.figures import Table
from benchmarks.sweeps import SweepRun, run_command, write_space
from raysweep.tables.folder import ResultsFolder
from raysweep.tables.reader import read_arrow
from raysweep.tables.schemas import TABLES
from raysweep.tables.writer import Writer

MEMORY_GOAL_KB, RATIO_GOAL, DRY_RUN_GOAL_S, TABLES_GOAL_S, RATE_GOAL = 20.0, 1.25, 5.0, 5.0, 50.0
SPACE = {"encoder_widths": [2], "n_bottleneck": 2, "rec_decoder_widths": [2], "replay": "none"}
TRAINING = {"epochs": 1, "batch_size": 500}


def space_of(folder: Path, n_configs: int) -> Path:
    """Write a grid of learning rates and betas that share no stage."""
    n_rates = math.isqrt(n_configs)
    while n_configs % n_rates:
        n_rates -= 1
    grids = {
        "lr": {"grid_search": [round(1e-5 * (k + 1), 9) for k in range(n_rates)]},
        "beta_2": {"grid_search": [round(1e-4 * k, 9) for k in range(n_configs // n_rates)]},
    }
    data = {"tasks": "split_mnist", "n_tasks": 1}
    path = folder / f"scale_{n_configs}.yaml"
    return write_space(path, {**SPACE, **grids}, data=data, training=TRAINING)


def write_tables(run: SweepRun, folder: Path) -> float:
    """Return the seconds that it takes to write the rows of a sweep as parts and to fold them."""
    rows = {name: read_arrow(run.folder, name).to_pylist() for name in TABLES}
    results = ResultsFolder(folder / "again")
    results.open()
    writer = Writer(results)
    start = time.perf_counter()
    for name, content in rows.items():
        writer.add(name, content)
    writer.fold()
    seconds = time.perf_counter() - start
    results.close()
    return seconds


def main() -> int:
    """Measure and print all figures."""
    parser = argparse.ArgumentParser("benchmarks.scale", description=__doc__.splitlines()[0])
    parser.add_argument("--configs", type=int, default=10_000, help="of the largest sweep (10000)")
    n_all = parser.parse_args().configs
    n_quarter, n_tenth = n_all // 4, n_all // 10
    with tempfile.TemporaryDirectory(prefix="scale-") as name:
        folder = Path(name)
        dry_s = run_command(space_of(folder, n_all), "--dry-run", n_configs=n_all).wall_s
        runs = {n: run_command(space_of(folder, n), n_configs=n) for n in (1, n_tenth, n_quarter)}
        runs[n_all] = run_command(space_of(folder, n_all), n_configs=n_all)
        tables_s = write_tables(runs[n_all], folder)
    start_s = runs[1].wall_s
    each_s = {n: (run.wall_s - start_s) / n for n, run in runs.items()}
    peaks = {n: run.driver_peak_bytes for n, run in runs.items()}
    memory_kb = (peaks[n_all] - peaks[n_tenth]) / (n_all - n_tenth) / 1e3
    sizes: dict[str, object] = {"n_configs": n_all, "start_s": start_s}
    table = Table()
    table.add(
        "configurations a second",
        [n_all / runs[n_all].wall_s],
        RATE_GOAL,
        "higher",
        unit="1/s",
        wall_s=runs[n_all].wall_s,
        **sizes,
    )
    table.add(
        "driver memory a configuration",
        [memory_kb],
        MEMORY_GOAL_KB,
        "lower",
        unit="KB",
        peak_mb={str(n): round(peak / 1e6, 1) for n, peak in peaks.items()},
        **sizes,
    )
    table.add(
        "time a configuration, all to a quarter",
        [each_s[n_all] / each_s[n_quarter]],
        RATIO_GOAL,
        "lower",
        unit="ratio",
        wall_s={str(n): round(run.wall_s, 2) for n, run in runs.items()},
        **sizes,
    )
    table.add("tables written", [tables_s], TABLES_GOAL_S, "lower", unit="s", **sizes)
    table.add("dry run", [dry_s], DRY_RUN_GOAL_S, "lower", unit="s", **sizes)
    return table.close()


if __name__ == "__main__":
    sys.exit(main())
