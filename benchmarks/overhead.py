"""Measure the overhead of a sweep besides training, ours and plain Ray Tune's, in one run.

    python -m benchmarks.overhead [--configs N] [--peer-trials N] [--repetitions N]

The overhead of a whole sweep is (wall x cores - training CPU) / configurations, in core-seconds per
configuration. Wall is the time of the command in a fresh process, from start to end; cores are
those that this process may use. Training CPU is the workers' processor time inside
``PackRun.advance`` (from the manifest), without their start, data, checkpoints or waiting. A pack
trains its configurations faster than they train alone; the CPU time it actually uses counts.

Plain Ray Tune runs the same ``PackRun`` with one configuration per trial and its other defaults: no
packs, a new actor for each trial, results by ``get_dataframe``, a fresh process. It runs fewer
trials, as each costs the same. Its start, until Ray runs, is spread over as many configurations as
ours, so that the smaller number is not a disadvantage.

About six minutes on two cores. Prints figures as JSON lines to stdout and a table to stderr; exit
code 1 if a goal is missed.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from benchmarks.figures import Table
from benchmarks.sweeps import ROOT, run_command, write_space
from raysweep.settings.sweep import load_sweep

_MARK = "training CPU in seconds: "
OVERHEAD_GOAL, RATIO_GOAL, START_GOAL = 0.2, 15.0, 15.0
SETTINGS = {
    "encoder_widths": [100],
    "n_bottleneck": 32,
    "rec_decoder_widths": [100],
    "beta_1": -0.1,
    "replay": "simple",
    "replay_weight": 0.5,
}
"""Trained alone, a configuration takes about a second on one core."""
TRAINING = {"epochs": 7, "batch_size": 100}


def grid_of(n_configs: int) -> dict[str, object]:
    """Return a grid over settings that share no stage: every configuration trains in full."""
    rates = [round(1e-3 * (1 + k / n_configs), 9) for k in range(n_configs)]
    return {**SETTINGS, "lr": {"grid_search": rates}}


def our_sweep(folder: Path, n_configs: int, cores: int) -> dict[str, float]:
    """Run the command; return its overhead per configuration and the components."""
    file = write_space(folder / "ours.yaml", grid_of(n_configs), training=TRAINING)
    run = run_command(file, n_configs=n_configs)
    (entry,) = json.loads((run.folder / "manifest.json").read_text())["runs"]
    overhead = (run.wall_s * cores - entry["train_cpu_s"]) / n_configs
    return {"overhead": overhead, "wall_s": run.wall_s, "train_cpu_s": entry["train_cpu_s"]}


def peer_sweep(folder: Path, n_trials: int, n_configs: int, cores: int) -> dict[str, float]:
    """Run plain Ray Tune on the same settings; return its overhead per configuration."""
    file = write_space(folder / "peer.yaml", grid_of(n_trials), training=TRAINING)
    start = time.perf_counter()
    words = [sys.executable, "-m", "benchmarks.overhead", "--peer", str(file)]
    started = time.time()
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    wall_s = time.perf_counter() - start
    if done.returncode:
        raise RuntimeError(f"plain Ray Tune failed: {done.stderr[-2000:]}")
    train_cpu_s, ready = map(float, re.findall(rf"{_MARK}(\S+) (\S+)", done.stdout)[-1])
    start_s = ready - started
    overhead = ((wall_s - start_s) * cores - train_cpu_s) / n_trials
    overhead += start_s * cores / n_configs
    return {
        "overhead": overhead,
        "wall_s": wall_s,
        "train_cpu_s": train_cpu_s,
        "start_s": start_s,
    }


def run_peer(file: Path) -> None:
    """Run as plain Ray Tune: train each configuration in a trial, then print the training CPU."""
    import ray
    from ray import tune

    ray.init()
    ready = time.time()
    configs = [config.model_dump(mode="json") for config in load_sweep(file).configs]

    def trainable(trial: dict[str, dict[str, object]]) -> None:
        import torch

        from raysweep.learning.config import Config
        from raysweep.learning.data.sources import load_source
        from raysweep.packs.run import PackRun

        torch.set_num_threads(1)
        torch.set_flush_denormal(True)
        config = Config(**trial["config"])
        run = PackRun([config], load_source(config.source, Path("data")))
        train_cpu_s = 0.0
        while not run.is_done:
            cpu_s = time.process_time()
            report = run.advance()
            train_cpu_s += time.process_time() - cpu_s
            metrics = {
                f"{key}_{table}": value
                for table in ("epochs", "trials")
                for row in getattr(report, table)
                for key, value in row.items()
            }
            tune.report({**metrics, "train_cpu_s": train_cpu_s})

    tuner = tune.Tuner(
        trainable,
        param_space={"config": tune.grid_search(configs)},
        run_config=tune.RunConfig(storage_path=str(file.parent / "peer")),
    )
    results = tuner.fit()
    frame = results.get_dataframe()
    if results.errors or len(frame) != len(configs):
        raise RuntimeError(f"{len(frame)} of {len(configs)} trials ended: {results.errors}")
    print(f"\n{_MARK}{frame['train_cpu_s'].sum()} {ready}", flush=True)


def start_up(folder: Path) -> float:
    """Return the wall seconds of a sweep of one trivial configuration, less its training."""
    space = {"encoder_widths": [2], "n_bottleneck": 2, "rec_decoder_widths": [2], "replay": "none"}
    training = {"epochs": 1, "batch_size": 500}
    run = run_command(write_space(folder / "one.yaml", space, training=training), n_configs=1)
    (entry,) = json.loads((run.folder / "manifest.json").read_text())["runs"]
    return float(run.wall_s - entry["train_s"])


def main() -> int:
    """Measure and print all figures."""
    parser = argparse.ArgumentParser("benchmarks.overhead", description=__doc__.splitlines()[0])
    parser.add_argument("--configs", type=int, default=500, help="configurations of ours (500)")
    parser.add_argument("--peer-trials", type=int, default=24, help="plain Ray Tune's (24)")
    parser.add_argument("--repetitions", type=int, default=1, help="of all (1)")
    parser.add_argument("--start-ups", type=int, default=3, help="of the trivial sweep (3)")
    parser.add_argument("--peer", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peer:
        run_peer(arguments.peer)
        return 0
    cores = len(os.sched_getaffinity(0))
    table = Table()
    with tempfile.TemporaryDirectory(prefix="overhead-") as name:
        folder = Path(name)
        starts = [start_up(folder) for _ in range(arguments.start_ups)]
        pairs = [
            (
                our_sweep(folder, arguments.configs, cores),
                peer_sweep(folder, arguments.peer_trials, arguments.configs, cores),
            )
            for _ in range(arguments.repetitions)
        ]
    ours = [our["overhead"] for our, _ in pairs]
    peers = [peer["overhead"] for _, peer in pairs]
    ratios = [peer / our for our, peer in zip(ours, peers, strict=True)]
    table.add("start-up", starts, START_GOAL, "lower", unit="s")
    table.add(
        "overhead a configuration",
        ours,
        OVERHEAD_GOAL,
        "lower",
        unit="core-seconds",
        n_configs=arguments.configs,
        wall_s=median(our["wall_s"] for our, _ in pairs),
        train_cpu_s=median(our["train_cpu_s"] for our, _ in pairs),
    )
    table.add(
        "overhead, plain Ray Tune's to ours",
        ratios,
        RATIO_GOAL,
        "higher",
        unit="ratio",
        n_trials=arguments.peer_trials,
        peer_overhead=median(peers),
        peer_start_s=median(peer["start_s"] for _, peer in pairs),
        peer_wall_s=median(peer["wall_s"] for _, peer in pairs),
        peer_train_cpu_s=median(peer["train_cpu_s"] for _, peer in pairs),
    )
    return table.close()


if __name__ == "__main__":
    sys.exit(main())
