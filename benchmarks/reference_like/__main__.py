"""Measure both speedups as described in ``benchmarks/reference_like/__init__.py``."""

import argparse
import math
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import fmean, median

import benchmarks.reference_like
from benchmarks.figures import print_figure
from benchmarks.reference_like.runs import (
    Cut,
    Run,
    start_peer,
    start_workers,
    time_pack,
    time_peer,
)
from raysweep.errors import InputError
from raysweep.learning.config import Config
from raysweep.learning.data.sources import data_folder, load_source
from raysweep.packs.pack import Pack
from raysweep.packs.planning.packing import Plan, make_plan
from raysweep.settings.sweep import load_sweep

SPACE = Path(__file__).parents[2] / "search_spaces" / "vib_published.yaml"
CONFIGURATION_GOAL, SWEEP_GOAL = 7.5, 18.0
N_BOTTLENECK = 100
N_WORKERS = 2
TOLERANCES = {
    "first_task_accuracy_initial": 0.1,
    "first_task_accuracy_final": 0.1,
    "last_task_accuracy": 0.1,
    "reconstruction_loss": 5.0,
}
"""How far means of the two sides may lie apart: they share no random number."""
CHECK_SEEDS = 3
CHECK_SETTINGS = {"lr": 1e-3, "beta_1": -0.1}
"""With the published ones the models learn next to nothing from few samples."""


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Bench:
    """Processes of both sides, started and warm, and the cores that they may use."""

    cut: Cut
    cores: list[int]
    peer: ProcessPoolExecutor
    workers: ProcessPoolExecutor
    start_up_s: dict[str, float]

    def run_peer(self, config: Config, n_threads: int = 1) -> Run:
        """Run one configuration of the peer, on the last core if it has one thread."""
        cores = self.cores if n_threads > 1 else self.cores[-1:]
        return self.peer.submit(time_peer, self.cut, config, n_threads, cores).result()

    def run_pack(self, configs: Sequence[Config]) -> Run:
        """Run one pack on the last core."""
        return self.workers.submit(time_pack, self.cut, configs, self.cores[-1:]).result()

    def run_packs(self, packs: Sequence[Pack]) -> tuple[float, float]:
        """Run packs on all workers in the plan's order.

        Gives the wall time in seconds, and the workers' mean time inside matrix products.
        """
        start = time.perf_counter()
        jobs = [
            self.workers.submit(time_pack, self.cut, pack.configs, self.cores) for pack in packs
        ]
        products_s = sum(job.result().products_s for job in jobs)
        return time.perf_counter() - start, products_s / N_WORKERS


@contextmanager
def open_bench(cut: Cut, config: Config) -> Iterator[Bench]:
    """Start and warm all processes, one side after the other."""
    cores = sorted(os.sched_getaffinity(0))[-N_WORKERS:]
    if len(cores) < N_WORKERS:
        note(f"expected {N_WORKERS} cores, got {len(cores)}: the sweep's figure will be too low")
    warm = changed(config, epochs=1)
    times = [time.perf_counter()]
    with start_peer(cut, warm) as peer:
        times.append(time.perf_counter())
        with start_workers(cut, warm, N_WORKERS) as workers:
            times.append(time.perf_counter())
            start_up_s = {"peer": times[1] - times[0], "raysweep": times[2] - times[1]}
            yield Bench(cut, cores, peer, workers, start_up_s)


def changed(config: Config, **settings: float) -> Config:
    return Config(**config.model_dump() | settings)


def shown(run: Run) -> str:
    return f"{run.seconds:.2f} s ({run.cpu_s / run.seconds:.0%} CPU)"


def faster_threads(bench: Bench, config: Config) -> int:
    """Return with how many threads, one or two, the peer is faster."""
    if len(bench.cores) == 1:
        return 1
    short = changed(config, epochs=2)
    times: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(4):
        for n_threads, seconds in times.items():
            seconds.append(bench.run_peer(short, n_threads).seconds)
    medians = {n_threads: median(seconds[1:]) for n_threads, seconds in times.items()}
    note(f"peer, 2 epochs: {medians[1]:.2f} s with one thread, {medians[2]:.2f} s with two")
    return min(medians, key=lambda n_threads: medians[n_threads])


def is_same_experiment(bench: Bench, config: Config) -> bool:
    """Compare steps, accuracies and reconstruction loss of both sides, and show them."""
    configs = [changed(config, seed=seed, **CHECK_SETTINGS) for seed in range(CHECK_SEEDS)]
    peers = [bench.run_peer(config) for config in configs]
    packs = [bench.run_pack([config]) for config in configs]
    is_same = all(peer.n_steps == pack.n_steps for peer, pack in zip(peers, packs, strict=True))
    note(f"| {config.model} steps | {peers[0].n_steps} | {packs[0].n_steps} | 0 |")
    for name, tolerance in TOLERANCES.items():
        peer = fmean(run.measures[name] for run in peers)
        pack = fmean(run.measures.get(name, math.nan) for run in packs)  # diverged: has none
        is_same = is_same and abs(peer - pack) <= tolerance
        note(f"| {config.model} {name} | {peer:.3f} | {pack:.3f} | {tolerance:g} |")
    if not is_same:
        note(f"{config.model}: expected both sides to agree within the tolerances")
    return is_same


def measure_configurations(bench: Bench, plan: Plan, n_rounds: int) -> list[bool]:
    """Print the speedup of one configuration for each model; return which goals were met."""
    packs = {
        pack.configs[0].model: pack
        for pack in reversed(plan.packs)  # of several packs of a model the longest, its first
        if pack.configs[0].n_bottleneck == N_BOTTLENECK
    }
    pairs: dict[str, list[tuple[Run, Run]]] = {model: [] for model in packs}
    for seed in range(n_rounds):
        for model, pack in packs.items():
            configs = [changed(config, seed=seed) for config in pack.configs]
            pair = bench.run_peer(configs[0]), bench.run_pack(configs)
            pairs[model].append(pair)
            note(f"round {seed + 1}, {model}: {shown(pair[0])}, pack {shown(pair[1])}")
    are_met = []
    for model, pack in packs.items():
        n = len(pack.configs)
        is_met = report(
            bench,
            f"configuration_speedup_{model}",
            [(peer.seconds, run.seconds / n, run.products_s / n) for peer, run in pairs[model]],
            CONFIGURATION_GOAL,
            n_bottleneck=N_BOTTLENECK,
            n_configs=n,
            peer_threads=1,
            workers=1,
            cpu_share=min(run.cpu_s / run.seconds for pair in pairs[model] for run in pair),
        )
        are_met.append(is_met)
    return are_met


def measure_sweep(bench: Bench, plan: Plan, n_rounds: int) -> bool:
    """Print the speedup of the whole sweep; return whether the goal was met."""
    configs = [config for pack in plan.packs for config in pack.configs]
    counts = Counter((config.model, config.n_bottleneck) for config in configs)
    shapes = {(config.model, config.n_bottleneck): config for config in configs}
    n_threads = faster_threads(bench, configs[0])
    pairs = []
    for i in range(n_rounds):
        seconds = {
            shape: bench.run_peer(config, n_threads).seconds for shape, config in shapes.items()
        }
        peer_s = sum(counts[shape] * seconds[shape] for shape in shapes)
        pairs.append((peer_s, *bench.run_packs(plan.packs)))
        note(f"round {i + 1}, sweep: {pairs[-1][0]:.2f} s, {pairs[-1][1]:.2f} s")
    return report(
        bench,
        "published_sweep_speedup",
        pairs,
        SWEEP_GOAL,
        n_configs=len(configs),
        n_packs=len(plan.packs),
        peer_threads=n_threads,
        peer_time=f"{len(shapes)} shapes measured, each times its number of configurations",
        workers=N_WORKERS,
    )


def report(
    bench: Bench, name: str, times: Sequence[tuple[float, ...]], goal: float, **more: object
) -> bool:
    """Print the ratios of peer to raysweep as a figure; return whether it meets the goal.

    ``times`` has the seconds of the peer, of raysweep and of raysweep's products alone. The field
    ``limit`` is the ratio if raysweep's time consisted of those products alone.
    """
    ratios = [peer / raysweep for peer, raysweep, _ in times]
    is_met = median(ratios) >= goal
    seconds = [median(side) for side in zip(*times, strict=True)]
    print_figure(
        name,
        ratios,
        goal,
        is_met,
        better="higher",
        average=median,
        ratios=ratios,
        peer_s=seconds[0],
        raysweep_s=seconds[1],
        products_s=seconds[2],
        limit=median(peer / products for peer, _, products in times),
        n_train=bench.cut.n_train,
        n_test=bench.cut.n_test,
        start_up_s=bench.start_up_s,
        torchvision=version("torchvision"),
        **more,
    )
    note(
        f"| {name} | {median(ratios):.2f} | {goal:g} | {min(ratios):.2f} to {max(ratios):.2f} | "
        f"{len(ratios)} | {seconds[0]:.2f} | {seconds[1]:.2f} | {'yes' if is_met else 'no'} |"
    )
    return is_met


def main() -> int:
    """Measure and print all figures."""
    description = str(benchmarks.reference_like.__doc__).splitlines()[0]
    parser = argparse.ArgumentParser("benchmarks.reference_like", description=description)
    parser.add_argument("--data", type=Path, help="data folder (default: RAYSWEEP_DATA or data)")
    parser.add_argument("--rounds", type=int, default=7, help="of one configuration (7)")
    parser.add_argument("--sweep-rounds", type=int, default=3, help="of the sweep, 0 for none (3)")
    parser.add_argument("--samples", type=int, default=1200, help="training samples (1200)")
    parser.add_argument("--test-samples", type=int, default=200, help="test samples (200)")
    arguments = parser.parse_args()
    configs = load_sweep(SPACE).configs
    if arguments.samples < configs[0].batch_size:
        parser.error(f"--samples: expected at least one batch, {configs[0].batch_size}")
    cut = Cut(data_folder(arguments.data), arguments.samples, arguments.test_samples)
    try:
        load_source("mnist", cut.folder)  # unpacks or downloads it once
    except InputError as error:
        note(str(error))
        return 2
    plan = make_plan(configs, n_slots=N_WORKERS)
    with open_bench(cut, plan.packs[0].configs[0]) as bench:
        note(f"| mean of {CHECK_SEEDS} seeds | peer | raysweep | tolerance |\n|---|---|---|---|")
        firsts = {pack.configs[0].model: pack.configs[0] for pack in plan.packs}
        are_met = [is_same_experiment(bench, config) for config in firsts.values()]
        note("| figure | median | goal | range | n | peer s | raysweep s | met |")
        note("|---|---|---|---|---|---|---|---|")
        are_met += measure_configurations(bench, plan, arguments.rounds)
        if arguments.sweep_rounds:
            are_met.append(measure_sweep(bench, plan, arguments.sweep_rounds))
    return 0 if all(are_met) else 1


if __name__ == "__main__":
    sys.exit(main())
