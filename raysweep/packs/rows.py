"""The reports of a pack: rows for the tables, by column name."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from raysweep.learning.training.loss_monitor import Divergence
from raysweep.settings.stopping import Stop
from raysweep.statuses import Status

Row = dict[str, Any]


@dataclass
class Report:
    """The results of one epoch of a pack: rows for the tables, by column name.

    A row of ``trials`` has only the outcome: the driver adds settings, times and versions.
    ``prepare_s`` includes the time spent on the stage cache.
    """

    epochs: list[Row] = field(default_factory=list)
    accuracy: list[Row] = field(default_factory=list)
    trials: list[Row] = field(default_factory=list)
    train_s: float = 0.0
    prepare_s: float = 0.0


@dataclass
class Record:
    """The results of a stage that the rows of its configurations are made from."""

    seconds: float = 0.0  # charged to each configuration that has the stage
    accuracy: list[float] = field(default_factory=list)
    """Test accuracy on each task after the stage; empty unless the stage trains a classifier."""
    initial_accuracy: list[float] = field(default_factory=list)
    """Test accuracy on each task before any training; only in the first stage's record."""
    test_accuracy: list[float] = field(default_factory=list)
    """Test accuracy by epoch, as in ``epochs``, for stages that train a classifier."""
    rec_loss: float | None = None
    label_entropy: float | None = None
    divergence: Divergence | None = None
    is_done: bool = False
    is_stored: bool = False
    epochs: list[dict[str, Any]] = field(default_factory=list)
    """Metrics by epoch, until they are written to the cache."""
    n_epochs: int = 0
    """The last epoch that was reported."""
    trail: str = ""
    """Digest of the rows of ``epochs`` so far, by ``next_trail``."""


def next_trail(trail: str, row: Mapping[str, Any]) -> str:
    """Return the digest of a stage's rows of ``epochs``, given that of all but the last ``row``.

    It leaves out which configuration has the row and how long it took, and does not depend on
    whether the row comes from training or from the table.
    """
    values = sorted(
        (name, float(value) if isinstance(value, int | float) else value)
        for name, value in row.items()
        if value is not None and name not in ("config_id", "duration_s")
    )
    content = json.dumps([trail, values])
    return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()


def accuracy_rows(config_id: str, after_task: int, accuracies: Sequence[float]) -> list[Row]:
    """Return the rows of ``accuracy`` after a task, from the ``accuracies`` on tasks 1, 2, ..."""
    return [
        {"config_id": config_id, "after_task": after_task, "on_task": on_task, "accuracy": accuracy}
        for on_task, accuracy in enumerate(accuracies, 1)
    ]


def trial_row(records: Sequence[Record], divergence: Divergence | None) -> Row:
    """Return the outcome of a configuration from the records of its stages in order."""
    status = Status.DIVERGED if divergence else Status.FINISHED
    row = _so_far(records, status)
    if divergence:
        return row | {
            "diverged_stage": divergence.stage,
            "diverged_epoch": divergence.epoch,
            "diverged_step": divergence.step,
            "last_finite_loss": divergence.last_finite_loss,
        }
    matrix = [r.accuracy for r in records if r.accuracy]
    rec_losses = [r.rec_loss for r in records if r.rec_loss is not None]
    entropies = [r.label_entropy for r in records if r.label_entropy is not None]
    initial = next((r.initial_accuracy for r in records if r.initial_accuracy), None)
    by_epoch = next((r.test_accuracy for r in reversed(records) if r.test_accuracy), None)
    return row | {
        **accuracy_summary(matrix, initial),
        **best_epoch(by_epoch),
        "reconstruction_loss": rec_losses[0] if rec_losses else None,
        "replay_label_entropy": entropies[-1] if entropies else None,
    }


def stopped_row(records: Sequence[Record], stop: Stop) -> Row:
    """Return the outcome of a configuration that stopped early."""
    row = _so_far(records, Status.STOPPED)
    return row | {"stopped_rung": stop.rung, "stopped_reason": stop.reason}


def _so_far(records: Sequence[Record], status: Status) -> Row:
    return {
        "status": status,
        "duration_s": sum(record.seconds for record in records),
        "n_stored_stages": sum(record.is_stored for record in records),
    }


def best_epoch(test_accuracy: Sequence[float] | None) -> Row:
    """Return the largest test accuracy by epoch, and the first epoch (from 1) that has it.

    It is selected on test samples and thus optimistic; use it to compare with published figures.
    """
    if not test_accuracy:
        return {"best_accuracy": None, "best_epoch": None}
    best = max(test_accuracy)
    return {"best_accuracy": best, "best_epoch": test_accuracy.index(best) + 1}


def accuracy_summary(
    matrix: Sequence[Sequence[float]], initial: Sequence[float] | None = None
) -> dict[str, float | None]:
    """Summarise R, where ``matrix[t - 1][i - 1]`` is the accuracy on task i after task t of T.

    ``initial[i - 1]`` is b_i, the accuracy on task i before any training. Joint training learns
    all tasks at once: its R has only row T, and metrics of a sequence are null.

    - ``average_accuracy``: mean over i of R[T, i] (ACC of Lopez-Paz and Ranzato 2017, arXiv
      1706.08840, section 2).
    - ``backward_transfer``: mean over i < T of R[T, i] - R[i, i] (their BWT).
    - ``forward_transfer``: mean over i > 1 of R[i - 1, i] - b_i (their FWT); null without b.
    - ``forgetting``: mean over i < T of max over t < T of R[t, i], minus R[T, i] (Chaudhry et al.
      2018, arXiv 1801.10112). It may be negative. Mammoth takes the maximum over t <= T (never
      negative); Avalanche uses R[i, i] instead (the negative of ``backward_transfer``).
    - ``learning_accuracy``: mean over i of R[i, i] (Riemer et al. 2019, arXiv 1810.11910).
    - ``average_incremental_accuracy``: mean over t of the mean over i <= t of R[t, i] (Rebuffi et
      al. 2017, arXiv 1611.07725, section 4, for tasks of equal size).

    With a single task, forgetting and transfers are null.
    """
    last = matrix[-1]
    n_tasks = len(last)
    assert len(matrix) in {1, n_tasks}
    is_joint = len(matrix) < n_tasks
    summary = {
        "average_accuracy": fmean(last),
        "forgetting": None,
        "first_task_accuracy_initial": None if is_joint else matrix[0][0],
        "first_task_accuracy_final": last[0],
        "last_task_accuracy": last[-1],
        "backward_transfer": None,
        "forward_transfer": None,
        "learning_accuracy": None,
        "average_incremental_accuracy": None,
    }
    if is_joint:
        return summary
    learned = [matrix[i][i] for i in range(n_tasks)]
    summary["learning_accuracy"] = fmean(learned)
    seen = [fmean(row[: t + 1]) for t, row in enumerate(matrix)]
    summary["average_incremental_accuracy"] = fmean(seen)
    if n_tasks == 1:
        return summary
    best = [max(row[i] for row in matrix[:-1]) for i in range(n_tasks - 1)]
    summary["forgetting"] = _mean_difference(best, last[:-1])
    summary["backward_transfer"] = _mean_difference(last[:-1], learned[:-1])
    if initial:
        ahead = [matrix[i - 1][i] for i in range(1, n_tasks)]
        summary["forward_transfer"] = _mean_difference(ahead, initial[1:])
    return summary


def _mean_difference(some: Sequence[float], others: Sequence[float]) -> float:
    return fmean(a - b for a, b in zip(some, others, strict=True))
