"""What a pack reports: rows for the tables, by their column names."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from raysweep.stages import Divergence

Row = dict[str, Any]


@dataclass
class Report:
    """What one epoch of a pack gives: rows for the tables, by their column names.

    A row of ``trials`` has the outcome only: the driver adds settings, times and versions.
    ``prepare_s`` has the time spent on the stage store, too.
    """

    epochs: list[Row] = field(default_factory=list)
    accuracy: list[Row] = field(default_factory=list)
    trials: list[Row] = field(default_factory=list)
    train_s: float = 0.0
    prepare_s: float = 0.0


@dataclass
class Record:
    """What is kept of a finished or diverged stage for the rows of its configurations."""

    seconds: float = 0.0  # charged to each configuration that has the stage
    accuracy: list[float] = field(default_factory=list)
    rec_loss: float | None = None
    label_entropy: float | None = None
    divergence: Divergence | None = None
    is_done: bool = False
    is_stored: bool = False
    epochs: list[dict[str, Any]] = field(default_factory=list)
    """Metrics by epoch, while they are to go into the store."""


def accuracy_rows(config_id: str, after_task: int, accuracies: Sequence[float]) -> list[Row]:
    """Give the rows of ``accuracy`` after a task: ``accuracies`` on each task, from the first."""
    return [
        {"config_id": config_id, "after_task": after_task, "on_task": on_task, "accuracy": accuracy}
        for on_task, accuracy in enumerate(accuracies, 1)
    ]


def trial_row(records: Sequence[Record], divergence: Divergence | None) -> Row:
    """Give the outcome of a configuration by the records of its stages, in their order."""
    row: Row = {
        "status": "diverged" if divergence else "finished",
        "duration_s": sum(record.seconds for record in records),
        "n_stored_stages": sum(record.is_stored for record in records),
    }
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
    return row | {
        **accuracy_summary(matrix),
        "reconstruction_loss": rec_losses[0] if rec_losses else None,
        "replay_label_entropy": entropies[-1] if entropies else None,
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
