"""The results of a pack's stages so far, and the rows of its configurations."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from raysweep.learning.config import Config
from raysweep.learning.stage_graph import stages_of
from raysweep.learning.stages import Stage
from raysweep.learning.training.loss_monitor import Divergence, EpochReport
from raysweep.packs.rows import (
    Record,
    Report,
    Row,
    accuracy_rows,
    next_trail,
    stopped_row,
    trial_row,
)
from raysweep.packs.states import RowsBehind
from raysweep.settings.stopping import Stop


class PackRecords:
    """Keeps a record of each stage, and tracks which configurations have ended.

    ``users`` maps a stage's fingerprint to the configurations that have it; ``counts`` has the
    columns about the data that are the same for each row of ``trials``.
    """

    def __init__(
        self,
        configs: Sequence[Config],
        users: Mapping[str, Sequence[Config]],
        counts: Mapping[str, int],
    ) -> None:
        self._configs = configs
        self._users = users
        self._counts = counts
        self.records = {fingerprint: Record() for fingerprint in users}
        self.reported: set[str] = set()

    def open_users(self, stage: Stage) -> list[Config]:
        """List the configurations that have the stage and have not ended."""
        return [c for c in self._users[stage.fingerprint] if c.id not in self.reported]

    def note_epoch(
        self, stage: Stage, lane: EpochReport, epoch: int, seconds: float | None, report: Report
    ) -> None:
        """Record an epoch of a lane; ``seconds`` is its duration, None if from the cache."""
        record = self.records[stage.fingerprint]
        users = self.open_users(stage)
        duration_s = None if seconds is None else seconds / len(users)
        record.seconds += duration_s or 0.0
        record.divergence = lane.divergence
        rec_loss = lane.metrics.get("rec_loss")
        record.rec_loss = float(rec_loss) if rec_loss is not None else None
        test_accuracy = lane.metrics.get("test_accuracy")
        if test_accuracy is not None:
            record.test_accuracy.append(float(test_accuracy))
        row = {"stage": stage.name, "epoch": epoch, "task": stage.task, **lane.metrics}
        record.n_epochs, record.trail = epoch, next_trail(record.trail, row)
        for config in users:
            report.epochs.append({"config_id": config.id, **row, "duration_s": duration_s})

    def note_initial(self, stage: Stage, accuracies: list[float], report: Report) -> None:
        """Record the accuracy on each task before any training."""
        self.records[stage.fingerprint].initial_accuracy = accuracies
        for config in self.open_users(stage):
            report.accuracy += accuracy_rows(config.id, 0, accuracies)

    def note_accuracy(self, stage: Stage, accuracies: list[float], report: Report) -> None:
        """Record the accuracy on each task after a stage."""
        self.records[stage.fingerprint].accuracy = accuracies
        for config in self.open_users(stage):
            report.accuracy += accuracy_rows(config.id, stage.task, accuracies)

    def stopped(self, stops: Mapping[str, Stop]) -> list[Row]:
        """Return the ``trials`` rows of configurations (by id) that stop early."""
        return [
            self._row(config, stopped_row(self._records_of(config), stops[config.id]))
            for config in self._configs
            if config.id in stops
        ]

    def ended(self) -> list[Row]:
        """Return the ``trials`` rows of the configurations that have ended since the last call."""
        rows = []
        for config in self._configs:
            if config.id in self.reported:
                continue
            records = self._records_of(config)
            divergence = next((r.divergence for r in records if r.divergence), None)
            if divergence or all(record.is_done for record in records):
                rows.append(self._row(config, trial_row(records, divergence)))
        return rows

    def _records_of(self, config: Config) -> list[Record]:
        return [self.records[stage.fingerprint] for stage in stages_of(config)]

    def _row(self, config: Config, outcome: Row) -> Row:
        self.reported.add(config.id)
        return {"config_id": config.id, **outcome, **self._counts}

    def rows_behind(self) -> dict[str, RowsBehind]:
        """Return, by id, what was reported of each configuration that has not ended."""
        return {c.id: self._behind(c) for c in self._configs if c.id not in self.reported}

    def _behind(self, config: Config) -> RowsBehind:
        epochs: dict[str, list[Any]] = {}
        accuracy: dict[str, list[float]] = {}
        for stage in stages_of(config):
            record = self.records[stage.fingerprint]
            if record.n_epochs:
                epochs[stage.name] = [record.n_epochs, record.trail]
            if record.initial_accuracy:
                accuracy["0"] = record.initial_accuracy
            if record.accuracy:
                accuracy[str(stage.task)] = record.accuracy
        return {"epochs": epochs, "accuracy": accuracy}

    def state(self) -> dict[str, Any]:
        """Return the state for ``restore``, as plain values."""
        return {
            "records": {f: asdict(record) for f, record in self.records.items()},
            "reported": sorted(self.reported),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore the result of ``state``."""
        self.reported = set(state["reported"])
        for fingerprint, saved in state["records"].items():
            values = dict(saved)
            divergence = values.pop("divergence")
            record = Record(**values, divergence=Divergence(**divergence) if divergence else None)
            self.records[fingerprint] = record
