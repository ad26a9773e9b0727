"""``PackRun``: train a pack epoch by epoch, each distinct stage once. Independent of Ray.

With a stage cache, stages found in it are taken from there instead of being trained.
"""

import json
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch

from raysweep.learning.config import Config
from raysweep.learning.data.sources import Source
from raysweep.learning.data.task_sequences import make_tasks
from raysweep.learning.replay.buffers import Buffer
from raysweep.learning.replay.filling import fill_buffers
from raysweep.learning.stacked.optimizers import LaneState
from raysweep.learning.stacked.warnings import warnings_so_far
from raysweep.learning.stage_graph import stages_of
from raysweep.learning.stages import Stage
from raysweep.learning.training.context import Context, Lane
from raysweep.learning.training.loop import TrainGroup
from raysweep.learning.training.loss_monitor import Divergence, EpochReport
from raysweep.packs.pack import group_stages, pack_key, turn_of
from raysweep.packs.records import PackRecords
from raysweep.packs.rows import Report
from raysweep.packs.stage_cache.entries import StageCache
from raysweep.packs.stage_cache.pack_cache import Found, Kept, PackCache
from raysweep.packs.states import RowsBehind
from raysweep.settings.stopping import Stop

_WANTED = "wanted"


class PackRun:
    """A pack in training: ``advance`` trains one epoch of one group of stages.

    ``configs`` share a pack key. Pass the ``state`` after any ``advance`` to ``restore`` of a new
    run of the same configurations, which then gives the same rows as an uninterrupted run.
    A ``store`` changes only durations and ``n_stored_stages`` in the rows.
    The outputs of the stages in ``wanted`` (fingerprints) are kept to the end, for ``output``.
    ``has_averages`` adds ``average_accuracy`` to the rows of ``epochs`` and affects nothing else.
    """

    def __init__(
        self,
        configs: Sequence[Config],
        source: Source,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        store: StageCache | None = None,
        wanted: Collection[str] = (),
        has_averages: bool = False,
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
        if device.type == "cuda":
            torch.backends.cuda.matmul.allow_tf32 = configs[0].tf32
        tasks = make_tasks(configs[0], source, device)
        self.context = Context(configs[0], tasks, source.mean, source.sd, device, dtype)
        self._cache = PackCache(store, source, device, dtype) if store else None
        self._served: dict[str, Kept] | None = None  # not looked up yet
        self._wanted = frozenset(wanted)
        self._parents = {p for group in self.groups for s in group for _, p in s.parents}
        self._keeps_moments = any(
            config.keeps_optimizer_state or config.generator == "continual" for config in configs
        )
        self._position = 0
        self._group: TrainGroup | None = None
        self._models: dict[str, LaneState] = {}
        self._buffers: dict[str, Buffer] = {}
        counts = {
            "n_train_samples": sum(len(task.train) for task in tasks),
            "n_test_samples": sum(len(task.test) for task in tasks),
        }
        self._records = PackRecords(self.configs, self._users, counts)
        self._has_averages = has_averages
        self._stops: dict[str, Stop] = {}
        self._prepare_s = time.perf_counter() - start

    @property
    def is_done(self) -> bool:
        """Whether every configuration has ended."""
        return len(self._records.reported) == len(self.configs)

    @property
    def notes(self) -> list[str]:
        """Warnings for the user, one line each."""
        failure = self._cache.failure if self._cache else None
        return warnings_so_far() + ([failure] if failure else [])

    def advance(self) -> Report:
        """Train one epoch of the current group and report on it.

        Stages from the cache are reported in full, before the epoch of the first group that has a
        lane to train; if no group has one, nothing is trained.
        """
        assert not self.is_done
        report = Report(prepare_s=self._prepare_s)
        self._prepare_s = 0.0
        start = time.perf_counter()
        store_s = -self._cache.seconds if self._cache else 0.0
        self._leave(report)
        if self.is_done:
            return report
        group = self._group or self._open_group(report)
        if group:
            self._train_epoch(group, report)
        report.trials += self._records.ended()
        store_s += self._cache.seconds if self._cache else 0.0
        report.prepare_s += store_s
        report.train_s = time.perf_counter() - start - store_s
        return report

    def stop(self, stops: Mapping[str, Stop]) -> None:
        """Stop configurations (by id) before the next epoch; ignore those that have ended."""
        self._stops |= {i: stop for i, stop in stops.items() if i not in self._records.reported}

    def settle(self) -> Report:
        """Remove the configurations that are to stop, without training."""
        report = Report()
        self._leave(report)
        return report

    @property
    def turn(self) -> str:
        """The run's position: runs with the same pack key and turn can be merged.

        JSON: the key of the current or next group, its epochs done, and whether a limit depends on
        its earlier losses.
        """
        group = self._group
        turn = turn_of(self.groups[self._position][0]) if self._position < len(self.groups) else ()
        follows = group is not None and group.has_limits
        return json.dumps([turn, group.n_epochs_done if group else 0, follows])

    def _leave(self, report: Report) -> None:
        stops, self._stops = self._stops, {}
        report.trials += self._records.stopped(stops)
        if stops and self._group:
            lanes = [lane.stage for lane in self._group.lanes]
            self._group.drop([s.fingerprint for s in lanes if not self._records.open_users(s)])
            if not self._group.lanes:
                self._close_group(self._group, report)

    def _train_epoch(self, group: TrainGroup, report: Report) -> None:
        start = time.perf_counter()
        lanes = list(group.lanes)
        lane_reports = group.run_epoch()
        seconds = time.perf_counter() - start
        for lane, lane_report in zip(lanes, lane_reports, strict=True):
            self._records.note_epoch(
                lane.stage, lane_report, group.n_epochs_done, seconds / len(lanes), report
            )
            if self._cache:
                self._records.records[lane.stage.fingerprint].epochs.append(lane_report.metrics)
            if lane_report.divergence:
                self._keep(lane.stage, None)
        if group.is_done:
            self._close_group(group, report)

    def _open_group(self, report: Report) -> TrainGroup | None:
        """Serve cached stages, fill buffers and set up the next group that has a lane to train.

        Return None if no configuration is left.
        """
        self._look_up()
        while True:
            stages = self._serve_group(report)
            if self.is_done:
                return None
            if stages and stages[0].kind != "fill_buffer":
                self._group = self._group_of(stages)
                if stages[0].is_first:
                    initial = self._group.initial_accuracy()
                    for stage in stages:
                        self._records.note_initial(stage, initial, report)
                return self._group
            if stages:
                self._fill(stages)
            self._position += 1

    def _look_up(self) -> None:
        """Look up the pack's stages in the cache, once: a restored run serves the same ones."""
        if self._served is None:
            groups, users = list(self.groups), dict(self._users)
            if self._wanted:
                # A dummy stage that is never in the cache, so that its parents are loaded.
                parents = tuple((_WANTED, fingerprint) for fingerprint in sorted(self._wanted))
                groups.append((Stage("fill_buffer", 0, _WANTED, parents, ""),))
                users[_WANTED] = list(self.configs)
            found = self._cache.find(groups, users) if self._cache else Found()
            self._served, self._models, self._buffers = found.kept, found.models, found.buffers

    def _serve_group(self, report: Report) -> list[Stage]:
        """Report the current group's stages that are in the cache; return those to run."""
        assert self._served is not None
        to_run = []
        for stage in self.groups[self._position]:
            if not self._can_run(stage):
                continue
            kept = self._served.pop(stage.fingerprint, None)
            if kept is None:
                to_run.append(stage)
            else:
                self._serve(stage, kept, report)
        report.trials += self._records.ended()
        return to_run

    def _serve(self, stage: Stage, kept: Kept, report: Report) -> None:
        divergence = Divergence(**kept["divergence"]) if kept["divergence"] else None
        n_epochs = len(kept["epochs"])
        if stage.is_first:
            self._records.note_initial(stage, kept["initial_accuracy"], report)
        for epoch, metrics in enumerate(kept["epochs"], 1):
            if not self._has_averages:
                metrics.pop("average_accuracy", None)
            lane = EpochReport(metrics, divergence if epoch == n_epochs else None)
            self._records.note_epoch(stage, lane, epoch, None, report)
        record = self._records.records[stage.fingerprint]
        record.is_stored = True
        if divergence is None:
            record.is_done = True
            record.label_entropy = kept["label_entropy"]
            self._records.note_accuracy(stage, kept["accuracy"], report)

    def _keep(self, stage: Stage, output: LaneState | Buffer | None) -> None:
        """Add a stage that has ended to the cache, with its output if another stage can use it."""
        if self._cache is None:
            return
        record = self._records.records[stage.fingerprint]
        kept = {
            "epochs": record.epochs,
            "accuracy": record.accuracy,
            "initial_accuracy": record.initial_accuracy,
            "label_entropy": record.label_entropy,
            "divergence": asdict(record.divergence) if record.divergence else None,
        }
        if stage.fingerprint not in self._parents:
            output = None
        has_moments = self._keeps_moments and stage.kind in ("train_task", "train_generator")
        self._cache.keep(stage, kept, output, has_moments and output is not None)
        record.epochs = []

    def _can_run(self, stage: Stage) -> bool:
        """Return whether a configuration still needs the stage and no parent diverged.

        If a parent did, mark the stage as diverged too.
        """
        if not self._records.open_users(stage):
            return False
        record = self._records.records[stage.fingerprint]
        for _, parent in stage.parents:
            record.divergence = record.divergence or self._records.records[parent].divergence
        return record.divergence is None

    def _lane(self, stage: Stage) -> Lane:
        config = self._users[stage.fingerprint][0]
        return Lane.of(stage, config, self._models, self._buffers)

    def _group_of(self, stages: Sequence[Stage]) -> TrainGroup:
        lanes = [self._lane(stage) for stage in stages]
        return TrainGroup(self.context, lanes, self._has_averages)

    def _fill(self, stages: Sequence[Stage]) -> None:
        start = time.perf_counter()
        buffers = fill_buffers(self.context, [self._lane(stage) for stage in stages])
        seconds = (time.perf_counter() - start) / len(stages)
        for stage, buffer in zip(stages, buffers, strict=True):
            record = self._records.records[stage.fingerprint]
            record.seconds = seconds / len(self._users[stage.fingerprint])
            record.is_done = True
            record.label_entropy = buffer.label_entropy()
            self._buffers[stage.fingerprint] = buffer
            self._keep(stage, buffer)

    def _close_group(self, group: TrainGroup, report: Report) -> None:
        states = group.lane_states()
        n_tasks = self.context.config.n_tasks
        matrix = []
        if group.is_classifier and states:
            matrix = [group.accuracy_on(task).tolist() for task in range(1, n_tasks + 1)]
        for k, (lane, state) in enumerate(zip(group.lanes, states, strict=True)):
            self._records.records[lane.stage.fingerprint].is_done = True
            self._records.note_accuracy(lane.stage, [row[k] for row in matrix], report)
            kept = state if self._keeps_moments else LaneState(state.parameters)
            self._models[lane.stage.fingerprint] = kept
            self._keep(lane.stage, kept)
        self._group = None
        self._position += 1
        self._release()

    def _release(self) -> None:
        """Drop the models and buffers that no later stage needs."""
        ahead = self.groups[self._position :]
        needed = {parent for group in ahead for stage in group for _, parent in stage.parents}
        needed |= self._wanted
        self._models = {f: model for f, model in self._models.items() if f in needed}
        self._buffers = {f: buffer for f, buffer in self._buffers.items() if f in needed}

    def output(self, fingerprint: str) -> LaneState | Buffer | None:
        """Return the output of a wanted stage; None until it has ended, or if it diverged.

        Its tensors belong to the run: read them, but do not change them.
        """
        assert fingerprint in self._wanted
        return self._models.get(fingerprint) or self._buffers.get(fingerprint)

    def state(self) -> dict[str, Any]:
        """Return the state for ``restore``: plain values and tensors (no pickled classes)."""
        return {
            "configs": [config.id for config in self.configs],
            "position": self._position,
            "turn": self.turn,
            "group": self._group.state() if self._group else None,
            "served": dict(self._served or {}),
            **self._records.state(),
            "models": {f: _copied(model) for f, model in self._models.items()},
            "buffers": {
                f: {name: tensor.clone() for name, tensor in buffer.tensors().items()}
                for f, buffer in self._buffers.items()
            },
            "stops": {config_id: asdict(stop) for config_id, stop in self._stops.items()},
        }

    def rows_behind(self) -> dict[str, RowsBehind]:
        """Return, by id, what was reported of each configuration that has not ended."""
        return self._records.rows_behind()

    def restore(self, state: dict[str, Any]) -> None:
        """Continue after the epoch at which ``state`` was taken."""
        assert state["configs"] == [config.id for config in self.configs]
        self._position = state["position"]
        self._records.restore(state)
        self._stops = {i: Stop(**stop) for i, stop in state["stops"].items()}
        self._served = dict(state["served"])
        self._models = {f: LaneState(**model) for f, model in state["models"].items()}
        self._buffers = {f: Buffer(**buffer) for f, buffer in state["buffers"].items()}
        self._group = None
        if state["group"]:
            names = set(state["group"]["lanes"])
            stages = [s for s in self.groups[self._position] if s.fingerprint in names]
            self._group = self._group_of(stages)
            self._group.restore(state["group"])


def _copied(model: LaneState) -> dict[str, Any]:
    """Copy a lane out of its stack, as saving a view would save the whole stack."""
    return {
        "parameters": {n: t.clone() for n, t in model.parameters.items()},
        "moments": {m: {n: t.clone() for n, t in v.items()} for m, v in model.moments.items()},
        "n_steps": model.n_steps,
    }
