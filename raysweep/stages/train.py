"""The training loop: one group of equal stages, trained in step as one stacked model."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from raysweep.data.tasks import batch_order, cycled_order, scaled
from raysweep.models import classifier_layout, vae_layout
from raysweep.stacked import LaneState, Optimizer, Parameters
from raysweep.stages.evaluate import accuracy
from raysweep.stages.objectives import (
    Batch,
    FirstTask,
    LaterTask,
    Losses,
    Objective,
    generator_losses,
    per_lane,
)
from raysweep.stages.scene import Lane, Scene
from raysweep.streams import generator, normal


@dataclass(frozen=True)
class Divergence:
    """Where a lane's loss left the finite numbers or passed the threshold.

    ``epoch`` and ``step`` count from 1, ``step`` over the whole stage; ``last_finite_loss`` is
    the last finite per-sample mean of the total loss, None if there was none.
    """

    stage: str
    epoch: int
    step: int
    last_finite_loss: float | None


@dataclass(frozen=True)
class EpochReport:
    """One lane's epoch: metrics by the column names of the ``epochs`` table, or its divergence."""

    metrics: dict[str, float | int | None]
    divergence: Divergence | None


class TrainGroup:
    """Lanes of one training stage: parameters, optimiser, and the epochs done."""

    def __init__(self, scene: Scene, lanes: Sequence[Lane]) -> None:
        self.scene = scene
        self.lanes = list(lanes)
        self.stage = lanes[0].stage
        self.n_epochs_done = 0
        self.n_steps_done = 0
        self._last_finite = [math.nan] * len(lanes)
        self.is_classifier = self.stage.kind == "train_task"
        self._build()
        for k, lane in enumerate(self.lanes):
            if lane.model is not None:
                keeps = lane.config.keeps_optimizer_state
                self.optimizer.set_lane(k, lane.model, with_moments=keeps)

    def _build(self) -> None:
        scene, config = self.scene, self.scene.config
        is_first = self.stage.task == 1
        self.objective: Objective
        if not self.is_classifier:
            layout = vae_layout(config)
            self.objective = generator_losses
        elif is_first:
            layout = classifier_layout(config, with_reconstruction=config.model == "vib")
            self.objective = FirstTask(scene, self.lanes)
        else:
            layout = classifier_layout(config, with_reconstruction=False)
            self.objective = LaterTask(scene, self.lanes)
        self.parameters = Parameters(layout, len(self.lanes), scene.dtype, scene.device)
        if not self.is_classifier or is_first:
            self.parameters.initialise(config.seed)
        lane_configs = [lane.config for lane in self.lanes]
        self.optimizer = Optimizer(
            config.optimizer,
            self.parameters,
            per_lane([c.lr for c in lane_configs], scene),
            per_lane([c.weight_decay for c in lane_configs], scene),
        )
        is_frozen = [self.is_classifier and not is_first and c.freeze_encoder for c in lane_configs]
        self._is_frozen = torch.tensor(is_frozen, device=scene.device) if any(is_frozen) else None
        self._frozen_end = layout.end_of("encoder.")
        self._threshold = per_lane([c.loss_above for c in lane_configs], scene)
        buffers = [lane.buffer for lane in self.lanes if lane.buffer is not None]
        self._replay_images = torch.stack([b.images for b in buffers]) if buffers else None
        self._replay_labels = torch.stack([b.labels for b in buffers]) if buffers else None

    @property
    def is_done(self) -> bool:
        """Whether all epochs are done or no lane is left."""
        return not self.lanes or self.n_epochs_done == self.scene.config.epochs

    def run_epoch(self) -> list[EpochReport]:
        """Train one epoch; give a report for each lane that was still in.

        Lanes that diverged leave the group afterwards.
        """
        epoch = self.n_epochs_done + 1
        tally = _Tally(self._last_finite, self.scene.device)
        for batch in self._batches(epoch):
            self.n_steps_done += 1
            self._step(batch, tally)
        tally.close(self.parameters.are_finite(), self.n_steps_done)
        self.n_epochs_done = epoch
        self._last_finite = tally.last_finite.tolist()
        if self.is_classifier:
            tally.test_accuracy = self.accuracy_on(self.stage.task)
        reports = tally.reports(self.stage.name, epoch, self._reported_losses())
        self._drop([k for k, report in enumerate(reports) if report.divergence])
        return reports

    def _batches(self, epoch: int) -> Iterator[Batch]:
        scene, config = self.scene, self.scene.config
        samples = scene.tasks[self.stage.task - 1].train
        purpose = (self.stage.name, epoch)

        def stream(name: str) -> torch.Generator:
            return generator(config.seed, name, *purpose, device=scene.device)

        noise, replay_noise = stream("noise"), stream("replay_noise")
        replay_order: Iterator[Tensor] = iter(())
        if self._replay_images is not None:
            n_replay = self._replay_images.shape[1]
            replay_order = cycled_order(n_replay, config.batch_size, stream("replay_order"))
        for index in batch_order(
            len(samples), config.batch_size, config.drop_last, stream("batch_order")
        ):
            images = scaled(samples.images[index], scene.dtype)
            draw = normal((len(index), config.n_bottleneck), noise, scene.dtype)
            if self._replay_images is None or self._replay_labels is None:
                yield Batch(images, samples.labels[index], draw)
                continue
            chosen = next(replay_order)
            yield Batch(
                images,
                samples.labels[index],
                draw,
                self._replay_images[:, chosen],
                self._replay_labels[:, chosen],
                normal((len(chosen), config.n_bottleneck), replay_noise, scene.dtype),
            )

    def _step(self, batch: Batch, tally: "_Tally") -> None:
        losses = self.objective(self.parameters.views, batch)
        tally.add(losses, self._threshold, self.n_steps_done)
        self.parameters.differentiate(losses.objective)
        self.optimizer.step(tally.is_alive, self._is_frozen, self._frozen_end)

    def _reported_losses(self) -> list[set[str]]:
        """Name the losses that mean something for each lane: no reconstruction without weight."""
        reported = []
        for k in range(len(self.lanes)):
            names = {"class", "kl"} if self.is_classifier else {"rec", "kl"}
            if isinstance(self.objective, FirstTask) and float(self.objective.w_rec[k]) != 0:
                names.add("rec")
            reported.append(names)
        return reported

    def accuracy_on(self, task: int) -> Tensor:
        """Compute the test accuracy (K,) on a task (from 1) after the epochs done so far."""
        purpose = (self.stage.name, self.n_epochs_done, task)
        samples = self.scene.tasks[task - 1].test
        return accuracy(self.scene, self.parameters.views, samples, purpose)

    def lane_states(self) -> list[LaneState]:
        """Give each lane's parameters and optimiser state, as views."""
        return [self.optimizer.lane(k) for k in range(len(self.lanes))]

    def _drop(self, gone: Sequence[int]) -> None:
        if not gone:
            return
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


class _Tally:
    """Sums over one epoch, (K,) each, read once at its end."""

    def __init__(self, last_finite: Sequence[float], device: torch.device) -> None:
        n_lanes = len(last_finite)
        self.is_alive = torch.ones(n_lanes, dtype=torch.bool, device=device)
        self.died_at = torch.zeros(n_lanes, dtype=torch.int64, device=device)
        self.last_finite = torch.tensor(last_finite, dtype=torch.float64, device=device)
        self.sums: dict[str, Tensor] = {}
        self.n_new = 0
        self.n_replay = 0
        self.n_steps = 0
        self.test_accuracy: Tensor | None = None

    @torch.no_grad()
    def add(self, losses: Losses, threshold: Tensor, step: int) -> None:
        mean = losses.mean
        is_finite = torch.isfinite(mean)
        self.last_finite = torch.where(self.is_alive & is_finite, mean.double(), self.last_finite)
        self._bury(is_finite & (mean <= threshold), step)
        self.n_steps += 1
        self.n_new += losses.n_new
        self.n_replay += losses.n_replay
        self._add("loss", mean * losses.n_new)
        for name, value in losses.new.items():
            self._add(name, value)
        for name, value in losses.replay.items():
            self._add(f"replay_{name}", value)
        if losses.n_correct is not None:
            self._add("n_correct", losses.n_correct)

    def _add(self, name: str, value: Tensor) -> None:
        total = self.sums.get(name)
        self.sums[name] = value.double() if total is None else total + value.double()

    def _bury(self, is_well: Tensor, step: int) -> None:
        self.died_at = torch.where(self.is_alive & ~is_well, step, self.died_at)
        self.is_alive = self.is_alive & is_well

    def close(self, is_finite: Tensor, step: int) -> None:
        """Bury lanes whose last update left parameters that are not finite."""
        self._bury(is_finite, step)

    def reports(self, stage: str, epoch: int, reported: list[set[str]]) -> list[EpochReport]:
        columns = {name: total.tolist() for name, total in self.sums.items()}
        tests = self.test_accuracy.tolist() if self.test_accuracy is not None else None
        last_finite, died_at = self.last_finite.tolist(), self.died_at.tolist()
        reports = []
        for k, is_alive in enumerate(self.is_alive.tolist()):
            metrics: dict[str, float | int | None] = {
                "n_steps": self.n_steps,
                "n_samples": self.n_new,
            }
            divergence = None
            if is_alive:
                metrics |= self._means({name: c[k] for name, c in columns.items()}, reported[k])
                metrics["test_accuracy"] = tests[k] if tests else None
            else:
                last = None if math.isnan(last_finite[k]) else last_finite[k]
                divergence = Divergence(stage, epoch, died_at[k], last)
            reports.append(EpochReport(metrics, divergence))
        return reports

    def _means(self, sums: dict[str, float], reported: set[str]) -> dict[str, float | int | None]:
        means: dict[str, float | int | None] = {"loss": sums["loss"] / self.n_new}
        for name in ("class", "kl", "rec"):
            if name in reported and name in sums:
                means[f"{name}_loss"] = sums[name] / self.n_new
            if f"replay_{name}" in sums:
                means[f"replay_{name}_loss"] = sums[f"replay_{name}"] / self.n_replay
        if "n_correct" in sums:
            means["train_accuracy"] = sums["n_correct"] / self.n_new
        return means
