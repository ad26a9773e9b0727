"""Rerun published two-task settings on full MNIST; show published and obtained side by side.

    python -m benchmarks.reproduce [--data DIR] [--seeds N]

Takes about two minutes a seed on one core. Figures are JSON lines on the standard output, the
table goes to the standard error; exit code 1 if the mean of a figure lies outside its tolerance.
"""

import argparse
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

from benchmarks.figures import print_figure
from benchmarks.mnist import be_a_worker, load_mnist
from raysweep.data.sources import Source
from raysweep.pack import PackRun
from raysweep.settings import Config


@dataclass(frozen=True)
class Target:
    """A published accuracy and how close the mean over seeds has to come."""

    column: str
    published: float
    tolerance: float


SETTING = {
    "source": "mnist",
    "lr": 1e-4,
    "beta_1": -10.0,
    "beta_2": 0.0,
    "n_bottleneck": 100,
    "replay": "generative",
    "n_replay": 1000,
    "replay_weight": 0.999,
    "eval_samples": 1,
}
"""Two-task permuted MNIST, batch 100, 10 epochs, relu, Adam; the published runs had no seed."""

TARGETS = {
    "comparison": [
        Target("first_task_accuracy_initial", 0.9622, 0.015),
        Target("first_task_accuracy_final", 0.9624, 0.015),
        Target("last_task_accuracy", 0.9285, 0.015),
    ],
    "vib": [
        Target("first_task_accuracy_initial", 0.8819, 0.01),
        Target("first_task_accuracy_final", 0.6303, 0.08),
        Target("last_task_accuracy", 0.9425, 0.01),
    ],
}


def train(model: str, seed: int, source: Source) -> dict[str, float]:
    """Train one configuration alone; give its row of ``trials``."""
    start = time.perf_counter()
    run = PackRun([Config(model=model, seed=seed, **SETTING)], source)
    rows: list[dict[str, float]] = []
    while not run.is_done:
        rows += run.advance().trials
    seconds = time.perf_counter() - start
    print(f"{model}, seed {seed}: {rows[0]['status']} in {seconds:.0f} s", file=sys.stderr)
    return rows[0]


def main() -> int:
    """Run both models for each seed and print a figure for each target."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="data folder (default: RAYSWEEP_DATA or data)")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds, from 0 (3)")
    arguments = parser.parse_args()
    be_a_worker()
    source = load_mnist(arguments.data)
    are_met = []
    table = ["| model | accuracy | published | obtained | sd | tolerance | met |"]
    table.append("|---|---|---|---|---|---|---|")
    for model, targets in TARGETS.items():
        rows = [train(model, seed, source) for seed in range(arguments.seeds)]
        for target in targets:
            values = [row.get(target.column, math.nan) for row in rows]  # diverged: met by none
            mean, spread = fmean(values), stdev(values) if len(values) > 1 else math.nan
            are_met.append(abs(mean - target.published) <= target.tolerance)
            table.append(
                f"| {model} | `{target.column}` | {target.published:.4f} | {mean:.4f} | "
                f"{spread:.4f} | {target.tolerance:g} | {'yes' if are_met[-1] else 'no'} |"
            )
            print_figure(
                f"{model} {target.column}",
                values,
                target.published,
                are_met[-1],
                better="higher",
                average=fmean,
                tolerance=target.tolerance,
            )
    print("\n".join(table), file=sys.stderr)
    return 0 if all(are_met) else 1


if __name__ == "__main__":
    sys.exit(main())
