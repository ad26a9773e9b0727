"""What the plain program (``plain_program``) records, and the metrics made of it."""

from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from torch import Tensor, nn

from raysweep.learning.config import Config


@dataclass
class Trace:
    """What is compared: rows of losses, accuracies, a trial's metrics, parameters by epoch.

    ``averages`` are those of the parameters; ``step_losses`` has each step's mean total loss.
    """

    epochs: dict[tuple[str, int], dict[str, float]] = field(default_factory=dict)
    matrix: dict[tuple[int, int], float] = field(default_factory=dict)
    trial: dict[str, float | None] = field(default_factory=dict)
    parameters: dict[tuple[str, int], dict[str, Tensor]] = field(default_factory=dict)
    averages: dict[tuple[str, int], dict[str, Tensor]] = field(default_factory=dict)
    step_losses: dict[str, list[float]] = field(default_factory=dict)


def metrics(trace: Trace, config: Config) -> dict[str, Any]:
    """Compute a trial's metrics (REFERENCE.md section 7); those that mean nothing are left out."""
    r, last = trace.matrix, config.n_tasks
    tasks, earlier = range(1, last + 1), range(1, last)
    tested = {key: row["test_accuracy"] for key, row in trace.epochs.items() if has_test(row)}
    last_stage = list(tested)[-1][0]
    of_last = [value for (stage, _), value in tested.items() if stage == last_stage]
    result: dict[str, Any] = {
        "average_accuracy": fmean(r[last, i] for i in tasks),
        "first_task_accuracy_final": r[last, 1],
        "last_task_accuracy": r[last, last],
        "best_accuracy": max(of_last),
        "best_epoch": 1 + of_last.index(max(of_last)),
    }
    with_rec = [stage for (stage, _), row in trace.epochs.items() if "rec_loss" in row]
    if with_rec:
        of_first = [row for (stage, _), row in trace.epochs.items() if stage == with_rec[0]]
        result["reconstruction_loss"] = of_first[-1]["rec_loss"]
    if config.experiment == "joint":
        return result
    result["first_task_accuracy_initial"] = r[1, 1]
    result["learning_accuracy"] = fmean(r[i, i] for i in tasks)
    result["average_incremental_accuracy"] = fmean(
        fmean(r[t, i] for i in range(1, t + 1)) for t in tasks
    )
    if last > 1:
        result["backward_transfer"] = fmean(r[last, i] - r[i, i] for i in earlier)
        result["forward_transfer"] = fmean(r[i - 1, i] - r[0, i] for i in tasks[1:])
        result["forgetting"] = fmean(max(r[t, i] for t in earlier) - r[last, i] for i in earlier)
    return result


def has_test(row: dict[str, float]) -> bool:
    """Return whether an epoch trained what classifies."""
    return "test_accuracy" in row


def named_parameters(modules: dict[str, nn.Module]) -> dict[str, Tensor]:
    """Return parameters by the product's names, weights as (in, out)."""
    named = {}
    for name, module in modules.items():
        for key, value in module.named_parameters():
            own = f"{name}.{key}".replace(".layers.", ".")
            named[own] = value.detach().T.clone() if value.dim() == 2 else value.detach().clone()
    return named
