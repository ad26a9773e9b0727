"""Time a training step in multiples of the time of its matrix products alone.

    python -m benchmarks.step [--data DIR] [--rounds N] [--lanes 1 4 16]

On one thread, full MNIST, the published widths (bottleneck 100, batch 100), VIB on task 1
(reconstruction) and task 2 (replay). Each round times, one after another, some training steps and
as many passes over the products that one step makes, called with the very tensors of the step.
A figure is the median over the rounds of their ratio. The autograd form that defines the losses
is timed in the same rounds, without a goal. Figures are JSON lines on the standard output, a table
goes to the standard error; exit code 1 if a goal is missed. Takes one to two minutes.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from statistics import median
from unittest.mock import patch

import torch
from torch import Tensor

from benchmarks.figures import Table
from benchmarks.mnist import be_a_worker, load_mnist
from raysweep.learning.config import Config
from raysweep.learning.data.sources import Source
from raysweep.learning.data.task_sequences import make_tasks, scaled
from raysweep.learning.replay.buffers import generated
from raysweep.learning.stacked import functional, layers
from raysweep.learning.stage_graph import stages_of
from raysweep.learning.training.context import Context, Lane
from raysweep.learning.training.loop import TrainGroup
from raysweep.learning.training.objectives import define_losses
from raysweep.learning.training.step import Step

GOALS = {1: 1.5, 4: 1.25, 16: 1.25}
"""Goals, in multiples of the products alone, by number of lanes; use the nearest one below."""
EVALUATION_GOAL = 0.05
_S_PER_TIMING = 0.15


def make_group(
    source: Source,
    n_lanes: int,
    task: int,
    device: torch.device | None = None,
    has_graphs: bool = True,
) -> TrainGroup:
    """Make a group of VIB lanes that differ in their learning rate, at the start of a task."""
    configs = [
        Config(
            source="mnist",
            model="vib",
            beta_1=-10.0,
            lr=1e-4 * (1 + k / n_lanes),
            replay="simple",
            replay_weight=0.999,
            n_replay=1000,
            eval_samples=1,
        )
        for k in range(n_lanes)
    ]
    device = device or torch.device("cpu")
    tasks = make_tasks(configs[0], source, device)
    context = Context(configs[0], tasks, source.mean, source.sd, device, has_graphs=has_graphs)
    first = TrainGroup(context, [Lane(stages_of(config)[0], config) for config in configs])
    if task == 1:
        return first
    samples = tasks[0].train
    labels = torch.nn.functional.one_hot(samples.labels[:1000], 10).float()
    images = scaled(samples.images[:1000], torch.float32)
    buffers = [generated(images, labels, 1) for _ in configs]
    lanes = [
        Lane(stages_of(config)[-1], config, model=state, buffer=buffer)
        for config, state, buffer in zip(configs, first.lane_states(), buffers, strict=True)
    ]
    return TrainGroup(context, lanes)


class Epochs:
    """An endless sequence of steps of a group, repeating an epoch's batches."""

    def __init__(self, group: TrainGroup) -> None:
        self.group = group
        self.step = self._begin()

    def _begin(self) -> Step:
        steps = self.group.begin_epoch()
        self._n_left = len(steps)
        assert len(set(steps)) == 1  # full batches only
        return steps[0]

    def __call__(self) -> None:
        """Train one step."""
        if self._n_left == 0:
            self.step = self._begin()
        self._n_left -= 1
        self.step()


def products_of(step: Callable[[], None]) -> Callable[[], None]:
    """Return a function that makes the matrix products of a step, and nothing else."""
    calls: list[tuple[Tensor, Tensor, Tensor]] = []

    def record(a: Tensor, b: Tensor, add_to: Tensor | None = None, *, out: Tensor) -> Tensor:
        calls.append((a, b, out))
        return original(a, b, add_to, out)

    original = functional.product
    with patch.object(layers, "product", record):
        step()

    def run() -> None:
        for a, b, out in calls:
            torch.bmm(a, b, out=out)

    return run


def autograd_step(epochs: Epochs) -> Callable[[], None]:
    """Return a training step of the same group in the form that defines the losses."""
    group = epochs.group

    def run() -> None:
        epochs()  # for its batch
        batch = epochs.step.batches.batch
        losses = define_losses(group.network, group.weights, group.parameters.views, batch)
        group.parameters.differentiate(losses.objective)
        group.optimizer.step_all(torch.isfinite(losses.mean))

    return run


def seconds(function: Callable[[], object], n: int) -> float:
    """Time one call, averaged over ``n``."""
    start = time.perf_counter()
    for _ in range(n):
        function()
    return (time.perf_counter() - start) / n


def rounds_of(functions: Iterable[Callable[[], object]], n_rounds: int) -> list[list[float]]:
    """Time the functions in turn, ``n_rounds`` times; return the seconds of each by round."""
    functions = list(functions)
    sizes = [max(1, round(_S_PER_TIMING / seconds(function, 3))) for function in functions]
    return [
        [seconds(function, n) for function, n in zip(functions, sizes, strict=True)]
        for _ in range(n_rounds)
    ]


def measure_step(table: Table, source: Source, n_lanes: int, task: int, n_rounds: int) -> None:
    """Print a step's figure for a number of lanes and a task."""
    epochs = Epochs(make_group(source, n_lanes, task))
    products = products_of(epochs)
    timings = rounds_of([products, epochs, autograd_step(epochs)], n_rounds)
    ratios = [step / alone for alone, step, _ in timings]
    # The autograd form's round loads its batch with a whole step, whose time is subtracted.
    defined = [(both - step) / alone for alone, step, both in timings]
    goal = GOALS[max(k for k in GOALS if k <= n_lanes)]
    table.add(
        f"step_task_{task}_lanes_{n_lanes}",
        ratios,
        goal,
        "lower",
        unit="x products",
        products_ms_per_lane=1e3 * median(alone for alone, _, _ in timings) / n_lanes,
        step_ms_per_lane=1e3 * median(step for _, step, _ in timings) / n_lanes,
        autograd_form=median(defined),
    )


def _evaluate(group: TrainGroup, task: int) -> None:
    group._accuracies.clear()  # kept until the next epoch
    group.accuracy_on(task)


def measure_evaluation(table: Table, source: Source, n_rounds: int) -> None:
    """Print the share of evaluation in a configuration's time, four lanes, both tasks."""
    shares = []
    groups = [make_group(source, 4, task) for task in (1, 2)]
    epochs = [Epochs(group) for group in groups]
    n_epochs = groups[0].context.config.epochs
    for _ in range(n_rounds):
        train = evaluate = 0.0
        for task, (group, steps) in enumerate(zip(groups, epochs, strict=True), 1):
            n_steps = len(group.context.tasks[0].train) // group.context.config.batch_size
            train += n_epochs * n_steps * seconds(steps, 30)
            # After each epoch on its own task, after the last one also on the other.
            own, other = (seconds(partial(_evaluate, group, on), 1) for on in (task, 3 - task))
            evaluate += n_epochs * own + other
        shares.append(evaluate / (train + evaluate))
    table.add("evaluation_share", shares, EVALUATION_GOAL, "lower", unit="of a configuration")


def main() -> int:
    """Measure all figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="data folder (default: RAYSWEEP_DATA or data)")
    parser.add_argument("--rounds", type=int, default=9, help="rounds a figure (9)")
    parser.add_argument("--lanes", type=int, nargs="+", default=[1, 4, 16], help="(1 4 16)")
    arguments = parser.parse_args()
    be_a_worker()
    source = load_mnist(arguments.data)
    table = Table()
    for task in (1, 2):
        for n_lanes in arguments.lanes:
            measure_step(table, source, n_lanes, task, arguments.rounds)
    measure_evaluation(table, source, arguments.rounds)
    return table.close()


if __name__ == "__main__":
    sys.exit(main())
