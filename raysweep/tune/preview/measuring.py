"""Measure how long packs will take, by training a few steps of one pack of each shape.

torch takes seconds to import and the driver needs it only here, so functions import it.
"""

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from raysweep.learning.config import Config
from raysweep.learning.data.sources import Source
from raysweep.learning.stage_graph import epochs_of, stages_of
from raysweep.learning.stages import Stage
from raysweep.packs.pack import Pack, pack_key
from raysweep.packs.planning.estimates import CPU, GPU, cost
from raysweep.settings.execution import Resources

if TYPE_CHECKING:
    from raysweep.learning.training.context import Context
    from raysweep.learning.training.loop import TrainGroup

MOST_S = 60.0
"""Time limit for all shapes together: after it no further shape is started."""
_SHAPE_S = 3.0
"""Approximate time for the timed steps of one shape; a group takes at least one step."""
_WARM_UPS = {"cpu": 3, "cuda": 6}
"""Steps before the timing starts; on a GPU the fourth is captured as a graph."""
_BETWEEN_LOOKS = {"cpu": 1, "cuda": 8}
"""Steps between two readings of the clock, each of which waits for the GPU."""
_N_TESTED = 1000
"""Test samples that are evaluated for the timing: each of the others takes as long."""
_SPEEDLESS = ("seed", "shuffle_tasks", "first_task_identity")
"""Settings of the pack key that do not affect speed."""


@dataclass(frozen=True)
class Measured:
    """The seconds that each pack takes in a worker, and the device they were measured on.

    ``device`` is ``cpu`` or the GPU's name. For shapes that were not measured, the time is the
    estimated cost at the speed of the measured ones.
    """

    seconds: tuple[float, ...]
    device: str
    n_shapes: int
    n_measured: int


def shape_of(pack: Pack) -> str:
    """Return a text that is equal for packs whose speed is the same.

    It has the pack key without seeds, the kinds of replay of the lanes, and the numbers of lanes,
    in quarters, that skip part of their matrix products: without a reconstruction, or with a frozen
    encoder.
    """
    settings = json.loads(pack_key(pack.configs[0]))
    settings = {name: v for name, v in settings.items() if name not in _SPEEDLESS}
    kinds = sorted({(c.replay, c.retrieval, c.generator) for c in pack.configs})
    n_rec = sum(c.loss_weights[0] > 0 for c in pack.configs)
    n_frozen = sum(c.freeze_encoder for c in pack.configs)
    quarters = [round(4 * n / len(pack.configs)) for n in (n_rec, n_frozen)]
    return json.dumps([settings, kinds, quarters])


def measure(
    packs: Sequence[Pack],
    sources: Mapping[str, Source],
    resources: Resources,
    most_s: float = MOST_S,
    clock: Callable[[], float] = time.perf_counter,
) -> Measured:
    """Measure how long packs take with these ``resources`` each, one pack at a time.

    Measure the most expensive pack of each shape, expensive shapes first, until ``most_s`` seconds
    have passed; scale the time of other packs by their estimated cost. Nothing is kept, and no file
    is written. Packs with less than one CPU each take turns, so they take longer by that factor.
    ``clock`` returns seconds: ``time.process_time`` counts only processor time, whatever else the
    machine does. Raises what training raises.
    """
    import torch

    has_gpu = resources.gpu > 0 and torch.cuda.is_available()
    speed = GPU if has_gpu else CPU
    costs = [cost(pack, speed) for pack in packs]
    shapes: dict[str, list[int]] = {}
    for i, pack in enumerate(packs):
        shapes.setdefault(shape_of(pack), []).append(i)
    by_cost = sorted(shapes.values(), key=lambda members: -sum(costs[i] for i in members))
    factors: list[float] = []  # measured seconds by estimated second
    start = clock()
    with _as_in_a_worker(resources):
        for members in by_cost:
            if factors and clock() - start > most_s:
                break
            dearest = max(members, key=costs.__getitem__)
            pack = packs[dearest]
            seconds = _pack_s(pack, sources[pack.configs[0].source], has_gpu, clock)
            seconds += speed.pack_s + pack.n_epochs * speed.epoch_s
            factors.append(seconds / costs[dearest])
    measured = {i: f for members, f in zip(by_cost, factors, strict=False) for i in members}
    share = 1.0 if has_gpu else min(1.0, resources.cpu)
    known = sum(costs[i] for i in measured)
    usual = sum(costs[i] * f for i, f in measured.items()) / known if known else 1.0
    return Measured(
        tuple(c * measured.get(i, usual) / share for i, c in enumerate(costs)),
        torch.cuda.get_device_name() if has_gpu else "cpu",
        len(shapes),
        len(factors),
    )


@contextmanager
def _as_in_a_worker(resources: Resources) -> Iterator[None]:
    """Set torch's number of threads to that of a worker, and restore its settings afterwards."""
    import torch

    n_threads, tf32 = torch.get_num_threads(), torch.backends.cuda.matmul.allow_tf32
    # A cluster may have more CPUs than this machine, which may not have so many threads, either.
    torch.set_num_threads(max(1, min(math.floor(resources.cpu), os.cpu_count() or 1)))
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)
        torch.backends.cuda.matmul.allow_tf32 = tf32
        torch.cuda.empty_cache()  # does nothing if CUDA was not used


def _pack_s(pack: Pack, source: Source, has_gpu: bool, clock: Callable[[], float]) -> float:
    """Measure the seconds of a pack's own work: data, steps, evaluation, buffers.

    Only groups of the first two tasks are run; those of a later task take as long as task 2's.
    """
    import torch

    from raysweep.learning.data.task_sequences import make_tasks
    from raysweep.learning.training.context import Context

    config = pack.configs[0]
    device = torch.device("cuda" if has_gpu else "cpu")
    torch.backends.cuda.matmul.allow_tf32 = config.tf32
    start = clock()
    tasks = make_tasks(config, source, device)
    context = Context(config, tasks, source.mean, source.sd, device)
    total = clock() - start
    of_stage = {stage.fingerprint: c for c in pack.configs for stage in stages_of(c)}
    early = [group for group in pack.groups if group[0].task <= 2 or group[0].is_first]
    timer = _Timer(context, of_stage, _SHAPE_S / len(early), clock)
    # A lane's seconds in each stage up to task 2.
    lane_s: dict[str, float] = {}
    for group in early:
        seconds = timer.run(group)
        total += seconds
        lane_s |= {stage.fingerprint: seconds / len(group) for stage in group}
    for group in pack.groups:
        if group[0].fingerprint not in lane_s:
            total += len(group) * lane_s[_like(group[0], of_stage).fingerprint]
    return total


def _like(stage: Stage, of_stage: Mapping[str, Config]) -> Stage:
    """Return the stage of task 2 that corresponds to ``stage`` of a later task."""
    mates = stages_of(of_stage[stage.fingerprint])
    return next(mate for mate in mates if mate.kind == stage.kind and mate.task == 2)


class _Timer:
    """Run groups of stages one after another, a few steps each, and measure how long they take.

    A stage begins with the state of its parents after those few steps.
    """

    def __init__(
        self,
        context: "Context",
        of_stage: Mapping[str, Config],
        limit_s: float,
        clock: Callable[[], float],
    ) -> None:
        self._context, self._of_stage, self._limit_s = context, of_stage, limit_s
        self._kind, self._clock = context.device.type, clock
        self._models: dict[str, Any] = {}
        self._buffers: dict[str, Any] = {}

    def run(self, group: Sequence[Stage]) -> float:
        """Run a group; return the seconds of all its epochs, evaluations included."""
        from raysweep.learning.replay.filling import fill_buffers
        from raysweep.learning.training.context import Lane
        from raysweep.learning.training.loop import TrainGroup

        kept = self._models, self._buffers
        lanes = [Lane.of(stage, self._of_stage[stage.fingerprint], *kept) for stage in group]
        if group[0].kind == "fill_buffer":
            start = self._now()
            buffers = fill_buffers(self._context, lanes)
            seconds = self._now() - start
            self._buffers |= {s.fingerprint: b for s, b in zip(group, buffers, strict=True)}
            return seconds
        trained = TrainGroup(self._context, lanes)
        seconds = epochs_of(self._context.config, group[0]) * self._epoch_s(trained)
        if trained.is_classifier:
            seconds += self._n_tests(group[0], len(group)) * self._test_s(trained)
        states = trained.lane_states()
        self._models |= {
            lane.stage.fingerprint: state for lane, state in zip(trained.lanes, states, strict=True)
        }
        return seconds

    def _now(self) -> float:
        import torch

        if self._kind == "cuda":
            torch.cuda.synchronize()
        return self._clock()

    def _epoch_s(self, group: "TrainGroup") -> float:
        """Time drawing the batches and some steps; return the seconds of a whole epoch."""
        steps = group.begin_epoch()
        self._time(steps[: _WARM_UPS[self._kind]])
        start = self._now()
        steps = group.begin_epoch()
        draw_s = self._now() - start
        return draw_s + len(steps) * self._time(steps)

    def _time(self, steps: Sequence[Callable[[], None]]) -> float:
        """Run steps until the time limit; return the seconds of one."""
        start = self._now()
        seconds, n_done = 0.0, 0
        for n_done, step in enumerate(steps, 1):
            step()
            if n_done % _BETWEEN_LOOKS[self._kind] == 0:
                seconds = self._now() - start
                if seconds > self._limit_s:
                    return seconds / n_done
        return (self._now() - start) / n_done

    def _n_tests(self, stage: Stage, n_lanes: int) -> float:
        """Count the evaluations of all lanes on one task: before, between and after epochs."""
        n_tasks, epochs = len(self._context.tasks), epochs_of(self._context.config, stage)
        n_tests = (
            epochs * n_tasks + n_tasks if stage.kind == "train_joint" else epochs + n_tasks - 1
        )
        return n_tests + (n_tasks / n_lanes if stage.is_first else 0)

    def _test_s(self, group: "TrainGroup") -> float:
        """Time part of an evaluation; return the seconds of a whole one, averaged over tasks."""
        from raysweep.learning.data.task_sequences import Samples
        from raysweep.learning.training.evaluation import accuracy

        views, tests = group.parameters.views, [task.test for task in self._context.tasks]
        part = Samples(tests[0].images[:_N_TESTED], tests[0].labels[:_N_TESTED])
        for purpose in ("warm-up", "clock"):
            start = self._now()
            accuracy(self._context, views, part, (purpose,))
            seconds = self._now() - start
        return seconds / len(part) * sum(map(len, tests)) / len(tests)
