"""``PackRun``: train a pack epoch by epoch, each distinct stage once. Knows nothing of Ray."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from raysweep.data.sources import Source
from raysweep.data.tasks import make_tasks
from raysweep.plan import Stage, group_stages, pack_key, stages_of
from raysweep.replay import Buffer
from raysweep.settings import Config
from raysweep.stacked import LaneState
from raysweep.stages import Divergence, EpochReport, Lane, Scene, TrainGroup, fill_buffers

Row = dict[str, Any]


@dataclass
class Report:
    """What one epoch of a pack gives: rows for the tables, by their column names.

    A row of ``trials`` has the outcome only: the driver adds settings, times and versions.
    """

    epochs: list[Row] = field(default_factory=list)
    accuracy: list[Row] = field(default_factory=list)
    trials: list[Row] = field(default_factory=list)
    train_s: float = 0.0
    prepare_s: float = 0.0


@dataclass
class _Record:
    """What is kept of a finished or diverged stage for the rows of its configurations."""

    seconds: float = 0.0  # charged to each configuration that has the stage
    accuracy: list[float] = field(default_factory=list)
    rec_loss: float | None = None
    label_entropy: float | None = None
    divergence: Divergence | None = None
    is_done: bool = False


class PackRun:
    """A pack in training: ``advance`` trains one epoch of one group of stages.

    ``configs`` share a pack key. ``state`` after any ``advance`` goes into ``restore`` of a new
    run of the same configurations, which then gives the same rows as one without a break.
    """

    def __init__(
        self,
        configs: Sequence[Config],
        source: Source,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        assert len({pack_key(config) for config in configs}) == 1
        start = time.perf_counter()
        self.configs = tuple(configs)
        self.groups = group_stages(configs)
        self._users: dict[str, list[Config]] = {}
        for config in configs:
            for stage in stages_of(config):
                self._users.setdefault(stage.fingerprint, []).append(config)
        device = torch.device(device)
        tasks = make_tasks(configs[0], source, device)
        self.scene = Scene(configs[0], tasks, source.mean, source.sd, device, dtype)
        self._keeps_moments = any(config.keeps_optimizer_state for config in configs)
        self._position = 0
        self._group: TrainGroup | None = None
        self._records = {fingerprint: _Record() for fingerprint in self._users}
        self._models: dict[str, LaneState] = {}
        self._buffers: dict[str, Buffer] = {}
        self._reported: set[str] = set()
        self._prepare_s = time.perf_counter() - start

    @property
    def is_done(self) -> bool:
        """Whether every configuration has ended."""
        return len(self._reported) == len(self.configs)

    def advance(self) -> Report:
        """Train one epoch of the current group and report on it."""
        assert not self.is_done
        report = Report(prepare_s=self._prepare_s)
        self._prepare_s = 0.0
        start = time.perf_counter()
        group = self._group or self._open_group()
        lanes = list(group.lanes)
        lane_reports = group.run_epoch()
        seconds = time.perf_counter() - start
        for lane, lane_report in zip(lanes, lane_reports, strict=True):
            self._note_epoch(
                lane.stage, lane_report, group.n_epochs_done, seconds / len(lanes), report
            )
        if group.is_done:
            self._close_group(group, report)
        report.trials = self._ended()
        report.train_s = time.perf_counter() - start
        return report

    def _open_group(self) -> TrainGroup:
        """Fill buffers and set up the next group that has a lane left."""
        while True:
            stages = [s for s in self.groups[self._position] if self._can_run(s)]
            if stages and stages[0].kind != "fill_buffer":
                self._group = TrainGroup(self.scene, [self._lane(stage) for stage in stages])
                return self._group
            if stages:
                self._fill(stages)
            self._position += 1

    def _open_users(self, stage: Stage) -> list[Config]:
        """List the configurations that have the stage and have not ended."""
        return [c for c in self._users[stage.fingerprint] if c.id not in self._reported]

    def _can_run(self, stage: Stage) -> bool:
        """Tell whether a configuration still needs the stage and no parent diverged.

        If a parent did, the stage has diverged with it.
        """
        if not self._open_users(stage):
            return False
        record = self._records[stage.fingerprint]
        for _, parent in stage.parents:
            record.divergence = record.divergence or self._records[parent].divergence
        return record.divergence is None

    def _lane(self, stage: Stage) -> Lane:
        config = self._users[stage.fingerprint][0]
        model, generator, buffer = map(stage.parent, ("model", "generator", "buffer"))
        return Lane(
            stage,
            config,
            self._models[model] if model else None,
            self._buffers[buffer] if buffer else None,
            self._models[generator] if generator else None,
        )

    def _fill(self, stages: Sequence[Stage]) -> None:
        start = time.perf_counter()
        buffers = fill_buffers(self.scene, [self._lane(stage) for stage in stages])
        seconds = (time.perf_counter() - start) / len(stages)
        for stage, buffer in zip(stages, buffers, strict=True):
            record = self._records[stage.fingerprint]
            record.seconds = seconds / len(self._users[stage.fingerprint])
            record.is_done = True
            record.label_entropy = buffer.label_entropy()
            self._buffers[stage.fingerprint] = buffer

    def _note_epoch(
        self, stage: Stage, lane: EpochReport, epoch: int, seconds: float, report: Report
    ) -> None:
        record = self._records[stage.fingerprint]
        users = self._open_users(stage)
        record.seconds += seconds / len(users)
        record.divergence = lane.divergence
        rec_loss = lane.metrics.get("rec_loss")
        record.rec_loss = float(rec_loss) if rec_loss is not None else None
        row = {"stage": stage.name, "epoch": epoch, "task": stage.task, **lane.metrics}
        for config in users:
            report.epochs.append(
                {"config_id": config.id, **row, "duration_s": seconds / len(users)}
            )

    def _close_group(self, group: TrainGroup, report: Report) -> None:
        states = group.lane_states()
        n_tasks = self.scene.config.n_tasks
        matrix = []
        if group.is_classifier and states:
            matrix = [group.accuracy_on(task).tolist() for task in range(1, n_tasks + 1)]
        for k, (lane, state) in enumerate(zip(group.lanes, states, strict=True)):
            record = self._records[lane.stage.fingerprint]
            record.is_done = True
            record.accuracy = [row[k] for row in matrix]
            kept = state if self._keeps_moments else LaneState(state.parameters)
            self._models[lane.stage.fingerprint] = kept
            for config in self._open_users(lane.stage):
                for on_task, accuracy in enumerate(record.accuracy, 1):
                    report.accuracy.append(
                        {
                            "config_id": config.id,
                            "after_task": lane.stage.task,
                            "on_task": on_task,
                            "accuracy": accuracy,
                        }
                    )
        self._group = None
        self._position += 1
        self._release()

    def _release(self) -> None:
        """Forget the models and buffers that no stage to come needs."""
        ahead = self.groups[self._position :]
        needed = {parent for group in ahead for stage in group for _, parent in stage.parents}
        self._models = {f: model for f, model in self._models.items() if f in needed}
        self._buffers = {f: buffer for f, buffer in self._buffers.items() if f in needed}

    def _ended(self) -> list[Row]:
        """Give the ``trials`` rows of the configurations that have ended since the last call."""
        rows = []
        for config in self.configs:
            if config.id in self._reported:
                continue
            stages = stages_of(config)
            records = [self._records[stage.fingerprint] for stage in stages]
            divergence = next((r.divergence for r in records if r.divergence), None)
            if divergence or all(record.is_done for record in records):
                rows.append(self._trial_row(config, stages, records, divergence))
                self._reported.add(config.id)
        return rows

    def _trial_row(
        self,
        config: Config,
        stages: Sequence[Stage],
        records: Sequence[_Record],
        divergence: Divergence | None,
    ) -> Row:
        row: Row = {
            "config_id": config.id,
            "status": "diverged" if divergence else "finished",
            "n_train_samples": sum(len(task.train) for task in self.scene.tasks),
            "n_test_samples": sum(len(task.test) for task in self.scene.tasks),
            "duration_s": sum(record.seconds for record in records),
        }
        if divergence:
            row |= {
                "diverged_stage": divergence.stage,
                "diverged_epoch": divergence.epoch,
                "diverged_step": divergence.step,
                "last_finite_loss": divergence.last_finite_loss,
            }
            return row
        matrix = [r.accuracy for r in records if r.accuracy]
        rec_losses = [r.rec_loss for r in records if r.rec_loss is not None]
        entropies = [r.label_entropy for r in records if r.label_entropy is not None]
        return row | {
            **accuracy_summary(matrix),
            "reconstruction_loss": rec_losses[0] if rec_losses else None,
            "replay_label_entropy": entropies[-1] if entropies else None,
        }

    def state(self) -> dict[str, Any]:
        """Give all that ``restore`` needs: plain values and tensors (no pickled classes)."""
        return {
            "configs": [config.id for config in self.configs],
            "position": self._position,
            "group": self._group.state() if self._group else None,
            "records": {f: asdict(record) for f, record in self._records.items()},
            "models": {f: _copied(model) for f, model in self._models.items()},
            "buffers": {f: (b.images.clone(), b.labels.clone()) for f, b in self._buffers.items()},
            "reported": sorted(self._reported),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on after the epoch at which ``state`` was taken."""
        assert state["configs"] == [config.id for config in self.configs]
        self._position = state["position"]
        self._reported = set(state["reported"])
        self._models = {f: LaneState(**model) for f, model in state["models"].items()}
        self._buffers = {f: Buffer(*buffer) for f, buffer in state["buffers"].items()}
        for fingerprint, saved in state["records"].items():
            values = dict(saved)
            divergence = values.pop("divergence")
            record = _Record(**values, divergence=Divergence(**divergence) if divergence else None)
            self._records[fingerprint] = record
        self._group = None
        if state["group"]:
            names = set(state["group"]["lanes"])
            stages = [s for s in self.groups[self._position] if s.fingerprint in names]
            self._group = TrainGroup(self.scene, [self._lane(stage) for stage in stages])
            self._group.restore(state["group"])


def _copied(model: LaneState) -> dict[str, Any]:
    """Copy a lane out of its stack: saving a view would save the whole stack."""
    return {
        "parameters": {n: t.clone() for n, t in model.parameters.items()},
        "moments": {m: {n: t.clone() for n, t in v.items()} for m, v in model.moments.items()},
        "n_steps": model.n_steps,
    }


def accuracy_summary(matrix: Sequence[Sequence[float]]) -> dict[str, float | None]:
    """Summarise R, where ``matrix[t - 1][i - 1]`` is the accuracy on task i after task t of T.

    ``average_accuracy`` is the mean over i of R[T, i] (Lopez-Paz and Ranzato 2017, arXiv
    1706.08840). ``forgetting`` is the mean over i < T of max over t < T of R[t, i] minus
    R[T, i] (Chaudhry et al. 2018, arXiv 1801.10112); null for one task.
    """
    n_tasks = len(matrix)
    last = matrix[-1]
    forgotten = [max(row[i] for row in matrix[:-1]) - last[i] for i in range(n_tasks - 1)]
    return {
        "average_accuracy": sum(last) / n_tasks,
        "forgetting": sum(forgotten) / len(forgotten) if forgotten else None,
        "first_task_accuracy_initial": matrix[0][0],
        "first_task_accuracy_final": last[0],
        "last_task_accuracy": last[-1],
    }
