"""Time packs on a GPU: lanes, CUDA graphs, the card's limits, and many processes sharing it.

    python -m benchmarks.gpu [--data DIR] [--lanes 1 8 32 128] [--rounds N]

Full MNIST, the published VIB (bottleneck 100, batch 100, 1,000 samples to replay), FP32, no Ray. A
configuration's time is that of its steps: 10 epochs of 600 on each of two tasks. Figures are JSON
lines on the standard output, a table goes to the standard error; exit code 1 if a goal is missed.

* ``step_ratio_K``: a step of K lanes over a step of one lane, both as CUDA graphs.
* ``throughput_K``: configurations per hour of a pack of K lanes with graphs, over those of a
  single lane run eagerly; ``eager`` beside it is the same pack without graphs.
* ``matrix_rate_K`` and ``bandwidth_K``: the step's products and the optimiser's bytes per second,
  over what one large product and one large copy reach on this card.
* ``pack_against_processes``: a pack of 8 lanes over 8 processes of a lane each that share the card.
* ``published_sweep``: seconds of training of search_spaces/vib_published.yaml, all packs in turn.

``--device cpu`` runs the same code without graphs, to see that it works; it says nothing of speed.
"""

import argparse
import multiprocessing
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch

from benchmarks.figures import Table
from benchmarks.mnist import be_a_worker, load_mnist
from benchmarks.step import make_group
from raysweep.learning.data.sources import Source
from raysweep.learning.stage_graph import stages_of
from raysweep.learning.training.loop import TrainGroup
from raysweep.packs.planning.estimates import n_parameters
from raysweep.packs.planning.packing import make_plan
from raysweep.packs.run import PackRun
from raysweep.settings.sweep import load_sweep

STEP_GOALS = {32: 3.0}
THROUGHPUT_GOALS = {32: 40.0, 128: 80.0}
N_STEPS = 2 * 10 * 600
"""Steps of a configuration: two tasks, ten epochs."""
_WARM_UPS = 8
_TIMED = 60
_SWEEP = Path(__file__).parents[1] / "search_spaces" / "vib_published.yaml"


def synchronize(device: torch.device) -> None:
    """Wait for the GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize()


class Timed:
    """A group whose steps are timed, a few at a time."""

    def __init__(self, group: TrainGroup) -> None:
        self.group = group
        self._steps = group.begin_epoch()
        self.seconds(_WARM_UPS)

    def seconds(self, n: int = _TIMED) -> float:
        """Time ``n`` steps; return the seconds of one."""
        if len(self._steps) < n:
            self._steps = self.group.begin_epoch()
        steps, self._steps = self._steps[:n], self._steps[n:]
        synchronize(self.group.context.device)
        start = time.perf_counter()
        for step in steps:
            step()
        synchronize(self.group.context.device)
        return (time.perf_counter() - start) / n


def timed_group(
    source: Source, n_lanes: int, task: int, device: torch.device, has_graphs: bool
) -> Timed:
    """Make a group of lanes at the start of a task."""
    return Timed(make_group(source, n_lanes, task, device, has_graphs))


def measure_lanes(
    table: Table, source: Source, all_lanes: Sequence[int], n_rounds: int, device: torch.device
) -> None:
    """Print the figures that compare packs of several sizes, with graphs and without."""
    peak_flops, peak_bytes = card_limits(device, n_rounds)
    single = [timed_group(source, 1, task, device, False) for task in (1, 2)]
    single_graph = [timed_group(source, 1, task, device, True) for task in (1, 2)]
    for n_lanes in all_lanes:
        graphs = [timed_group(source, n_lanes, task, device, True) for task in (1, 2)]
        eager = [timed_group(source, n_lanes, task, device, False) for task in (1, 2)]
        rounds = [
            [
                sum(timed.seconds() for timed in pair) / 2
                for pair in (single, single_graph, graphs, eager)
            ]
            for _ in range(n_rounds)
        ]
        per_hour = [3600 * n_lanes / (N_STEPS * graph) for _, _, graph, _ in rounds]
        table.add(
            f"throughput_{n_lanes}",
            [n_lanes * one / graph for one, _, graph, _ in rounds],
            THROUGHPUT_GOALS.get(n_lanes),
            "higher",
            unit="x single eager",
            configs_per_hour=median(per_hour),
            eager=median(n_lanes * one / e for one, _, _, e in rounds),
        )
        table.add(
            f"step_ratio_{n_lanes}",
            [graph / one for _, one, graph, _ in rounds],
            STEP_GOALS.get(n_lanes),
            "lower",
            unit="x a single lane's step",
            step_ms=1e3 * median(graph for _, _, graph, _ in rounds),
        )
        work = flops_and_bytes(graphs[0].group)
        first = [graphs[0].seconds() for _ in range(n_rounds)]
        for name, amount, peak in zip(
            ("matrix_rate", "bandwidth"), work, (peak_flops, peak_bytes), strict=True
        ):
            shares = [n_lanes * amount / s / peak for s in first]
            table.add(f"{name}_{n_lanes}", shares, None, "higher", unit="of the card's")


def flops_and_bytes(group: TrainGroup) -> tuple[float, float]:
    """Count a lane-step's multiply-adds times two in its products, and Adam's bytes."""
    config = group.context.config
    weights = n_parameters(config, stages_of(config)[0])
    first = config.n_inputs * config.encoder_widths[0]
    return 2 * config.batch_size * (3 * weights - first), 7 * 4 * weights


def card_limits(device: torch.device, n_rounds: int) -> tuple[float, float]:
    """Measure what one large FP32 product and one large copy reach, per second."""
    n = 8192 if device.type == "cuda" else 1024
    a, b = torch.randn(2, n, n, device=device)
    out = torch.empty_like(a)
    rates: list[float] = []
    bandwidths: list[float] = []
    for _ in range(n_rounds + 1):
        for rate, function, amount in (
            (rates, torch.mm, 2.0 * n**3),
            (bandwidths, None, 8.0 * n**2),
        ):
            synchronize(device)
            start = time.perf_counter()
            _ = function(a, b, out=out) if function else out.copy_(a)
            synchronize(device)
            rate.append(amount / (time.perf_counter() - start))
    return median(rates[1:]), median(bandwidths[1:])


def _alone(data: Path | None, device: str, ready: object, go: object, answers: object) -> None:
    """Time a single lane in a process of its own, at the same time as others."""
    be_a_worker()
    source = load_mnist(data)
    timed = timed_group(source, 1, 1, torch.device(device), True)
    ready.release()  # type: ignore[attr-defined]
    go.wait()  # type: ignore[attr-defined]
    answers.put([timed.seconds() for _ in range(5)])  # type: ignore[attr-defined]


def measure_processes(
    table: Table, source: Source, data: Path | None, n_rounds: int, device: torch.device
) -> None:
    """Compare a pack of 8 lanes with 8 processes of one lane that share the device."""
    n = 8
    context = multiprocessing.get_context("spawn")
    ready, go, answers = context.Semaphore(0), context.Event(), context.Queue()
    arguments = (data, str(device), ready, go, answers)
    processes = [context.Process(target=_alone, args=arguments) for _ in range(n)]
    for process in processes:
        process.start()
    for _ in processes:
        ready.acquire()
    go.set()
    alone = [median(answers.get()) for _ in processes]
    for process in processes:
        process.join()
    pack = timed_group(source, n, 1, device, True)
    ratios = [sum(alone) / n / pack.seconds() for _ in range(n_rounds)]
    table.add("pack_against_processes", ratios, None, "higher", unit="x 8 processes")


def measure_sweep(table: Table, source: Source, device: torch.device, n_train: int | None) -> None:
    """Train the published sweep, pack after pack."""
    if n_train is not None:
        source = replace(
            source,
            train_images=source.train_images[:n_train],
            train_labels=source.train_labels[:n_train],
        )
    plan = make_plan(load_sweep(_SWEEP).configs, n_slots=1, has_gpu=True)
    total, n_finished = 0.0, 0
    for pack in plan.packs:
        run = PackRun(pack.configs, source, device=device)
        while not run.is_done:
            report = run.advance()
            total += report.train_s
            n_finished += sum(row["status"] == "finished" for row in report.trials)
    table.add(
        "published_sweep",
        [total],
        60.0 if n_train is None else None,
        "lower",
        unit="s of training",
        n_finished=n_finished,
        n_packs=len(plan.packs),
    )


def main() -> int:
    """Measure all figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="data folder (default: RAYSWEEP_DATA or data)")
    parser.add_argument("--rounds", type=int, default=9, help="rounds a figure (9)")
    parser.add_argument("--lanes", type=int, nargs="+", default=[1, 8, 32, 128])
    parser.add_argument("--device", default="cuda", help="cuda, or cpu to try the script")
    parser.add_argument("--train", type=int, help="training samples of the sweep (all)")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("gpu: expected a GPU that torch can use, found none", file=sys.stderr)
        return 2
    be_a_worker()
    source = load_mnist(arguments.data)
    table = Table()
    measure_lanes(table, source, arguments.lanes, arguments.rounds, device)
    measure_processes(table, source, arguments.data, arguments.rounds, device)
    measure_sweep(table, source, device, arguments.train)
    return table.close()


if __name__ == "__main__":
    sys.exit(main())
