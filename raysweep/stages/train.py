"""The training loop: one group of equal stages, trained in step as one stacked model."""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from raysweep.data.tasks import batch_order, cycled_order
from raysweep.models import classifier_layout, vae_layout
from raysweep.stacked import LaneState, Optimizer, Parameters
from raysweep.stages.evaluate import accuracy
from raysweep.stages.feed import Feed, Replay
from raysweep.stages.objectives import network_of, per_lane, reconstructs, weights_of
from raysweep.stages.scene import Lane, Scene
from raysweep.stages.step import Pass, Step
from raysweep.stages.tally import EpochReport, Tally
from raysweep.streams import generator


class TrainGroup:
    """Lanes of one training stage: parameters, optimiser, and the epochs done.

    ``lanes`` stand in an order of the group's own: those with a reconstruction first, those with
    a frozen encoder last, so that a product over the first lanes skips the others.
    """

    def __init__(self, scene: Scene, lanes: Sequence[Lane]) -> None:
        self.scene = scene
        self.stage = lanes[0].stage
        self.is_classifier = self.stage.kind == "train_task"
        self.lanes = sorted(lanes, key=lambda lane: (not self._has_rec(lane), self._freezes(lane)))
        self.n_epochs_done = 0
        self.n_steps_done = 0
        self._last_finite = [math.nan] * len(lanes)
        self._test_accuracy: Tensor | None = None
        self._build()
        for k, lane in enumerate(self.lanes):
            if lane.model is not None:
                keeps = lane.config.keeps_optimizer_state
                self.optimizer.set_lane(k, lane.model, with_moments=keeps)

    def _has_rec(self, lane: Lane) -> bool:
        return reconstructs(self.stage, lane.config)

    def _freezes(self, lane: Lane) -> bool:
        return self.is_classifier and self.stage.task > 1 and lane.config.freeze_encoder

    def _build(self) -> None:
        scene, config = self.scene, self.scene.config
        self.network = network_of(config, self.stage)
        if self.is_classifier:
            has_images = self.network.image_decoder is not None
            layout = classifier_layout(config, with_reconstruction=has_images)
        else:
            layout = vae_layout(config)
        self.weights = weights_of(scene, self.lanes)
        self.parameters = Parameters(layout, len(self.lanes), scene.dtype, scene.device)
        if self.stage.parent("model") is None:
            self.parameters.initialise(config.seed)
        exact = replace(scene, dtype=torch.float64)
        self.optimizer = Optimizer(
            config.optimizer,
            self.parameters,
            per_lane([lane.config.lr for lane in self.lanes], exact),
            per_lane([lane.config.weight_decay for lane in self.lanes], exact),
        )
        buffers = [lane.buffer for lane in self.lanes if lane.buffer is not None]
        self._replay = Replay(scene, buffers) if buffers else None
        names = ["class", "kl", "n_correct"] if self.is_classifier else ["kl"]
        names += ["rec"] if self.weights.n_rec else []
        names += ["replay_class", "replay_kl"] if buffers else []
        threshold = per_lane([lane.config.loss_above for lane in self.lanes], scene)
        self._tally = Tally(names, threshold)
        self._steps: dict[tuple[int, int], Step] = {}

    @property
    def is_done(self) -> bool:
        """Whether all epochs are done or no lane is left."""
        return not self.lanes or self.n_epochs_done == self.scene.config.epochs

    def run_epoch(self) -> list[EpochReport]:
        """Train one epoch; give a report for each lane that was still in.

        Lanes that diverged leave the group afterwards.
        """
        steps = self.begin_epoch()
        for step in steps:
            step()
        self._tally.close(self.parameters.are_finite())
        self.n_epochs_done += 1
        self.n_steps_done += len(steps)
        self._last_finite = self._tally.last_finite
        reports = self._reports(steps)
        self._drop([k for k, report in enumerate(reports) if report.divergence])
        return reports

    def begin_epoch(self) -> list[Step]:
        """Draw the next epoch's batches; give its steps, one for each batch."""
        self._tally.begin(self._last_finite, self.n_steps_done)
        batches = self._draw_batches()
        sizes = [(len(new), len(replayed)) for new, replayed in batches]
        noise, replay_noise = self._stream("noise"), self._stream("replay_noise")
        for size in dict.fromkeys(sizes):
            if size not in self._steps:
                self._steps[size] = self.make_step(*size, sizes.count(size))
            of_size = [batch for batch, other in zip(batches, sizes, strict=True) if other == size]
            order, replay_order = (torch.stack(part) for part in zip(*of_size, strict=True))
            self._steps[size].feed.begin(order, replay_order, noise, replay_noise)
        return [self._steps[size] for size in sizes]

    def _stream(self, name: str) -> torch.Generator:
        """Make the generator of the next epoch for a purpose."""
        purpose = (self.stage.name, self.n_epochs_done + 1)
        return generator(self.scene.config.seed, name, *purpose, device=self.scene.device)

    def _draw_batches(self) -> list[tuple[Tensor, Tensor]]:
        """Draw the indices of new and replayed samples of each batch."""
        size, drop_last = self.scene.config.batch_size, self.scene.config.drop_last
        n_samples = len(self.scene.tasks[self.stage.task - 1].train)
        new = list(batch_order(n_samples, size, drop_last, self._stream("batch_order")))
        replayed = [new[0][:0]] * len(new)
        if self._replay is not None:
            endless = cycled_order(len(self._replay), size, self._stream("replay_order"))
            replayed = list(islice(endless, len(new)))
        return list(zip(new, replayed, strict=True))

    def make_step(self, n_new: int, n_replay: int, n_steps: int) -> Step:
        """Make the step for batches of a size, of which an epoch has ``n_steps``."""
        samples = self.scene.tasks[self.stage.task - 1].train
        feed = Feed(
            self.scene,
            samples,
            len(self.lanes),
            n_new,
            n_replay,
            self.is_classifier,
            self._replay,
            n_steps,
        )
        is_frozen = [self._freezes(lane) for lane in self.lanes]
        n_free = is_frozen.count(False)
        return Step(
            feed,
            Pass(self.network, self.weights, self.parameters, feed.batch, self._tally, n_free),
            self._tally,
            self.optimizer,
            torch.tensor(is_frozen, device=self.scene.device) if any(is_frozen) else None,
            self.parameters.layout.end_of("encoder."),
            has_graph=self.scene.has_graphs and self.scene.device.type == "cuda",
        )

    def _reports(self, steps: Sequence[Step]) -> list[EpochReport]:
        n_new = sum(step.feed.batch.n_new for step in steps)
        n_replay = sum(step.feed.batch.n_replay for step in steps)
        reported = []
        for lane in self.lanes:
            names = {"class", "kl"} if self.is_classifier else {"kl"}
            reported.append(names | ({"rec"} if self._has_rec(lane) else set()))
        means = self._tally.means(n_new, n_replay, reported)
        self._test_accuracy = None
        if self.is_classifier:
            self._test_accuracy = self.accuracy_on(self.stage.task)
            for row, test in zip(means, self._test_accuracy.tolist(), strict=True):
                row["test_accuracy"] = test
        divergences = self._tally.divergences(self.stage.name, self.n_epochs_done)
        counts: dict[str, float | int | None] = {"n_steps": len(steps), "n_samples": n_new}
        return [
            EpochReport(counts if divergence else counts | row, divergence)
            for row, divergence in zip(means, divergences, strict=True)
        ]

    def accuracy_on(self, task: int) -> Tensor:
        """Compute the test accuracy (K,) on a task (from 1) after the epochs done so far."""
        if task == self.stage.task and self._test_accuracy is not None:
            return self._test_accuracy
        purpose = (self.stage.name, self.n_epochs_done, task)
        samples = self.scene.tasks[task - 1].test
        return accuracy(self.scene, self.parameters.views, samples, purpose)

    def lane_states(self) -> list[LaneState]:
        """Give each lane's parameters and optimiser state, as views."""
        return [self.optimizer.lane(k) for k in range(len(self.lanes))]

    def _drop(self, gone: Sequence[int]) -> None:
        if not gone:
            return
        self._test_accuracy = None
        kept = [k for k in range(len(self.lanes)) if k not in gone]
        states = [self.optimizer.lane(k) for k in kept]
        self.lanes = [self.lanes[k] for k in kept]
        self._last_finite = [self._last_finite[k] for k in kept]
        if self.lanes:
            self._build()
            for k, state in enumerate(states):
                self.optimizer.set_lane(k, state, with_moments=True)

    def state(self) -> dict[str, Any]:
        """Give what ``restore`` needs to go on after the last epoch: plain values and tensors."""
        return {
            "lanes": [lane.stage.fingerprint for lane in self.lanes],
            "epochs": self.n_epochs_done,
            "steps": self.n_steps_done,
            "last_finite": list(self._last_finite),
            "flat": self.parameters.flat.clone(),
            "moments": {n: m.clone() for n, m in self.optimizer.moments.items()},
            "optimizer_steps": list(self.optimizer.n_steps),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what ``state`` gave, in a group that was made with the same lanes."""
        self._drop(
            [k for k, x in enumerate(self.lanes) if x.stage.fingerprint not in state["lanes"]]
        )
        self.n_epochs_done, self.n_steps_done = state["epochs"], state["steps"]
        self._last_finite = list(state["last_finite"])
        if self.lanes:
            self.parameters.flat.copy_(state["flat"])
            self.optimizer.n_steps = list(state["optimizer_steps"])
            for name, moment in self.optimizer.moments.items():
                moment.copy_(state["moments"][name])
