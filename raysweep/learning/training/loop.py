"""The training loop: trains one group of stages in lockstep as one stacked model."""

import math
from collections.abc import Callable, Collection, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from raysweep.learning.config import Config
from raysweep.learning.data.task_sequences import batch_order, cycled_order, subsets
from raysweep.learning.replay.retrieval import GeneratedInterference, Interference, VirtualStep
from raysweep.learning.stacked.optimizers import LaneState, Optimizer, stack_views
from raysweep.learning.stacked.parameters import Parameters
from raysweep.learning.stage_graph import epochs_of, model_of, network_of, numbers_of
from raysweep.learning.streams import generator
from raysweep.learning.training.batches import Batches, Replay
from raysweep.learning.training.context import Context, Lane
from raysweep.learning.training.evaluation import accuracy
from raysweep.learning.training.forward import noises_of
from raysweep.learning.training.loss_monitor import EpochReport, LossMonitor
from raysweep.learning.training.objectives import per_lane, reconstructs, weights_of
from raysweep.learning.training.step import Pass, Step

_SCHEDULES: dict[str, Callable[[Config, int], float]] = {
    "constant": lambda config, n_done: 1.0,
    "exponential": lambda config, n_done: config.lr_decay**n_done,
    "cosine": lambda config, n_done: (1 + math.cos(math.pi * n_done / config.epochs)) / 2,
}
"""Learning-rate factors as a function of the epochs done in a task, by schedule."""


class TrainGroup:
    """The lanes of one training stage: parameters, optimiser and epochs done.

    ``lanes`` are reordered: those with a reconstruction first, those with a frozen encoder last,
    so that a product over the first lanes skips the others. With ``has_averages``, a classifier's
    reports include ``average_accuracy``, over the tasks so far.
    """

    def __init__(self, context: Context, lanes: Sequence[Lane], has_averages: bool = False) -> None:
        self.context = context
        self._has_averages = has_averages
        self.stage = lanes[0].stage
        self.is_classifier = self.stage.is_classifier
        self.lanes = sorted(lanes, key=lambda lane: (not self._has_rec(lane), self._freezes(lane)))
        self.n_epochs_done = 0
        self.n_steps_done = 0
        self._last_finite = [math.nan] * len(lanes)
        self._accuracies: dict[int, Tensor] = {}  # by task, after the epochs done so far
        self._mir_streams: list[torch.Generator] = []
        self._build()
        for k, lane in enumerate(self.lanes):
            start = lane.model if self.is_classifier else lane.generator
            if start is not None:
                keeps = lane.config.keeps_optimizer_state or not self.is_classifier
                self.optimizer.set_lane(k, start, with_moments=keeps)
        if self._average is not None:
            self._average.flat.copy_(self.parameters.flat)

    @property
    def _configs(self) -> list[Config]:
        return [lane.config for lane in self.lanes]

    def _has_rec(self, lane: Lane) -> bool:
        return reconstructs(self.stage, lane.config)

    def _freezes(self, lane: Lane) -> bool:
        is_later = self.is_classifier and not self.stage.is_first
        return is_later and lane.config.freeze_encoder

    def _build(self) -> None:
        context, config = self.context, self.lanes[0].config
        self.network = network_of(config, self.stage)
        has_images = self.network.image_decoder is not None
        layout = model_of(config, self.stage).layout(config, has_images)
        self.weights = weights_of(context, self.lanes)
        self.parameters = Parameters(layout, len(self.lanes), context.dtype, context.device)
        role = "model" if self.is_classifier else "generator"
        if self.stage.parent(role) is None:
            self.parameters.initialise(config.seed)
        self.optimizer = Optimizer(
            config.optimizer if self.is_classifier else config.generator_optimizer,
            self.parameters,
            numbers_of(self._configs, self.stage) | {"lr": self._lr()},
        )
        buffers = [lane.buffer for lane in self.lanes if lane.buffer is not None]
        self._replay = Replay(context, buffers, self.is_classifier) if buffers else None
        losses = ["class"] if self.is_classifier else []
        losses += ["kl"] if self.network.has_latent else []
        losses += ["rec"] if self.weights.n_rec else []
        names = losses + (["n_correct"] if self.is_classifier else [])
        names += [f"replay_{name}" for name in losses] if buffers else []
        self._monitor = self._new_tally(names)
        self._steps: dict[tuple[int, int], Step] = {}
        self._average: Parameters | None = None
        if self.is_classifier and config.ema_decay > 0:
            self._average = Parameters(layout, len(self.lanes), context.dtype, context.device)

    def _new_tally(self, names: Sequence[str]) -> LossMonitor:
        configs = [lane.config for lane in self.lanes]
        threshold = per_lane([config.loss_above for config in configs], self.context)
        if not any(config.loss_factor > 0 or config.loss_patience > 1 for config in configs):
            return LossMonitor(names, threshold)
        factor = per_lane([config.loss_factor for config in configs], self.context)
        patience = [config.loss_patience for config in configs]
        return LossMonitor(
            names, threshold, factor, torch.tensor(patience, device=self.context.device)
        )

    def _lr(self) -> list[float]:
        """Return each lane's learning rate for the next epoch."""
        if not self.is_classifier:
            return [lane.config.vae_lr for lane in self.lanes]
        return [c.lr * _SCHEDULES[c.lr_schedule](c, self.n_epochs_done) for c in self._configs]

    @property
    def is_done(self) -> bool:
        """Whether all epochs are done or no lane is left."""
        config = self.context.config
        return not self.lanes or self.n_epochs_done == epochs_of(config, self.stage)

    @property
    def has_limits(self) -> bool:
        """Whether a limit on the loss depends on a lane's earlier losses."""
        return bool(self._monitor.history())

    def run_epoch(self) -> list[EpochReport]:
        """Train one epoch and return a report for each lane that took part.

        Lanes that diverged then leave the group.
        """
        steps = self.begin_epoch()
        for step in steps:
            step()
        self._monitor.close(self.parameters.are_finite())
        self.n_epochs_done += 1
        self.n_steps_done += len(steps)
        self._last_finite = self._monitor.last_finite
        reports = self._reports(steps)
        self._drop([k for k, report in enumerate(reports) if report.divergence])
        return reports

    def begin_epoch(self) -> list[Step]:
        """Draw the next epoch's batches and return its steps, one for each batch."""
        self._accuracies = {}
        self._monitor.begin(self._last_finite, self.n_steps_done)
        self.optimizer.set_lr(self._lr())
        batches = self._draw_batches()
        sizes = [(len(new), self._n_replayed(len(replayed))) for new, replayed in batches]
        names = noises_of(self.stage, self._configs)
        streams = {n: (self._stream(n), self._stream(f"replay_{n}")) for n in names}
        self._mir_streams[:] = [self._stream("mir_z")]
        for size in dict.fromkeys(sizes):
            if size not in self._steps:
                self._steps[size] = self.make_step(*size, sizes.count(size))
            of_size = [batch for batch, other in zip(batches, sizes, strict=True) if other == size]
            order, replay_order = (torch.stack(part) for part in zip(*of_size, strict=True))
            self._steps[size].batches.begin(order, replay_order, streams)
        return [self._steps[size] for size in sizes]

    def _stream(self, name: str) -> torch.Generator:
        """Return the next epoch's generator for a purpose."""
        purpose = (self.stage.name, self.n_epochs_done + 1)
        return generator(self.context.config.seed, name, *purpose, device=self.context.device)

    def _draw_batches(self) -> list[tuple[Tensor, Tensor]]:
        """Draw the indices of the new and replayed samples of each batch."""
        size, drop_last = self.context.config.batch_size, self.context.config.drop_last
        n_samples = len(self.context.train_samples(self.stage))
        new = list(batch_order(n_samples, size, drop_last, self._stream("batch_order")))
        replayed = [new[0][:0]] * len(new)
        if self._replay is not None:
            stream = self._stream("replay_order")
            if self._n_candidates:
                endless = subsets(len(self._replay), self._n_candidates, stream)
            else:
                endless = cycled_order(len(self._replay), size, stream)
            replayed = list(islice(endless, len(new)))
        return list(zip(new, replayed, strict=True))

    def make_step(self, n_new: int, n_replay: int, n_steps: int) -> Step:
        """Make the step for batches of one size, of which an epoch has ``n_steps``."""
        batches = Batches(
            self.context,
            self.context.train_samples(self.stage),
            n_lanes=len(self.lanes),
            n_new=n_new,
            n_replay=n_replay,
            is_classifier=self.is_classifier,
            replay=self._replay,
            n_steps=n_steps,
            noises=noises_of(self.stage, self._configs),
            has_images=self.weights.n_rec > 0,
            n_candidates=self._n_candidates,
        )
        freezes = [self._freezes(lane) for lane in self.lanes]
        is_frozen = torch.tensor(freezes, device=self.context.device) if any(freezes) else None
        frozen_end = self.parameters.layout.end_of("encoder.")
        # Frozen lanes with a reconstruction may come before free ones without.
        n_free = max((k for k, freezes_it in enumerate(freezes, 1) if not freezes_it), default=0)
        return Step(
            batches,
            Pass(
                self.network,
                self.weights,
                parameters=self.parameters,
                batch=batches.batch,
                monitor=self._monitor,
                n_free=n_free,
            ),
            monitor=self._monitor,
            optimizer=self.optimizer,
            is_frozen=is_frozen,
            frozen_end=frozen_end,
            has_graph=(
                self.context.has_graphs
                and self.context.device.type == "cuda"
                # generative_mir draws within a step, from a generator that no graph captures.
                and self.lanes[0].config.retrieval != "generative_mir"
            ),
            retrieve=self._retrieval(batches, is_frozen, frozen_end),
            average=self._averaging(),
        )

    @property
    def _n_candidates(self) -> int:
        """Number of candidates for retrieval in each step; 0 if replay cycles."""
        has_some = self.is_classifier and self._replay is not None
        config = self.lanes[0].config
        if not has_some or config.retrieval != "mir" or self._replay is None:
            return 0
        return min(config.n_candidates, len(self._replay))

    def _n_replayed(self, n_drawn: int) -> int:
        """Return the number of replayed samples of a step for which ``n_drawn`` were drawn."""
        return min(n_drawn, self.context.config.batch_size) if self._n_candidates else n_drawn

    def _retrieval(
        self, batches: Batches, is_frozen: Tensor | None, frozen_end: int
    ) -> Callable[[], None] | None:
        config = self.lanes[0].config
        if self._replay is None or not self.is_classifier or config.retrieval == "cycle":
            return None
        step = VirtualStep(
            self.network,
            self.weights,
            parameters=self.parameters,
            batch=batches.batch,
            lr=self.optimizer.lr_column,
            is_frozen=is_frozen,
            frozen_end=frozen_end,
        )
        if config.retrieval == "mir":
            return Interference(batches, self._replay, self.network, self.parameters, step)
        generators = [lane.generator if config.has_vae else lane.model for lane in self.lanes]
        return GeneratedInterference(
            self.context,
            config,
            batches=batches,
            network=self.network,
            step=step,
            classifiers=stack_views([lane.model for lane in self.lanes]),
            generators=stack_views(generators),
            streams=self._mir_streams,
        )

    def _averaging(self) -> Callable[[], None] | None:
        """Return a function that updates the averaged weights of lanes that have not diverged."""
        if self._average is None:
            return None
        # The closure holds tensors, not the group: a reference cycle would keep the group alive
        # until the next garbage collection.
        average, flat = self._average.flat, self.parameters.flat
        is_alive, share = self._monitor.is_alive, 1 - self.context.config.ema_decay

        def move() -> None:
            average.copy_(torch.where(is_alive[:, None], average.lerp(flat, share), average))

        return move

    def _reports(self, steps: Sequence[Step]) -> list[EpochReport]:
        n_new = sum(step.batches.batch.n_new for step in steps)
        n_replay = sum(step.batches.batch.n_replay for step in steps)
        reported = []
        for lane in self.lanes:
            names = {"class"} if self.is_classifier else set()
            names |= {"kl"} if self.network.has_latent else set()
            reported.append(names | ({"rec"} if self._has_rec(lane) else set()))
        means = self._monitor.means(n_new, n_replay, reported)
        if self.is_classifier:
            for row, test in zip(means, self._accuracy_now().tolist(), strict=True):
                row["test_accuracy"] = test
        if self.is_classifier and self._has_averages:
            for row, mean in zip(means, self.mean_accuracy().tolist(), strict=True):
                row["average_accuracy"] = mean
        divergences = self._monitor.divergences(self.stage.name, self.n_epochs_done)
        counts: dict[str, float | int | None] = {"n_steps": len(steps), "n_samples": n_new}
        return [
            EpochReport(counts if divergence else counts | row, divergence)
            for row, divergence in zip(means, divergences, strict=True)
        ]

    def _accuracy_now(self) -> Tensor:
        """Compute the test accuracy (K,) on the stage's task, or the mean over tasks if joint."""
        return (
            self.accuracy_on(self.stage.task)
            if self.stage.kind == "train_task"
            else self.mean_accuracy()
        )

    def accuracy_on(self, task: int) -> Tensor:
        """Compute the test accuracy (K,) on a task (from 1) after the latest epoch."""
        if task not in self._accuracies:
            purpose = (self.stage.name, self.n_epochs_done, task)
            samples = self.context.tasks[task - 1].test
            tested = self._average or self.parameters
            self._accuracies[task] = accuracy(self.context, tested.views, samples, purpose)
        return self._accuracies[task]

    def mean_accuracy(self) -> Tensor:
        """Compute the mean test accuracy (K,) over the tasks so far, including this one."""
        tasks = range(1, self.stage.task + 1)
        return torch.stack([self.accuracy_on(task) for task in tasks], 1).mean(1)

    def initial_accuracy(self) -> list[float]:
        """Compute the test accuracy on each task before training, which all lanes share."""
        assert self.n_epochs_done == 0
        views = {name: view[:1] for name, view in self.parameters.views.items()}
        n_tasks = len(self.context.tasks)
        return [
            float(accuracy(self.context, views, self.context.tasks[t - 1].test, ("initial", t)))
            for t in range(1, n_tasks + 1)
        ]

    def lane_states(self) -> list[LaneState]:
        """Return each lane's parameters and optimiser state, as views."""
        return [self.optimizer.lane(k) for k in range(len(self.lanes))]

    def drop(self, stages: Collection[str]) -> None:
        """Remove the lanes of some stages (fingerprints) without changing the others' numbers."""
        self._drop([k for k, lane in enumerate(self.lanes) if lane.stage.fingerprint in stages])

    def _drop(self, gone: Sequence[int]) -> None:
        if not gone:
            return
        kept = [k for k in range(len(self.lanes)) if k not in gone]
        self._accuracies = {task: known[kept] for task, known in self._accuracies.items()}
        states = [self.optimizer.lane(k) for k in kept]
        averages = self._average.flat[kept] if self._average is not None else None
        history = {name: values[kept] for name, values in self._monitor.history().items()}
        self.lanes = [self.lanes[k] for k in kept]
        self._last_finite = [self._last_finite[k] for k in kept]
        if self.lanes:
            self._build()
            for k, state in enumerate(states):
                self.optimizer.set_lane(k, state, with_moments=True)
            if self._average is not None and averages is not None:
                self._average.flat.copy_(averages)
            self._monitor.set_history(history)

    def state(self) -> dict[str, Any]:
        """Return the state that ``restore`` continues from: plain values and tensors."""
        return {
            "lanes": [lane.stage.fingerprint for lane in self.lanes],
            "epochs": self.n_epochs_done,
            "steps": self.n_steps_done,
            "last_finite": list(self._last_finite),
            "history": self._monitor.history(),
            "flat": self.parameters.flat.clone(),
            "moments": {n: m.clone() for n, m in self.optimizer.moments.items()},
            "optimizer_steps": list(self.optimizer.n_steps),
            "average": self._average.flat.clone() if self._average is not None else None,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from the result of ``state``, in a group made with the same lanes."""
        self._drop(
            [k for k, x in enumerate(self.lanes) if x.stage.fingerprint not in state["lanes"]]
        )
        self.n_epochs_done, self.n_steps_done = state["epochs"], state["steps"]
        self._accuracies = {}
        # A state joined from several has its lanes in a different order.
        rows = [state["lanes"].index(lane.stage.fingerprint) for lane in self.lanes]
        self._last_finite = [state["last_finite"][k] for k in rows]
        if self.lanes:
            self._monitor.set_history({n: values[rows] for n, values in state["history"].items()})
            self.parameters.flat.copy_(state["flat"][rows])
            self.optimizer.n_steps = [state["optimizer_steps"][k] for k in rows]
            if self._average is not None:
                self._average.flat.copy_(state["average"][rows])
            for name, moment in self.optimizer.moments.items():
                moment.copy_(state["moments"][name][rows])
